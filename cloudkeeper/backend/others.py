"""Images of a registry that a project sees and that this backend does not keep for its VO.

Above all those of EGI's catch-all: its images carry a tag and atrope's properties, in the project
or shared with it. Users select images by name, and two images of one name break their clients, so
an image of the same name counts as present, whoever keeps it (`Holding`). It is reported to the
frontend together with its holder, and never changed or removed here, unless an administrator has it
taken over (`cloudkeeper.backend.takeover`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from appliance.core.cloud.glance import Image
from cloudkeeper.backend import properties
from cloudkeeper.backend.properties import MARK, TAKEN_OVER, ImageRecord, State
from cloudkeeper.model import HOLDER_KEY, Appliance, ApplianceId, ListId

TAGS = ("atrope-catchall", "atrope")
"""The tag of EGI's catch-all, and atrope's default."""
# HOST/REFERENCE-DIGEST, atrope's identity of an image; or the image's name, HOST REFERENCE.
_IDENTITY = re.compile(r"(?P<host>[^/\s]+)/(?P<reference>\S+:\S+)-sha256:[0-9a-f]{64}")
_NAME = re.compile(r"(?P<host>[^/\s]+) (?P<reference>\S+:\S+)")
# An administrator who has deactivated an image of another manager wants no second one.
_COMPLETE = ("active", "deactivated")


class Holding(enum.Enum):
    """Who keeps an image that a project sees."""

    MANAGER = "manager"
    """Another manager, by its tag."""
    OTHER_VO = "other VO"
    """This backend, which has taken it over for the VO that owns it."""
    NAMESAKE = "namesake"
    """Unknown: it has the name of the image, and no tag of a manager."""


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image that counts as present; ``holder`` names who keeps it."""

    reference: ApplianceId
    holding: Holding
    holder: str
    image: Image

    def as_appliance(self, list_id: ListId, *, vo: str, **more: str) -> Appliance:
        """Return it as an appliance of a list; ``more`` are further attributes."""
        return Appliance(
            identifier=self.reference,
            list_id=list_id,
            vo=vo,
            title=str(self.image.get("name") or ""),
            attributes={HOLDER_KEY: self.holder, **more},
        )


def is_of_registry(list_id: ListId) -> bool:
    """Check whether a list is a registry's: its identifier is ``HOST/PROJECT/VO``."""
    return "/" in list_id


def manager(image: Image) -> str:
    """Return the tag of the manager that keeps an image; empty if none is known."""
    if image.get(MARK) or image.get("image_type") == "snapshot":
        return ""
    return next((tag for tag in TAGS if tag in image.get("tags", ())), "")


def is_relevant(image: Image) -> bool:
    """Check whether an image may be `held` for any list."""
    return bool(manager(image) or image.get(TAKEN_OVER) or _NAME.fullmatch(_name(image)))


def held(
    images: Iterable[Image], *, list_id: ListId, vo: str, owners: Mapping[str, str]
) -> Iterator[HeldImage]:
    """Yield the images of a list that a project sees in ``images``; those of managers come first.

    ``images`` are without those that this backend keeps for ``vo``. ``owners`` are the ids of the
    projects of all VOs.
    """
    prefix = list_id.removesuffix(f"/{vo}")
    if prefix == list_id or not is_of_registry(list_id):
        return
    found = [one for image in images if (one := _held(image, prefix, owners))]
    order = list(Holding)
    yield from sorted(found, key=lambda one: (order.index(one.holding), one.reference))


def _held(image: Image, prefix: str, owners: Mapping[str, str]) -> HeldImage | None:
    record = properties.recognise(image, owner=str(image.get("owner") or ""))
    if record and record.backend_id:
        return _taken_over(record, prefix, owners)
    tag = manager(image)
    if tag:
        is_there = image.get("status") in _COMPLETE
        reference = _reference(_identity(image) or _NAME.fullmatch(_name(image)), prefix)
        kind, holder = Holding.MANAGER, tag
    else:
        is_there = True  # clients that select by name find an incomplete image, too
        reference = _reference(_NAME.fullmatch(_name(image)), prefix)
        kind, holder = Holding.NAMESAKE, f"an unknown manager (image {image['id']})"
    return HeldImage(reference, kind, holder, image) if reference and is_there else None


def _taken_over(record: ImageRecord, prefix: str, owners: Mapping[str, str]) -> HeldImage | None:
    """Return an image that was taken over for another VO, if that VO still keeps it up to date."""
    key, image = record.key, record.image
    is_kept = record.state is State.ACTIVE and owners.get(key.vo) == image.get("owner")
    if not (image.get(TAKEN_OVER) and is_kept and key.list_id == f"{prefix}/{key.vo}"):
        return None
    return HeldImage(key.identifier, Holding.OTHER_VO, f"cloudkeeper for VO {key.vo}", image)


def _reference(found: re.Match[str] | None, prefix: str) -> ApplianceId | None:
    if found and f"{found['host']}/{found['reference']}".startswith(f"{prefix}/"):
        return ApplianceId(found["reference"])
    return None


def _identity(image: Image) -> re.Match[str] | None:
    return _IDENTITY.fullmatch(str(image.get("appdb_id") or ""))


def _name(image: Image) -> str:
    return str(image.get("name") or "")
