"""The values that image lists, plans and the gRPC protocol share.

An *image list* is a signed HEPiX document of one VO. An *appliance* is one image of such a list.
The list and the backend describe the same appliances, so both are read into the same class and a
plan is the comparison of the two. ``attributes`` holds the keys of the image in its list as text
(``dc:…``, ``hv:…``, ``sl:…``, ``ad:…``), together with those of the endorser; comparing them does
not depend on their order.

The identifier of an appliance is unique within its list only: two lists may offer the same image.
"""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NewType

from appliance.core.download.partial import PartialData

ListId = NewType("ListId", str)
"""``dc:identifier`` of an image list, a UUID."""
ApplianceId = NewType("ApplianceId", str)
"""``dc:identifier`` of an image, a UUID; unique within its list."""

IMAGE_KEYS = ("hv:version", "sl:checksum:sha512", "hv:size")
"""Attributes whose change means other image data; every other change concerns metadata only.

The same three as in cloudkeeper 1.7.1: with others, going back to it would move all images again.
"""
LAYER_KEY = "image_hash"
"""Attribute of an image of a registry: the digest of its layer, as atrope names the property."""
REFERENCE_KEY = "eu.egi.cloud.image_ref"
"""Attribute of an image of a registry: ``PROJECT/REPOSITORY:TAG``, which EGI's probe looks for."""
SBOM_KEY = "sbom"
"""Attribute of an image of a registry: its CycloneDX SBOMs, ``HOST/REPOSITORY@DIGEST`` each."""
HOLDER_KEY = "holder"
"""Attribute of an image in the cloud that another manager keeps: the manager's tag."""
UNMARKED_KEY = "unmarked"
"""Attribute of an image in the cloud that the next run adopts: the program that made it."""
FORMAT_KEY = "disk_format"
"""Attribute of an image in the cloud: the format in which Glance has it, in Glance's word."""
HIDDEN_KEY = "hidden"
"""Attribute of an image in the cloud that users do not see, because its list has ended."""
OWNER_KEY = "owner"
"""Attribute of an image to take over or give back: the VO of its project, or that project."""
HINDRANCE_KEY = "hindrance"
"""Attribute of an image to take over or give back: why that is impossible; empty if it is not."""
DIGEST_KEYS = frozenset({"sl:checksum:sha512", LAYER_KEY})
"""Attributes that are digests of the image data: hexadecimal digits in any case."""

_MIB = 2**20
# RFC 4514 has no name for this attribute, so programs write several.
_EMAIL = re.compile(r"/(?:Email|E|EMAILADDRESS)=", re.IGNORECASE)


class Format(enum.StrEnum):
    """Format of an image file; the value is Glance's word, the name that of the gRPC protocol."""

    RAW = "raw"
    OVA = "ova"
    """A TAR archive around a VMDK disk."""
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    ISO = "iso"
    """A CD or DVD, which Nova attaches as such: conversion would make a disk that does not boot."""
    VDI = "vdi"
    VHD = "vhd"
    VHDX = "vhdx"

    @property
    def driver(self) -> str:
        """The word of qemu-img for the format."""
        return {Format.VHD: "vpc", Format.ISO: "raw"}.get(self, self.value)

    @property
    def is_disk(self) -> bool:
        """Whether a server can start from such a file; an archive must be converted first."""
        return self is not Format.OVA

    @property
    def is_target(self) -> bool:
        """Whether images are converted into this format."""
        return self in {Format.RAW, Format.QCOW2, Format.VMDK, Format.VDI}

    @property
    def is_accepted(self) -> bool:
        """Whether a cloud can accept the format; the others are always converted."""
        return self not in {Format.VHD, Format.VHDX}


class TransferMode(enum.Enum):
    """How the backend gets the data of an image; the name is that of the gRPC protocol."""

    LOCAL = "local"
    """``location`` is a path in a directory that frontend and backend share."""
    REMOTE = "remote"
    """``location`` is a URL, with user name and password."""


