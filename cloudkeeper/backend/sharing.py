"""Images that another manager had shared with further projects, and that keep being shared.

EGI's catch-all uploads an image into one project and shares it with those of the other VOs. After a
takeover, a new version must reach the same users, and before the older one is retired: it is shared
and accepted while it is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.core.cloud.glance import Glance, Image
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.properties import TAKEN_OVER, ImageRecord, operation
from cloudkeeper.wire.status import CallStatus


def accepted(door: Glance, image: Image) -> list[str]:
    """Return the ids of the projects with which an image is shared and that have accepted it.

    ``door`` is Glance as the image's own project sees it.
    """
    if image.get("visibility") != "shared":
        return []
    members = door.members(str(image["id"]))
    return [project for project, status in members.items() if status == "accepted"]


def inherited(older: ImageRecord, door: Glance, doors: Mapping[str, Glance]) -> dict[str, Glance]:
    """Return the projects that must find the new version of an image that was taken over.

    Raises:
        Failed: one of them is no VO's, so this backend could not accept the new version there.

    """
    if not older.image.get(TAKEN_OVER):
        return {}
    members = accepted(door, older.image)
    foreign = [project for project in members if project not in doors]
    if foreign:
        raise Failed(
            f"image {older.id}",
            f"is shared with project {', '.join(foreign)}, whose users would lose it by an update: "
            "no VO is mapped to that project, or it cannot be reached",
            "map its VO to it, or end the sharing",
            status=CallStatus.RESOURCE_STATE,
        )
    return {project: doors[project] for project in members}


def visibility(older: ImageRecord | None, *, default: str) -> str:
    """Return the visibility of a new version: that of an older one that was taken over."""
    if older is None or not older.image.get(TAKEN_OVER):
        return default
    return str(older.image.get("visibility") or default)


def share(door: Glance, image_id: str, members: Mapping[str, Glance]) -> None:
    """Share a hidden image that has its data: the members find it as soon as it is not hidden."""
    if not members:
        return
    door.change(image_id, [operation("replace", "visibility", "shared")], is_new=True)
    for project, door_of_member in members.items():
        door.add_member(image_id, project)
        door_of_member.accept(image_id, project)
