"""Taking images over from EGI's catch-all and giving them back, on a real Keystone and Glance.

The catch-all is simulated at Glance's API (`tests.e2e.catch_all`). What the commands have changed
is read from that API, from Glance's database and its store, and by sha256sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.catch_all import CatchAll
from tests.e2e.egi_registry import PROJECT, EGIRegistry, disks, lay_out, served  # noqa: F401
from tests.e2e.images_backend import Backend, started
from tests.e2e.images_cloud import ACCOUNT, VOS, Cloud, Row
from tests.e2e.images_frontend import PROGRAM, Done, run
from tests.polling import repeated
from tests.testbed.api import GLANCE, KEYSTONE
from tests.testbed.pki import Authority

# ruff: noqa: F811  the fixtures are those of the registry

pytestmark = [pytest.mark.glance, pytest.mark.usefixtures("few_system_authorities")]
UBUNTU, ALMA = f"{PROJECT}/ubuntu:24.04", f"{PROJECT}/linux/alma:9"
DEBIAN = f"{PROJECT}/debian:12"
LONG_AGO = timedelta(hours=7)


@dataclass
class World:
    """A registry with two images, the cloud, both programs of a site, and the catch-all."""

    cloud: Cloud
    backend: Backend
    egi: EGIRegistry
    disks: dict[str, bytes]
    catch_all: CatchAll
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.backend.root

    def push(self, reference: str, disk: str, **changes: str) -> None:
        self.digests[reference] = self.egi.push(reference, self.disks[disk], **changes)

    def configure(self, *vos: str) -> None:
        (self.root / "etc/cloudkeeper/sources.yaml").write_text(self.egi.source(*vos))

    def uploaded(self, reference: str = UBUNTU, disk: str = "one.qcow2", **changes: Any) -> str:
        """Have the catch-all upload an image of the registry; return its id."""
        return self.catch_all.upload(
            reference, self.digests[reference], self.disks[disk], **changes
        )

    def command(self, *words: str) -> Done:
        verb, *flags = words
        place = ["--root", str(self.root), "--backend-endpoint", self.backend.endpoint]
        return run(verb, *place, *flags)

    def moved(self) -> int:
        """Return how often data of images were asked for since the last call."""
        number = self.egi.front.asked("/blobs/")
        self.egi.front.paths.clear()
        return number

    def rows(self, vo: str = "ops") -> dict[str, Row]:
        """Return all images of a VO's project in Glance's database, by id."""
        return {row.id: row for row in self.cloud.rows(VOS[vo])}

    def stored(self) -> dict[str, str]:
        """Return the SHA-256 of each file in Glance's store, by sha256sum."""
        paths = [str(self.cloud.file(name)) for name in sorted(self.cloud.files())]
        done = subprocess.run(["sha256sum", *paths], capture_output=True, text=True, check=True)
        lines = [line.split() for line in done.stdout.splitlines()]
        return {Path(path).name: digest for digest, path in lines}


@pytest.fixture
def world(
    cloud: Cloud, served: tuple[EGIRegistry, Authority], disks: dict[str, bytes], tmp_path: Path
) -> Iterator[World]:
    cloud.empty()
    backend = lay_out(tmp_path / "root", cloud, served)
    made = World(cloud, backend, served[0], disks, CatchAll(cloud, served[0].host))
    made.push(UBUNTU, "one.qcow2")
    made.push(ALMA, "one.qcow2")
    made.configure("ops", "biomed")
    with started(backend):
        yield made


@contextlib.contextmanager
def watched(world: World, projects: Sequence[str]) -> Iterator[list[set[str]]]:
    """Poll what users of some projects find in Glance every 50 ms; yield the sets of names."""
    seen: list[set[str]] = []

    def poll() -> None:
        seen.extend(set(world.catch_all.names(project)) for project in projects)

    with repeated(poll):
        yield seen


