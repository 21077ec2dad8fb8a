"""The verbs of `cloudkeeper` beside sync, on a site with signed lists and a simulated backend."""

# ruff: noqa: F811  the fixtures are those of the tests of sync

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e.images_frontend import PROGRAM, Done, run, sha512
from tests.e2e.killpoints import Command, KillMatrix
from tests.e2e.test_cloudkeeper_sync import (  # noqa: F401
    World,
    authority,
    disks,
    strangers,
    world,
)
from tests.simulators.image_lists import LIST_ID, image, image_id, image_list, in_days, sign
from tests.simulators.image_server import Status
from tests.testbed.pki import AUTHORITY_DN, Authority

pytestmark = pytest.mark.usefixtures("few_system_authorities")

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
    world.cloud.formats[LIST_ID, image_id(number)] = "qcow2"
    world.cloud.appliances[LIST_ID, image_id(number)] = pb.Appliance(
        identifier=image_id(number),
        image_list_identifier=LIST_ID,
        vo="ops",
        title=f"Image {number} of others",
        attributes=attributes,
    )


def carry_out(world: World, text: str, *flags: str) -> Done:
    """Run the command of `cloudkeeper` that a text names at the end of a line."""
    (found,) = set(re.findall(r"cloudkeeper (\w+ .*[^\s;])(?:;|$)", text, re.MULTILINE))
    verb, *words = shlex.split(found)
    return call(world, verb, *words, *flags)


MEMORY = "var/lib/fedcloud/cloudkeeper/lists.json"
OTHER = "/DC=EU/DC=EXAMPLE/C=ES/O=Hosts/O=Example Site/CN=other.example.org"


def held(world: World) -> str:
    """Return the line by which a sync refuses the list."""
    done = world.sync()
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if " - ERROR - " in line]
    return line.removesuffix("; its images stay as they are")


def endorsed_by_another(world: World, authority: Authority) -> None:
    other = authority.find("other.example.org") or authority.issue("other.example.org", key="ec")
    world.web.put(
        "/ops/image.list",
        sign(image_list([world.image(2, "two.qcow2")], dn=OTHER, ca=AUTHORITY_DN), other),
    )


