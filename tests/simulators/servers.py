"""Nova's servers, usage and actions as a simulated cloud answers them, over the same truth.

A server is the dictionary of `Server`: what ``servers/detail`` shows at the newest microversion.
Keys that begin with an underscore are the truth that no answer shows:

    _hidden     soft-deleted: missing in a listing without ``changes-since``, present in usage
    _archived   moved out of Nova's tables: in no answer at all
    _actions    the actions of the server, newest first
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Server = dict[str, Any]

_STATES = {
    "ACTIVE": "active",
    "BUILD": "building",
    "ERROR": "error",
    "PAUSED": "paused",
    "RESCUE": "rescued",
    "SHELVED": "shelved",
    "SHELVED_OFFLOADED": "shelved_offloaded",
    "SHUTOFF": "stopped",
    "SOFT_DELETED": "soft-delete",
    "SUSPENDED": "suspended",
    "VERIFY_RESIZE": "resized",
    "DELETED": "deleted",
}
_DETAILED = (2, 47)
_LINKED = (2, 40)
"""The microversions from which a server holds its flavor, and usage has links."""


def listed(servers: Sequence[Server], since: str) -> list[Server]:
    """Return the servers of a listing, with the ones deleted if it asks for changes."""
    if since:
        begin = since.replace(" ", "T")
        return [one for one in servers if one["updated"] >= begin]
    return [one for one in servers if one["status"] != "DELETED" and not one.get("_hidden")]


def used(servers: Sequence[Server], start: str, end: str) -> list[Server]:
    """Return the servers that ``os-simple-tenant-usage`` has a row of, in its order."""
    found = [
        one
        for one in servers
        if (launched := one["OS-SRV-USG:launched_at"])
        and launched < end
        and (one["OS-SRV-USG:terminated_at"] or "9999") > start
    ]
    return sorted(found, key=lambda one: one["id"])


def usage(server: Server, start: str, end: str) -> dict[str, Any]:
    """Return the row of a server."""
    begin, over = server["OS-SRV-USG:launched_at"], server["OS-SRV-USG:terminated_at"]
    shown_end = min(over or "9999", end)
    hours = (_parse(shown_end) - _parse(max(begin, start))).total_seconds() / 3600
    flavor = server["flavor"]
    return {
        "hours": hours,
        "flavor": flavor["original_name"],
        "instance_id": server["id"],
        "name": server["name"],
        "tenant_id": server["tenant_id"],
        "memory_mb": flavor["ram"],
        "local_gb": flavor["disk"] + flavor["ephemeral"],
        "vcpus": flavor["vcpus"],
        "started_at": begin,
        "ended_at": over,
        "state": "terminated" if over else _STATES[server["status"]],
        "uptime": int((_parse(over or end) - _parse(begin)).total_seconds()),
    }


def shown(server: Server, version: tuple[int, int]) -> Server:
    """Return a server as an answer of a microversion shows it."""
    found = {name: value for name, value in server.items() if not name.startswith("_")}
    if version < _DETAILED:
        flavor = found["flavor"]
        found["flavor"] = {"id": flavor.get("id", flavor["original_name"])}
    return found


def has_links(version: tuple[int, int]) -> bool:
    """Check whether usage has links to further pages."""
    return version >= _LINKED


def page(
    found: Sequence[Any], identifier: str, query: dict[str, str], most: int
) -> tuple[Sequence[Any], str]:
    """Return the items of a page, and the marker of the next one if there is one.

    As in OpenStack, a page that is full has a link, whether anything follows or not.
    """
    first = 0
    if marker := query.get("marker"):
        first = next(place for place, one in enumerate(found) if one[identifier] == marker) + 1
    length = min(int(query.get("limit", most)), most)
    items = found[first : first + length]
    return items, str(items[-1][identifier]) if len(items) == length else ""


def _parse(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
