"""A cloud with what a real one does not do on demand.

Errors, dropped connections, short pages, expiring tokens, latency, clocks that differ, regions,
scale.

The protocol is that of Keystone, Nova, Glance, Neutron and Cinder as `caso-extract` and cASO use
it. Most servers are computed, not stored; `Cloud.more` has the odd ones. What the cloud knows of
each server is its own: `Cloud.truth`. A fault is a function that looks at each request and may
answer in the service's stead.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.simulators import servers as nova
from tests.simulators.answering import answering

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NEWEST = (2, 96)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its method, path without query, query, and the token that it carries."""

    method: str
    path: str
    query: dict[str, str]
    token: str
    body: dict[str, Any]
    bearer: str = ""
    """The access token of a federated login."""
    subject: str = ""
    """The token that is asked about."""
    version: tuple[int, int] = (2, 1)
    """The microversion."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``drops`` closes the connection instead, after half of the body."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False


Fault = Callable[[Request], Answer | None]
FEDERATION = "/v3/OS-FEDERATION/identity_providers/egi.eu/protocols/openid/auth"


@dataclass(frozen=True, slots=True)
class Credential:
    """An application credential of this project; ``ends`` None for never."""

    project: str
    secret: str
    ends: datetime | None = None


@dataclass(slots=True)
class Cloud:
    """The cloud: each project has ``deleted`` servers; the newest one is ``age`` old."""

    projects: tuple[str, ...] = ("one",)
    servers: int = 10
    deleted: int = 3
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    max_limit: int = 1000
    newest: tuple[int, int] = NEWEST
    token_uses: int | None = None
    """After how many requests a token dies."""
    token_life: timedelta | None = None
    """How long a token lives; None: till 2099."""
    access_tokens: set[str] | None = None
    """Those that the federation accepts, an issuer's own set; None: there is no federation."""
    credentials: dict[str, Credential] = field(default_factory=dict)
    """Application credentials by id."""
    closed: frozenset[str] = frozenset()
    """Projects in which the account has no role."""
    is_administrator: bool = False
    """Whether the account may list the usage of all projects."""
    users: int = 5
    """Users of a project."""
    images: int = 0
    """Images of which servers are made; 0: all of one that no longer exists."""
    flavors: int = 1
    """Flavors of which servers are made."""
    changed: int = 0
    """Living servers of a project that changed a minute ago."""
    more: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Servers of a project beside the computed ones, see `tests.simulators.servers`."""
    volumes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Volumes by project, as Cinder describes them."""
    addresses: list[dict[str, Any]] = field(default_factory=list)
    """Floating IP addresses of all projects, as Neutron describes them."""
    lacks: frozenset[str] = frozenset()
    """Types of services that the catalog does not have."""
    regions: tuple[str, ...] = ("R",)
    """The first one has the computed servers; another has those of `more` under ``REGION/one``."""
    away: frozenset[str] = frozenset()
    """Regions whose services cannot be reached: nobody listens there."""
    latency: timedelta = timedelta(0)
    """How long each request takes longer."""
    clock_offset: timedelta = timedelta(0)
    """How far the clocks of all services are ahead."""
    offsets: dict[str, timedelta] = field(default_factory=dict)
    """How far a service's clock is ahead, by the first word of its paths, ``compute``, or by that
    of a region, ``R/compute``; before `clock_offset`."""
    has_dates: bool = True
    """Whether answers have the header Date."""
    fault: Fault = lambda _: None
    requests: Counter[str] = field(default_factory=Counter)
    """Counts by method and first words of the path."""
    url: str = ""
    _tokens: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    _ends: dict[str, datetime] = field(default_factory=dict)
    _made: dict[tuple[object, ...], list[dict[str, Any]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def revoke_all(self) -> None:
        """Have no token count any longer."""
        with self._lock:
            self._tokens.clear()

    def server(self, project: str, number: int) -> dict[str, Any]:
        """Return a server as Nova describes it; a project's first ones are deleted."""
        created = self.now - timedelta(days=40) + timedelta(seconds=number)
        is_deleted = number < self.deleted
        ended = created + timedelta(days=10)
        is_changed = not is_deleted and number < self.deleted + self.changed
        updated = self.now - timedelta(minutes=1) if is_changed else created
        return {
            "id": self.uuid(project, number),
            "name": f"{project}-{number}",
            "status": "DELETED" if is_deleted else "ACTIVE",
            "tenant_id": project,
            "user_id": f"user{number % self.users}",
            "created": _z(created),
            "updated": _z(ended if is_deleted else updated),
            "OS-SRV-USG:launched_at": created.replace(tzinfo=None).isoformat(
                timespec="microseconds"
            ),
            "OS-SRV-USG:terminated_at": ended.replace(tzinfo=None).isoformat(
                timespec="microseconds"
            )
            if is_deleted
            else None,
            "flavor": {
                "vcpus": 2,
                "ram": 512,
                "disk": 1,
                "ephemeral": 0,
                "original_name": f"f{number % self.flavors}" if self.flavors > 1 else "f",
                "extra_specs": {},
            },
            "image": {"id": f"image{number % self.images}" if self.images else "image"},
            "addresses": {},
            "metadata": {"padding": "x" * 1000},
        }

    def all_servers(self, project: str) -> list[dict[str, Any]]:
        """Return the servers that Nova has of a project, those of `more` last."""
        sizes = (self.servers, self.deleted, self.users, self.images, self.flavors, self.changed)
        key = (project, self.now, sizes)
        if key not in self._made:
            self._made[key] = [self.server(project, number) for number in range(self.servers)]
        computed = [] if "/" in project else self._made[key]
        return computed + [one for one in self.more.get(project, ()) if not one.get("_archived")]

    def truth(self, project: str, *, until: datetime) -> dict[str, int]:
        """Return the seconds that each server of a project existed, from its creation.

        A server that was never launched has used nothing.
        """
        found = {}
        for server in [*self.all_servers(project), *self.more.get(project, ())]:
            begin, end = server["created"], server["OS-SRV-USG:terminated_at"]
            if end is None and server["status"] == "DELETED":
                end = server["updated"].rstrip("Z")
            died = datetime.fromisoformat(end).replace(tzinfo=UTC) if end else until
            born = datetime.fromisoformat(begin)
            if server["OS-SRV-USG:launched_at"] and born <= until:
                found[server["id"]] = int((min(died, until) - born).total_seconds())
        return found

    @staticmethod
    def uuid(project: str, number: int) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{project}-{number}"))

    def scope_of(self, token: str) -> str | None:
        """Return the project of a token; ``system`` or ``none`` for other scopes."""
        return self._tokens.get(token, (None, 0))[0]

    def answer(self, request: Request) -> Answer:
        """Answer a request."""
        with self._lock:
            self.requests[f"{request.method} {'/'.join(request.path.split('/')[:4])}"] += 1
        if found := self.fault(request):
            return found
        if "/OS-FEDERATION/" in request.path and request.path != FEDERATION:
            return Answer(
                404, {"error": {"code": 404, "message": "Could not find: egi", "title": "x"}}
            )
        if request.path == FEDERATION and self.access_tokens is not None:
            return self._federate(request)
        if request.path == "/v3/auth/tokens" and request.body:
            return self._token(request)
        if request.path in ("/v3", "/v3/"):
            return Answer(
                body={
                    "version": {
                        "id": "v3.14",
                        "status": "stable",
                        "links": [{"rel": "self", "href": f"{self.url}/v3/"}],
                    }
                }
            )
        scope = self._scope(request.token)
        if scope is None:
            return Answer(
                401,
                {
                    "error": {
                        "code": 401,
                        "message": "The request you have made requires authentication.",
                    }
                },
            )
        region, path = self._region(request.path)
        for start, answer in (
            ("/compute", self._nova),
            ("/volume/v3", self._cinder),
            ("/network", self._neutron),
            ("/image", self._glance),
        ):
            if path.startswith(start):
                return answer(request, path, scope if not region else f"{region}/{scope}")
        return self._rest(request)

    def _region(self, path: str) -> tuple[str, str]:
        """Return the region of a path, empty for the first one, and the path within it."""
        for region in self.regions[1:]:
            if path.startswith(f"/{region}/"):
                return region, path.removeprefix(f"/{region}")
        return "", path

    def _federate(self, request: Request) -> Answer:
        """Take an access token as Apache's mod_auth_openidc and Keystone do."""
        if request.bearer not in (self.access_tokens or ()):
            words = 'Bearer realm="x", error="invalid_token", error_description="expired"'
            return Answer(401, "<html>401 Unauthorized</html>", {"WWW-Authenticate": words})
        return self._give("none", life=self.token_life)

    def _refusal(self, request: Request, project: str) -> Answer | None:
        """Judge what a request for a token proves itself with."""
        identity = request.body["auth"]["identity"]
        unauthorized = Answer(
            401, {"error": {"code": 401, "message": "no", "title": "Unauthorized"}}
        )
        if identity["methods"] == ["token"] and not self._lives(identity["token"]["id"]):
            return unauthorized
        if identity["methods"] == ["application_credential"]:
            told = identity["application_credential"]
            known = self.credentials.get(told["id"])
            if known is None:
                words = f"Could not find Application Credential: {told['id']}."
                return Answer(404, {"error": {"code": 404, "message": words, "title": "Not Found"}})
            is_over = known.ends is not None and known.ends < datetime.now(UTC)
            return unauthorized if is_over or told["secret"] != known.secret else None
        return unauthorized if project in self.closed else None

    def _lives(self, token: str) -> bool:
        return token in self._tokens and self._ends.get(token, _NEVER) > datetime.now(UTC)

    def _rest(self, request: Request) -> Answer:
        if request.path == "/v3/auth/tokens":
            lives = self._lives(request.subject)
            return Answer(body={"token": {}}) if lives else Answer(404, {"error": {"code": 404}})
        if found := re.fullmatch(r"/v3/users/u/application_credentials/(\w+)", request.path):
            ends = self.credentials[found[1]].ends
            shown = ends.replace(tzinfo=None).isoformat(timespec="microseconds") if ends else None
            return Answer(body={"application_credential": {"id": found[1], "expires_at": shown}})
        listed = [
            {
                "id": name,
                "name": name,
                "domain_id": "default",
                "enabled": True,
                "tags": ["caso"],
                "VO": f"vo.{name}",
            }
            for name in self.projects
        ]
        if request.path in ("/v3/auth/projects", "/v3/projects"):
            return Answer(body={"projects": listed, "links": {"next": None}})
        if found := re.fullmatch(r"/v3/projects/(\w+)", request.path):
            known = [one for one in listed if one["id"] == found[1]]
            return Answer(body={"project": known[0]}) if known else Answer(404, {})
        if found := re.fullmatch(r"/v3/users/(\w+)", request.path):
            return Answer(body={"user": {"id": found[1], "name": f"name of {found[1]}"}})
        return Answer(404, {"error": {"code": 404, "message": "Not found"}})

    def _token(self, request: Request) -> Answer:
        scope = request.body["auth"].get("scope", {})
        scope = {} if scope == "unscoped" else scope
        project = "system" if scope else "none"
        if named := scope.get("project"):  # here names are ids
            project = named.get("id") or named["name"]
        if refusal := self._refusal(request, project):
            return refusal
        identity = request.body["auth"]["identity"]
        parent = self._ends.get(identity["token"]["id"]) if "token" in identity else None
        life = parent - datetime.now(UTC) if parent else self.token_life
        credential = identity.get("application_credential", {}).get("id", "")
        if credential:
            project = self.credentials[credential].project
        return self._give(project, life=life, credential=credential)

    def _give(self, project: str, *, life: timedelta | None, credential: str = "") -> Answer:
        token = uuid.uuid4().hex
        issued = datetime.now(UTC)
        ends = issued + life if life is not None else _NEVER
        with self._lock:
            self._tokens[token] = (project, self.token_uses or 10**9)
            self._ends[token] = ends
        catalog = [
            {"type": kind, "endpoints": list(self._endpoints(path, project))}
            for kind, path in _CATALOG.items()
            if kind not in self.lacks
        ]
        told: dict[str, Any] = {
            "methods": ["password"],
            "user": {
                "id": "u",
                "name": "accounting",
                "domain": {"id": "default", "name": "Default"},
            },
            "expires_at": _micro(ends + self.clock_offset),
            "issued_at": _micro(issued + self.clock_offset),
        }
        if credential:
            told["application_credential"] = {"id": credential, "name": "n", "restricted": True}
        if project != "none":
            told["catalog"] = catalog
        if project == "system":
            told["system"] = {"all": True}
        elif project != "none":
            told["project"] = {
                "id": project,
                "name": project,
                "domain": {"id": "default", "name": "Default"},
            }
        return Answer(201, {"token": told}, {"X-Subject-Token": token})

    def _scope(self, token: str) -> str | None:
        with self._lock:
            scope, left = self._tokens.get(token, (None, 0))
            if left <= 0 or self._ends[token] < datetime.now(UTC):
                return None
            self._tokens[token] = (scope, left - 1)
            return scope

    def _endpoints(self, path: str, project: str) -> Iterator[dict[str, str]]:
        for number, region in enumerate(self.regions):
            prefix = f"/{region}" if number and path != "v3" else ""
            url = "http://127.0.0.1:1" if region in self.away and path != "v3" else self.url
            yield {
                "interface": "public",
                "region": region,
                "region_id": region,
                "url": f"{url}{prefix}/{path.format(project=project)}",
            }

    def _nova(self, request: Request, path: str, project: str) -> Answer:
        found, query = self.all_servers(project), request.query
        place = path.removeprefix("/compute/v2.1")
        if place == "/os-simple-tenant-usage":
            return self._usage_of_all(request, project)
        if place.startswith("/os-simple-tenant-usage/"):
            return self._usage(request, nova.used(found, query["start"], query["end"]))
        if place.startswith("/flavors"):
            return self._flavors(found, place)
        if place in ("/servers", "/servers/detail"):
            listed = nova.listed(found, query.get("changes-since", ""))
            items, marker = nova.page(listed, "id", query, self.max_limit)
            shown = [nova.shown(one, request.version) for one in items]
            return self._page("servers", shown, request, marker)
        number, _, rest = place.removeprefix("/servers/").partition("/")
        one = next((one for one in found if one["id"] == number), None)
        if one is not None and rest == "os-instance-actions":
            actions = one.get("_actions", [])
            items, marker = nova.page(actions, "request_id", query, self.max_limit)
            links = [{"rel": "next", "href": self._link(request, marker)}] if marker else []
            return Answer(body={"instanceActions": items, **({"links": links} if links else {})})
        if one is None or one["status"] == "DELETED":
            words = f"Instance {number} could not be found."
            return Answer(404, {"itemNotFound": {"code": 404, "message": words}})
        return Answer(body={"server": nova.shown(one, request.version)})

    def _flavors(self, servers: Sequence[dict[str, Any]], place: str) -> Answer:
        """Answer what cASO asks of flavors: all of them, and the properties of each."""
        usual = [self.server("", number)["flavor"] for number in range(self.flavors)]
        found = [*usual, *(one["flavor"] for one in servers)]
        known = {flavor["original_name"]: flavor for flavor in found}
        if place.endswith("/os-extra_specs"):
            return Answer(body={"extra_specs": known[place.split("/")[2]]["extra_specs"]})
        listed = [
            {
                "id": name,
                "name": name,
                "vcpus": flavor["vcpus"],
                "ram": flavor["ram"],
                "disk": flavor["disk"],
                "OS-FLV-EXT-DATA:ephemeral": flavor["ephemeral"],
                "swap": "",
                "links": [],
            }
            for name, flavor in known.items()
        ]
        return Answer(body={"flavors": listed})

    def _usage(self, request: Request, found: list[dict[str, Any]]) -> Answer:
        start, end = request.query["start"], request.query["end"]
        most = self.max_limit
        if not nova.has_links(request.version):  # Nova ends there without a word
            rows = [nova.usage(one, start, end) for one in found[:most]]
            return Answer(body={"tenant_usage": {"server_usages": rows} if rows else {}})
        items, marker = nova.page(found, "id", request.query, most)
        rows = [nova.usage(one, start, end) for one in items]
        body: dict[str, Any] = {"tenant_usage": {"server_usages": rows} if rows else {}}
        if marker:
            body["tenant_usage_links"] = [{"rel": "next", "href": self._link(request, marker)}]
        return Answer(body=body)

    def _usage_of_all(self, request: Request, project: str) -> Answer:
        """Answer as Nova's policy does: to administrators with all projects, to others not."""
        if not self.is_administrator:
            rule = "os_compute_api:os-simple-tenant-usage:list"
            words = f"Policy doesn't allow {rule} to be performed."
            return Answer(403, {"forbidden": {"code": 403, "message": words}})
        region = project.rpartition("/")[0]
        start, end = request.query["start"], request.query["end"]
        places = [f"{region}/{name}" if region else name for name in self.projects]
        found = [one for name in places for one in nova.used(self.all_servers(name), start, end)]
        found.sort(key=lambda one: one["id"])
        items, marker = nova.page(found, "id", request.query, self.max_limit)
        groups: dict[str, list[dict[str, Any]]] = {}
        for one in items:
            groups.setdefault(one["tenant_id"], []).append(nova.usage(one, start, end))
        listed = [{"tenant_id": name, "server_usages": rows} for name, rows in groups.items()]
        return self._page("tenant_usages", listed, request, marker)

    def _cinder(self, request: Request, _: str, project: str) -> Answer:
        listed = self.volumes.get(project, [])
        items, marker = nova.page(listed, "id", request.query, self.max_limit)
        return self._page("volumes", items, request, marker)

    def _neutron(self, request: Request, *_: str) -> Answer:
        wanted = request.query.get("project_id")
        listed = [one for one in self.addresses if wanted in (None, one["project_id"])]
        items, marker = nova.page(listed, "id", request.query, self.max_limit)
        return self._page("floatingips", items, request, marker)

    def _glance(self, _: Request, path: str, __: str) -> Answer:
        if path == "/image/v2/schemas/image":  # cASO's client asks for it
            return Answer(body={"name": "image", "properties": {}})
        known = {f"image{number}" for number in range(self.images)}
        number = path.removeprefix("/image/v2/images").strip("/")
        if not number:
            return Answer(body={"images": [_image(one) for one in sorted(known)]})
        if number not in known:
            return Answer(404, {"error": {"code": 404, "message": "Not found"}})
        return Answer(body=_image(number))

    def _page(
        self, key: str, items: Sequence[dict[str, Any]], request: Request, marker: str
    ) -> Answer:
        body: dict[str, Any] = {key: items}
        if marker:
            body[f"{key}_links"] = [{"rel": "next", "href": self._link(request, marker)}]
        return Answer(body=body)

    def _link(self, request: Request, marker: str) -> str:
        return f"{self.url}{request.path}?{urlencode({**request.query, 'marker': marker})}"


_CATALOG = {
    "compute": "compute/v2.1",
    "image": "image",
    "identity": "v3",
    "network": "network",
    "volumev3": "volume/v3/{project}",
}


def _image(number: str) -> dict[str, str]:
    url = f"https://appdb.egi.eu/store/vo/image/{number}:1/"
    return {"id": number, "name": number, "status": "active", "vmcatcher_event_ad_mpuri": url}


_NEVER = datetime(2099, 1, 1, tzinfo=UTC)


def _micro(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _z(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    cloud: Cloud
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it

    def _serve(self) -> None:
        time.sleep(self.cloud.latency.total_seconds())
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        kind, _, wanted = self.headers.get("OpenStack-API-Version", "compute 2.1").partition(" ")
        first, _, second = wanted.partition(".")
        request = Request(
            self.command,
            parts.path,
            query,
            self.headers.get("X-Auth-Token", ""),
            body,
            self.headers.get("Authorization", "").removeprefix("Bearer "),
            self.headers.get("X-Subject-Token", ""),
            (int(first), int(second)),
        )
        assert kind != "compute" or wanted == self.headers.get(
            "X-OpenStack-Nova-API-Version", "2.1"
        )
        if kind == "compute" and request.version > self.cloud.newest:
            newest = ".".join(map(str, self.cloud.newest))
            words = (
                f"Version {wanted} is not supported by the API. "
                f"Minimum is 2.1 and maximum is {newest}."
            )
            self._send(Answer(406, {"computeFault": {"code": 406, "message": words}}))
        else:
            self._send(self.cloud.answer(request))

    def _send(self, answer: Answer) -> None:
        content = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if answer.drops:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self.wfile.write(content)

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Date" or self.cloud.has_dates:
            super().send_header(keyword, value)

    def date_time_string(self, timestamp: float | None = None) -> str:
        region, path = self.cloud._region(self.path)
        service = path.split("/")[1]
        offset = self.cloud.offsets.get(service, self.cloud.clock_offset)
        offset = self.cloud.offsets.get(f"{region}/{service}", offset)
        moment = datetime.now(UTC) + offset if timestamp is None else None
        return super().date_time_string(moment.timestamp() if moment else timestamp)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names


@contextmanager
def serving(cloud: Cloud, *, tls: ssl.SSLContext | None = None) -> Iterator[Cloud]:
    """Serve a cloud on a free port of loopback, over TLS if a context is given."""
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    cloud.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    with answering(server):
        yield cloud
