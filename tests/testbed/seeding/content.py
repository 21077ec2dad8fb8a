"""What is to stand in the cloud. Names here are the names that tests use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PlannedProject:
    """A project, with this many servers."""

    name: str
    domain: str
    vo: str | None
    tags: tuple[str, ...]
    servers: int


@dataclass(frozen=True, slots=True)
class PlannedFlavor:
    """A flavor; memory in MiB, disks in GB. A private one is for `PRIVATE_FLAVOR_PROJECT`."""

    name: str
    vcpus: int
    ram: int
    disk: int
    ephemeral: int = 0
    is_public: bool = True
    extra_specs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image with its properties; those that are not public belong to `IMAGE_PROJECT`."""

    name: str
    visibility: str
    min_ram: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedAccount:
    """An account of a tool: its role on each project of a VO, and its role on the system."""

    name: str
    role: str
    system_role: str | None = None


DOMAINS = ("Default", "egi")
PROJECTS = (
    PlannedProject("vo-fedcloud", "Default", "fedcloud.egi.eu", ("caso", "egi"), 9),
    PlannedProject("vo-ops", "Default", "ops", ("caso", "egi"), 3),
    PlannedProject("vo-biomed", "egi", "biomed", ("caso",), 5),
    PlannedProject("local-lab", "Default", None, (), 3),
)
USERS_PER_PROJECT = 2
ACCOUNTS = (
    PlannedAccount("accounting", "reader", system_role="reader"),
    PlannedAccount("images", "member"),
    PlannedAccount("information", "reader"),
)
CREDENTIAL_PROJECT = "vo-fedcloud"

PRIVATE_FLAVOR_PROJECT = "vo-biomed"
FLAVORS = (
    PlannedFlavor(
        "m1.small",
        1,
        2048,
        20,
        extra_specs={
            "accounting:benchmark_type": "HEPSPEC06",
            "accounting:benchmark_value": "12.5",
        },
    ),
    PlannedFlavor(
        "m1.medium",
        2,
        4096,
        40,
        extra_specs={
            "accounting:benchmark_type": "HEPscore23",
            "accounting:benchmark_value": "14.1",
        },
    ),
    PlannedFlavor("m1.large", 4, 8192, 80, ephemeral=10),
    PlannedFlavor(
        "gpu.a100",
        8,
        32768,
        100,
        extra_specs={
            "Accelerator:Type": "GPU",
            "Accelerator:Vendor": "NVIDIA",
            "Accelerator:Model": "A100",
            "Accelerator:Number": "1",
            "Accelerator:Memory": "40",
        },
    ),
    PlannedFlavor("hpc.ib", 16, 65536, 200, is_public=False, extra_specs={"infiniband": "true"}),
)
_ROTATION = ("m1.small", "m1.medium", "m1.large", "gpu.a100")
_EXCEPTIONS = {"vo-biomed-4": "hpc.ib"}

IMAGE_PROJECT = "vo-fedcloud"
SHARED_WITH = {"vo-ops": "accepted", "vo-biomed": "pending"}
BOOT_IMAGE = "EGI Ubuntu 24.04"
_MPURI = "https://appdb.egi.eu/store/vo/image/0000-1111:42/"
IMAGES = (
    PlannedImage(
        BOOT_IMAGE,
        "public",
        properties={
            "os_type": "linux",
            "os_distro": "ubuntu",
            "os_version": "24.04",
            "architecture": "x86_64",
            "vmcatcher_event_ad_mpuri": _MPURI,
            "vmcatcher_event_dc_description": "Ubuntu for EGI",
            "eu.egi.cloud.appliance_mpuri": _MPURI,
            "eu.egi.cloud.tag": "cloudkeeper",
            "APPLIANCE_ATTRIBUTES": json.dumps(
                {"ad:base_mpuri": _MPURI, "dc:identifier": "0000-1111", "hv:version": "2026.10"}
            ),
        },
    ),
    PlannedImage(
        "AlmaLinux 9",
        "private",
        min_ram=512,
        properties={"os_distro": "almalinux", "os_version": "9", "architecture": "x86_64"},
    ),
    PlannedImage("Shared tools", "shared", properties={"os_distro": "debian", "os_version": "12"}),
    PlannedImage('Ünïcode, image = "x"', "public"),
)

EXTERNAL_NETWORK = "public"
EXTERNAL_RANGE = "203.0.113.0/24"
"""TEST-NET-3 of RFC 5737: nobody's addresses."""
PROJECT_RANGE = "10.20.0.0/20"
ASSOCIATED_IPS = ("vo-fedcloud-0", "vo-fedcloud-1", "vo-ops-0", "vo-biomed-0")
_WITH_NETWORK = 2
"""Ports are what takes most time at seeding."""
SPARE_IP_PROJECT = "vo-fedcloud"

STOPPED = ("vo-fedcloud-2", "vo-ops-1")
SUSPENDED = "vo-fedcloud-3"
PAUSED = "vo-fedcloud-4"
SHELVED = "vo-fedcloud-5"
BROKEN = "vo-fedcloud-6"
RESIZED = {"vo-biomed-0": "m1.medium", "vo-biomed-1": "m1.large"}
CONFIRMED = "vo-biomed-1"
DELETED = ("vo-fedcloud-7", "vo-fedcloud-8", "vo-ops-2", "vo-biomed-3")
STATUS = (
    dict.fromkeys(STOPPED, "SHUTOFF")
    | {SUSPENDED: "SUSPENDED", PAUSED: "PAUSED", SHELVED: "SHELVED_OFFLOADED", BROKEN: "ERROR"}
    | dict.fromkeys(RESIZED, "VERIFY_RESIZE")
    | {CONFIRMED: "ACTIVE"}
    | dict.fromkeys(DELETED, "DELETED")
)
"""Of those servers that do not stay ACTIVE."""

VOLUMES = {"vo-fedcloud-vol0": 10, "vo-fedcloud-vol1": 20, "vo-biomed-vol2": 30}
"""Sizes in GiB."""
ATTACHED = {"vo-fedcloud-vol0": "vo-fedcloud-0"}


def user_names(project: str) -> list[str]:
    """Return the names of a project's users."""
    return [f"{project}-user{number}" for number in range(1, USERS_PER_PROJECT + 1)]


def servers_of(project: PlannedProject) -> list[str]:
    """Return the names of a project's servers."""
    return [f"{project.name}-{number}" for number in range(project.servers)]


def flavor_at_birth(server: str) -> str:
    """Return the flavor that a server is created with."""
    return _EXCEPTIONS.get(server) or _ROTATION[int(server.rpartition("-")[2]) % len(_ROTATION)]


def has_network(server: str) -> bool:
    """Check whether a server gets an address: a project's first two, and floating IPs."""
    return int(server.rpartition("-")[2]) < _WITH_NETWORK or server in ASSOCIATED_IPS


def needs_router(project: str) -> bool:
    """Tell whether a project has floating IPs, which only a router can bring to its network."""
    return any(project_of(server) == project for server in ASSOCIATED_IPS)


def owner(server: str) -> str:
    """Return the user who creates a server: the users of a project take turns."""
    project, _, number = server.rpartition("-")
    return user_names(project)[int(number) % USERS_PER_PROJECT]


def project_of(name: str) -> str:
    """Return the project of a server or volume."""
    return name.rpartition("-")[0]
