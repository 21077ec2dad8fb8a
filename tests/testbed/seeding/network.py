"""An external network, one network a project, routers between them, floating IPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.testbed.api import NEUTRON, Api
from tests.testbed.seed import FloatingIp, Project
from tests.testbed.seeding import content
from tests.testbed.seeding.access import Access


def plant(access: Access, projects: Iterable[Project]) -> dict[str, str]:
    """Create networks; return their ids by project, the external one by its own name."""
    admin = access.admin
    known = {
        network["name"]: str(network["id"])
        for network in admin.get(NEUTRON, "/v2.0/networks")["networks"]
    }
    external = known.get(content.EXTERNAL_NETWORK) or _external(admin)
    networks = {content.EXTERNAL_NETWORK: external}
    for project in projects:
        name = f"{project.name}-net"
        networks[project.name] = known.get(name) or _project_network(
            _door(access, project),
            name,
            external=external if content.needs_router(project.name) else None,
        )
        quota = {"floatingip": 20, "network": 10, "port": 500}
        admin.put(NEUTRON, f"/v2.0/quotas/{project.id}", {"quota": quota})
    return networks


def associate(
    access: Access, projects: Mapping[str, Project], *, servers: Mapping[str, str], external: str
) -> tuple[FloatingIp, ...]:
    """Give floating IPs to some servers, and one to nobody. ``servers`` are ids by name."""
    wanted: list[str | None] = [*content.ASSOCIATED_IPS, None]
    return tuple(
        _floating_ip(access, projects, name, servers=servers, external=external) for name in wanted
    )


def _door(access: Access, project: Project) -> Api:
    user = content.user_names(project.name)[0]
    return access.door(user, domain=project.domain, project_id=project.id)


def _external(admin: Api) -> str:
    wanted = {
        "name": content.EXTERNAL_NETWORK,
        "router:external": True,
        "provider:network_type": "flat",
        "provider:physical_network": "physnet1",
    }
    network = str(admin.post(NEUTRON, "/v2.0/networks", {"network": wanted})["network"]["id"])
    _subnet(admin, content.EXTERNAL_NETWORK, network, content.EXTERNAL_RANGE)
    return network


def _project_network(door: Api, name: str, *, external: str | None) -> str:
    network = str(
        door.post(NEUTRON, "/v2.0/networks", {"network": {"name": name}})["network"]["id"]
    )
    subnet = _subnet(door, name, network, content.PROJECT_RANGE)
    if external:
        wanted = {"name": f"{name}-router", "external_gateway_info": {"network_id": external}}
        router = door.post(NEUTRON, "/v2.0/routers", {"router": wanted})["router"]["id"]
        door.put(NEUTRON, f"/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
    return network


def _subnet(door: Api, name: str, network: str, addresses: str) -> str:
    wanted = {
        "name": name,
        "network_id": network,
        "ip_version": 4,
        "cidr": addresses,
        "enable_dhcp": False,
    }
    return str(door.post(NEUTRON, "/v2.0/subnets", {"subnet": wanted})["subnet"]["id"])


def _floating_ip(
    access: Access,
    projects: Mapping[str, Project],
    server: str | None,
    *,
    servers: Mapping[str, str],
    external: str,
) -> FloatingIp:
    project = projects[content.project_of(server) if server else content.SPARE_IP_PROJECT]
    door = _door(access, project)
    port = None
    if server:
        port = door.get(NEUTRON, f"/v2.0/ports?device_id={servers[server]}")["ports"][0]["id"]
    known = door.get(NEUTRON, f"/v2.0/floatingips?project_id={project.id}")["floatingips"]
    found = [entry for entry in known if entry["port_id"] == port]
    if found:
        made = found[0]
    else:
        wanted = {"floating_network_id": external} | ({"port_id": port} if port else {})
        made = door.post(NEUTRON, "/v2.0/floatingips", {"floatingip": wanted})["floatingip"]
    return FloatingIp(made["id"], made["floating_ip_address"], project.name, server)
