"""One image of a registry for the projects of three VOs, on a real Keystone and Glance.

Members and their status come from Glance's database, bytes from the registry's front and from
Glance's store, and names from listings with the projects' own tokens.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import golden_properties
from tests.e2e.egi_registry import PROJECT, EGIRegistry, disks, lay_out, served  # noqa: F401
from tests.e2e.images_backend import Backend, started
from tests.e2e.images_cloud import Cloud, Row
from tests.e2e.images_frontend import Done, run
from tests.polling import repeated
from tests.testbed.api import GLANCE
from tests.testbed.pki import Authority

# ruff: noqa: F811  the fixtures are those of the registry

pytestmark = pytest.mark.glance
UBUNTU = f"{PROJECT}/ubuntu:24.04"
SHARE = "image_sharing = share"
PROJECTS = {"ops": "img-ops", "biomed": "img-biomed", "vo.example.org": "img-biomed@elsewhere"}
MAPPING = {
    "ops": {"project": "img-ops"},
    "biomed": {"project": "img-biomed", "domain": "Default"},
    "vo.example.org": {"project": "img-biomed", "domain": "elsewhere"},
}


@dataclass
class SharedWorld:
    """A registry with an image, and a site with three VOs that wants it."""

    cloud: Cloud
    backend: Backend
    egi: EGIRegistry
    disks: dict[str, bytes]

    @property
    def name(self) -> str:
        return f"{self.egi.host} {UBUNTU}"

    def configure(self, *vos: str, option: str = SHARE) -> None:
        """Name the VOs of the source; restart the backend with an option."""
        own = f"  properties: {json.dumps(golden_properties.OWN)}\n"
        path = self.backend.root / "etc/cloudkeeper/sources.yaml"
        path.write_text(self.egi.source(*vos) + own)
        config = self.backend.config.read_text()
        if option not in config:
            present = next(line for line in config.splitlines() if "image_sharing" in line)
            self.backend.config.write_text(config.replace(present, option))
            self.backend.stop()
            self.backend.start()

    def sync(self, *flags: str) -> Done:
        root = ["--root", str(self.backend.root), "--backend-endpoint", self.backend.endpoint]
        return run("sync", *root, *flags)

    def found(self, vo: str) -> list[str]:
        """Return the ids of the images that users of a VO find by the name."""
        listed = self.cloud.door(PROJECTS[vo]).get(GLANCE, "/v2/images?limit=100")["images"]
        return [image["id"] for image in listed if image["name"] == self.name]

    def image(self) -> Row:
        """Return the only image of all projects, from Glance's database."""
        (row,) = self.cloud.rows()
        return row

    def members(self, image_id: str) -> dict[str, str]:
        """Return the members of an image with their status, from Glance's database."""
        query = "select member, status from image_members where deleted = 0 and image_id = ?"
        names = {project: name for name, project in self.cloud.projects.items()}
        return {names[member]: word for member, word in self.ask(query, image_id)}

    def made(self) -> int:
        """Return how many images were ever made in the projects."""
        owners = json.dumps(list(self.cloud.projects.values()))
        query = "select count(*) from images where owner in (select value from json_each(?))"
        ((number,),) = self.ask(query, owners)
        return int(number)

    def ask(self, query: str, *values: str) -> list[Any]:
        database = self.cloud.bed.layout.database("glance")
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            return opened.execute(query, values).fetchall()


@pytest.fixture
def world(
    cloud: Cloud, served: tuple[EGIRegistry, Authority], disks: dict[str, bytes], tmp_path: Path
) -> Iterator[SharedWorld]:
    cloud.empty()
    backend = lay_out(tmp_path / "root", cloud, served, mapping=MAPPING, options=SHARE)
    made = SharedWorld(cloud, backend, served[0], disks)
    with started(backend):
        made.configure(*PROJECTS)
        yield made


@contextlib.contextmanager
def watched(world: SharedWorld) -> Iterator[list[str]]:
    """Poll what users of each VO find; yield the VOs that were seen without an image."""
    without: list[str] = []

    def poll() -> None:
        without.extend(vo for vo in PROJECTS if not world.found(vo))

    with repeated(poll):
        yield without


def test_one_download_and_one_upload_for_three_vos(
    world: SharedWorld, record_property: Any
) -> None:
    """F-M13: bytes counted at both ends; name and properties are those of the golden file."""
    before, layer = world.made(), world.disks["one.qcow2"]
    manifest = world.egi.push(UBUNTU, layer)
    done = world.sync()
    assert done.returncode == 0, done.stderr
    row = world.image()
    assert world.made() - before == 1
    assert world.egi.front.asked("/blobs/") == 1
    assert world.egi.front.blob_bytes == len(layer)
    assert world.cloud.file(row.id).read_bytes() == layer
    counts = world.backend.record()["counts"]
    assert (counts["uploaded_bytes"], counts["shared"]) == (len(layer), 2)
    record_property("bytes of the file, downloaded, uploaded", [len(layer)] * 3)
    shared = {"img-biomed": "accepted", "img-biomed@elsewhere": "accepted"}
    assert world.members(row.id) == shared
    assert {vo: world.found(vo) for vo in PROJECTS} == {vo: [row.id] for vo in PROJECTS}
    assert (row.visibility, row.owner) == ("shared", world.cloud.projects["img-ops"])
    name, wanted, _ = golden_properties.expected(
        host=world.egi.host,
        manifest=manifest,
        layer=row.properties["image_hash"],
        backend=row.properties["APPLIANCE_BACKEND"],
        synced=row.properties["cloudkeeper_synced_at"],
        sbom="",
    )
    differing = {
        key
        for key in wanted.keys() | row.properties.keys()
        if wanted.get(key) != row.properties.get(key)
    }
    # The artefact of this test has no SBOM, and other annotations.
    assert differing - {"APPLIANCE_SBOM", "APPLIANCE_ATTRIBUTES"} == {"cloudkeeper_shared"}
    assert row.name == name == world.name
    assert world.sync().returncode == 0
    assert world.made() - before == 1


