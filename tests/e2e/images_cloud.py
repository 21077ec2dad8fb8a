"""Keystone and Glance of the test bed, with projects for images, read from Glance's database.

No part of the product is used to look at the result: rows come from SQLite, bytes from the store's
files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testbed import Testbed
from tests.testbed.api import GLANCE, KEYSTONE, Api, password_auth

ACCOUNT, PASSWORD = "images-e2e", "s3cret-of-the-images-account"
VOS = {"ops": "img-ops", "biomed": "img-biomed"}
FAULTY = "Faulty"
"""A region with another Glance, in front of the real one; see `Cloud.route`."""


@dataclass(frozen=True, slots=True)
class Row:
    """An image in the database, without deleted ones."""

    id: str
    columns: dict[str, Any]
    properties: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return self.columns[name]

    @property
    def state(self) -> str | None:
        return self.properties.get("APPLIANCE_STATUS")


@dataclass(frozen=True, slots=True)
class Cloud:
    bed: Testbed
    admin: Api
    projects: dict[str, str]
    """Ids by name."""

    @classmethod
    def up(cls, bed: Testbed) -> Cloud:
        """Start the services of a test bed that images need, and create their projects."""
        bed.up(["keystone", "glance"])
        admin = bed.admin()
        roles = {role["name"]: role["id"] for role in admin.get(KEYSTONE, "/roles")["roles"]}
        user = _ensure(admin, "user", ACCOUNT, {"domain_id": "default", "password": PASSWORD})
        other = _ensure(admin, "domain", "elsewhere", {})
        projects = {
            name: _ensure(admin, "project", name, {"domain_id": "default"}) for name in VOS.values()
        }
        projects["img-biomed@elsewhere"] = _ensure(
            admin, "project", "img-biomed", {"domain_id": other}
        )
        for project in projects.values():
            admin.put(KEYSTONE, f"/projects/{project}/users/{user}/roles/{roles['member']}")
        projects["img-closed"] = _ensure(admin, "project", "img-closed", {"domain_id": "default"})
        return cls(bed, admin, projects)

    def rows(self, project: str | None = None) -> list[Row]:
        database = sqlite3.connect(f"file:{self.bed.layout.database('glance')}?mode=ro", uri=True)
        with contextlib.closing(database):
            database.row_factory = sqlite3.Row
            found = {
                row["id"]: Row(row["id"], dict(row))
                for row in database.execute("select * from images")
            }
            for row in database.execute(
                "select image_id, name, value from image_properties where deleted = 0"
            ):
                if row["image_id"] in found:  # not one that was made between the two queries
                    found[row["image_id"]].properties[row["name"]] = row["value"]
        mine = {self.projects[project]} if project else set(self.projects.values())
        return [row for row in found.values() if not row.deleted and row.owner in mine]

    def active(self, project: str = "img-ops") -> Row:
        (row,) = [row for row in self.rows(project) if row.state == "ACTIVE"]
        return row

    def file(self, image_id: str) -> Path:
        return self.bed.layout.data("glance") / "images" / image_id

    def files(self) -> set[str]:
        """Return the names of the files in the store, without images of other projects."""
        return {path.name for path in self.file("").iterdir()} - self._images_of_others()

    def _images_of_others(self) -> set[str]:
        database = sqlite3.connect(f"file:{self.bed.layout.database('glance')}?mode=ro", uri=True)
        with contextlib.closing(database):
            rows = database.execute("select id, owner from images where deleted = 0").fetchall()
        return {image_id for image_id, owner in rows if owner not in self.projects.values()}

    def door(self, project: str) -> Api:
        auth = password_auth(
            self.bed.keystone_url, ACCOUNT, PASSWORD, project_id=self.projects[project]
        )
        return Api(auth, ca_file=self.bed.ca_file)

    def empty(self) -> None:
        """Delete all images of the projects, and files that interrupted tests have left."""
        for row in self.rows():
            if row.protected:
                self.patch(row.id, [{"op": "replace", "path": "/protected", "value": False}])
            self.admin.call("DELETE", GLANCE, f"/v2/images/{row.id}")
        for name in self.files():
            self.file(name).unlink(missing_ok=True)

    def patch(self, image_id: str, operations: list[dict[str, object]]) -> None:
        kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        self.admin.call(
            "PATCH", GLANCE, f"/v2/images/{image_id}", json.dumps(operations).encode(), headers=kind
        )

    def put_image(self, project: str, data: bytes, **fields: object) -> str:
        """Create an image as a user of the project."""
        door = self.door(project)
        wanted = {"name": "theirs", "disk_format": "raw", "container_format": "bare"} | fields
        image: str = door.post(GLANCE, "/v2/images", wanted)["id"]
        door.put(GLANCE, f"/v2/images/{image}/file", data)
        return image

    def route(self, url: str) -> None:
        """Set the URL of Glance in the region `FAULTY`."""
        regions = [region["id"] for region in self.admin.get(KEYSTONE, "/regions")["regions"]]
        if FAULTY not in regions:
            self.admin.post(KEYSTONE, "/regions", {"region": {"id": FAULTY}})
        self.close_route()
        (service,) = self.admin.get(KEYSTONE, "/services?type=image")["services"]
        wanted = {
            "interface": "public",
            "region_id": FAULTY,
            "service_id": service["id"],
            "url": url,
        }
        self.admin.post(KEYSTONE, "/endpoints", {"endpoint": wanted})

    def close_route(self) -> None:
        """Remove the region from the catalog."""
        for endpoint in self.admin.get(KEYSTONE, f"/endpoints?region_id={FAULTY}")["endpoints"]:
            self.admin.call("DELETE", KEYSTONE, f"/endpoints/{endpoint['id']}")


def _ensure(admin: Api, kind: str, name: str, properties: dict[str, Any]) -> str:
    query = f"&domain_id={properties['domain_id']}" if "domain_id" in properties else ""
    found = admin.get(KEYSTONE, f"/{kind}s?name={name}{query}")[f"{kind}s"]
    made = (
        found[0]
        if found
        else admin.post(KEYSTONE, f"/{kind}s", {kind: {"name": name} | properties})[kind]
    )
    return str(made["id"])


def sha512sum(path: Path) -> str:
    """Return the SHA-512 by coreutils."""
    return subprocess.run(
        ["sha512sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]


def qcow2(path: Path, *, payload: bytes = b"", size: str = "2G") -> str:
    """Make a real image with qemu-img; return its SHA-512 by coreutils."""
    raw = path.with_suffix(".payload")
    raw.write_bytes(payload or hashlib.sha512(path.name.encode()).digest() * 2048)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", path, size], check=True)
    raw.unlink()
    return sha512sum(path)
