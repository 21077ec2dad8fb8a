"""The verbs of `cloudkeeper` beside sync, on a site with signed lists and a simulated backend."""

# ruff: noqa: F811  the fixtures are those of the tests of sync

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e.images_frontend import Done, run
from tests.e2e.test_cloudkeeper_sync import (  # noqa: F401
    World,
    authority,
    disks,
    strangers,
    world,
)
from tests.simulators.image_lists import LIST_ID, image_id
from tests.simulators.image_server import Status

HOLDS = """
import sys, time
from pathlib import Path
from appliance.core.run import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
"""A program that holds a lock as a sync does."""


def call(world: World, verb: str, *flags: str) -> Done:
    config = ["--root", str(world.root), "--config", str(world.root / "cloudkeeper.yml")]
    return run(verb, *config, "--backend-endpoint", world.cloud.endpoint, *flags)


def files_of(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file and directory below ``root``, each with its time and content."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in root.rglob("*")
    }


def in_cloud(world: World, number: int, **attributes: str) -> None:
    """Put an image into the cloud that another program has made."""
    world.cloud.appliances[LIST_ID, image_id(number)] = pb.Appliance(
        identifier=image_id(number),
        image_list_identifier=LIST_ID,
        vo="ops",
        title=f"Image {number} of others",
        attributes=attributes,
    )


def test_the_plan_says_what_would_change_and_writes_nothing(world: World) -> None:
    sizes = {name: len(content) for name, content in world.files.items()}
    world.publish([world.image(1, "one.qcow2"), world.image(2, "two.qcow2")])
    assert world.sync().returncode == 0
    world.publish([world.image(1, "two.qcow2"), world.image(3, "one.raw")])
    before, asked = files_of(world.root), world.web.asked("/images/two.qcow2")
    done = call(world, "plan")
    assert done.returncode == 0, done.stderr
    head, *rows, total = done.stdout.splitlines()
    moved = f"{(sizes['two.qcow2'] + sizes['one.raw']) / 2**20:.1f} MiB to transfer"
    assert head == (
        f"{world.web.url('/ops/image.list')} for ops: 3 changes, {moved}, 0 images unchanged"
    )
    assert total == f"3 changes, {moved}, 0 images unchanged, nothing was done"
    assert [row.split()[:2] for row in rows] == [
        ["add", image_id(3)],
        ["update", image_id(1)],
        ["remove", image_id(2)],
    ]
    assert [row.rsplit("  ", 1)[1] for row in rows] == [
        "it is new in the list",
        "changed: sl:checksum:sha512",
        "it is no longer in the list",
    ]
    found = json.loads(call(world, "plan", "--json").stdout)
    assert [(one["action"], one["bytes"]) for one in found["changes"]] == [
        ("Create", sizes["one.raw"]),
        ("Update", sizes["two.qcow2"]),
        ("Remove", 0),
    ]
    assert world.sync("--dry-run").stdout == done.stdout
    assert files_of(world.root) == before
    assert world.web.asked("/images/two.qcow2") == asked
    assert "PreAction" not in world.cloud.calls[world.cloud.calls.index("PostAction") :]


def test_the_plan_beside_what_other_programs_have_put_into_the_cloud(world: World) -> None:
    """Images that count as present, and the one that `cloudkeeper-os` of 0.9 has made."""
    one = world.image(1, "one.qcow2")
    world.publish([one, world.image(2, "two.qcow2")])
    attributes = {key: str(text) for key, text in one["hv:image"].items()}
    endorser = {
        "dc:creator": "Example lists",
        "hv:ca": "/DC=EU/DC=EXAMPLE/CN=Example Grid Authority",
        "hv:email": "lists@example.org",
    }
    dn = {"hv:dn": "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/O=Example Site/CN=lists.example.org"}
    in_cloud(world, 1, **attributes, **endorser, **dn, unmarked="cloudkeeper-os 0.9")
    in_cloud(world, 2, holder="atrope")
    done = call(world, "plan")
    assert done.returncode == 0, done.stderr
    _, first, second, total = done.stdout.splitlines()
    assert first.startswith(f'  present  {image_id(1)} "Image 1 of others"')
    assert first.endswith("cloudkeeper-os 0.9 made it; the next sync adopts it and moves no data")
    assert second.endswith("atrope keeps it; it is not uploaded a second time")
    assert total == "0 changes, 0 B to transfer, 1 image unchanged, nothing was done"
    held = json.loads(call(world, "plan", "--json").stdout)["held"]
    assert [(one["image"], one["holder"], one["maker"]) for one in held] == [
        (image_id(1), "", "cloudkeeper-os 0.9"),
        (image_id(2), "atrope", ""),
    ]


def test_the_plan_says_what_is_held_back(world: World) -> None:
    for number in range(1, 6):
        in_cloud(world, number)
    world.publish([world.image(9, "one.qcow2")])
    done = call(world, "plan")
    assert done.returncode == 1
    assert done.stdout.count("  keep ") == 5
    assert "5 of 5 images would be removed, so none is removed" in done.stderr
    done = call(world, "plan", "--allow-remove", "5")
    assert (done.returncode, done.stdout.count("  remove ")) == (0, 5)
    assert len(world.cloud.appliances) == 5


def test_a_plan_of_one_source_that_answers_and_one_that_does_not(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    missing = world.web.put("/none", Status(404))
    world.configure(world.web.url("/ops/image.list"), missing)
    done = call(world, "plan")
    assert done.returncode == 1
    assert f"  add  {image_id(1)}" in done.stdout
    assert f"{missing}: the server answers 404" in done.stderr
    world.cloud.endpoint = f"unix://{world.root}/none.sock"
    done = call(world, "plan")
    assert (done.returncode, done.stdout) == (3, "")
    assert "cannot be reached" in done.stderr


def test_the_plan_while_a_sync_runs(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    lock_file = world.root / "lock"
    command = [sys.executable, "-c", HOLDS, str(lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        done = call(world, "plan", "--lock-file", str(lock_file))
        assert other.poll() is None
        other.kill()
    assert done.returncode == 0
    assert "a sync is running since " in done.stderr
    assert f"(pid {other.pid}); the plan changes until it ends" in done.stderr
    assert "running" not in call(world, "plan", "--lock-file", str(lock_file)).stderr
