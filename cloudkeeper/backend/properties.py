"""How an appliance is described by the properties of an image in Glance.

The names are those of cloudkeeper-os 0.9.x, so that each of the two manages the images of the
other: ``APPLIANCE_*`` for every field, ``APPLIANCE_ATTRIBUTES`` with the attributes as JSON, and
``vmcatcher_event_*`` for the information system. Releases since 2019 write each attribute as a
property of its own instead; those are read, too.

An image is ours only when the project owns it, when its properties name list, appliance and state,
and when it is not a copy. Nova copies the properties of an image to the snapshots of its servers,
and Cinder to the images of its volumes, so a copy that a user makes looks like ours. Therefore
``APPLIANCE_BACKEND`` holds the id of the image itself, which is wrong in every copy. Images made by
0.9.x lack it and get it when they are first seen. Until then, the properties that Nova adds to a
snapshot reveal a copy, and so does a second image of the same appliance.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple

from appliance.core.cloud.glance import Image
from appliance.core.run.errors import ApplianceError
from cloudkeeper.model import (
    FORMAT_KEY,
    HIDDEN_KEY,
    LAYER_KEY,
    REFERENCE_KEY,
    SBOM_KEY,
    Appliance,
    ApplianceId,
    ListId,
)
from cloudkeeper.wire import own_properties

_PREFIX = "APPLIANCE_"
STATUS = _PREFIX + "STATUS"
MARK = _PREFIX + "BACKEND"
"""The id of the backend that made the image, a space, and the id of the image itself."""
HIDDEN = f"{own_properties.OURS}hidden"
"""The image is hidden because its list has ended; outside the prefix, of which 1.0.0 removes all
names that it does not know, and would leave the image hidden for ever."""
VO, LIST, ID = _PREFIX + "VO", _PREFIX + "IMAGE_LIST_ID", _PREFIX + "ID"
TITLE, MPURI = _PREFIX + "TITLE", _PREFIX + "MPURI"
ATTRIBUTES = _PREFIX + "ATTRIBUTES"
TAKEN_OVER = f"{own_properties.OURS}taken_over"
"""What `cloudkeeper.backend.handover` remembers of the manager that an image was taken over from.

Outside the prefix, so that release 1.0.0, which removes all of the prefix that it does not know,
keeps it.
"""
SHARED = f"{own_properties.OURS}shared"
"""Which VOs use an image beside the one that `VO` names; see `cloudkeeper.backend.sharing`.

Outside the prefix for the same reason.
"""
_SBOM = _PREFIX + "SBOM"
_OWN = _PREFIX + "PROPERTIES"
"""The names of the properties that the site sets on all images of the source, as a JSON list.