@dataclass(slots=True)
class ComputedChecksum:
    """The SHA-512 of a file, once somebody has computed it, which others wait for."""

    checksum: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class ImageData:
    """An image file that is ready for the backend.

    ``checksum`` (SHA-512, hex) and ``size`` (bytes) describe this file, not the original that the
    list offers at ``uri``: a conversion changes both. A file that ``is_converted`` may have no
    checksum.
    """

    location: str
    format: Format
    checksum: str
    size: int
    uri: str = ""
    mode: TransferMode = TransferMode.LOCAL
    username: str = ""
    password: str = field(default="", repr=False)
    is_converted: bool = False
    received: int = 0
    """Bytes that were downloaded for the file; 0 if unknown."""
    conversion: str = ""
    """How the file was made from the downloaded one; empty if it is that one."""
    computed: ComputedChecksum = field(default_factory=ComputedChecksum, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Appliance:
    """One image of one list; it carries ``data`` only on its way to the backend."""

    identifier: ApplianceId
    list_id: ListId
    vo: str = ""
    title: str = ""
    description: str = ""
    mpuri: str = ""
    group: str = ""
    ram: int = 0
    """Minimum memory of a server, in bytes; 0 if unknown."""
    cores: int = 0
    version: str = ""
    architecture: str = ""
    operating_system: str = ""
    """Kind, name and version, separated by single spaces: ``Linux Ubuntu 22.04``."""
    expires: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    data: ImageData | None = None

    def is_expired(self, *, at: datetime) -> bool:
        """Check whether the appliance must no longer be offered at ``at``."""
        return self.expires is not None and self.expires <= at


@dataclass(frozen=True, slots=True)
class Endorser:
    """The person who answers for a list.

    Both fields come from the signer's certificate, in slash form: its subject and its issuer.
    """

    dn: str
    ca: str


def is_same_endorser(one: Endorser, other: Endorser) -> bool:
    """Check whether two endorsers are one."""
    return is_same_dn(one.dn, other.dn) and is_same_dn(one.ca, other.ca)


def is_same_dn(one: str, other: str) -> bool:
    """Check whether two DNs are one, however they spell the attribute for e-mail."""
    return _EMAIL.sub("/emailAddress=", one) == _EMAIL.sub("/emailAddress=", other)


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The URL of an appliance's data, their digest, and their size in bytes if known.

    ``digest`` is ``ALGORITHM:HEX``, of the bytes as they are transferred: those of a compressed
    layer (``compression`` is ``gzip`` or ``zstd``, otherwise empty) are decompressed afterwards,
    and so are those of a file whose first bytes say that it is compressed.
    """

    uri: str
    digest: str
    size: int | None
    compression: str = ""
    partial: PartialData | None = field(default=None, compare=False, repr=False)
    """Set on the way to whoever downloads: the bytes that are there already."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An appliance as its list offers it, with the source of its data."""

    appliance: Appliance
    source: ImageSource
    version: str = ""
    """The version of its list, or the digest of its manifest; empty if its list states none."""
    endorser: str = ""
    """The DN of the list's endorser; empty for an image of a registry."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image of a list that cannot be used, and the reason.

    Without ``identifier`` the image is so broken that nothing says which one it is.
    """

    identifier: ApplianceId | None
    reason: str
    title: str = ""
    """As far as it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """The images that one source offers to one VO; only a verified one may be acted on.

    ``refused`` are images that cannot be used. Their copies in the cloud stay as they are, because
    the source still offers them. ``ignored`` are images that the configuration does not take.
    """

    identifier: ListId
    vo: str
    offers: tuple[Offer, ...]
    refused: tuple[Refusal, ...] = ()
    ignored: tuple[Appliance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedImageList(ImageList):
    """A list that its endorser has signed; only verification makes one that may be acted on."""

    endorser: Endorser
    created: datetime | None
    expires: datetime
    version: str
    signer: Endorser | None = None
    """The signer by its certificate; equal to ``endorser`` but for the spelling of its DN."""

    def is_expired(self, *, at: datetime) -> bool:
        """Check whether no image of this list may be offered at ``at``."""
        return self.expires <= at


@dataclass(frozen=True, slots=True)
class Create:
    """Add a new appliance."""

    offer: Offer

    @property
    def appliance(self) -> Appliance:
        """The appliance to add."""
        return self.offer.appliance


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the data of an appliance, and its metadata; ``reason`` names the difference."""

    offer: Offer
    reason: str

    @property
    def appliance(self) -> Appliance:
        """The appliance in its new version."""
        return self.offer.appliance


@dataclass(frozen=True, slots=True)
class UpdateMetadata:
    """Replace the metadata of an appliance and keep its data; ``reason`` names the difference."""

    appliance: Appliance
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an appliance; ``reason`` says why."""

    appliance: Appliance
    reason: str


@dataclass(frozen=True, slots=True)
class Hide:
    """Hide an appliance from users and keep its data; ``reason`` says why."""

    appliance: Appliance
    reason: str


Change = Create | Update | UpdateMetadata | Remove | Hide


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes for one list, in order: additions, updates, removals."""

    list_id: ListId
    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    """Number of appliances in the cloud that are up to date."""
    outdated: tuple[Appliance, ...] = ()
    """Appliances that stay in a format that the configuration no longer accepts."""
    withheld: tuple[Remove | Hide, ...] = ()
    """Removals that are too many to be done without confirmation."""
    waiting: tuple[Remove, ...] = ()
    """Removals of images that an image of the list may replace which is refused."""

    @property
    def removals(self) -> tuple[Remove | Hide, ...]:
        """The changes that take an appliance away from users."""
        return tuple(change for change in self.changes if isinstance(change, Remove | Hide))


def ram_in_bytes(value: int) -> int:
    """Return an amount of memory in bytes.

    ``hv:ram_minimum`` has no unit: AppDB writes bytes, other endorsers MiB. No server needs a TiB
    at least or starts with less than a MiB, so values from 2**20 on are bytes and smaller ones are
    MiB. A value that is already in bytes stays the same.
    """
    return value * _MIB if 0 < value < _MIB else max(value, 0)
