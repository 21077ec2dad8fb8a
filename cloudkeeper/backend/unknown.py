"""Records that a killed cloudkeeper-os 0.9 may have left: incomplete, and without any property.

0.9 writes its properties after the data, so nothing shows whose such a record is: it may be a
user's as well. The backend reports it, and deletes it only when an administrator asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from appliance.core.cloud.glance import Image
from cloudkeeper.model import OWNER_KEY, Appliance, ApplianceId, ListId
from cloudkeeper.wire import own_properties

_INCOMPLETE = ("queued", "saving")
# An upload that is going on is younger.
_ABANDONED = timedelta(hours=24)


def abandoned(images: Iterable[Image], *, owner: str, now: datetime) -> Iterator[Image]:
    """Yield the records of the project ``owner`` that nobody has completed in a day.

    One with a tag or any property is not 0.9's. One that has changed since is younger: an upload
    into it may have begun late.
    """
    for image in images:
        is_bare = not image.get("tags") and own_properties.GLANCE.issuperset(image)
        if image.get("owner") == owner and image.get("status") in _INCOMPLETE and is_bare:
            moments = [_moment(image, name) for name in ("created_at", "updated_at")]
            known = [each for each in moments if each]
            if moments[0] and now - max(known) > _ABANDONED:
                yield image


def line(image: Image) -> str:
    """Return the report about such a record."""
    return (
        f"{_words(image)}: a killed cloudkeeper-os 0.9 may have left it; if no user needs it: "
        f"openstack image delete {image['id']}"
    )


def as_appliance(image: Image, *, project: str) -> Appliance:
    """Return such a record of a project as the frontend gets it."""
    return Appliance(
        ApplianceId(str(image["id"])),
        ListId(""),
        title=_words(image),
        attributes={OWNER_KEY: project},
    )


def _words(image: Image) -> str:
    name = str(image.get("name") or "")[:80]
    return f"image {image['id']} ({name}) has been {image['status']} since {image['created_at']}"


def _moment(image: Image, name: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(image.get(name)))
    except ValueError:
        return None
    return found if found.tzinfo else None
