"""The contents of the cloud after seeding: ids, names and credentials from ``seed.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from appliance.core.run.errors import Unavailable
from tests.testbed import secrets

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Project:
    """A Keystone project; ``vo`` is what its properties ``VO`` and ``egi.VO`` say."""

    id: str
    name: str
    domain: str
    domain_id: str
    vo: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with the role ``member`` in one project."""

    id: str
    name: str
    domain: str
    domain_id: str
    project: str
    password: str


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a tool in the domain ``Default``: its roles and their projects."""

    id: str
    name: str
    password: str
    roles: tuple[str, ...]
    projects: tuple[str, ...]
    system_roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApplicationCredential:
    """The account ``accounting`` for one project, with the role ``reader``."""

    id: str
    secret: str
    project: str


@dataclass(frozen=True, slots=True)
class Flavor:
    """A flavor: memory in MiB, disks in GB."""

    id: str
    name: str
    vcpus: int
    ram: int
    disk: int
    ephemeral: int
    is_public: bool
    extra_specs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Image:
    """An image; ``project`` is its owner, ``admin`` for public ones."""

    id: str
    name: str
    visibility: str
    project: str


@dataclass(frozen=True, slots=True)
class Server:
    """A server and the status that it was brought to; ``DELETED`` ones are gone."""

    id: str
    name: str
    project: str
    user: str
    flavor: str
    status: str


@dataclass(frozen=True, slots=True)
class FloatingIp:
    """A floating IP, associated with a server or not."""

    id: str
    address: str
    project: str
    server: str | None


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume: size in GiB, and the server that it is attached to."""

    id: str
    name: str
    project: str
    size: int
    server: str | None


@dataclass(frozen=True, slots=True)
class Seed:
    """Everything by name; floating IPs in the order of their making."""

    projects: Mapping[str, Project]
    users: Mapping[str, User]
    accounts: Mapping[str, Account]
    application_credential: ApplicationCredential
    flavors: Mapping[str, Flavor]
    images: Mapping[str, Image]
    networks: Mapping[str, str]
    servers: Mapping[str, Server]
    floating_ips: tuple[FloatingIp, ...]
    volumes: Mapping[str, Volume]

    def write(self, path: Path) -> None:
        """Write ``seed.json``, which holds passwords, for its owner only."""
        secrets.write_private(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Seed:
        """Read ``seed.json``.

        :raises Unavailable: there is none
        """
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise Unavailable(
                path.parent, "not seeded", "run: python -m tests.testbed seed"
            ) from None
        return cls(
            projects=_by_name(Project, content["projects"]),
            users=_by_name(User, content["users"]),
            accounts=_by_name(Account, content["accounts"]),
            application_credential=ApplicationCredential(**content["application_credential"]),
            flavors=_by_name(Flavor, content["flavors"]),
            images=_by_name(Image, content["images"]),
            networks=content["networks"],
            servers=_by_name(Server, content["servers"]),
            floating_ips=tuple(FloatingIp(**entry) for entry in content["floating_ips"]),
            volumes=_by_name(Volume, content["volumes"]),
        )


def _by_name(kind: type[_Kind], entries: Mapping[str, Mapping[str, Any]]) -> dict[str, _Kind]:
    return {
        name: kind(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in entry.items()
            }
        )
        for name, entry in entries.items()
    }
