"""What an administrator changes in a cloud: projects, groups, roles, quotas and a mapping.

It answers in the stead of `tests.simulators.openstack`, in the forms of Keystone, Nova and Cinder,
and keeps every change, so that a test looks at the result and not at the requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulators.openstack import Answer, Request

ROLES = {"reader": "r1", "member": "r2", "admin": "r3"}
OTHER = {
    "local": [{"user": {"name": "{0}"}, "group": {"id": "g-other"}}],
    "remote": [{"type": "SAML-uid"}, {"type": "SAML-idp", "any_one_of": ["https://idp.example"]}],
}
"""The rule of another identity provider."""
_MISSING = Answer(404, {"error": {"code": 404, "message": "Could not find it."}})


@dataclass
class Administered:
    """The administrator's side of a cloud."""

    projects: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    """Ids of users in the domain default, by name."""
    grants: set[tuple[str, str, str]] = field(default_factory=set)
    """Project, user or group, role."""
    rules: list[Any] = field(default_factory=lambda: [OTHER])
    quotas: dict[str, dict[str, int]] = field(default_factory=dict)
    servers: list[str] = field(default_factory=list)
    refuses: Callable[[Request], bool] = lambda _: False
    """Whether a request is refused."""
    changes: list[str] = field(default_factory=list)
    """Method and path of each request that is no reading one."""

    def answer(self, request: Request) -> Answer | None:
        """Answer an administrator's request; None for any other."""
        if request.path.startswith("/v3/auth/"):
            return None
        if self.refuses(request):
            return Answer(403, {"error": {"code": 403, "message": "You are not authorized."}})
        if request.method != "GET":
            self.changes.append(f"{request.method} {request.path}")
        for pattern, method in (
            (r"/v3/OS-FEDERATION/(.+)", self._federation),
            (r"/v3/projects(?:/(\w[\w.-]*))?", self._projects),
            (r"/v3/groups(?:/(\w[\w.-]*))?", self._groups),
            (r"/v3/(domain|role|user)s/(\w[\w.-]*)", self._one),
            (r"/v3/projects/([\w.-]+)/(?:users|groups)/([\w.-]+)/roles/(\w+)", self._grant),
            (r"/(?:compute/v2.1|volume/v3/\w+)/os-quota-sets/([\w.-]+)", self._quota),
        ):
            if found := re.fullmatch(pattern, request.path):
                return method(request, *found.groups())
        return self._listing(request)

    def _listing(self, request: Request) -> Answer | None:
        match request.path:
            case "/v3/domains":
                return Answer(body={"domains": [{"id": "default", "name": "Default"}]})
            case "/v3/roles":
                roles = [{"id": number, "name": name} for name, number in ROLES.items()]
                return Answer(body={"roles": roles})
            case "/v3/users":
                name = request.query["name"]
                found = [{"id": self.users[name], "name": name}] if name in self.users else []
                return Answer(body={"users": found})
            case "/v3/role_assignments":
                return Answer(body={"role_assignments": [*self._assignments(request.query)]})
            case "/compute/v2.1/servers":
                listed = [{"id": name, "name": f"name of {name}"} for name in self.servers]
                return Answer(body={"servers": listed})
        return self._empty(request)

    def _empty(self, request: Request) -> Answer | None:
        for word, key in (("volumes", "volumes"), ("images", "images")):
            if request.path.endswith(f"/{word}"):
                return Answer(body={key: []})
        return None

    def _assignments(self, query: dict[str, str]) -> list[dict[str, Any]]:
        return [
            {
                "group" if who in self.groups else "user": {"id": who},
                "role": {"id": role},
                "scope": {"project": {"id": project}},
            }
            for project, who, role in sorted(self.grants)
            if query.get("scope.project.id", project) == project
            and query.get("group.id", who) == query.get("user.id", who) == who
            and query.get("role.id", role) == role
        ]

    def _federation(self, request: Request, path: str) -> Answer:
        if path == "mappings/egi-mapping":
            if request.method == "PATCH":
                self.rules = request.body["mapping"]["rules"]
            return Answer(body={"mapping": {"id": "egi-mapping", "rules": self.rules}})
        if path == "identity_providers/egi.eu/protocols/openid":
            return Answer(body={"protocol": {"id": "openid", "mapping_id": "egi-mapping"}})
        if path == "identity_providers":
            return Answer(body={"identity_providers": [{"id": "egi.eu"}, {"id": "campus"}]})
        return _MISSING

    def _projects(self, request: Request, identifier: str | None) -> Answer:
        return self._things(self.projects, "project", request, identifier)

    def _groups(self, request: Request, identifier: str | None) -> Answer:
        return self._things(self.groups, "group", request, identifier)

    def _things(
        self, known: dict[str, dict[str, Any]], kind: str, request: Request, identifier: str | None
    ) -> Answer:
        match request.method:
            case "POST":
                identifier = f"{kind}-{len(known) + 1}"
                known[identifier] = {**request.body[kind], "id": identifier}
            case "PATCH":
                known[str(identifier)] |= request.body[kind]
            case "DELETE":
                del known[str(identifier)]
                self.grants = {one for one in self.grants if identifier not in one}
                return Answer(204)
            case "GET" if identifier:
                found = known.get(identifier)
                return Answer(body={kind: found}) if found else _MISSING
            case _:
                name = request.query.get("name")
                listed = [one for one in known.values() if name in (None, one["name"])]
                return Answer(body={f"{kind}s": listed})
        return Answer(201, {kind: known[str(identifier)]})

    def _one(self, _: Request, kind: str, identifier: str) -> Answer:
        known = {"domain": {"Default": "default"}, "role": ROLES, "user": self.users}[kind]
        for name, number in known.items():
            if number == identifier:
                return Answer(body={kind: {"id": number, "name": name, "domain_id": "default"}})
        return _MISSING

    def _grant(self, request: Request, project: str, who: str, role: str) -> Answer:
        change = self.grants.add if request.method == "PUT" else self.grants.discard
        change((project, who, role))
        return Answer(204)

    def _quota(self, request: Request, project: str) -> Answer:
        usual = {"instances": 10, "cores": 20, "ram": 51200, "volumes": 10, "gigabytes": 1000}
        limits = self.quotas.setdefault(project, usual)
        if request.method == "PUT":
            limits |= request.body["quota_set"]
        return Answer(body={"quota_set": limits})

    def shown(self) -> str:
        """Return everything that a change could have changed."""
        parts = [self.projects, self.groups, sorted(self.grants), self.rules, self.quotas]
        return json.dumps(parts, sort_keys=True)
