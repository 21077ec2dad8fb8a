"""The offer of a cloud to VOs, as read: values without behaviour, in OpenStack's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from appliance.core import clock


@dataclass(frozen=True, slots=True)
class Accelerators:
    """The accelerators of a flavor, such as GPUs; memory in GB, None if unknown.

    A flavor can have a part of one, ``number`` 0.5.
    """

    type: str
    number: int | float
    vendor: str = ""
    model: str = ""
    version: str = ""
    memory: int | None = None
    virtualization: str = ""


@dataclass(frozen=True, slots=True)
class Flavor:
    """A size of servers: memory in MiB, disk in GB."""

    id: str
    name: str
    vcpus: int
    ram: int
    disk: int
    ephemeral: int
    extra_specs: Mapping[str, str] = field(hash=False)
    is_public: bool = True
    has_infiniband: bool = False
    accelerators: Accelerators | None = None


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """An image that servers can boot from. Texts are empty where Glance has none.

    ``marketplace`` is the URL of the image's entry in a VO's image list, ``base`` the URL of the
    marketplace's image that the entry is for, ``file`` the URL of its data in Glance.
    ``attributes`` are those of the image's entry in a list or registry, as JSON values.
    """

    id: str
    name: str
    marketplace: str
    base: str
    description: str
    version: str
    architecture: str
    os_type: str
    os_distribution: str
    os_version: str
    file: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """The number of a project's servers by state, and the virtual CPUs of all of them.

    A server that is neither suspended nor halted counts as running.
    """

    running: int = 0
    suspended: int = 0
    halted: int = 0
    vcpus: int = 0

    @property
    def total(self) -> int:
        """Return the number of all servers."""
        return self.running + self.suspended + self.halted


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A compute service. ``issuer`` is its certificate's CA in slash form, empty if unknown."""

    url: str
    version: str
    microversion: str
    region: str
    issuer: str


@dataclass(frozen=True, slots=True)
class Share:
    """The offer of one project to one VO.

    ``quotas`` have Nova's names; -1 is unlimited. They are empty if Nova does not show them.
    """

    vo: str
    project_id: str
    project_name: str
    project_domain: str
    endpoint: Endpoint
    flavors: tuple[Flavor, ...]
    images: tuple[OfferedImage, ...]
    servers: ServerCounts
    quotas: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True, slots=True)
class GocdbEntry:
    """The entry of Keystone's URL in GOCDB; both texts are empty if it is unknown."""

    id: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The CAs that Keystone's TLS handshake shows, in slash form; empty if they are unknown.

    ``issuer`` is that of its certificate; clients may have certificates of the others.
    """

    issuer: str = ""
    client_authorities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """A cloud: the shares that were read, and the reason for each VO that failed.

    ``answered`` is the time of the cloud's last successful answer. ``auditor_role`` is None if
    nobody asked for it. ``endpoints`` are those that no share names. The only share of a cloud
    without known VOs has an empty name.
    """

    shares: tuple[Share, ...]
    failed: Mapping[str, str] = field(hash=False)
    answered: datetime = field(default_factory=clock.now)
    gocdb: GocdbEntry = GocdbEntry()
    certificate: ServerCertificate = ServerCertificate()
    auditor_role: bool | None = None
    endpoints: tuple[Endpoint, ...] = ()
