"""The parts of Keystone, Nova and Glance that an information provider uses, with faults on demand.

One server plays all three under ``/identity/v3``, ``/compute/v2.1`` and ``/image``. Listings have
the form of the real services' answers and come in pages. A fault replaces the answer to requests of
one project below a path: a status, raw bytes, or a delay; it can be limited to the first requests.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.simulators.answering import answering

Json = dict[str, Any]
PASSWORD = "geheim-42"


@dataclass
class Fault:
    """A replaced answer to requests of ``project`` (any, if empty) whose path contains ``path``."""

    path: str
    project: str = ""
    status: int = 200
    body: bytes | None = None
    delay: float = 0.0
    times: int = 1_000_000


@dataclass
class Cloud:
    """The cloud's content: flavors, images and servers by project id, also in several projects."""

    flavors: dict[str, list[Json]] = field(default_factory=dict)
    images: dict[str, list[Json]] = field(default_factory=dict)
    servers: dict[str, list[Json]] = field(default_factory=dict)
    quotas: dict[str, Json] = field(default_factory=dict)
    projects: list[Json] = field(default_factory=list)
    """The account's projects, as Keystone lists them."""
    credentials: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Application credentials by id: project and secret."""
    access_tokens: set[str] = field(default_factory=set)
    """Those of an issuer, which the federation takes."""
    auditors: frozenset[str] = frozenset()
    """Projects in which an account may list the users."""
    microversion: str = "2.104"
    page: int = 1000
    latency: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    url: str = ""

    @contextlib.contextmanager
    def serve(self, host: str = "127.0.0.1") -> Iterator[Cloud]:
        server = ThreadingHTTPServer((host, 0), type("Handler", (_Handler,), {"cloud": self}))
        self.url = f"http://{host}:{server.server_port}"
        with answering(server):
            yield self

    def fault(self, project: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.path in path and fault.project in ("", project) and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def flavor(number: str, **more: Any) -> Json:
    """Return a flavor as microversion 2.61 lists it."""
    return {
        "id": number,
        "name": f"flavor {number}",
        "vcpus": 2,
        "ram": 4096,
        "disk": 20,
        "swap": "",
        "OS-FLV-EXT-DATA:ephemeral": 0,
        "OS-FLV-DISABLED:disabled": False,
        "os-flavor-access:is_public": True,
        "extra_specs": {},
        "links": [],
        **more,
    }


def image(number: str, **more: Any) -> Json:
    """Return a public image of the marketplace."""
    url = f"https://m.example.org/{number}/"
    return {
        "id": number,
        "name": f"image {number}",
        "status": "active",
        "visibility": "public",
        "owner": "admin",
        "vmcatcher_event_ad_mpuri": url,
        **more,
    }


def server(number: str, status: str = "ACTIVE", vcpus: int = 2) -> Json:
    """Return a server as microversion 2.47 lists it."""
    return {
        "id": number,
        "name": f"server {number}",
        "status": status,
        "flavor": {"vcpus": vcpus, "ram": 4096},
    }


class _Handler(BaseHTTPRequestHandler):
    cloud: Cloud
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if "/OS-FEDERATION/" in self.path:
            if not self._begin(""):
                self._federate()
            return
        auth = json.loads(self.rfile.read(length))["auth"]
        project = (
            auth.get("scope", {}).get("project", {}).get("id", "")
            if isinstance(auth.get("scope"), dict)
            else ""
        )
        if self._begin(project):
            return
        project, is_known = self._proven(auth["identity"], project)
        if not is_known:
            self._answer(401, {"error": {"message": "no"}})
            return
        if project and project not in self.cloud.flavors:
            self._answer(401, {"error": {"message": "no role"}})
            return
        self._give(project)

    def _proven(self, identity: Json, project: str) -> tuple[str, bool]:
        """Return the project of a token, and whether the account has proven itself."""
        if credential := identity.get("application_credential"):
            own, secret = self.cloud.credentials.get(credential["id"], ("", ""))
            return own, bool(own) and credential["secret"] == secret
        password = identity.get("password", {}).get("user", {}).get("password")
        token = identity.get("token", {}).get("id", "")
        is_known = password == PASSWORD or token.startswith("token-")
        return project, is_known

    def _federate(self) -> None:
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if bearer in self.cloud.access_tokens:
            self._give("")
        else:
            self._answer(401, {"error": {"message": "no"}}, {"WWW-Authenticate": "Bearer x"})

    def _give(self, project: str) -> None:
        endpoints = {
            "compute": f"{self.cloud.url}/compute/v2.1",
            "image": f"{self.cloud.url}/image",
        }
        token: Json = {
            "methods": ["password"],
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "user": {"id": "u", "name": "ci", "domain": {"id": "default", "name": "Default"}},
        }
        if project:
            listed = (one for one in self.cloud.projects if one["id"] == project)
            domain = next(listed, {}).get("domain_id", "default")
            token["project"] = {
                "id": project,
                "name": f"name of {project}",
                "domain": {"id": domain, "name": domain.capitalize()},
            }
            token["catalog"] = [
                {
                    "type": kind,
                    "id": kind,
                    "name": kind,
                    "endpoints": [
                        {
                            "interface": "public",
                            "url": url,
                            "region": "One",
                            "region_id": "One",
                            "id": kind,
                        }
                    ],
                }
                for kind, url in endpoints.items()
            ]
        self._answer(201, {"token": token}, {"X-Subject-Token": f"token-{project}"})

    def do_GET(self) -> None:
        project = self.headers.get("X-Auth-Token", "").removeprefix("token-")
        if self._begin(project):
            return
        cloud, path = self.cloud, urlsplit(self.path).path
        if re.fullmatch(r"/compute/v2\.1/?", path):
            version = {
                "id": "v2.1",
                "status": "CURRENT",
                "version": cloud.microversion,
                "min_version": "2.1",
                "links": [{"rel": "self", "href": f"{cloud.url}/compute/v2.1/"}],
            }
            self._answer(200, {"version": version})
        elif path.startswith("/identity/"):
            self._keystone(path, project)
        elif path.endswith("/flavors/detail"):
            self._page("flavors", cloud.flavors[project], "flavors_links")
        elif path.endswith("/servers/detail"):
            self._page("servers", cloud.servers.get(project, []), "servers_links")
        elif path.endswith("/v2/images"):
            self._page("images", cloud.images.get(project, []), "next")
        else:
            self._rest(path, project)

    def _rest(self, path: str, project: str) -> None:
        """Answer what is no listing; the last two are requests of cloud-info-provider alone."""
        cloud = self.cloud
        if "/os-quota-sets/" in path:
            self._answer(200, {"quota_set": {"id": project, **cloud.quotas.get(project, {})}})
        elif found := re.search(r"/flavors/([^/]+)/os-extra_specs$", path):
            one = next(one for one in cloud.flavors[project] if one["id"] == found[1])
            self._answer(200, {"extra_specs": one["extra_specs"]})
        elif path.endswith("/v2/schemas/image"):
            text = {"type": "string"}
            self._answer(200, {"name": "image", "properties": {}, "additionalProperties": text})
        else:
            self._answer(404, {})

    def _keystone(self, path: str, project: str) -> None:
        if path.endswith("/auth/tokens"):
            self._answer(200, {"token": {}})
        elif path.endswith("/users"):
            is_allowed = project in self.cloud.auditors
            self._answer(200 if is_allowed else 403, {"users": [{"id": "u", "name": "ci"}]})
        elif "/OS-FEDERATION/" in path:
            self._federate()
        elif path.endswith("/auth/projects"):
            self._answer(200, {"projects": self.cloud.projects, "links": {}})
        else:
            self._answer(404, {})

    def _begin(self, project: str) -> bool:
        """Count the request; return whether a fault answered it."""
        path = urlsplit(self.path).path
        self.cloud.requests[
            f"{self.command} {re.sub(r'/os-quota-sets/.*', '/os-quota-sets', path)}"
        ] += 1
        time.sleep(self.cloud.latency)
        fault = self.cloud.fault(project, path)
        if fault is None:
            return False
        time.sleep(fault.delay)
        if fault.status == 200 and fault.body is None:
            return False
        self._send(
            fault.status, fault.body if fault.body is not None else b'{"error": "on demand"}', {}
        )
        return True

    def _page(self, name: str, things: list[Json], link: str) -> None:
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        if "status" in query:
            things = [thing for thing in things if thing["status"] == query["status"]]
        size = min(self.cloud.page, int(query.get("limit", self.cloud.page)))
        start = next(
            (
                number + 1
                for number, thing in enumerate(things)
                if thing["id"] == query.get("marker")
            ),
            0,
        )
        page = things[start : start + size]
        body: Json = {name: page}
        if page and start + size < len(things):
            following = (
                f"{urlsplit(self.path).path}?{urlencode({**query, 'marker': page[-1]['id']})}"
            )
            body[link] = (
                following.removeprefix("/image")
                if link == "next"
                else [{"rel": "next", "href": following}]
            )
        self._answer(200, body)

    def _answer(self, status: int, body: Json, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), headers or {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