CHANGES: dict[str, Callable[[World, Authority], object]] = {
    "identifier": lambda world, _: world.publish([], identifier="another"),
    "VO": lambda world, _: world.publish([], vo="dteam"),
    "endorser": endorsed_by_another,
    "created": lambda world, _: world.publish([], dc__date__created="2026-01-02T03:04:05Z"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_remedy_of_a_refused_list_accepts_it(
    world: World, authority: Authority, kind: str
) -> None:
    """It shows the difference, asks for --yes where nobody can answer, and sync goes on then."""
    world.publish([world.image(1, "one.qcow2")])
    assert world.sync().returncode == 0
    CHANGES[kind](world, authority)
    line = held(world)
    before = (world.root / MEMORY).read_bytes()
    done = carry_out(world, line)
    assert (done.returncode, done.stdout.count(f"  {kind} now ")) == (2, 1)
    assert done.stderr == (
        "cloudkeeper: standard input: is not a terminal, so the question cannot be answered; add"
        " --yes\n"
    )
    assert (world.root / MEMORY).read_bytes() == before
    done = carry_out(world, line, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("image.list: done; the next sync acts on it")
    assert "refused" not in world.sync().stderr
    assert carry_out(world, line, "--yes").stdout.endswith(
        "nothing has changed that needs to be accepted\n"
    )


def test_a_question_on_a_terminal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only y accepts; an answer after the memory has changed accepts nothing."""
    world.publish([world.image(1, "one.qcow2")])
    assert world.sync().returncode == 0
    world.publish([], vo="dteam")
    before = (world.root / MEMORY).read_bytes()
    url = world.web.url("/ops/image.list")

    def answer(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    for text in ("\n", "n\n", ""):
        answer(text)
        done = call(world, "trust", url)
        assert (done.returncode, done.stdout.endswith("nothing was changed\n")) == (1, True)
        assert (world.root / MEMORY).read_bytes() == before

    def forget(_: str) -> str:
        (world.root / MEMORY).write_text("[]")
        return "y"

    monkeypatch.setattr("builtins.input", forget)
    done = call(world, "trust", url)
    assert (done.returncode, (world.root / MEMORY).read_text()) == (3, "[]")
    assert done.stderr.endswith("has changed since it was shown; run the command again\n")
    monkeypatch.undo()
    (world.root / MEMORY).write_bytes(before)
    answer("y\n")
    assert call(world, "trust", url).returncode == 0
    assert json.loads((world.root / MEMORY).read_text())[0]["vo"] == "dteam"


def test_what_is_pinned_is_shown(world: World) -> None:
    assert call(world, "trust").stdout == (
        "nothing is pinned yet: the first sync pins what it accepts\n"
    )
    message = world.publish([world.image(1, "one.qcow2")])
    document = message[message.index(b"{") : message.rindex(b"}") + 1]
    listed = json.loads(document)["hv:imagelist"]
    assert world.sync().returncode == 0
    shown = call(world, "trust").stdout
    assert shown.splitlines()[0] == world.web.url("/ops/image.list")
    for text in (LIST_ID, "ops", listed["hv:endorser"]["hv:x509"]["hv:dn"], AUTHORITY_DN):
        assert text in shown
    created = datetime.fromisoformat(listed["dc:date:created"])
    (entry,) = json.loads(call(world, "trust", "--json").stdout)["lists"]
    assert (entry["vo"], datetime.fromisoformat(entry["created"])) == ("ops", created)


def test_an_endorser_is_pinned_before_the_first_list(world: World) -> None:
    """A list of anybody else is refused, until the pin is forgotten."""
    url = world.web.url("/ops/image.list")
    pin = ("trust", url, "--endorser-dn", OTHER, "--endorser-ca", AUTHORITY_DN)
    assert call(world, *pin).returncode == 2
    assert not (world.root / MEMORY).exists()
    assert call(world, *pin, "--yes").returncode == 0
    assert "none yet; only the endorser is pinned" in call(world, "trust").stdout
    world.publish([world.image(1, "one.qcow2")])
    assert f"but was {OTHER} of {AUTHORITY_DN}" in held(world)
    assert call(world, "trust", "--forget", url, "--yes").returncode == 0
    assert world.sync().returncode == 0


def test_a_refused_image_is_fetched_again_when_it_is_forgotten(world: World) -> None:
    """The reason names no file to edit: F-M2."""
    content = b"no disk at all" * 99
    path = "/images/none.raw"
    uri = world.web.put(path, content)
    world.publish([image(1, uri=uri, content=content, hv__format="VMDK")])
    assert world.sync().returncode == 1
    assert world.sync().returncode == 1
    assert world.web.asked(path) == 1
    shown = call(world, "trust").stdout
    assert f"sha512:{sha512(content)} VMDK: " in shown
    done = carry_out(world, shown.partition("to fetch it again: ")[2], "--yes")
    assert done.returncode == 0, done.stderr
    assert world.sync().returncode == 1
    assert world.web.asked(path) == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["https://nowhere.example.org/list"], "is not configured; cloudkeeper.yml, "),
        (["registry.example.org/project"], "is not configured; cloudkeeper.yml, "),
        (["--forget", "https://nowhere.example.org/list"], "nothing is pinned for it; see "),
        (["--forget", "registry.example.org/project"], "nothing is pinned for it; see "),
        (["--forget", "sha256:00"], "no image of this digest was refused; see "),
        (["--forget"], "--forget: needs a SOURCE; see cloudkeeper trust --help"),
        (["--endorser-dn", "/CN=a", "x"], "--endorser-dn: needs --endorser-ca, too"),
        (
            ["--endorser-dn", "CN=a", "--endorser-ca", "/CN=b", "https://a.example.org/list"],
            "--endorser-dn: 'CN=a' is not a DN in slash form; write /DC=",
        ),
        (
            ["--endorser-dn", "/CN=a", "--endorser-ca", "/CN=b", "registry.example.org/project"],
            "is not a URL, and only image lists have endorsers",
        ),
    ],
)
def test_what_cannot_be_trusted_is_one_line(world: World, words: list[str], line: str) -> None:
    done = call(world, "trust", "--yes", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert line in done.stderr


def test_trust_waits_for_no_sync_and_changes_nothing_while_one_runs(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    lock_file = world.root / "lock"
    with holding(lock_file):
        done = call(
            world, "trust", world.web.url("/ops/image.list"), "--yes", "--lock-file", str(lock_file)
        )
    assert (done.returncode, (world.root / MEMORY).exists()) == (1, False)
    assert f"{lock_file}: running since " in done.stderr


def test_trust_killed_and_run_again(world: World) -> None:
    """What is remembered is the old list or the new one."""
    url = world.web.url("/ops/image.list")

    def prepare() -> Command:
        (world.root / MEMORY).unlink(missing_ok=True)
        world.publish([world.image(1, "one.qcow2")])
        assert world.sync().returncode == 0
        world.publish([], vo="dteam")
        config = ["--root", str(world.root), "--config", str(world.root / "cloudkeeper.yml")]
        return Command([str(PROGRAM), "trust", url, "--yes", *config])

    def verify() -> None:
        (entry,) = json.loads((world.root / MEMORY).read_text())
        assert (entry["url"], entry["vo"]) == (url, "dteam")

    KillMatrix(prepare, verify, syscalls=("fsync", "rename", "ftruncate")).run(sample=2, seed=5)


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


@contextlib.contextmanager
def holding(lock_file: Path) -> Iterator[int]:
    """Hold a lock as a sync does; yield the process."""
    command = [sys.executable, "-c", HOLDS, str(lock_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other.pid
        assert other.poll() is None
        other.kill()


def test_the_plan_while_a_sync_runs(world: World) -> None:
    world.publish([world.image(1, "one.qcow2")])
    lock_file = world.root / "lock"
    with holding(lock_file) as pid:
        done = call(world, "plan", "--lock-file", str(lock_file))
    assert done.returncode == 0
    assert "a sync is running since " in done.stderr
    assert f"(pid {pid}); the plan changes until it ends" in done.stderr
    assert "running" not in call(world, "plan", "--lock-file", str(lock_file)).stderr


def test_the_images_that_the_sources_offer(world: World) -> None:
    """Of the sources that answer, without a backend; what is only read is not remembered."""
    soon = in_days(2)
    world.publish(
        [
            world.image(1, "one.qcow2", dc__date__expires=soon),
            world.image(2, "two.raw", dc__date__expires=in_days(-1)),
            world.image(3, "one.raw", hv__uri="ftp://images.example.org/one.raw"),
        ]
    )
    missing = world.web.put("/none", Status(404))
    world.configure(world.web.url("/ops/image.list"), missing)
    world.cloud.endpoint = f"unix://{world.root}/none.sock"
    done = call(world, "list")
    assert done.returncode == 1
    head, _, first, second = done.stdout.splitlines()
    assert head == f"{world.web.url('/ops/image.list')} for ops: 2 images, all signed"
    digests = [f"sha512:{sha512(world.files[name])}" for name in ("one.qcow2", "two.raw")]
    size = f"{len(world.files['one.qcow2']) / 1024:.1f} KiB"
    start = [image_id(1), "2026.11.01", "qcow2", *size.split(), soon[:10], digests[0][:19]]
    assert first.split()[: len(start)] == start
    assert "(expired)" in second
    assert f"image {image_id(3)} refused: hv:uri is not an http or https URL" in done.stderr
    assert f"{missing}: the server answers 404" in done.stderr
    found = json.loads(call(world, "list", "--json").stdout)
    assert [(one["image"], one["digest"], one["size"]) for one in found["images"]] == [
        (image_id(number), digest, len(world.files[name]))
        for number, digest, name in zip((1, 2), digests, ("one.qcow2", "two.raw"), strict=True)
    ]
    assert len(found["failures"]) == 2
    assert not (world.root / "var").exists()


def test_the_status_of_a_site(world: World) -> None:
    """Good, then held back with the command that helps; each holder; without a backend the rest."""
    done = call(world, "status")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        1,
        "no sync has ended yet; to start one: cloudkeeper sync",
    )
    url = world.web.url("/ops/image.list")
    world.publish([world.image(1, "one.qcow2"), world.image(2, "two.qcow2")])
    in_cloud(world, 2, holder="atrope-catchall")
    assert world.sync().returncode == 0
    ended = world.record()["ended"][:16].replace("T", " ")
    done = call(world, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"last sync: {ended}Z: 1 added, 1 held by others",
        f"{url}: accepted {ended}Z",
        f"VO ops: {url}: 2 images",
        "  Image 2 of others        -           atrope-catchall",
        "  Image 1 [Debian/12/KVM]  2026.11.01  ours",
    ]
    found = json.loads(call(world, "status", "--json").stdout)
    assert found["held_back"] == []
    assert {one["image"]: one["holder"] for one in found["images"]} == {
        image_id(1): "ours",
        image_id(2): "atrope-catchall",
    }

    world.publish([], vo="dteam")
    assert world.sync().returncode == 1
    done = call(world, "status")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  held back: ")]
    assert f"cloudkeeper trust {url}" in line
    assert f"{url}: accepted {ended}Z" in done.stdout
    world.cloud.endpoint = f"unix://{world.root}/none.sock"
    done = call(world, "status")
    assert (done.returncode, "  held back: " in done.stdout) == (3, True)
    assert "none.sock: cannot be reached" in done.stderr


def test_a_site_whose_last_complete_sync_is_too_long_ago(world: World) -> None:
    world.publish([])
    assert world.sync().returncode == 0
    assert call(world, "status").returncode == 0
    path = world.root / "var/lib/fedcloud/runs/cloudkeeper.json"
    old = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"last_success": old, "ended": old}))
    assert call(world, "status").returncode == 1
    path.write_text(good)
    world.configure(world.web.url("/ops/image.list"), "htps://typo.example.org/list")
    done = call(world, "status")
    assert (done.returncode, done.stdout.count("held back: ")) == (1, 1)
    assert "image-lists.conf:2: does not begin with https://" in done.stdout


def test_what_nobody_needs_is_removed(world: World) -> None:
    """Part files and memory of sources that are gone; what a list in the cloud needs stays."""
    other = {"identifier": "another", "path": "/other/image.list"}
    urls = [world.web.url("/ops/image.list"), world.web.url("/other/image.list")]
    world.publish([world.image(1, "one.qcow2")], path="/ops/image.list")
    world.publish([world.image(2, "two.qcow2")], **other)
    world.configure(*urls)
    assert world.sync().returncode == 0
    part = world.spool / "cloudkeeper-killed.download.part"
    part.write_bytes(b"x" * 10_000)
    foreign = world.spool / "of others"
    foreign.touch()
    manifest = world.root / "var/lib/fedcloud/cloudkeeper/manifests" / sha512(b"")[:64]
    manifest.parent.mkdir()
    manifest.write_bytes(b"{}")

    def pinned() -> list[str]:
        return [entry["url"] for entry in json.loads((world.root / MEMORY).read_text())]

    world.configure(urls[0])
    before = files_of(world.root)
    done = call(world, "gc", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"would remove {part}: left by a killed sync (12.0 KiB)\n" in done.stdout
    assert files_of(world.root) == before
    done = call(world, "gc")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"removed {manifest}: about an artefact that no tag names (4.0 KiB)\n" in done.stdout
    assert not {path for path in (part, manifest) if path.exists()}
    assert foreign.exists()
    assert pinned() == urls  # its image is in the cloud
    assert set(world.cloud.appliances) == {(LIST_ID, image_id(1)), ("another", image_id(2))}

    world.cloud.appliances.clear()
    endpoint, world.cloud.endpoint = world.cloud.endpoint, f"unix://{world.root}/none.sock"
    done = call(world, "gc")
    assert (done.returncode, "all memory of sources is kept" in done.stderr) == (1, True)
    assert pinned() == urls
    world.cloud.endpoint = endpoint
    found = json.loads(call(world, "gc", "--json").stdout)
    assert [one["what"].partition(": ")[0] for one in found["removed"]] == [urls[1]]
    assert pinned() == urls[:1]
    assert call(world, "gc").stdout == "removed 0 things, 0 B\n"
    world.configure(urls[0], "htps://typo.example.org/list")
    done = call(world, "gc")
    assert (done.returncode, "until then all memory is kept" in done.stderr) == (1, True)


def test_nothing_is_removed_while_a_sync_runs(world: World) -> None:
    lock_file = world.root / "lock"
    part = world.spool / "cloudkeeper-running.download.part"
    part.parent.mkdir(exist_ok=True)
    part.touch()
    with holding(lock_file):
        done = call(world, "gc", "--lock-file", str(lock_file))
        assert (done.returncode, done.stdout, part.exists()) == (1, "", True)
        done = call(world, "gc", "--dry-run", "--lock-file", str(lock_file))
        assert (done.returncode, str(part) in done.stdout) == (1, False)
        assert "so part files are not looked for" in done.stderr