def test_plan_and_status_on_a_glance_that_the_catch_all_has_filled(world: World) -> None:
    """What is present counts, with its holder; both verbs change nothing and move no data."""
    world.configure("ops")
    world.push(ALMA, "two.qcow2")
    world.uploaded()
    before, stored = world.rows(), world.stored()
    world.moved()
    done = world.command("plan")
    assert done.returncode == 0, done.stderr
    host = world.egi.host
    present, added = f"  present  {host} {UBUNTU} ", f"  add      {host} {ALMA} "
    rows = done.stdout.splitlines()
    (line,) = [row for row in rows if row.startswith(present)]
    assert line.endswith("atrope-catchall keeps it; it is not uploaded a second time")
    assert [row for row in rows if row.startswith("  add")] == [
        row for row in rows if row.startswith(added)
    ]
    found = json.loads(world.command("status", "--json").stdout)
    assert [(one["vo"], one["image"], one["holder"]) for one in found["images"]] == [
        ("ops", UBUNTU, "atrope-catchall")
    ]
    assert (world.rows(), world.stored(), world.moved()) == (before, stored, 0)


def test_import_and_release_change_the_marks_and_nothing_else(world: World) -> None:
    """Two images of the catch-all, one shared: no byte moves, and both end as they were."""
    first = world.uploaded(members=["img-biomed"])
    second = world.uploaded(ALMA, tags=["atrope-catchall", "somebody's"], hw_disk_bus="scsi")
    before = {image: world.catch_all.shown(image) for image in (first, second)}
    stored = world.stored()
    world.catch_all.age(LONG_AGO, first, second)
    world.moved()

    done = world.command("import", PROJECT, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"VO ops: {ALMA}, atrope-catchall",
        f"VO ops: {UBUNTU}, atrope-catchall",
        "2 images, 0 changed, 0 left as they are",
    ]
    done = world.command("import", PROJECT)
    assert done.returncode == 2
    assert "images: {sync: false}\nmerged and deployed" in done.stderr
    assert "standard input: is not a terminal" in done.stderr
    assert {image: world.rows()[image].state for image in before} == dict.fromkeys(before)

    done = world.command("import", PROJECT, "--yes")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "2 images, 2 changed, 0 left as they are",
    ), done.stderr
    assert world.backend.record()["counts"]["taken_over"] == 2
    for image in (first, second):
        shown = world.catch_all.shown(image)
        assert "atrope-catchall" not in shown["tags"]
        assert shown["APPLIANCE_STATUS"] == "ACTIVE"
        unchanged = before[image].keys() - {"tags"}
        assert {name: shown[name] for name in unchanged} == {
            name: before[image][name] for name in unchanged
        }
    assert world.catch_all.shown(second)["tags"] == ["somebody's"]
    again = world.command("import", PROJECT, "--yes")
    nothing = ["no image", "0 images, 0 changed, 0 left as they are"]
    assert (again.returncode, again.stdout.splitlines()) == (0, nothing)
    again = world.command("import", ALMA, "--yes")
    assert (again.returncode, again.stdout.splitlines()) == (0, nothing)

    done = world.command("release", UBUNTU, f"{world.egi.host}/{ALMA}", "--yes")
    assert done.returncode == 0, done.stderr
    assert {image: world.catch_all.shown(image) for image in before} == before
    assert (world.stored(), world.moved()) == (stored, 0)
    again = world.command("release", UBUNTU, "--yes")
    assert (again.returncode, again.stdout.splitlines()) == (0, nothing)


def test_after_an_import_syncs_keep_the_images_and_move_nothing(world: World) -> None:
    """The first sync completes the description of one; a release after it restores that, too."""
    image = world.uploaded(
        members=["img-biomed"],
        name="renamed by the site",
        APPLIANCE_ATTRIBUTES='{"eu.egi.cloud.tag": "24.04", "of": "an older atrope"}',
        os_type="linux",
    )
    other = world.uploaded(ALMA, members=["img-biomed"])
    before = world.catch_all.shown(image)
    world.catch_all.age(LONG_AGO, image, other)
    assert world.command("import", PROJECT, "--yes").returncode == 0
    world.moved()
    for _ in range(2):
        done = world.command("sync")
        assert done.returncode == 0, done.stderr
    assert world.moved() == 0
    assert (set(world.rows()), world.rows("biomed")) == ({image, other}, {})
    shown = world.catch_all.shown(image)
    assert shown["name"] == f"{world.egi.host} {UBUNTU}"
    assert json.loads(shown["APPLIANCE_ATTRIBUTES"])["eu.egi.cloud.image_ref"] == UBUNTU
    notes = world.backend.record()["notes"]["images_held_by_others"]
    assert notes == [f"VO biomed: {name}: cloudkeeper for VO ops" for name in (ALMA, UBUNTU)]

    # The state directory of the backend is lost: all that a release needs is in the image.
    world.backend.stop()
    shutil.rmtree(world.root / "var/lib/fedcloud/cloudkeeper-os")
    world.backend.start()
    assert world.command("release", UBUNTU, "--yes").returncode == 0
    assert world.catch_all.shown(image) == before
    assert world.command("sync").returncode == 0
    assert world.catch_all.shown(image) == before
    assert (world.moved(), world.rows("biomed")) == (0, {})


