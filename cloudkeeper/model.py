"""What image lists say, what the cloud holds, and what is to be done about the difference.

A *list* is a signed HEPiX image list of one VO. An *appliance* is one image of such a list, whether
described by the list or reported by the backend: list and backend speak of the same thing, so both
become the same value and a plan is their comparison. ``attributes`` hold what the list said of the
image, key by key (``dc:…``, ``hv:…``, ``sl:…``, ``ad:…``, always text), together with those of the
endorser; comparing them does not depend on their order.

The key of an appliance is its identifier within its list: two lists may offer the same image.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NewType

ListId = NewType("ListId", str)
"""``dc:identifier`` of an image list, a UUID."""
ApplianceId = NewType("ApplianceId", str)
"""``dc:identifier`` of an image, a UUID; unique within its list."""

IMAGE_KEYS = ("hv:version", "sl:checksum:sha512", "hv:size")
"""Attributes whose change means other image data (cloudkeeper 1.7.1); any other is a change of metadata only."""

_MIB = 2**20


class Format(enum.StrEnum):
    """Format of an image file, in qemu-img's words; OVA is a TAR archive around a VMDK disk."""

    RAW = "raw"
    OVA = "ova"
    QCOW2 = "qcow2"
    VMDK = "vmdk"


class TransferMode(enum.Enum):
    """How the backend gets at the data."""

    LOCAL = "local"
    """``location`` is a path of a directory that frontend and backend share."""
    REMOTE = "remote"
    """``location`` is a URL, with user name and password."""


@dataclass(frozen=True, slots=True)
class ImageData:
    """An image file ready for the backend: ``checksum`` (SHA-512, hex) and ``size`` (bytes) are those of this file.

    ``uri`` is where the list said that the original is.
    """

    location: str
    format: Format
    checksum: str
    size: int
    uri: str = ""
    mode: TransferMode = TransferMode.LOCAL
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Appliance:
    """One image of one list, without or (on its way to the backend) with its data."""

    identifier: ApplianceId
    list_id: ListId
    vo: str = ""
    title: str = ""
    description: str = ""
    mpuri: str = ""
    group: str = ""
    ram: int = 0
    """The least memory a machine needs, in bytes; 0 if not told."""
    cores: int = 0
    version: str = ""
    architecture: str = ""
    operating_system: str = ""
    """Kind, name and version of it, one blank between: ``Linux Ubuntu 22.04``."""
    expires: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    data: ImageData | None = None

    def is_expired(self, *, at: datetime) -> bool:
        """Tell whether it may no longer be offered at ``at``."""
        return self.expires is not None and self.expires <= at


@dataclass(frozen=True, slots=True)
class Endorser:
    """Who answers for a list: DN and issuing CA of the signer's certificate, in slash form."""

    dn: str
    ca: str


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where to download the data of an appliance, and what they must be: SHA-512 in hex, size in bytes if told."""

    uri: str
    sha512: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """An appliance as its list offers it, with the source of its data."""

    appliance: Appliance
    source: ImageSource


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image of a list that cannot be used, and why. Without identifier nobody can tell which image it is."""

    identifier: ApplianceId | None
    reason: str


@dataclass(frozen=True, slots=True)
class ImageList:
    """A list that was read and believed: only verification makes one.

    ``refused`` are images of the list that cannot be used: their copies in the cloud stay as they
    are, because the list does offer them.
    """

    identifier: ListId
    vo: str
    endorser: Endorser
    created: datetime | None
    expires: datetime
    version: str
    offers: tuple[Offer, ...]
    refused: tuple[Refusal, ...] = ()

    def is_expired(self, *, at: datetime) -> bool:
        """Tell whether nothing of this list may be offered any longer at ``at``."""
        return self.expires <= at


@dataclass(frozen=True, slots=True)
class Create:
    """Offer a new appliance."""

    offer: Offer

    @property
    def appliance(self) -> Appliance:
        """What it is about."""
        return self.offer.appliance


@dataclass(frozen=True, slots=True)
class Update:
    """Replace the data of an appliance, and its metadata with them. ``reason`` names what differs."""

    offer: Offer
    reason: str

    @property
    def appliance(self) -> Appliance:
        """What it is about."""
        return self.offer.appliance


@dataclass(frozen=True, slots=True)
class UpdateMetadata:
    """Change what is told of an appliance; its data stay. ``reason`` names what differs."""

    appliance: Appliance
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Offer an appliance no longer. ``reason`` says why."""

    appliance: Appliance
    reason: str


Change = Create | Update | UpdateMetadata | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for one list, in order: removals, additions, updates, as cloudkeeper does them."""

    list_id: ListId
    changes: tuple[Change, ...] = ()
    unchanged: int = 0
    """Appliances of the cloud that stay as they are because nothing has changed."""
    withheld: tuple[Remove, ...] = ()
    """Removals that are too many to be done unasked."""

    @property
    def removals(self) -> tuple[Remove, ...]:
        """The changes that take something away."""
        return tuple(change for change in self.changes if isinstance(change, Remove))


def ram_in_bytes(value: int) -> int:
    """Return an amount of memory in bytes.

    ``hv:ram_minimum`` has no unit: AppDB writes bytes, others MiB. No machine has a TiB for its
    least memory and none less than a MiB, so values from 2**20 up are bytes and those below are
    MiB. Doing it twice does no harm.
    """
    return value * _MIB if 0 < value < _MIB else max(value, 0)
