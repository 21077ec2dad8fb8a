"""What EGI's probe and Keystone's federation need of a cloud, for `tests.simulators.openstack`.

A `ProbedCloud` answers in that cloud's stead: images, flavors and networks of a project, servers
that are made and deleted, the mappings of entitlements, groups and their roles.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.simulators.openstack import Answer, Request

REF = "egi_vm_images/ubuntu:24.04"
Json = dict[str, Any]


def image(number: str, reference: str = REF, **more: Any) -> Json:
    """Return an image with the properties that atrope writes."""
    attributes = json.dumps({"eu.egi.cloud.image_ref": reference} if reference else {})
    return {
        "id": number,
        "name": f"registry.egi.eu {reference}",
        "status": "active",
        "visibility": "public",
        "owner": "admin",
        "APPLIANCE_ATTRIBUTES": attributes,
        **more,
    }


def flavor(number: str, *, vcpus: int = 1, ram: int = 2048, disk: int = 10) -> Json:
    """Return a flavor with a benchmark."""
    specs = {"accounting:benchmark_type": "hepscore23", "accounting:benchmark_value": "10"}
    size = {"vcpus": vcpus, "ram": ram, "disk": disk}
    return {"id": number, "name": number, **size, "extra_specs": specs}


def network(
    number: str, *, owner: str = "one", shared: bool = False, status: str = "ACTIVE"
) -> Json:
    """Return a network."""
    kept = {"project_id": owner, "shared": shared, "router:external": False}
    return {"id": number, "name": number, "status": status, **kept}


def mapping(*rules: tuple[str, Json]) -> Json:
    """Return a mapping: each rule has a condition on entitlements, and what it gives."""
    return {
        "id": "egi",
        "rules": [
            {
                "local": [{"user": {"name": "{0}"}}, given],
                "remote": [
                    {"type": "HTTP_OIDC_SUB"},
                    {"type": "OIDC-eduperson_entitlement", "regex": True, "any_one_of": [word]},
                ],
            }
            for word, given in rules
        ],
    }


def entitlement(vo: str) -> str:
    """Return the condition for a member of a VO, as EGI's guide has it."""
    return f"^urn:mace:egi.eu:group:{vo}:role=vm_operator#aai.egi.eu$"


DEFAULT: Json = mapping(
    (entitlement("vo.one"), {"group": {"id": "g1"}}),
    (entitlement(r"vo\.two"), {"group": {"name": "g2", "domain": {"name": "egi"}}}),
)
"""Two VOs with a group and a project each."""


@dataclass
class ProbedCloud:
    """The content; ``boots`` are the states that a new server has, one for each look."""

    images: list[Json] = field(default_factory=lambda: [image("i1")])
    flavors: list[Json] = field(default_factory=lambda: [flavor("small")])
    networks: list[Json] = field(default_factory=lambda: [network("n1")])
    servers: dict[str, Json] = field(default_factory=dict)
    boots: list[str] = field(default_factory=lambda: ["BUILD", "ACTIVE"])
    refusal: Answer | None = None
    """The answer to a request for a server, in place of a server."""
    keeps: bool = False
    """Whether a deleted server stays."""
    mappings: list[Json] = field(default_factory=lambda: [DEFAULT])
    groups: dict[str, list[str]] = field(default_factory=lambda: {"g1": ["one"], "g2": ["two"]})
    """Projects of each group."""
    is_open: bool = True
    """Whether the account may read mappings."""
    made: list[Json] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Answer | None:
        """Answer a request; None for one that is not of these."""
        path = request.path
        if path == "/v3/users":
            return Answer(body={"users": [{"id": "u", "name": "accounting"}]})
        if path.rstrip("/") == "/compute/v2.1":
            version = {"id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1"}
            return Answer(body={"version": version | {"links": []}})
        if path == "/compute/v2.1/flavors/detail":
            return Answer(body={"flavors": self.flavors})
        if path == "/image/v2/images":
            return Answer(body={"images": self.images})
        if path == "/network/v2.0/networks":
            return Answer(body={"networks": self.networks})
        return self._federation(request) or self._servers(request)

    def _federation(self, request: Request) -> Answer | None:
        if request.path == "/v3/OS-FEDERATION/mappings":
            if not self.is_open:
                return Answer(403, {"error": {"code": 403, "message": "no", "title": "Forbidden"}})
            return Answer(body={"mappings": self.mappings})
        if request.path == "/v3/groups":
            name = request.query["name"]
            return Answer(body={"groups": [{"id": name}] if name in self.groups else []})
        if request.path == "/v3/role_assignments":
            projects = self.groups.get(request.query["group.id"], [])
            scopes = [{"scope": {"project": {"id": one}}} for one in projects]
            return Answer(body={"role_assignments": scopes})
        return None

    def _servers(self, request: Request) -> Answer | None:
        if request.path == "/compute/v2.1/servers/detail" and "changes-since" not in request.query:
            return Answer(body={"servers": list(self.servers.values())})
        if request.path == "/compute/v2.1/servers" and request.method == "POST":
            return self._boot(request)
        found = re.fullmatch(r"/compute/v2\.1/servers/([\w-]+)", request.path)
        if not found or found[1] not in self.servers:
            return None
        server = self.servers[found[1]]
        if request.method == "DELETE":
            self.deleted.append(found[1])
            if not self.keeps:
                del self.servers[found[1]]
            return Answer(204)
        if len(self.boots) > 1:
            self.boots.pop(0)
        server["status"] = self.boots[0]
        if server["status"] == "ERROR":
            server["fault"] = {"code": 500, "message": "No valid host was found."}
        return Answer(body={"server": server})

    def _boot(self, request: Request) -> Answer:
        if self.refusal:
            return self.refusal
        wanted = request.body["server"]
        self.made.append(wanted)
        number = f"new-{len(self.made)}"
        kept = {"name": wanted["name"], "metadata": wanted["metadata"]}
        self.servers[number] = {"id": number, "status": "BUILD", "tenant_id": "one", **kept}
        return Answer(202, {"server": {"id": number, "links": []}})
