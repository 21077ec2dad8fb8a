"""What the services need of Keystone before they can work: their accounts, and the catalog.

A second region has endpoints where nobody listens. They are disabled until `show_second_region`
enables them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.testbed import secrets
from tests.testbed.api import KEYSTONE, Api
from tests.testbed.configuration import REGION
from tests.testbed.layout import HOST, Layout

SECOND_REGION = "RegionTwo"
_DEAD = f"https://{HOST}:9"
_TYPES = {
    "glance": "image",
    "placement": "placement",
    "nova": "compute",
    "neutron": "network",
    "cinder": "block-storage",
}
_INTERFACES = ("public", "internal", "admin")


def register(admin: Api, layout: Layout, *, services: Iterable[str]) -> None:
    """Create what is missing of service project, accounts, regions, services and endpoints."""
    roles = {role["name"]: role["id"] for role in admin.get(KEYSTONE, "/roles")["roles"]}
    project = _ensure(admin, "project", "service", {"domain_id": "default"})
    if not any(
        region["id"] == SECOND_REGION for region in admin.get(KEYSTONE, "/regions")["regions"]
    ):
        admin.post(
            KEYSTONE,
            "/regions",
            {"region": {"id": SECOND_REGION, "description": "nobody listens there"}},
        )
    for name in services:
        if name not in _TYPES or (mark := layout.done / f"catalog-{name}").exists():
            continue
        password = secrets.password(layout.secrets, name)
        user = _ensure(admin, "user", name, {"domain_id": "default", "password": password})
        for role in ("service", "admin"):
            admin.put(KEYSTONE, f"/projects/{project}/users/{user}/roles/{roles[role]}")
        service = _ensure(admin, "service", name, {"type": _TYPES[name]})
        known = admin.get(KEYSTONE, f"/endpoints?service_id={service}")["endpoints"]
        present = {(endpoint["region_id"], endpoint["interface"]) for endpoint in known}
        for region, url, enabled in (
            (REGION, layout.url(name), True),
            (SECOND_REGION, _DEAD, False),
        ):
            for interface in _INTERFACES:
                if (region, interface) not in present:
                    endpoint = {
                        "service_id": service,
                        "interface": interface,
                        "region_id": region,
                        "url": url,
                    }
                    admin.post(
                        KEYSTONE, "/endpoints", {"endpoint": endpoint | {"enabled": enabled}}
                    )
        mark.touch()


def show_second_region(admin: Api, *, shown: bool) -> None:
    """Enable or disable the dead endpoints of the second region."""
    for endpoint in admin.get(KEYSTONE, f"/endpoints?region_id={SECOND_REGION}")["endpoints"]:
        admin.call(
            "PATCH", KEYSTONE, f"/endpoints/{endpoint['id']}", {"endpoint": {"enabled": shown}}
        )


def _ensure(admin: Api, kind: str, name: str, properties: dict[str, object]) -> str:
    """Return the id of a project, user or service of this name, created unless it exists."""
    found = admin.get(KEYSTONE, f"/{kind}s?name={name}")[f"{kind}s"]
    made = (
        found[0]
        if found
        else admin.post(KEYSTONE, f"/{kind}s", {kind: {"name": name} | properties})[kind]
    )
    return str(made["id"])
