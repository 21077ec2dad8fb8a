"""Images that several projects find: the VOs that use one, and its members in Glance.

An image is in one project. Others find it as members, which this backend adds and which accept it
with their own projects' credentials. The property `properties.SHARED` of the image says which VO
uses it in which project, as a JSON list of ``[VO, list, project, added]``; ``added`` is false for a
project that was a member already. So a lost state directory loses nothing, and members that an
administrator or another manager of the cloud has added are known, and kept.

The property is written before a member is added, and a member is removed before the property
forgets it: a backend that is killed leaves no member that it does not know.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from appliance.core.cloud import glance
from appliance.core.cloud.glance import Glance, Image
from appliance.core.run.errors import ApplianceError, Unavailable
from cloudkeeper.backend import properties
from cloudkeeper.backend.errors import Failed, status_of
from cloudkeeper.backend.properties import SHARED, TAKEN_OVER, ImageRecord, operation
from cloudkeeper.model import ListId
from cloudkeeper.wire.status import CallStatus

TAG = "cloudkeeper-shared"
"""The tag by which an account with the role admin finds the images that projects share."""
ACCEPTED = "accepted"
_ENTRY = 4
FOR_ALL = ("public", "community")
"""Visibilities of images that have no members, because all projects may use them."""

Operations = list[dict[str, object]]


class Use(NamedTuple):
    """The use of an image by one VO, for one of its lists, in the project of the VO."""

    vo: str
    list_id: ListId
    project: str
    is_added: bool = False
    """Whether this backend has made the project a member of the image."""

    @property
    def identity(self) -> tuple[str, ListId, str]:
        """The VO, list and project."""
        return self.vo, self.list_id, self.project


Identities = Collection[tuple[str, ListId, str]]


@dataclass(frozen=True, slots=True)
class Audience:
    """For whom a new image is, beside the VO of its project.

    ``members`` are the projects that others have added to the older version, with their status.
    """

    uses: Sequence[Use] = ()
    members: Mapping[str, str] = field(default_factory=dict)

    def wanted(self, home: str) -> dict[str, str]:
        """Return all members that an image in the project ``home`` needs, with their status."""
        found = dict(self.members) | {use.project: ACCEPTED for use in self.uses}
        return {project: status for project, status in found.items() if project != home}


def stated(image: Image) -> Sequence[Use]:
    """Return the uses that an image states; a list that users have spoiled states none."""
    text = image.get(SHARED)
    return _parsed(str(text)) if text else ()


@functools.lru_cache(maxsize=4096)  # each list of a run looks at all images
def _parsed(text: str) -> Sequence[Use]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(use for entry in found if (use := _use(entry))) if isinstance(found, list) else ()


def _use(entry: object) -> Use | None:
    if not isinstance(entry, list) or len(entry) != _ENTRY:
        return None
    vo, list_id, project, is_added = entry
    if not all(isinstance(text, str) and text for text in (vo, list_id, project)):
        return None
    return Use(vo, ListId(list_id), project, is_added is True)


def uses(record: ImageRecord) -> list[Use]:
    """Return all uses of an image; that of the VO of its own project comes first."""
    key = record.key
    found = stated(record.image)
    own = [] if is_held(record) else [Use(key.vo, key.list_id, str(record.image["owner"]))]
    return [*own, *found]


def is_held(record: ImageRecord) -> bool:
    """Check whether a project holds an image only for VOs of other projects."""
    key = (record.key.vo, record.key.list_id)
    return any((use.vo, use.list_id) == key for use in stated(record.image))


def statement(image: Image, wanted: Iterable[Use]) -> Operations:
    """Return the operations by which an image states these uses, and no others."""
    entries = [list(use) for use in wanted]
    patch: Operations = []
    if entries:
        patch.append(operation("add", SHARED, json.dumps(entries)))
    elif SHARED in image:
        patch.append(operation("remove", SHARED))
    before = list(image.get("tags", ()))
    tags = [tag for tag in before if tag != TAG] + ([TAG] if entries else [])
    return [*patch, operation("replace", "tags", tags)] if tags != before else patch


def handing_on(record: ImageRecord, left: Sequence[Use]) -> Operations:
    """Return the patch after which an image is for the uses that are ``left``.

    It then bears the mark of the VO of its own project, or else of the first one.
    """
    home = record.image["owner"]
    now = [use for use in left if (use.vo, use.list_id) == (record.key.vo, record.key.list_id)]
    first = next((use for use in (*now, *left) if use.project == home), (now or list(left))[0])
    marks = {properties.VO: first.vo, properties.LIST: first.list_id}
    patch = [
        operation("add", name, value)
        for name, value in marks.items()
        if record.image.get(name) != value
    ]
    stays = [use for use in left if use is not first or use.project != home]
    return patch + statement(record.image, stays)


def accepted(door: Glance, image: Image) -> list[str]:
    """Return the ids of the projects with which an image is shared and that have accepted it.

    ``door`` is Glance as the image's own project sees it.
    """
    if image.get("visibility") != "shared":
        return []
    members = door.members(str(image["id"]))
    return [project for project, status in members.items() if status == ACCEPTED]


def beside(door: Glance, image: Image) -> dict[str, str]:
    """Return the members of an image that this backend has not added, with their status."""
    if image.get("visibility") != "shared":
        return {}
    ours = {use.project for use in stated(image) if use.is_added}
    found = door.members(str(image["id"]))
    return {project: status for project, status in found.items() if project not in ours}


def check_taken_over(
    older: ImageRecord, members: Mapping[str, str], doors: Mapping[str, Glance]
) -> None:
    """Check that all projects that found an image that was taken over will find a new version.

    Raises:
        Failed: one of them is no VO's, so this backend could not accept the new version there.

    """
    foreign = [name for name, word in members.items() if word == ACCEPTED and name not in doors]
    if foreign and older.image.get(TAKEN_OVER):
        raise Failed(
            f"image {older.id}",
            f"is shared with project {', '.join(foreign)}, whose users would lose it by an update: "
            "no VO is mapped to that project, or it cannot be reached",
            "map its VO to it, or end the sharing",
            status=CallStatus.RESOURCE_STATE,
        )


def visibility(older: ImageRecord | None, *, default: str, has_members: bool) -> str:
    """Return the visibility of a new version.

    That of an older one that was taken over stays; one with members is shared.
    """
    if older is not None and older.image.get(TAKEN_OVER):
        return str(older.image.get("visibility") or default)
    return "shared" if has_members and default not in FOR_ALL else default


def share(
    door: Glance, image_id: str, members: Mapping[str, str], doors: Mapping[str, Glance]
) -> dict[str, ApplianceError]:
    """Share a hidden image that has its data: members find it as soon as it is not hidden.

    ``members`` have the status that each had; those that had accepted the older version accept this
    one through ``doors``. Returns the failures by project.
    """
    failures: dict[str, ApplianceError] = {}
    if members:
        door.change(image_id, [operation("replace", "visibility", "shared")], is_new=True)
    for project, status in members.items():
        try:
            if status == ACCEPTED:
                join(door, image_id, project, doors.get(project))
            else:
                door.add_member(image_id, project)
        except ApplianceError as error:
            failures[project] = error
    return failures


def join(door: Glance, image_id: str, project: str, door_of_member: Glance | None) -> None:
    """Make a project a member of an image, and accept the image there.

    Raises:
        Failed: Glance refuses that, or the project is none that this backend can log in to.

    """
    subject = f"image {image_id}"
    try:
        door.add_member(image_id, project)
        if door_of_member:
            door_of_member.accept(image_id, project)
    except Unavailable as error:
        cause = f"cannot be shared with project {project}: {error.cause}"
        remedy = _REMEDIES.get(getattr(error, "code", 0), error.remedy)
        raise Failed(subject, cause, remedy, status=status_of(error)) from error
    if not door_of_member:
        cause = f"project {project}, a member of the older version, has not accepted it yet"
        remedy = f"in that project, run: openstack image set --accept {image_id}"
        raise Failed(subject, cause, remedy, status=CallStatus.RESOURCE_STATE)


_REMEDIES = {
    glance.FORBIDDEN: "the account needs the role member in both projects, and Glance's policy "
    "must allow it add_member and modify_member; or set image_sharing = copy",
    glance.TOO_LARGE: "raise image_member_quota in glance-api.conf, or set image_sharing = copy",
}
