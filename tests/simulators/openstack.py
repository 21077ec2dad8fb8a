"""A cloud with what a real one does not do on demand.

Errors, dropped connections, short pages, expiring tokens, scale.

The protocol is Keystone's, Nova's and Glance's as `caso-extract` uses it; servers are computed, not
stored. A fault is a function that looks at each request and may answer in the service's stead.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    clock_offset: timedelta = timedelta(0)
    fault: Fault = lambda _: None
    requests: Counter[str] = field(default_factory=Counter)
    """Counts by method and first words of the path."""
    url: str = ""
    _tokens: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    _ends: dict[str, datetime] = field(default_factory=dict)
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
        return {
            "id": self.uuid(project, number),
            "name": f"{project}-{number}",
            "status": "DELETED" if is_deleted else "ACTIVE",
            "tenant_id": project,
            "user_id": f"user{number % 5}",
            "created": _z(created),
            "updated": _z(ended if is_deleted else created),
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
                "original_name": "f",
                "extra_specs": {},
            },
            "image": {"id": "image"},
            "addresses": {},
            "metadata": {"padding": "x" * 1000},
        }

    def _updated(self, number: int) -> str:
        changed: str = self.server("", number)["updated"]
        return changed

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
        if request.path.startswith("/compute"):
            return self._nova(request, scope)
        return self._rest(request)

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
        if found := re.fullmatch(r"/v3/users/(\w+)", request.path):
            return Answer(body={"user": {"id": found[1], "name": f"name of {found[1]}"}})
        return Answer(404, {"error": {"code": 404, "message": "Not found"}})

    def _token(self, request: Request) -> Answer:
        scope = request.body["auth"].get("scope", {})
        scope = {} if scope == "unscoped" else scope
        project = scope["project"]["id"] if "project" in scope else "system" if scope else "none"
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
            {
                "type": kind,
                "endpoints": [
                    {
                        "interface": "public",
                        "region": "R",
                        "region_id": "R",
                        "url": f"{self.url}/{path}",
                    }
                ],
            }
            for kind, path in (("compute", "compute/v2.1"), ("image", "image"), ("identity", "v3"))
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

    def _nova(self, request: Request, project: str) -> Answer:
        numbers: Sequence[int] = range(self.deleted, self.servers)
        if since := request.query.get("changes-since"):
            numbers = [
                n
                for n in range(self.servers)
                if since.startswith("1970") or self._updated(n) >= since
            ]
        first = 0
        if marker := request.query.get("marker"):
            first = (
                next(place for place, n in enumerate(numbers) if self.uuid(project, n) == marker)
                + 1
            )
        length = min(int(request.query.get("limit", self.max_limit)), self.max_limit)
        shown = numbers[first : first + length]
        body: dict[str, Any] = {"servers": [self.server(project, number) for number in shown]}
        if len(shown) == length:
            query = "&".join(
                f"{k}={v}"
                for k, v in {**request.query, "marker": self.uuid(project, shown[-1])}.items()
            )
            body["servers_links"] = [{"rel": "next", "href": f"{self.url}{request.path}?{query}"}]
        return Answer(body=body)


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
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        request = Request(
            self.command,
            parts.path,
            query,
            self.headers.get("X-Auth-Token", ""),
            body,
            self.headers.get("Authorization", "").removeprefix("Bearer "),
            self.headers.get("X-Subject-Token", ""),
        )
        wanted = self.headers.get("OpenStack-API-Version", "compute 2.1").removeprefix("compute ")
        assert wanted == self.headers.get("X-OpenStack-Nova-API-Version", "2.1")
        if tuple(map(int, wanted.split("."))) > self.cloud.newest:
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

    def date_time_string(self, timestamp: float | None = None) -> str:
        moment = datetime.now(UTC) + self.cloud.clock_offset if timestamp is None else None
        return super().date_time_string(moment.timestamp() if moment else timestamp)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = _serve  # noqa: N815  http.server's names


@contextmanager
def serving(cloud: Cloud) -> Iterator[Cloud]:
    """Serve a cloud on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"cloud": cloud})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    with answering(server):
        yield cloud