def test_a_forged_image_is_replaced_by_the_next_sync(world: World) -> None:
    """A member wrote the digests of the registry's image to an image with other data."""
    right = hashlib.sha256(world.disks["one.qcow2"]).hexdigest()
    forged = world.uploaded(disk="two.qcow2", image_hash=f"sha256:{right}")
    world.catch_all.age(LONG_AGO, forged)
    assert world.command("import", UBUNTU, "--yes").returncode == 0
    assert set(world.rows()) == {forged}
    done = world.command("sync")
    assert done.returncode == 0, done.stderr
    rows = {row.name: row.id for row in world.rows().values()}
    assert forged not in rows.values()
    stored = world.stored()[rows[f"{world.egi.host} {UBUNTU}"]]
    assert stored == right


def test_an_update_after_an_import_reaches_all_projects_without_a_gap(world: World) -> None:
    image = world.uploaded(members=["img-biomed"])
    world.catch_all.age(LONG_AGO, image)
    assert world.command("import", UBUNTU, "--yes").returncode == 0
    assert world.command("sync").returncode == 0
    world.push(UBUNTU, "two.qcow2")
    wanted = f"{world.egi.host} {UBUNTU}"
    with watched(world, ["img-ops", "img-biomed"]) as seen:
        done = world.command("sync")
    assert done.returncode == 0, done.stderr
    assert len(seen) > 4
    assert all(wanted in names for names in seen)
    (new,) = [row for row in world.rows().values() if row.name == wanted]
    assert new.id != image
    assert image not in world.rows()
    digest = subprocess.run(
        ["sha256sum"], input=world.disks["two.qcow2"], capture_output=True, check=True
    ).stdout.split()[0]
    assert world.stored()[new.id] == digest.decode()
    for project in ("img-ops", "img-biomed"):
        assert world.catch_all.names(project).count(wanted) == 1
    assert [row.name for row in world.rows("biomed").values()] == [f"{world.egi.host} {ALMA}"]

    # The new version can be given back as well: with its tag, atrope finds it by its identity.
    assert world.command("release", UBUNTU, "--yes").returncode == 0
    shown = world.catch_all.shown(new.id)
    assert shown["tags"] == ["atrope-catchall"]
    assert shown["appdb_id"] == f"{world.egi.host}/{UBUNTU}-{world.digests[UBUNTU]}"
    assert [name for name in shown if name.startswith(("APPLIANCE", "cloudkeeper"))] == [
        "APPLIANCE_ATTRIBUTES"
    ]
    world.moved()
    assert world.command("sync").returncode == 0
    assert (world.moved(), world.catch_all.shown(new.id)) == (0, shown)


@pytest.mark.matrix
def test_a_new_description_after_an_import_stays_after_a_release(world: World) -> None:
    """One patch; the identity by which atrope finds the image is that of the newer artefact."""
    image = world.uploaded()
    world.configure("ops")
    world.catch_all.age(LONG_AGO, image)
    assert world.command("import", UBUNTU, "--yes").returncode == 0
    world.push(UBUNTU, "one.qcow2", description="Better words")
    world.push(ALMA, "one.qcow2")
    assert world.command("sync").returncode == 0
    assert world.moved() == 1  # the other image
    assert world.command("release", UBUNTU, "--yes").returncode == 0
    shown = world.catch_all.shown(image)
    assert shown["vmcatcher_event_dc_description"] == "Better words"
    assert shown["appdb_id"] == f"{world.egi.host}/{UBUNTU}-{world.digests[UBUNTU]}"
    attributes = json.loads(shown["APPLIANCE_ATTRIBUTES"])
    assert attributes["eu.egi.cloud.description"] == "Better words"
    assert shown["tags"] == ["atrope-catchall"]