Others that an administrator has set stay when these change.
"""
_SPLIT = ("ad:", "dc:", "hv:", "sl:")
# Properties that Nova adds to the image of a server.
_SNAPSHOT = ("base_image_ref", "instance_uuid", "block_device_mapping")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIB = 2**20
_GIB = 2**30
_MAX_NAME = 255
# Bytes; the column of Glance's database holds 65 535.
_MAX_VALUE = 65_000
# MiB; the column is a signed integer of 32 bits.
_MAX_MIN_RAM = 2**31 - 1
# Words of image lists, and Nova's for the same (``hw_architecture``).
#
# Nova starts no server from an image whose architecture it does not know.
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "i386": "i686",
    "i686": "i686",
    "aarch64": "aarch64",
}
_SYSTEMS = {"linux": "linux", "windows": "windows"}


class State(enum.StrEnum):
    """Value of ``APPLIANCE_STATUS``; 0.9.x knows the last two."""

    STAGING = "STAGING"
    """Incomplete or not yet verified; hidden."""
    ACTIVE = "ACTIVE"
    """Offered."""
    EOL = "EOL"
    """Replaced or removed, but still in use and so not deleted; hidden."""


class ApplianceKey(NamedTuple):
    """The key of an appliance: images that share it are versions of the same appliance."""

    vo: str
    list_id: ListId
    identifier: ApplianceId

    def __str__(self) -> str:
        return f"appliance {self.identifier} of list {self.list_id}"


@dataclass(frozen=True)
class ImageRecord:
    """An image of ours in Glance; its properties are read once."""

    id: str
    key: ApplianceKey
    state: State
    image: Image
    backend_id: str
    """Id of the backend that made it; empty if that was 0.9.x."""

    @functools.cached_property
    def created(self) -> datetime:
        """Time at which Glance created the record."""
        return datetime.fromisoformat(self.image["created_at"])

    @functools.cached_property
    def appliance(self) -> Appliance:
        """The appliance that the image has, without its data."""
        return read(self)

    @property
    def is_hidden(self) -> bool:
        """Whether this backend has hidden the image, and nobody has shown it since."""
        return HIDDEN in self.image and bool(self.image.get("os_hidden"))

    @property
    def has_data(self) -> bool:
        """Whether the data are complete, even if an administrator has deactivated the image."""
        return self.image.get("status") in ("active", "deactivated")


def recognise(image: Image, *, owner: str) -> ImageRecord | None:
    """Return the record of an image; None when the image is not ours."""
    if (
        image.get("owner") != owner
        or image.get("image_type") == "snapshot"
        or any(map(image.get, _SNAPSHOT))
    ):
        return None
    backend_id, _, marked = str(image.get(MARK) or "").partition(" ")
    if backend_id and marked != image["id"]:
        return None
    vo, list_id, identifier = (
        str(image.get(_PREFIX + name) or "") for name in ("VO", "IMAGE_LIST_ID", "ID")
    )
    key = ApplianceKey(vo, ListId(list_id), ApplianceId(identifier))
    state = str(image.get(STATUS))
    if state not in State.__members__ or not key.list_id or not key.identifier:
        return None
    return ImageRecord(str(image["id"]), key, State(state), image, backend_id)


def key_of(appliance: Appliance) -> ApplianceKey:
    """Return the key of an appliance.

    Raises:
        ApplianceError: the frontend left out a part of the key.

    """
    key = ApplianceKey(appliance.vo, appliance.list_id, appliance.identifier)
    if not all(key):
        raise ApplianceError(key, "the frontend sent no VO, no list or no identifier")
    return key


def describe(appliance: Appliance) -> dict[str, str]:
    """Return the properties of an appliance's image, without `STATUS` and `MARK`.

    Raises:
        ApplianceError: a value is longer than Glance can store.

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
        "EXPIRATION_DATE": str(int(appliance.expires.timestamp()) if appliance.expires else 0),
        "ATTRIBUTES": json.dumps(_shown(appliance.attributes), sort_keys=True),
    }
    described = {_PREFIX + name: _storable(value) for name, value in fields.items()}
    described["vmcatcher_event_ad_mpuri"] = _storable(appliance.mpuri)
    described["vmcatcher_event_dc_description"] = _storable(appliance.description)
    if REFERENCE_KEY in appliance.attributes:
        described |= _for_registry(appliance)
    else:
        described["vmcatcher_event_dc_identifier"] = _storable(appliance.identifier)
        described |= _for_nova(appliance)
    described |= _own(appliance, described)
    for name, value in described.items():
        if len(value.encode()) > _MAX_VALUE:
            words = f"{name} is longer than the {_MAX_VALUE} bytes that Glance can store"
            raise ApplianceError(key_of(appliance), words, "ask the publisher to shorten it")
    return described


def provenance(appliance: Appliance) -> dict[str, str]:
    """Return the properties of a new image that say what its data were made from.

    No later change of the metadata touches them: the data stay the same.
    """
    found = own_properties.provenance_of(appliance.attributes)
    return {f"{own_properties.OURS}{name}": _storable(value) for name, value in found.items()}


