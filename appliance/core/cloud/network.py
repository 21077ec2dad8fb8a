"""Neutron's floating IP addresses of a project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.core.cloud import answers, pages
from appliance.core.cloud.session import Scope

FloatingIP = dict[str, Any]
"""A floating IP address as Neutron's API describes it."""
SERVICE = "network"
_UNOWNED = "network, no project"


def floating_ips(scope: Scope) -> Sequence[FloatingIP]:
    """Return the floating IP addresses of the scope's project, which are requested once.

    Neutron shows an administrator's account those of all projects, so the project is always part of
    the query and of each answer that counts.

    Raises:
        AccessDenied: Neutron refuses the account.
        Unavailable: Neutron does not answer, or the catalog has none (`Scope.offers`).

    """
    if SERVICE not in scope.kept:
        scope.kept[SERVICE] = _listed(scope)
    return scope.kept[SERVICE]


def unowned(scope: Scope) -> Sequence[FloatingIP]:
    """Return the addresses of the same answer of which Neutron names no project."""
    floating_ips(scope)
    return scope.kept[_UNOWNED]


def _listed(scope: Scope) -> list[FloatingIP]:
    def fetch(url: str) -> Any:
        response = scope.network.get(url, raise_exc=False)
        what = "floating IP addresses"
        return answers.accepted(response, service="Neutron", what=what, scope=scope)

    # Most catalogs name the root of Neutron, some its version.
    root = str(scope.network.get_endpoint() or "").rstrip("/")
    listed = pages.follow(
        fetch,
        "/floatingips" if root.endswith("/v2.0") else "/v2.0/floatingips",
        key="floatingips",
        service="Neutron",
        catalog=scope.catalog_hosts,
        query={"project_id": str(scope.project_id), "limit": pages.PAGE_SIZE},
        added={"project_id": str(scope.project_id), "limit": pages.PAGE_SIZE},
    )
    found = list(listed)
    scope.kept[_UNOWNED] = [one for one in found if not _owner(one)]
    return [address for address in found if _owner(address) == scope.project_id]


def _owner(address: FloatingIP) -> object:
    return address.get("project_id") or address.get("tenant_id")
