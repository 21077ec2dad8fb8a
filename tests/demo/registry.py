"""The acts of the image flow with a registry, whose images stand beside those of the signed list.

The rows of Glance's database say which images a VO has, sha256sum on the files of Glance's store
whether they are the right ones. During an update, users of both VOs look for the image all the
time, and so does Glance's database.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.demo.images import VOS, Stage, make_disk
from tests.demo.report import Row
from tests.e2e.egi_registry import PROJECT, EGIRegistry, egi_registry
from tests.polling import repeated
from tests.testbed.api import GLANCE

_NAMES = ("ubuntu:24.04", "ubuntu:22.04", "linux/alma:9", "debian:12")
_COUNTED_BY = "sha256sum, on Glance's store"
# What users of a project find: its own images, and those that it has accepted.
_VISIBLE = """
    SELECT images.id, reference.value FROM images
    JOIN image_properties AS reference ON reference.image_id = images.id
    WHERE images.status = 'active' AND images.deleted = 0 AND images.os_hidden = 0
      AND reference.name = 'APPLIANCE_ID' AND reference.deleted = 0 AND reference.value LIKE ?
      AND (images.owner = ? OR images.id IN (
        SELECT image_id FROM image_members
        WHERE member = ? AND status = 'accepted' AND deleted = 0))"""


@dataclass(slots=True)
class Acts:
    """The acts on a stage whose programs run, with the registry of an endorser."""

    stage: Stage
    egi: EGIRegistry
    disks: dict[str, Path] = field(default_factory=dict)
    """The disks offered, by reference."""

    @classmethod
    @contextmanager
    def open(cls, stage: Stage) -> Iterator[Acts]:
        """Serve a registry until the end of the block."""
        testbed = stage.testbed
        host, signer = testbed.host_credential("registry"), testbed.host_credential("tokens")
        with egi_registry(
            stage.site.root.with_name("site-registry"),
            authority=testbed.trust.grid,
            host=host,
            signer=signer,
        ) as egi:
            egi.registry.clear()
            yield cls(stage, egi)

    def beside_the_list(self) -> list[Row]:
        """Offer four images to two VOs, and synchronise."""
        act = "four images of a registry for two VOs, beside the list"
        for name in _NAMES:
            self._push(f"{PROJECT}/{name}")
        self.stage.site.write("etc/cloudkeeper/sources.yaml", self.egi.source(*VOS))
        self.stage.site.run("cloudkeeper", "sync")
        added = self.stage.site.counts("cloudkeeper")["images_added"]
        return [self._row(act, "images from a registry", added), self.stage.listed(act)]

    def replaced(self) -> list[Row]:
        """Push a new build of one image; users look for it while it is replaced."""
        act, reference = "an image of the registry replaced", f"{PROJECT}/{_NAMES[0]}"
        before = {vo: self._found(vo) for vo in VOS}
        self._push(reference)
        with self._watched(reference) as (by_users, by_database):
            self.stage.site.run("cloudkeeper", "sync")
        self.stage.say(f"  users looked for it {len(by_users)} times meanwhile")
        updated = self.stage.site.counts("cloudkeeper")["images_updated"]
        after = {vo: self._found(vo) for vo in VOS}
        new = {vo: after[vo].items() - before[vo].items() for vo in VOS}
        right = sum(
            found == reference and self._is_right(image_id, found)
            for vo in VOS
            for image_id, found in new[vo]
        )
        delivered = str(sum(map(len, new.values())))
        return [
            Row(act, "images replaced", str(updated), delivered, str(right), _COUNTED_BY),
            Row(
                act,
                "moments without it",
                "0",
                str(by_users.count(False)),
                str(by_database.count(False)),
                "Glance's database, every 50 ms",
            ),
            self._row(act, "images from a registry", len(_NAMES) * len(VOS)),
        ]

    def _push(self, reference: str) -> None:
        name = reference.replace("/", "-").replace(":", "-")
        disk = self.stage.site.root / f"{name}.qcow2"
        make_disk(disk)
        self.egi.push(reference, disk.read_bytes())
        self.disks[reference] = disk

    def _found(self, vo: str) -> Mapping[str, str]:
        """Return the references of the images that a VO finds, by id, from Glance's database."""
        project = self.stage.project(vo)
        return dict(self.stage.query(_VISIBLE, f"{PROJECT}/%", project, project))

    def _is_right(self, image_id: str, reference: str) -> bool:
        stored = self.stage.testbed.layout.data("glance") / "images" / image_id
        shown = subprocess.run(
            ["sha256sum", stored, self.disks[reference]], capture_output=True, text=True, check=True
        ).stdout
        return len({line.split()[0] for line in shown.splitlines()}) == 1

    def _row(self, act: str, flow: str, done: int) -> Row:
        found = [image for vo in VOS for image in self._found(vo).items()]
        right = sum(self._is_right(*image) for image in found)
        return Row(act, flow, str(done), str(len(found)), str(right), _COUNTED_BY)

    @contextmanager
    def _watched(self, reference: str) -> Iterator[tuple[list[bool], list[bool]]]:
        """Look for an image during the block, as users of each VO and in Glance's database."""
        name = f"{self.egi.host} {reference}"
        users = [self.stage.user(vo) for vo in VOS]
        by_users: list[bool] = []
        by_database: list[bool] = []

        def look_as_users() -> None:
            for user in users:
                shown = user.get(GLANCE, "/v2/images?limit=200")["images"]
                by_users.append(any(image["name"] == name for image in shown))

        def look_into_database() -> None:
            by_database.extend(reference in self._found(vo).values() for vo in VOS)

        with repeated(look_as_users), repeated(look_into_database):
            yield by_users, by_database
