"""EGI's catch-all as a neighbour in Glance: images as atrope 2.1 writes them.

It uploads into one project, with its tag and its properties, and shares with the projects of other
VOs, which accept. All goes through Glance's API with the account of the tests; only the times of an
image are set in Glance's database, because its API has no way to.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.images_cloud import Cloud
from tests.testbed.api import GLANCE, Api
from tests.testbed.oci_registry import described_as

TAG = "atrope-catchall"


@dataclass
class CatchAll:
    """The catch-all of a cloud that reads one registry."""

    cloud: Cloud
    host: str
    """The registry's."""
    doors: dict[str, Api] = field(default_factory=dict)

    def upload(
        self,
        reference: str,
        digest: str,
        content: bytes,
        *,
        project: str = "img-ops",
        members: Sequence[str] = (),
        tag: str = TAG,
        **changes: Any,
    ) -> str:
        """Upload an image, share it with projects that accept it; return its id.

        ``changes`` replace properties; None leaves one out.
        """
        image = {**self._described(reference, digest, content), "tags": [tag], **changes}
        shown = {name: value for name, value in image.items() if value is not None}
        image_id = str(self.door(project).post(GLANCE, "/v2/images", shown)["id"])
        self.door(project).put(GLANCE, f"/v2/images/{image_id}/file", content)
        for member in members:
            self.share(image_id, member, project=project)
        return image_id

    def share(self, image_id: str, member: str, *, project: str = "img-ops") -> None:
        members, name = f"/v2/images/{image_id}/members", self.cloud.projects[member]
        self.door(project).post(GLANCE, members, {"member": name})
        door = self.door(member) if member != "img-closed" else self.cloud.admin
        door.put(GLANCE, f"{members}/{name}", {"status": "accepted"})

    def door(self, project: str) -> Api:
        return self.doors.setdefault(project, self.cloud.door(project))

    def shown(self, image_id: str, *, project: str = "img-ops") -> dict[str, Any]:
        """Return an image as Glance's API shows it, without its times."""
        found = self.door(project).get(GLANCE, f"/v2/images/{image_id}")
        del found["created_at"], found["updated_at"]
        return {**found, "tags": sorted(found["tags"])}

    def names(self, project: str) -> list[str]:
        """Return the names of all images that users of a project find."""
        found = self.door(project).get(GLANCE, "/v2/images?limit=200")["images"]
        return sorted(image["name"] for image in found if image["visibility"] != "public")

    def age(self, by: timedelta, *images: str) -> None:
        """Set the times of images back, or forward if ``by`` is negative."""
        database = self.cloud.bed.layout.database("glance")
        at = (datetime.now(UTC) - by).strftime("%Y-%m-%d %H:%M:%S")
        with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
            for image_id in images:
                connection.execute(
                    "UPDATE images SET created_at = ?, updated_at = ? WHERE id = ?",
                    (at, at, image_id),
                )

    def _described(self, reference: str, digest: str, content: bytes) -> dict[str, Any]:
        identity = f"{self.host}/{reference}-{digest}"
        tag = reference.rpartition(":")[2]
        annotations = {
            "org.opencontainers.image.source": "https://git.example.org/images",
            **described_as(tag),
            "eu.egi.cloud.image_ref": reference,
        }
        layer = subprocess.run(["sha256sum"], input=content, capture_output=True, check=True).stdout
        project = reference.partition("/")[0]
        return {
            "name": f"{self.host} {reference}",
            "visibility": "shared",
            "disk_format": "qcow2",
            "container_format": "bare",
            "appdb_id": identity,
            "vmcatcher_event_ad_mpuri": identity,
            "image_hash": f"sha256:{layer.split()[0].decode()}",
            "image_list": project,
            "project": project,
            "os_distro": annotations["org.openstack.glance.os_distro"],
            "os_version": annotations["org.openstack.glance.os_version"],
            "architecture": annotations["org.openstack.glance.architecture"],
            "vmcatcher_event_dc_description": annotations["eu.egi.cloud.description"],
            "APPLIANCE_ATTRIBUTES": json.dumps(annotations),
        }