def standard(appliance: Appliance) -> dict[str, str | int]:
    """Return Glance's own fields of an appliance's image: name and minimum memory in MiB."""
    name = _storable(appliance.title or appliance.identifier)[:_MAX_NAME]
    return {"name": name, "min_ram": min(_rounded_up(appliance.ram, _MIB), _MAX_MIN_RAM)}


def read(record: ImageRecord) -> Appliance:
    """Return the appliance that a record describes, without data.

    A number that users have made unreadable counts as 0, one too large for the protocol as the
    largest that it has: int32 for cores, int64 for all others.
    """

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


def read_for_frontend(record: ImageRecord) -> Appliance:
    """Return the appliance that a record describes, with the attributes of ours."""
    found = record.appliance
    added = {FORMAT_KEY: str(record.image.get("disk_format") or "")}
    if record.is_hidden:
        added[HIDDEN_KEY] = "yes"
    return replace(found, attributes=MappingProxyType({**found.attributes, **added}))


def mark(backend_id: str, image_id: str) -> dict[str, str]:
    """Return the property that distinguishes an image of this backend from copies of it."""
    return {MARK: f"{backend_id} {image_id}"}


def adoption(backend_id: str, image_id: str) -> list[dict[str, object]]:
    """Return the patch that marks an image as one of this backend."""
    return [operation("add", name, value) for name, value in mark(backend_id, image_id).items()]


def difference(
    record: ImageRecord, appliance: Appliance, *, backend_id: str
) -> list[dict[str, object]]:
    """Return the patch that makes a record describe an appliance; it is empty if nothing differs.

    Properties that others have set stay. Of ours, those that the appliance no longer has are
    removed. An image of another backend becomes one of this backend, and a hidden one is shown.
    """
    image, patch = record.image, []
    for name, value in standard(appliance).items():
        if image.get(name) != value:
            patch.append(operation("replace", name, value))
    wanted = describe(appliance) | mark(backend_id, record.id)
    for name, text in wanted.items():
        if image.get(name) != text:
            patch.append(operation("add", name, text))
    kept = wanted.keys() | {STATUS}
    own = own_names(image)
    ours = [name for name in sorted(image) if name.startswith((_PREFIX, *_SPLIT)) or name in own]
    patch += [operation("remove", name) for name in ours if name not in kept]
    if record.is_hidden:
        patch.append(operation("replace", "os_hidden", value=False))
    if HIDDEN in image:
        patch.append(operation("remove", HIDDEN))
    return patch


def activation(image: Image, *, visibility: str) -> list[dict[str, object]]:
    """Return the patch that offers a complete, verified image to users."""
    disk = _rounded_up(int(image.get("virtual_size") or 0), _GIB)
    # One patch: a backend that is killed leaves no visible image with the status STAGING.
    return [
        operation("replace", "visibility", visibility),
        operation("replace", "os_hidden", value=False),
        *([operation("replace", "min_disk", disk)] if disk else []),
        operation("add", STATUS, State.ACTIVE.value),
    ]


def hiding() -> list[dict[str, object]]:
    """Return the patch that hides an image from users; `difference` shows it again."""
    return [operation("replace", "os_hidden", value=True), operation("add", HIDDEN, "yes")]


def is_ours(name: str) -> bool:
    """Check whether a property is one of our marks; ``APPLIANCE_ATTRIBUTES`` is atrope's, too."""
    return name.startswith((_PREFIX, own_properties.OURS))


def retirement() -> list[dict[str, object]]:
    """Return the patch that hides an image from users until it can be deleted."""
    return [
        operation("replace", "visibility", "private"),
        operation("replace", "os_hidden", value=True),
        operation("add", STATUS, State.EOL.value),
    ]


def operation(kind: str, name: str, value: object = None) -> dict[str, object]:
    """Return one operation of a patch: ``add``, ``replace`` or ``remove``."""
    path = "/" + name.replace("~", "~0").replace("/", "~1")  # RFC 6901
    return {"op": kind, "path": path} | ({"value": value} if kind != "remove" else {})