@pytest.mark.matrix
def test_removals_of_imported_images_are_guarded(world: World) -> None:
    """Four of four would go: the backend, too, counts what it has taken over."""
    names = [f"{PROJECT}/{name}:1" for name in ("a", "b", "c", "d")]
    images = []
    for name in names:
        world.push(name, "one.qcow2")
        images.append(world.uploaded(name))
    world.catch_all.age(LONG_AGO, *images)
    world.configure("ops")
    assert world.command("import", *names, "--yes").returncode == 0
    assert world.command("sync").returncode == 0
    for name in (*names, UBUNTU):
        world.egi.delete(name, world.digests[name])
    done = world.command("sync")
    assert done.returncode == 1
    assert "5 of 6 images would be removed, so none is removed" in done.stderr
    assert set(images) < world.rows().keys()


def failure(done: Done) -> str:
    """Return the one line that says what stays as it is."""
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "ERROR" in line]
    return line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_hash": None}, "has no property image_hash, which says whose data it holds"),
        ({"members": ["img-closed"]}, "which no VO is mapped to: its users would lose the image"),
        ({"project": "img-biomed", "members": ["img-ops"]}, "belongs to the project of VO biomed"),
    ],
    ids=["unknown data", "unknown member", "another VO's"],
)
def test_an_image_that_cannot_be_taken_over_stays(
    world: World, changes: dict[str, Any], words: str
) -> None:
    world.configure("ops")
    image = world.uploaded(**changes)
    project = changes.get("project", "img-ops")
    world.catch_all.age(LONG_AGO, image)
    before = world.catch_all.shown(image, project=project)
    done = world.command("import", PROJECT, "--yes")
    line = failure(done)
    assert f"VO ops: {UBUNTU}: " in line
    assert words in line
    assert world.catch_all.shown(image, project=project) == before


def test_an_image_of_a_project_without_a_vo_stays(world: World) -> None:
    """The catch-all has uploaded into a project that is none of ours."""
    closed = world.cloud.projects["img-closed"]
    image = world.uploaded()
    world.cloud.admin.call(
        "PATCH",
        GLANCE,
        f"/v2/images/{image}",
        json.dumps([{"op": "replace", "path": "/owner", "value": closed}]).encode(),
        headers={"Content-Type": "application/openstack-images-v2.1-json-patch"},
    )
    ops = world.cloud.projects["img-ops"]
    world.cloud.admin.post(GLANCE, f"/v2/images/{image}/members", {"member": ops})
    members = f"/v2/images/{image}/members/{ops}"
    world.catch_all.door("img-ops").put(GLANCE, members, {"status": "accepted"})
    world.catch_all.age(LONG_AGO, image)
    line = failure(world.command("import", UBUNTU, "--yes"))
    assert (
        f"belongs to project {closed}, which no VO is mapped to; map a VO to that project" in line
    )
    assert world.catch_all.shown(image)["tags"] == ["atrope-catchall"]


@pytest.mark.parametrize(
    "age",
    [
        timedelta(hours=5, minutes=50),
        pytest.param(timedelta(hours=-3), marks=pytest.mark.matrix, id="ahead"),
    ],
)
def test_nothing_is_taken_over_while_the_catch_all_writes(world: World, age: timedelta) -> None:
    """An image that is not asked for shows that it runs; a time ahead of Glance's clock as well."""
    image, written = world.uploaded(), world.uploaded(ALMA, project="img-biomed")
    world.catch_all.age(timedelta(days=9), image)
    world.catch_all.age(age, written)
    line = failure(world.command("import", UBUNTU, "--yes"))
    assert f"atrope-catchall: has written image {written} at " in line
    assert "less than 6 hours before" in line
    assert world.catch_all.shown(image)["tags"] == ["atrope-catchall"]
    world.catch_all.age(timedelta(hours=6, minutes=5), written)
    assert world.command("import", UBUNTU, "--yes").returncode == 0


