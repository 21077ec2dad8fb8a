"""An OpenID Connect issuer: discovery and the token endpoint, with faults on demand."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.simulators.answering import answering
from tests.simulators.openstack import Answer

DISCOVERY = "/.well-known/openid-configuration"
TOKEN = "/token"


@dataclass(slots=True)
class Issuer:
    """The issuer; ``fault`` looks at each path and may answer in its stead."""

    client_id: str = "accounting-client"
    secret: str = "geheim-0815"
    allowed: int | None = None
    """How many access tokens it gives before it answers 429."""
    fault: Callable[[str], Answer | None] = lambda _: None
    requests: Counter[str] = field(default_factory=Counter)
    """Counts by path."""
    refresh_tokens: frozenset[str] = frozenset()
    """Those that it takes."""
    tokens: set[str] = field(default_factory=set)
    """Access tokens that still count."""
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def discovery(self) -> str:
        """Return the URL of the discovery document."""
        return f"{self.url}{DISCOVERY}"

    def answer(self, path: str, form: dict[str, str], basic: str) -> Answer:
        """Answer a request."""
        with self._lock:
            self.requests[path] += 1
        if found := self.fault(path):
            return found
        if path == DISCOVERY:
            grants = ["client_credentials", "password"]
            return Answer(
                body={
                    "issuer": self.url,
                    "token_endpoint": f"{self.url}{TOKEN}",
                    "grant_types_supported": grants,
                }
            )
        if path != TOKEN:
            return Answer(404, {"error": "no such page"})
        if basic != f"{self.client_id}:{self.secret}":
            return Answer(401, {"error": "invalid_client", "error_description": "Bad credentials"})
        return self._give(form)

    def _give(self, form: dict[str, str]) -> Answer:
        assert form["grant_type"] in ("client_credentials", "password", "refresh_token")
        refresh = form.get("refresh_token")
        if form["grant_type"] == "refresh_token" and refresh not in self.refresh_tokens:
            return Answer(400, {"error": "invalid_grant", "error_description": "Invalid token"})
        with self._lock:
            if self.allowed is not None and len(self.tokens) >= self.allowed:
                return Answer(429, {"error": "slow_down"}, {"Retry-After": "1"})
            token = uuid.uuid4().hex
            self.tokens.add(token)
        return Answer(body={"access_token": token, "token_type": "Bearer", "id_token": "x.y.z"})


class _Handler(BaseHTTPRequestHandler):
    issuer: Issuer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        form = {
            name: values[-1] for name, values in parse_qs(self.rfile.read(length).decode()).items()
        }
        kind, _, account = self.headers.get("Authorization", "").partition(" ")
        basic = base64.b64decode(account).decode() if kind == "Basic" else ""
        answer = self.issuer.answer(self.path, form, basic)
        content = (
            answer.body.encode()
            if isinstance(answer.body, str)
            else json.dumps(answer.body).encode()
        )
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = _serve  # noqa: N815  http.server's names


@contextlib.contextmanager
def serving(issuer: Issuer) -> Iterator[Issuer]:
    """Serve an issuer on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"issuer": issuer})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    with answering(server):
        yield issuer
