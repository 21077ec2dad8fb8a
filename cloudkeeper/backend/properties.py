"""How an appliance is written down at an image in Glance, and read from there.

The names are those of cloudkeeper-os 0.9.x, so that its images are ours and ours are its:
``APPLIANCE_*`` for every field, ``APPLIANCE_ATTRIBUTES`` with the attributes as JSON,
``vmcatcher_event_*`` for the information system. Releases since 2019 write each attribute as a
property of its own instead; that is read, too.

An image is believed to be ours when all of this holds: the project owns it, it has the properties
that name list, appliance and state, and it is no copy. Nova hands the properties of an image on to
snapshots of its servers, and Cinder to images of its volumes, so a user's copy looks like ours.
Therefore ``APPLIANCE_BACKEND`` names the image's own id, which is wrong in every copy. Images that
0.9.x made lack it, and get it when they are seen first; until then, what Nova adds to a snapshot
tells, and there being only one.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from appliance.core.cloud.glance import Image
from appliance.core.run.errors import ApplianceError
from cloudkeeper.model import Appliance, ApplianceId, ListId

_PREFIX = "APPLIANCE_"
STATUS = _PREFIX + "STATUS"
MARK = _PREFIX + "BACKEND"
"""The id of the backend's installation that made the record, a blank, the image's own id."""
_ATTRIBUTES = _PREFIX + "ATTRIBUTES"
_SPLIT = ("ad:", "dc:", "hv:", "sl:")
_SNAPSHOT = ("base_image_ref", "instance_uuid", "block_device_mapping")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIB = 2**20
_GIB = 2**30
_MAX_NAME = 255
_MAX_VALUE = 65_000
"""Bytes. Glance keeps values in a column of 65 535."""
_MAX_MIN_RAM = 2**31 - 1
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "i386": "i686",
    "i686": "i686",
    "aarch64": "aarch64",
}
_SYSTEMS = {"linux": "linux", "windows": "windows"}


class State(enum.StrEnum):
    """``APPLIANCE_STATUS``: where an image is on its way. 0.9.x knows the last two."""

    STAGING = "STAGING"
    """Not yet complete and verified; hidden."""
    ACTIVE = "ACTIVE"
    """Offered."""
    EOL = "EOL"
    """Replaced or removed, but not deleted yet, because something uses it; hidden."""


class ApplianceKey(NamedTuple):
    """What makes two images versions of the same appliance."""

    vo: str
    list_id: ListId
    identifier: ApplianceId

    def __str__(self) -> str:
        return f"appliance {self.identifier} of list {self.list_id}"


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image of ours."""

    id: str
    key: ApplianceKey
    state: State
    image: Image
    installation: str
    """The backend that made it; empty for a backend of 0.9.x."""

    @property
    def created(self) -> datetime:
        """When the record was made."""
        return datetime.fromisoformat(self.image["created_at"])

    @property
    def has_data(self) -> bool:
        """Whether servers can be started from it, or could if an administrator had not deactivated it."""
        return self.image.get("status") in ("active", "deactivated")


def recognise(image: Image, *, owner: str) -> ImageRecord | None:
    """Return an image as a record of ours; None when it is somebody else's."""
    if (
        image.get("owner") != owner
        or image.get("image_type") == "snapshot"
        or any(map(image.get, _SNAPSHOT))
    ):
        return None
    installation, _, marked = str(image.get(MARK) or "").partition(" ")
    if installation and marked != image["id"]:
        return None
    vo, list_id, identifier = (
        str(image.get(_PREFIX + name) or "") for name in ("VO", "IMAGE_LIST_ID", "ID")
    )
    key = ApplianceKey(vo, ListId(list_id), ApplianceId(identifier))
    state = str(image.get(STATUS))
    if state not in State.__members__ or not key.list_id or not key.identifier:
        return None
    return ImageRecord(str(image["id"]), key, State(state), image, installation)


def key_of(appliance: Appliance) -> ApplianceKey:
    """Return an appliance's key.

    :raises ApplianceError: the frontend left out a part of it
    """
    key = ApplianceKey(appliance.vo, appliance.list_id, appliance.identifier)
    if not all(key):
        raise ApplianceError(key, "the frontend told no VO, no list or no identifier")
    return key


def describe(appliance: Appliance) -> dict[str, str]:
    """Return the properties of an appliance's image, the state not among them.

    :raises ApplianceError: a value is longer than Glance can keep
    """
    fields = {
        "ID": appliance.identifier,
        "IMAGE_LIST_ID": appliance.list_id,
        "TITLE": appliance.title,
        "DESCRIPTION": appliance.description,
        "MPURI": appliance.mpuri,
        "GROUP": appliance.group,
        "RAM": str(appliance.ram),
        "CORE": str(appliance.cores),
        "VERSION": appliance.version,
        "ARCHITECTURE": appliance.architecture,
        "OPERATING_SYSTEM": appliance.operating_system,
        "VO": appliance.vo,
        "EXPIRATION_DATE": str(_seconds(appliance.expires)),
        "ATTRIBUTES": json.dumps(dict(appliance.attributes), sort_keys=True),
    }
    told = {_PREFIX + name: _storable(value) for name, value in fields.items()}
    told["vmcatcher_event_ad_mpuri"] = _storable(appliance.mpuri)
    told["vmcatcher_event_dc_description"] = _storable(appliance.description)
    told["vmcatcher_event_dc_identifier"] = _storable(appliance.identifier)
    told |= _for_nova(appliance)
    for name, value in told.items():
        if len(value.encode()) > _MAX_VALUE:
            raise ApplianceError(
                key_of(appliance), f"{name} is longer than the {_MAX_VALUE} bytes that Glance keeps"
            )
    return told


