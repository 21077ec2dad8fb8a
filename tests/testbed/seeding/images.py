"""Images of every visibility, with content."""

from __future__ import annotations

from collections.abc import Mapping

from tests.testbed.api import GLANCE, Api
from tests.testbed.seed import Image, Project
from tests.testbed.seeding import content
from tests.testbed.seeding.access import Access

_BYTES = 256 * 1024


def plant(access: Access, projects: Mapping[str, Project]) -> dict[str, Image]:
    """Create, upload and share the images."""
    listed = access.admin.get(GLANCE, "/v2/images?limit=100")["images"]
    known = {image["name"]: image for image in listed if image["status"] == "active"}
    return {
        planned.name: _image(access, planned, known.get(planned.name), projects)
        for planned in content.IMAGES
    }


def _image(
    access: Access,
    planned: content.PlannedImage,
    known: dict[str, str] | None,
    projects: Mapping[str, Project],
) -> Image:
    is_public = planned.visibility == "public"  # which only an administrator may make
    door = access.admin if is_public else _door(access, projects[content.IMAGE_PROJECT])
    image = known["id"] if known else _upload(door, planned)
    if planned.visibility == "shared":
        _share(access, door, image, projects)
    return Image(
        image, planned.name, planned.visibility, "admin" if is_public else content.IMAGE_PROJECT
    )


def _door(access: Access, project: Project) -> Api:
    return access.door(
        content.user_names(project.name)[0], domain=project.domain, project_id=project.id
    )


def _upload(door: Api, planned: content.PlannedImage) -> str:
    wanted = {
        "name": planned.name,
        "visibility": planned.visibility,
        "disk_format": "raw",
        "container_format": "bare",
        "min_ram": planned.min_ram,
        **planned.properties,
    }
    image = str(door.post(GLANCE, "/v2/images", wanted)["id"])
    door.put(GLANCE, f"/v2/images/{image}/file", planned.name.encode().ljust(_BYTES, b"\0"))
    return image


def _share(access: Access, owner: Api, image: str, projects: Mapping[str, Project]) -> None:
    members = {
        member["member_id"]
        for member in owner.get(GLANCE, f"/v2/images/{image}/members")["members"]
    }
    for name, status in content.SHARED_WITH.items():
        project = projects[name]
        if project.id not in members:
            owner.post(GLANCE, f"/v2/images/{image}/members", {"member": project.id})
        if status == "accepted":
            path = f"/v2/images/{image}/members/{project.id}"
            _door(access, project).put(GLANCE, path, {"status": status})
