"""What a cloud offers to VOs, as read from it: values without behaviour, in the units of OpenStack's APIs."""

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
    """An image that servers can be booted from. Texts are empty where Glance has none."""

    id: str
    name: str
    marketplace: str
    """URL of the entry of a VO's image list that it comes from."""
    base: str
    """URL of the marketplace's image that the entry is for."""
    description: str
    version: str
    architecture: str
    os_type: str
    os_distribution: str
    os_version: str


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """How many servers a project has. Whatever is neither suspended nor halted counts as running."""

    running: int = 0
    suspended: int = 0
    halted: int = 0
    vcpus: int = 0
    """Virtual CPUs of all of them."""

    @property
    def total(self) -> int:
        """Return the number of all."""
        return self.running + self.suspended + self.halted


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A compute service. ``issuer`` is the CA of its certificate in slash form, empty when it is not known."""

    url: str
    version: str
    microversion: str
    region: str
    issuer: str


@dataclass(frozen=True, slots=True)
class Share:
    """What one project offers to one VO."""

    vo: str
    project_id: str
    project_name: str
    project_domain: str
    endpoint: Endpoint
    flavors: tuple[Flavor, ...]
    images: tuple[OfferedImage, ...]
    servers: ServerCounts
    quotas: Mapping[str, int] = field(hash=False)
    """By Nova's names; -1 is unlimited. None known: empty."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A cloud: the shares that could be read, and for each VO whose could not, why."""

    shares: tuple[Share, ...]
    failed: Mapping[str, str] = field(hash=False)