def standard(appliance: Appliance) -> dict[str, str | int]:
    """Return what Glance itself keeps of an appliance: name and least memory (MiB)."""
    name = _storable(appliance.title or appliance.identifier)[:_MAX_NAME]
    return {"name": name, "min_ram": min(-(-max(appliance.ram, 0) // _MIB), _MAX_MIN_RAM)}


def read(record: ImageRecord) -> Appliance:
    """Return the appliance that a record describes, without data; figures that are none count as 0."""

    def text(name: str) -> str:
        return str(record.image.get(_PREFIX + name) or "")

    def number(name: str) -> int:
        try:
            return max(min(int(text(name)), 2**31 - 1 if name == "CORE" else 2**63 - 1), 0)
        except ValueError:
            return 0

    return Appliance(
        identifier=record.key.identifier,
        list_id=record.key.list_id,
        vo=record.key.vo,
        title=text("TITLE"),
        description=text("DESCRIPTION"),
        mpuri=text("MPURI"),
        group=text("GROUP"),
        ram=number("RAM"),
        cores=number("CORE"),
        version=text("VERSION"),
        architecture=text("ARCHITECTURE"),
        operating_system=text("OPERATING_SYSTEM"),
        expires=_moment(number("EXPIRATION_DATE")),
        attributes=MappingProxyType(dict(_attributes(record.image))),
    )


def mark(installation: str, image_id: str) -> dict[str, str]:
    """Return the property that tells an image of this installation from copies of it."""
    return {MARK: f"{installation} {image_id}"}


def adoption(installation: str, image_id: str) -> list[dict[str, object]]:
    """Return the patch that marks an image as one of this installation."""
    return [_operation("add", name, value) for name, value in mark(installation, image_id).items()]


def difference(
    record: ImageRecord, appliance: Appliance, *, installation: str
) -> list[dict[str, object]]:
    """Return the patch that makes a record describe an appliance; an empty one when it does already.

    Properties that others have set stay; of ours, those that the appliance has no longer go. An
    image of another backend becomes one of this installation.
    """
    image, patch = record.image, []
    for name, value in standard(appliance).items():
        if image.get(name) != value:
            patch.append(_operation("replace", name, value))
    wanted = describe(appliance) | mark(installation, record.id)
    for name, told in wanted.items():
        if image.get(name) != told:
            patch.append(_operation("add", name, told))
    kept = wanted.keys() | {STATUS}
    ours = [name for name in sorted(image) if name.startswith((_PREFIX, *_SPLIT))]
    patch += [_operation("remove", name) for name in ours if name not in kept]
    return patch


def activation(image: Image, *, visibility: str) -> list[dict[str, object]]:
    """Return the patch that turns a complete, verified image into the one that is offered."""
    disk = -(-int(image.get("virtual_size") or 0) // _GIB)
    return [
        _operation("replace", "visibility", visibility),
        _operation("replace", "os_hidden", value=False),
        *([_operation("replace", "min_disk", disk)] if disk else []),
        _operation("add", STATUS, State.ACTIVE.value),
    ]


def retirement() -> list[dict[str, object]]:
    """Return the patch that takes an image away from users as long as it cannot be deleted."""
    return [
        _operation("replace", "visibility", "private"),
        _operation("replace", "os_hidden", value=True),
        _operation("add", STATUS, State.EOL.value),
    ]


def _operation(kind: str, name: str, value: object = None) -> dict[str, object]:
    path = "/" + name.replace("~", "~0").replace("/", "~1")  # RFC 6901
    return {"op": kind, "path": path} | ({"value": value} if kind != "remove" else {})


def _for_nova(appliance: Appliance) -> dict[str, str]:
    """Return the properties by which schedulers and users choose, where the list's words are ones that Nova knows."""
    told = appliance.attributes
    found = {
        "architecture": _ARCHITECTURES.get(appliance.architecture.lower(), ""),
        "os_type": _SYSTEMS.get(told.get("sl:os", "").lower(), ""),
        "os_distro": told.get("sl:osname", "").lower(),
        "os_version": told.get("sl:osversion", ""),
    }
    return {name: _storable(value)[:_MAX_NAME] for name, value in found.items() if value}


def _attributes(image: Image) -> Mapping[str, str]:
    blob = image.get(_ATTRIBUTES)
    if blob:
        try:
            told = json.loads(blob)
        except ValueError:
            told = None
        return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}
    return {name: str(value) for name, value in image.items() if name.startswith(_SPLIT)}


def _storable(text: str) -> str:
    """Replace the characters that Glance rejects: MySQL's older utf8 keeps the basic plane only."""
    last = "\uffff"
    return "".join("\N{REPLACEMENT CHARACTER}" if each > last else each for each in text)


def _seconds(moment: datetime | None) -> int:
    return int((moment - _EPOCH).total_seconds()) if moment else 0


def _moment(seconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(seconds=seconds) if seconds else None
    except OverflowError:
        return None
