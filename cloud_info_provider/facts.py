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
class FlavorTerms:
    """What the description says of flavors, because Nova does not.

    Attributes:
        platform: architecture of the processors.
        has_way_in: whether connections from outside reach a server; None if unknown.
        has_way_out: whether a server can connect to the outside.

    """

    platform: str = "amd64"
    has_way_in: bool | None = None
    has_way_out: bool | None = True


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
    terms: FlavorTerms | None = None
    """Of a flavor that only the description knows."""


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """An image that servers can boot from. Texts are empty where Glance has none.

    ``marketplace`` is the URL of the image's entry in a VO's image list, ``base`` the URL of the
    marketplace's image that the entry is for, ``file`` the URL of its data in Glance.
    ``attributes`` are those of the image's entry in a list or registry, as JSON values;
    ``information`` are texts of the description alone, to publish by their names.
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
    information: Mapping[str, str] = field(default_factory=dict, hash=False)
    access: str = "none"
    """How users log in to its servers: ``none``, ``passwd`` or ``rsa``, as GLUE 2.1 has it."""


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
class EndpointTerms:
    """What the description says of endpoints, because the cloud does not.

    Attributes:
        interface: its name.
        authentication: method by which users log in: ``oidc``, ``X509-VOMS``.
        level: quality level.
        technology: of the interface.
        implementor: who develops the software.
        implementation: the software.
        implementation_version: its version; empty for the one that Nova shows.

    """

    interface: str = "OpenStack"
    authentication: str = "oidc"
    level: str = "production"
    technology: str = "webservice"
    implementor: str = "OpenStack Foundation"
    implementation: str = "OpenStack Nova"
    implementation_version: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A compute service. ``issuer`` is its certificate's CA in slash form, empty if unknown."""

    url: str
    version: str
    microversion: str
    region: str
    issuer: str
    terms: EndpointTerms | None = None
    """Of an endpoint that only the description knows."""


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