def test_an_image_that_is_ours_already_is_not_taken_over_twice(world: World) -> None:
    assert world.command("sync").returncode == 0
    (ours,) = [row.id for row in world.rows().values() if row.name.endswith(UBUNTU)]
    theirs = world.uploaded()
    world.catch_all.age(LONG_AGO, theirs)
    line = failure(world.command("import", UBUNTU, "--yes"))
    assert "project img-ops has an image of its own of" in line
    assert {ours, theirs} < world.rows().keys()
    world.catch_all.door("img-ops").call("DELETE", GLANCE, f"/v2/images/{theirs}")
    line = failure(world.command("release", UBUNTU, "--yes"))
    assert f"{UBUNTU}: was not taken over in the projects of its VOs" in line


@contextlib.contextmanager
def administrator(cloud: Cloud) -> Iterator[None]:
    """Give the account of the tests the role admin in both projects during the block."""
    users = cloud.admin.get(KEYSTONE, f"/users?name={ACCOUNT}")["users"]
    roles = cloud.admin.get(KEYSTONE, "/roles?name=admin")["roles"]
    places = [
        f"/projects/{cloud.projects[name]}/users/{users[0]['id']}/roles/{roles[0]['id']}"
        for name in VOS.values()
    ]
    for place in places:
        cloud.admin.put(KEYSTONE, place)
    try:
        yield
    finally:
        for place in places:
            cloud.admin.call("DELETE", KEYSTONE, place)


def test_an_administrator_s_account_counts_what_users_of_the_project_find(world: World) -> None:
    """Glance shows it the images of all projects, also those that this project cannot use."""
    world.configure("ops")
    world.push(DEBIAN, "one.qcow2")
    world.uploaded(UBUNTU, project="img-biomed", members=["img-ops"])
    world.uploaded(ALMA, project="img-biomed")
    world.cloud.put_image("img-biomed", world.disks["one.raw"], name=f"{world.egi.host} {DEBIAN}")
    with administrator(world.cloud):
        world.backend.stop()
        world.backend.start()
        done = world.command("sync")
    assert done.returncode == 0, done.stderr
    names = {row.name.partition(" ")[2] for row in world.rows().values()}
    assert names == {ALMA, DEBIAN}


@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("y", 2)])
def test_a_person_is_asked_on_a_terminal(world: World, answer: str, status: int) -> None:
    image = world.uploaded()
    world.catch_all.age(LONG_AGO, image)
    ours, theirs = os.openpty()
    command = [str(PROGRAM), "import", UBUNTU, "--root", str(world.root)]
    with subprocess.Popen(
        [*command, "--backend-endpoint", world.backend.endpoint],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        output, errors = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == status, errors
    assert "1 images: type yes to go on: " in output
    assert "images: {sync: false}\nmerged and deployed" in errors
    tags = world.catch_all.shown(image)["tags"]
    assert tags == ([] if status == 0 else ["atrope-catchall"])


def test_names_that_mean_no_image(world: World) -> None:
    for name in ("egi", "other/ubuntu:24.04", f"{PROJECT}/ubuntu"):
        done = world.command("import", name, "--yes")
        assert (done.returncode, f"{name!r} is neither a project" in done.stderr) == (2, True)
    line = failure(world.command("import", UBUNTU, "--yes"))
    assert f"{UBUNTU}: no other manager keeps it in the projects of its VOs" in line


def test_a_stranger_with_the_name_of_an_image_is_reported(world: World) -> None:
    """Users select by name: what worked goes on to work, until a person decides."""
    name = f"{world.egi.host} {UBUNTU}"
    world.configure("ops")
    theirs = world.cloud.put_image("img-ops", world.disks["one.raw"], name=name)
    world.moved()
    done = world.command("sync")
    assert (done.returncode, done.stderr) == (0, "")
    assert world.moved() == 1  # only the other image
    record = world.backend.record()
    (line,) = record["failures"]
    assert line.startswith(
        f"project img-ops: image {theirs}: has the name of {UBUNTU} and no tag of a manager, so "
        f"{UBUNTU} is not uploaded for VO ops: "
    )
    holder = f"an unknown manager (image {theirs})"
    assert record["notes"]["images_held_by_others"] == [f"VO ops: {UBUNTU}: {holder}"]
    world.cloud.patch(theirs, [{"op": "replace", "path": "/name", "value": "something else"}])
    assert world.command("sync").returncode == 0
    assert world.catch_all.names("img-ops").count(name) == 1
    assert world.backend.record()["failures"] == []
