"""The offer of a cloud to VOs, as read: values without behaviour, in OpenStack's units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """An image that servers can boot from. Texts are empty where Glance has none.

    ``marketplace`` is the URL of the image's entry in a VO's image list, ``base`` the URL of the
    marketplace's image that the entry is for.
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
class Facts:
    """A cloud: the shares that were read, and the reason for each VO that failed."""

    shares: tuple[Share, ...]
    failed: Mapping[str, str] = field(hash=False)
