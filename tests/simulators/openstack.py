"""A cloud for what a real one does not do on demand: errors, dropped connections, short pages, dying tokens, scale.

The protocol is Keystone's, Nova's and Glance's as `caso-extract` uses it; servers are computed, not stored. A fault is a
function that looks at each request and may answer in the service's stead.
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


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``drops`` closes the connection instead, after half of the body."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    drops: bool = False


Fault = Callable[[Request], Answer | None]


@dataclass(slots=True)
class Cloud:
    """The cloud. ``deleted`` of each project's servers are gone, ``age`` before now the newest was made."""

    projects: tuple[str, ...] = ("one",)
    servers: int = 10
    deleted: int = 3
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    max_limit: int = 1000
    newest: tuple[int, int] = NEWEST
    token_uses: int | None = None
    """After how many requests a token dies."""
    clock_offset: timedelta = timedelta(0)
    fault: Fault = lambda _: None
    requests: Counter[str] = field(default_factory=Counter)
    """Counts by method and first words of the path."""
    url: str = ""
    _tokens: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def server(self, project: str, number: int) -> dict[str, Any]:
        """Return a server as Nova describes it; the first ones of a project are the deleted ones."""
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
            "OS-SRV-USG:launched_at": created.replace(tzinfo=None).isoformat(timespec="microseconds"),
            "OS-SRV-USG:terminated_at": ended.replace(tzinfo=None).isoformat(timespec="microseconds")
            if is_deleted
            else None,
            "flavor": {"vcpus": 2, "ram": 512, "disk": 1, "ephemeral": 0, "original_name": "f", "extra_specs": {}},
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
        if request.path == "/v3/auth/tokens":
            return self._token(request)
        scope = self._scope(request.token)
        if scope is None:
            return Answer(
                401, {"error": {"code": 401, "message": "The request you have made requires authentication."}}
            )
        if request.path.startswith("/compute"):
            return self._nova(request, scope)
        return self._rest(request)

    def _rest(self, request: Request) -> Answer:
        listed = [
            {"id": name, "name": name, "domain_id": "default", "enabled": True, "tags": ["caso"], "VO": f"vo.{name}"}
            for name in self.projects
        ]
        if request.path in ("/v3/auth/projects", "/v3/projects"):
            return Answer(body={"projects": listed, "links": {"next": None}})
        if found := re.fullmatch(r"/v3/users/(\w+)", request.path):
            return Answer(body={"user": {"id": found[1], "name": f"name of {found[1]}"}})
        return Answer(404, {"error": {"code": 404, "message": "Not found"}})

    def _token(self, request: Request) -> Answer:
        scope = request.body["auth"].get("scope", {})
        project = scope["project"]["id"] if "project" in scope else "system" if scope else "none"
        token = uuid.uuid4().hex
        with self._lock:
            self._tokens[token] = (project, self.token_uses or 10**9)
        catalog = [
            {
                "type": kind,
                "endpoints": [{"interface": "public", "region": "R", "region_id": "R", "url": f"{self.url}/{path}"}],
            }
            for kind, path in (("compute", "compute/v2.1"), ("image", "image"), ("identity", "v3"))
        ]
        told: dict[str, Any] = {
            "methods": ["password"],
            "user": {"id": "u", "name": "accounting", "domain": {"id": "default", "name": "Default"}},
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "issued_at": "2026-01-01T00:00:00.000000Z",
        }
        if project != "none":
            told["catalog"] = catalog
        if project == "system":
            told["system"] = {"all": True}
        elif project != "none":
            told["project"] = {"id": project, "name": project, "domain": {"id": "default", "name": "Default"}}
        return Answer(201, {"token": told}, {"X-Subject-Token": token})

    def _scope(self, token: str) -> str | None:
        with self._lock:
            scope, left = self._tokens.get(token, (None, 0))
            if left <= 0:
                return None
            self._tokens[token] = (scope, left - 1)
            return scope

    def _nova(self, request: Request, project: str) -> Answer:
        numbers: Sequence[int] = range(self.deleted, self.servers)
        if since := request.query.get("changes-since"):
            numbers = [n for n in range(self.servers) if since.startswith("1970") or self._updated(n) >= since]
        first = 0
        if marker := request.query.get("marker"):
            first = next(place for place, n in enumerate(numbers) if self.uuid(project, n) == marker) + 1
        length = min(int(request.query.get("limit", self.max_limit)), self.max_limit)
        shown = numbers[first : first + length]
        body: dict[str, Any] = {"servers": [self.server(project, number) for number in shown]}
        if len(shown) == length:
            query = "&".join(f"{k}={v}" for k, v in {**request.query, "marker": self.uuid(project, shown[-1])}.items())
            body["servers_links"] = [{"rel": "next", "href": f"http://internal.invalid{request.path}?{query}"}]
        return Answer(body=body)


def _z(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    cloud: Cloud
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        request = Request(self.command, parts.path, query, self.headers.get("X-Auth-Token", ""), body)
        wanted = self.headers.get("OpenStack-API-Version", "compute 2.1").removeprefix("compute ")
        assert wanted == self.headers.get("X-OpenStack-Nova-API-Version", "2.1")
        if tuple(map(int, wanted.split("."))) > self.cloud.newest:
            newest = ".".join(map(str, self.cloud.newest))
            words = f"Version {wanted} is not supported by the API. Minimum is 2.1 and maximum is {newest}."
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
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield cloud
        finally:
            server.shutdown()
            thread.join()
