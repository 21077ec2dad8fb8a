"""Flavors, quotas, and servers in every state."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.api import NOVA, Api
from tests.testbed.seed import Flavor, Image, Project, Server, User
from tests.testbed.seeding import content, watch
from tests.testbed.seeding.access import Access

_WITH_NETWORKS = {"X-OpenStack-Nova-API-Version": "2.37", "OpenStack-API-Version": "compute 2.37"}
_AT_ONCE = 6


def plant_flavors(admin: Api, projects: dict[str, Project]) -> dict[str, Flavor]:
    """Create the flavors; the private one is opened to its project."""
    known = {
        flavor["name"]: str(flavor["id"])
        for flavor in admin.get(NOVA, "/flavors?is_public=None")["flavors"]
    }
    return {
        planned.name: _flavor(
            admin, planned, known.get(planned.name), projects[content.PRIVATE_FLAVOR_PROJECT]
        )
        for planned in content.FLAVORS
    }


def _flavor(
    admin: Api, planned: content.PlannedFlavor, known: str | None, project: Project
) -> Flavor:
    flavor = known
    if flavor is None:
        wanted = {
            "name": planned.name,
            "vcpus": planned.vcpus,
            "ram": planned.ram,
            "disk": planned.disk,
            "OS-FLV-EXT-DATA:ephemeral": planned.ephemeral,
            "os-flavor-access:is_public": planned.is_public,
        }
        flavor = str(admin.post(NOVA, "/flavors", {"flavor": wanted})["flavor"]["id"])
        if planned.extra_specs:
            admin.post(
                NOVA,
                f"/flavors/{flavor}/os-extra_specs",
                {"extra_specs": dict(planned.extra_specs)},
            )
        if not planned.is_public:
            admin.post(
                NOVA, f"/flavors/{flavor}/action", {"addTenantAccess": {"tenant": project.id}}
            )
    return Flavor(
        id=flavor,
        name=planned.name,
        vcpus=planned.vcpus,
        ram=planned.ram,
        disk=planned.disk,
        ephemeral=planned.ephemeral,
        is_public=planned.is_public,
        extra_specs=planned.extra_specs,
    )


def set_quotas(admin: Api, projects: Iterable[Project]) -> None:
    """Give each project quotas of its own."""
    for number, project in enumerate(projects):
        quota = {"instances": 100 + number, "cores": 400, "ram": 1024000, "force": True}
        admin.put(NOVA, f"/os-quota-sets/{project.id}", {"quota_set": quota})


@dataclass(frozen=True, slots=True)
class ServerBed:
    """What servers grow on."""

    access: Access
    projects: dict[str, Project]
    users: dict[str, User]
    flavors: dict[str, Flavor]
    images: dict[str, Image]
    networks: dict[str, str]

    def plant(self, *, attach: Callable[[dict[str, str]], None]) -> dict[str, Server]:
        """Create all servers, call ``attach`` with their ids, bring each to its state."""
        names = [name for project in content.PROJECTS for name in content.servers_of(project)]
        ids = self._known()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ids |= dict(pool.map(self._create, [name for name in names if name not in ids]))
            self._wait(
                {ids[name]: ["ACTIVE", content.STATUS.get(name, "ACTIVE")] for name in names}
            )
            attached = pool.submit(attach, ids)
            now = watch.statuses(self._databases)
            unfinished = [
                name for name in content.STATUS if not self._is_there(name, ids[name], now)
            ]
            list(pool.map(lambda name: self._bring(name, ids[name]), unfinished))
            attached.result()
            self._wait({ids[name]: [content.STATUS.get(name, "ACTIVE")] for name in names})
        return {name: self._describe(name, ids[name]) for name in names}

    def _known(self) -> dict[str, str]:
        known: dict[str, str] = {}
        for deleted in ("True", "False"):
            listed = self.access.admin.get(
                NOVA, f"/servers/detail?all_tenants=1&deleted={deleted}"
            )["servers"]
            known |= {server["name"]: server["id"] for server in listed}
        return known

    def _door(self, server: str) -> Api:
        user = self.users[content.owner(server)]
        return self.access.door(
            user.name, domain=user.domain, project_id=self.projects[user.project].id
        )

    def _create(self, name: str) -> tuple[str, str]:
        project = content.project_of(name)
        wanted = {
            "name": name,
            "flavorRef": self.flavors[content.flavor_at_birth(name)].id,
            "imageRef": self.images[content.BOOT_IMAGE].id,
            "metadata": {"purpose": "seed"},
            "networks": [{"uuid": self.networks[project]}] if content.has_network(name) else "none",
        }
        made = self._door(name).call(
            "POST", NOVA, "/servers", {"server": wanted}, headers=_WITH_NETWORKS
        )
        return name, made["server"]["id"]

    def _bring(self, name: str, server: str) -> None:
        """Bring one active server to the state that is planned for it."""
        if name in content.DELETED:
            self._door(name).call("DELETE", NOVA, f"/servers/{server}")
        elif name in content.RESIZED:
            self._act(server, {"resize": {"flavorRef": self.flavors[content.RESIZED[name]].id}})
        else:
            self._act(server, _ACTIONS[content.STATUS[name]])
        if name == content.CONFIRMED:
            self._wait({server: ["VERIFY_RESIZE"]})
            self._act(server, {"confirmResize": None})

    def _is_there(self, name: str, server: str, now: Mapping[str, str]) -> bool:
        """Tell whether an earlier run brought the server to its state."""
        if name == content.CONFIRMED:
            shown = self.access.admin.get(NOVA, f"/servers/{server}")["server"]
            return bool(shown["flavor"]["id"] == self.flavors[content.RESIZED[name]].id)
        return now[server] == content.STATUS[name]

    def _act(self, server: str, action: dict[str, Any]) -> None:
        self.access.admin.post(NOVA, f"/servers/{server}/action", action)

    @property
    def _databases(self) -> list[Path]:
        return [self.access.layout.database(name) for name in ("nova_cell0", "nova")]

    def _wait(self, wanted: Mapping[str, Collection[str]]) -> None:
        watch.wait(self._databases, wanted)

    def _describe(self, name: str, server: str) -> Server:
        return Server(
            id=server,
            name=name,
            project=content.project_of(name),
            user=content.owner(name),
            flavor=content.RESIZED.get(name) or content.flavor_at_birth(name),
            status=content.STATUS.get(name, "ACTIVE"),
        )


_ACTIONS: dict[str, dict[str, Any]] = {
    "SHUTOFF": {"os-stop": None},
    "SUSPENDED": {"suspend": None},
    "PAUSED": {"pause": None},
    "SHELVED_OFFLOADED": {"shelve": None},
    "ERROR": {"os-resetState": {"state": "error"}},
}