def test_a_vo_that_is_added_moves_no_bytes(world: SharedWorld) -> None:
    """Nor lets it in a member that Glance has kept since the image was shared by hand."""
    world.configure("ops")
    world.egi.push(UBUNTU, world.disks["one.qcow2"])
    assert world.sync().returncode == 0
    image = world.image().id
    closed = world.cloud.projects["img-closed"]
    for visibility in ("shared", "private"):
        world.cloud.patch(image, [{"op": "replace", "path": "/visibility", "value": visibility}])
        if visibility == "shared":
            world.cloud.admin.post(GLANCE, f"/v2/images/{image}/members", {"member": closed})
    assert world.members(image) == {"img-closed": "pending"}
    for number in (2, 3):
        world.configure(*list(PROJECTS)[:number])
        done = world.sync()
        assert done.returncode == 0, done.stderr
        assert world.egi.front.asked("/blobs/") == 1
        assert {vo: world.found(vo) for vo in PROJECTS} == {
            vo: [image] if place < number else [] for place, vo in enumerate(PROJECTS)
        }
    shared = {"img-biomed": "accepted", "img-biomed@elsewhere": "accepted"}
    assert world.members(image) == shared


def test_an_update_leaves_nobody_without_an_image(world: SharedWorld) -> None:
    """The members of an administrator stay, too, and a run that fails for one VO goes on."""
    world.egi.push(UBUNTU, world.disks["one.qcow2"])
    assert world.sync().returncode == 0
    old = world.image().id
    closed = world.cloud.projects["img-closed"]
    world.cloud.admin.post(GLANCE, f"/v2/images/{old}/members", {"member": closed})
    world.egi.push(UBUNTU, world.disks["two.qcow2"])
    with watched(world) as without:
        done = world.sync()
    assert done.returncode == 0, done.stderr
    assert without == []
    row = world.image()
    assert row.id != old
    assert world.cloud.file(row.id).read_bytes() == world.disks["two.qcow2"]
    shared = {"img-biomed": "accepted", "img-biomed@elsewhere": "accepted"}
    assert world.members(row.id) == {**shared, "img-closed": "pending"}


def test_vos_leave_one_after_the_other(world: SharedWorld) -> None:
    """A member first, then the owner, whose project holds the image; the last takes it along."""
    world.egi.push(UBUNTU, world.disks["one.qcow2"])
    assert world.sync().returncode == 0
    image = world.image().id
    config = world.backend.root / "etc/cloudkeeper/cloudkeeper.yml"
    config.write_text(config.read_text() + "  ended-lists: remove\n")
    world.configure("ops", "vo.example.org")
    assert world.sync().returncode == 0
    assert world.members(image) == {"img-biomed@elsewhere": "accepted"}
    assert (world.found("ops"), world.found("biomed")) == ([image], [])
    world.configure("vo.example.org")
    assert world.sync().returncode == 0
    row = world.image()
    assert (row.id, row.properties["APPLIANCE_VO"]) == (image, "vo.example.org")
    assert world.found("vo.example.org") == [image]
    assert world.sync().returncode == 0
    (note,) = world.backend.record()["notes"]["images_held_for_others"]
    assert note.startswith(f"project img-ops: holds image {image} for VO vo.example.org; ")
    world.egi.push(UBUNTU, world.disks["two.qcow2"])
    assert world.sync().returncode == 0
    assert world.image().owner == world.cloud.projects["img-biomed@elsewhere"]
    assert world.found("ops") == []
    assert world.cloud.files() == {world.image().id}


def test_the_option_changes_nothing_that_is_there(world: SharedWorld) -> None:
    """Copies become one image with the next version, and the other way round."""
    world.configure(*PROJECTS, option="image_sharing = copy")
    world.egi.push(UBUNTU, world.disks["one.qcow2"])
    assert world.sync().returncode == 0
    copies = {row.id for row in world.cloud.rows()}
    assert len(copies) == len(PROJECTS)
    world.configure(*PROJECTS)
    assert world.sync().returncode == 0
    assert {row.id for row in world.cloud.rows()} == copies
    for option, disk, number in ((SHARE, "two", 1), ("image_sharing = copy", "one", 3)):
        world.configure(*PROJECTS, option=option)
        world.egi.push(UBUNTU, world.disks[f"{disk}.qcow2"], revision=disk)
        with watched(world) as without:
            done = world.sync()
        assert done.returncode == 0, done.stderr
        assert without == []
        assert len(world.cloud.rows()) == number
        assert {len(world.found(vo)) for vo in PROJECTS} == {1}