def _for_nova(appliance: Appliance) -> dict[str, str]:
    """Return the properties that schedulers and users select by, for words that Nova knows."""
    attributes = appliance.attributes
    found = {
        "architecture": _ARCHITECTURES.get(appliance.architecture.lower(), ""),
        "os_type": _SYSTEMS.get(attributes.get("sl:os", "").lower(), ""),
        "os_distro": attributes.get("sl:osname", "").lower(),
        "os_version": attributes.get("sl:osversion", ""),
    }
    return {name: _storable(value)[:_MAX_NAME] for name, value in found.items() if value}


def _for_registry(appliance: Appliance) -> dict[str, str]:
    """Return the properties that atrope gives to an image of a registry.

    EGI's monitoring and information service, and users' own selections, read these names.
    """
    attributes = appliance.attributes
    project = attributes[REFERENCE_KEY].partition("/")[0]
    found = {
        "appdb_id": appliance.mpuri,
        LAYER_KEY: attributes.get(LAYER_KEY, ""),
        "image_list": project,
        "project": project,
    }
    for name in ("os_distro", "os_version", "architecture"):
        found[name] = attributes.get(f"org.openstack.glance.{name}", "")
    return {name: _storable(value) for name, value in found.items() if value}


def _own(appliance: Appliance, described: Mapping[str, str]) -> dict[str, str]:
    """Return the properties beside those that describe an image: SBOM, and the site's own."""
    sbom = appliance.attributes.get(SBOM_KEY, "")
    found = {_SBOM: _storable(sbom)} if sbom else {}
    own = {
        name: _storable(value)
        for name, value in own_properties.of(appliance.attributes).items()
        if name not in described
    }
    return {**own, **found, _OWN: json.dumps(list(own))} if own else found


def has_same_own(image: Image, appliance: Appliance) -> bool:
    """Check whether an image has the site's own properties of an appliance, and no others."""
    wanted = own_properties.of(appliance.attributes)
    found = {name: image.get(name) for name in own_names(image)}
    return found == {name: _storable(value) for name, value in wanted.items()}


def own_names(image: Image) -> list[str]:
    """Return the names of the site's own properties; a list that users have spoilt holds none."""
    try:
        found = json.loads(image.get(_OWN) or "[]")
    except (ValueError, TypeError, RecursionError):
        return []
    names = found if isinstance(found, list) else []
    return [name for name in names if isinstance(name, str) and not own_properties.fault(name)]


def _shown(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes for the JSON that others read; those of our own are properties."""
    shown = own_properties.plain(attributes)
    return {name: value for name, value in shown.items() if name != LAYER_KEY}


def _attributes(image: Image) -> Mapping[str, str]:
    """Return the attributes of an appliance, also those that are stored as own properties."""
    found = dict(own_properties.plain(_described_attributes(image)))
    if REFERENCE_KEY in found and image.get(LAYER_KEY):
        found[LAYER_KEY] = str(image[LAYER_KEY])
    own = {name: str(image[name]) for name in own_names(image) if name in image}
    return own_properties.added(found, own, sbom=str(image.get(_SBOM) or ""))


def _described_attributes(image: Image) -> Mapping[str, str]:
    """Return the attributes in either form; JSON that users have made unreadable holds none."""
    blob = image.get(ATTRIBUTES)
    if blob:
        try:
            found = json.loads(blob)
        except (ValueError, TypeError, RecursionError):
            found = None
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return {name: str(value) for name, value in image.items() if name.startswith(_SPLIT)}


def _storable(text: str) -> str:
    """Replace the characters that Glance rejects: MySQL's older utf8 has only the basic plane."""
    return "".join("\N{REPLACEMENT CHARACTER}" if each > "\uffff" else each for each in text)


def _rounded_up(amount: int, unit: int) -> int:
    return -(-max(amount, 0) // unit)


def _moment(seconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(seconds=seconds) if seconds else None
    except OverflowError:
        return None
