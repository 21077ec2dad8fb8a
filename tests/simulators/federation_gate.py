"""The web server before a real Keystone: it takes access tokens, as Apache's mod_auth_openidc does.

Everything is passed on. A request to a federation's path is passed on with the claims of its access
token as headers, and refused without one that counts; clients cannot set these headers themselves.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.simulators.answering import answering
from tests.simulators.issuer import Issuer

_HOP = frozenset({"connection", "content-length", "host", "transfer-encoding", "accept-encoding"})
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Gate:
    """The web server, for the Keystone at ``keystone``."""

    issuer: Issuer
    keystone: str
    ca_file: Path
    url: str


class _Handler(BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _HOP and not name.lower().startswith("oidc-")
        }
        if "/OS-FEDERATION/" in self.path:
            if (
                self.headers.get("Authorization", "").removeprefix("Bearer ")
                not in self.gate.issuer.tokens
            ):
                challenge = 'Bearer realm="keystone", error="invalid_token"'
                self._send(401, b"<html>Unauthorized</html>", {"WWW-Authenticate": challenge})
                return
            headers |= {"OIDC-sub": self.gate.issuer.client_id, "OIDC-iss": self.gate.issuer.url}
        tls = ssl.create_default_context(cafile=str(self.gate.ca_file))
        behind = HTTPSConnection(urlsplit(self.gate.keystone).netloc, timeout=_SECONDS, context=tls)
        with contextlib.closing(behind):
            behind.request(self.command, self.path, body or None, headers)
            answer = behind.getresponse()
            content = answer.read()
            told = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            self._send(answer.status, content, told)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_POST = do_HEAD = _serve  # noqa: N815  http.server's names


@contextlib.contextmanager
def serving(issuer: Issuer, keystone: str, ca_file: Path) -> Iterator[Gate]:
    """Serve on a free port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}/v3"
    gate = Gate(issuer, keystone, ca_file, url)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"gate": gate})
    with answering(server):
        yield gate
