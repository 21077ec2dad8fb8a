"""Records that a killed cloudkeeper-os 0.9 may have left: incomplete, and without any property.

0.9 writes its properties after the data, so nothing shows whose such a record is: it may be a
user's as well. The backend reports it and never deletes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from appliance.core.cloud.glance import Image
from cloudkeeper.backend import properties

_INCOMPLETE = ("queued", "saving")
# An upload that is going on is younger.
_ABANDONED = timedelta(hours=24)
# Properties of the image of a server.
_OF_NOVA = ("image_type", "base_image_ref", "instance_uuid", "block_device_mapping")


def abandoned(images: Iterable[Image], *, owner: str, now: datetime) -> Iterator[Image]:
    """Yield the records of the project ``owner`` that nobody has completed in a day.

    Those with a tag, with a property of ours or of Nova are known to belong to others.
    """
    for image in images:
        is_bare = not image.get("tags") and not any(map(_is_mark, image))
        if image.get("owner") == owner and image.get("status") in _INCOMPLETE and is_bare:
            created = _moment(image)
            if created and now - created > _ABANDONED:
                yield image


def line(image: Image) -> str:
    """Return the report about such a record."""
    return (
        f"image {image['id']} ({str(image.get('name') or '')[:80]}) has been {image['status']} "
        f"since {image['created_at']}: a killed cloudkeeper-os 0.9 may have left it; if no user "
        f"needs it: openstack image delete {image['id']}"
    )


def _is_mark(name: str) -> bool:
    return name in _OF_NOVA or properties.is_ours(name)


def _moment(image: Image) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(image.get("created_at")))
    except ValueError:
        return None
    return found if found.tzinfo else None
