"""An HTTPS server of image lists and images that can also misbehave.

    with serve(credential) as server:
        server.put("/list", b"…", token="secret")
        server.put("/big.qcow2", path)             # a file, sent in blocks
        server.put("/moved", Redirect("https://…"))
        server.put("/short", Broken(b"half of it", announced=100))
    server.put("/ranges", Ranged(b"…", cut=10))  # ranges and conditions, as RFC 9110 has them
        fetch(server.url("/list"))
        server.requests                            # [("GET", "/list", headers), …]

Its certificate is the one given; without one it speaks plain HTTP.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulators.answering import answering
from tests.testbed.pki import Credential


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer 302 to another place."""

    location: str


@dataclass(frozen=True, slots=True)
class Broken:
    """Announce ``announced`` bytes (None: no length), send ``content``, and disconnect."""

    content: bytes
    announced: int | None


@dataclass(frozen=True, slots=True)
class Slow:
    """Send ``content`` with ``pause`` seconds between its bytes."""

    content: bytes
    pause: float


@dataclass(frozen=True, slots=True)
class Dripping:
    """Send ``begin``, then ``drop`` again and again until the client closes the connection."""

    begin: bytes
    drop: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status ``times`` times, then with ``then``."""

    code: int
    times: int = 1_000_000
    then: bytes = b""


@dataclass(slots=True)
class Ranges:
    """An answer to a request for a range, which a test may change before it is sent."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ranged:
    """Serve ranges and conditions; disconnect after ``cut`` bytes of each body.

    ``twist`` gets each answer and the number of the request, from 0.
    """

    content: bytes
    etag: str = '"v1"'
    modified: str = ""
    cut: int | None = None
    resets: bool = False
    """Disconnect by a reset of the connection."""
    chunked: bool = False
    twist: Callable[[Ranges, int], object] = lambda _answer, _number: None

    def answer(self, headers: Mapping[str, str]) -> Ranges:
        """Return the answer to a request (RFC 9110, 13.1 and 14.2)."""
        version = {"ETag": self.etag, "Last-Modified": self.modified}
        version = {name: value for name, value in version.items() if value}
        known = headers.get("If-None-Match") or headers.get("If-Modified-Since")
        if known and known in version.values():
            return Ranges(304, version, b"")
        found = re.fullmatch("bytes=([0-9]+)-", headers.get("Range", ""))
        wanted = headers.get("If-Range")
        if found is None or (wanted and wanted not in version.values()):
            return Ranges(200, version, self.content)
        start, total = int(found[1]), len(self.content)
        if start >= total:
            return Ranges(416, version | {"Content-Range": f"bytes */{total}"}, b"")
        place = {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        return Ranges(206, version | place, self.content[start:])


_Simple = bytes | Path | Redirect | Broken | Slow | Dripping | Status
Content = _Simple | Ranged


@dataclass(slots=True)
class ImageServer:
    """The contents by path, and the requests."""

    base: str
    contents: dict[str, Content | Callable[[int], Content]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)

    def put(
        self, path: str, content: Content | Callable[[int], Content], *, token: str = ""
    ) -> str:
        """Serve ``content`` at ``path``, with ``token`` only if there is one; return the URL.

        A function gets the number of the request for this path, from 0, and returns the content.
        """
        self.contents[path] = content
        if token:
            self.tokens[path] = token
        return self.url(path)

    def url(self, path: str) -> str:
        return f"{self.base}{path}"

    def asked(self, path: str) -> int:
        """Return the number of requests for a path."""
        return sum(asked == path for _, asked, _ in self.requests)


class _Responder(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer in two segments takes 40 ms with it
    server: _Server

    def do_GET(self) -> None:
        world = self.server.world
        world.requests.append(("GET", self.path, dict(self.headers)))
        content = world.contents.get(self.path)
        if callable(content):
            content = content(world.asked(self.path) - 1)
        if (token := world.tokens.get(self.path)) and not self._is_known(token):
            content = Status(401)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            if isinstance(content, Ranged):
                self._send_ranges(content)
            else:
                self._answer(content)

    def _is_known(self, token: str) -> bool:
        wanted = base64.b64encode(f"{token}:x-oauth-basic".encode()).decode()
        return self.headers.get("Authorization") == f"Basic {wanted}"

    def _answer(self, content: _Simple | None) -> None:
        match content:
            case bytes() | Path():
                self._send(content)
            case Redirect(location):
                self._begin(302, 0, location=location)
            case Broken(text, announced):
                self._begin(200, announced)
                self.wfile.write(text)
                self.close_connection = True
            case Slow(text, pause):
                self._begin(200, len(text))
                for number in range(len(text)):
                    self.wfile.write(text[number : number + 1])
                    time.sleep(pause)
            case Dripping():
                self._drip(content)
            case Status(code, times, then):
                if self.server.world.asked(self.path) > times:
                    self._send(then)
                else:
                    self._begin(code, 0)
            case None:
                self._begin(404, 0)

    def _send_ranges(self, content: Ranged) -> None:
        answer = content.answer(dict(self.headers))
        content.twist(answer, self.server.world.asked(self.path) - 1)
        self.send_response(answer.status)
        if content.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.status != 304:
            answer.headers.setdefault("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = answer.body if content.cut is None else answer.body[: content.cut]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if content.chunked else body)
        if len(body) == len(answer.body):
            self.wfile.write(b"0\r\n\r\n" if content.chunked else b"")
            return
        self.close_connection = True
        if content.resets:
            time.sleep(0.01)  # a reset may overtake bytes that the client has not read yet
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _drip(self, content: Dripping) -> None:
        self.wfile.write(content.begin)
        while True:
            self.wfile.write(content.drop)
            time.sleep(0.01)

    def _send(self, content: bytes | Path) -> None:
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            self._begin(200, len(content) if isinstance(content, bytes) else content.stat().st_size)
            while block := file.read(2**20):
                self.wfile.write(block)

    def _begin(self, code: int, length: int | None, *, location: str = "") -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    world: ImageServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: clients of these tests disconnect if they do not trust the certificate."""


@contextlib.contextmanager
def serve(credential: Credential | None, *, host: str = "localhost") -> Iterator[ImageServer]:
    """Serve on a free port of loopback during the block; ``host`` is the name in its URLs."""
    server = _Server(("127.0.0.1", 0), _Responder)
    scheme = "http"
    if credential:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(credential.certificate, credential.key)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    server.world = ImageServer(f"{scheme}://{host}:{server.server_address[1]}")
    with answering(server):
        yield server.world
