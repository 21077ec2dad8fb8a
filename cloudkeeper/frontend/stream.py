"""An image that the backend fetches from us while we fetch it from its server: never a file.

    server ─ first MiB: format, headers ─ HTTP over NAME.sock ─ backend: digests ─ Glance
           └ the rest ─ marks of formats ─┘

The socket lives in the image directory, which the backend's container sees, too, and is open to our
account only. One request with the right token gets the image; every other one is refused. The last
block is sent only when the server has ended the image well, so a broken download is never stored.
The digest is the backend's work, which reports it (`cloudkeeper.frontend.backend_client`).

In direct mode the backend is in this process, and takes the blocks in place of a connection.
"""

from __future__ import annotations

import base64
import contextlib
import contextvars
import hmac
import http.server
import os
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from appliance.core import hosts
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper.formats import Marks, Unusable
from cloudkeeper.model import Format, ImageData, TransferMode
from cloudkeeper.wire import image_socket

_USER = "backend"
_MODE = 0o600
# For the request, which a client sends at once.
_REQUEST = timedelta(seconds=20)
# For a block: the backend waits no longer for Glance either.
_BLOCK = timedelta(minutes=5)
# Between two looks at whether the server is to end.
_POLL = timedelta(milliseconds=50)
# Characters of a digest in a message: the algorithm and 64 bits.
_SHOWN = len("sha512:") + 16
# For the download to notice that nobody takes its blocks any more.
_END = timedelta(seconds=90)


class NeedsFile(ApplianceError):
    """An image that cannot be streamed; as a file it may succeed, or be refused for good."""


class WrongFile(Tampered):
    """A file that came whole, and is another one than its source describes."""


@dataclass(frozen=True, slots=True)
class Received:
    """An image whose first bytes have arrived; ``name`` stands for its URL in messages.

    ``start`` are its first `START` bytes, or all; ``rest`` yields the others. ``size`` is None if
    neither source nor server says it.
    """

    name: str
    size: int | None
    start: bytes
    rest: Iterator[bytes]


def shown(uri: str) -> str:
    """Return a URL without the parts that may be secret: user name, password and query."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, hosts.of_url(uri), parts.path, "", ""))


def digest_differs(name: str, found: str, wanted: str) -> WrongFile:
    """Return the failure for an image with another digest than its source says."""
    cause = f"its digest is {found[:_SHOWN]}…, the source says {wanted[:_SHOWN]}…"
    return WrongFile(name, cause)


class OfferedStream:
    """An image that one client may fetch, once.

    Raises:
        Unusable: its first bytes have marks that Glance does not accept.

    """

    def __init__(self, received: Received, found: Format) -> None:
        self.failure: Exception | None = None
        """The reason why the image could not be passed on, if it lies on our side."""
        self._received = received
        self._marks = Marks(found, name=received.name)
        self._marks.feed(received.start)
        if self._marks.objection:
            raise Unusable(received.name, self._marks.objection)
        self._format = found
        self._password = secrets.token_urlsafe(32)
        self._authorization = _authorization(_USER, self._password)
        self._lock = threading.Lock()
        # The deadline of the download is a variable of this context, for connections that resume.
        self._context = contextvars.copy_context()

    @contextlib.contextmanager
    def serving(self, path: Path, *, checksum: str, uri: str) -> Iterator[ImageData]:
        """Serve the image at a socket during the block; yield what the backend needs to know.

        Raises:
            OSError: the socket cannot be made.
            ApplianceError: the block failed because the download did.

        """
        assert self._received.size  # noqa: S101  a stream of unknown size is not offered
        with _bound(path, self) as server, image_socket.offered_here(path, self.taken):
            thread = threading.Thread(
                target=server.serve_forever, args=(_POLL.total_seconds(),), daemon=True
            )
            thread.start()
            try:
                yield ImageData(
                    image_socket.to_location(path),
                    self._format,
                    checksum,
                    self._received.size,
                    uri=uri,
                    mode=TransferMode.REMOTE,
                    username=_USER,
                    password=self._password,
                )
            except Exception as error:
                server.shutdown()  # from here on there are no new clients
                # A client's thread may have the reason.
                server.end_clients(wait=_END)
                if isinstance(self.failure, Unusable):
                    # Its digest is not verified yet; only that of a file can be remembered.
                    raise NeedsFile(self.failure.subject, self.failure.cause) from error
                if self.failure is not None:
                    raise self.failure from error
                raise
            finally:
                server.shutdown()
                thread.join()
                server.end_clients(wait=timedelta())

    def take(self, authorization: str) -> bool:
        """Return whether a client may have the image, by its header; this is true once."""
        is_right = hmac.compare_digest(authorization.encode(), self._authorization.encode())
        with self._lock:
            if is_right and self._authorization:
                self._authorization = ""
                return True
        return False

    def taken(self, username: str, password: str) -> Iterator[bytes] | None:
        """Return the blocks of `blocks` for a backend in this process, once; None: not for it."""
        return self.blocks() if self.take(_authorization(username, password)) else None

    def pass_on(self, send: Callable[[bytes], object]) -> None:
        """Send the image, while the client takes it."""
        for block in self.blocks():
            try:
                send(block)
            except OSError:  # the client has closed the connection, or takes nothing more
                return

    def blocks(self) -> Iterator[bytes]:
        """Yield the image, its last block only if all is well; a failure is kept, and ends it."""
        passed = self._passed()
        try:
            while block := self._context.run(next, passed, b""):
                yield block
        except Exception as error:  # noqa: BLE001  it is raised in the thread of `serving`
            self.failure = error

    @property
    def size(self) -> int:
        """The number of bytes of the image."""
        return self._received.size or 0

    def _passed(self) -> Iterator[bytes]:
        name, held = self._received.name, self._received.start
        received = len(held)
        for block in self._received.rest:
            received += len(block)
            if received > self.size:
                break
            self._marks.feed(block)
            yield held
            held = block
        if received > self.size:
            raise Unavailable(name, f"the server sent more than {self.size} bytes")
        if received != self.size:
            words = f"the server sent {received} bytes, the source says {self.size}"
            raise WrongFile(name, words)
        self._marks.finish()
        if self._marks.objection:
            raise Unusable(name, f"Glance would refuse it as it is: {self._marks.objection}")
        yield held


def _authorization(username: str, password: str) -> str:
    secret = base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
    return f"Basic {secret}"


class _Server(socketserver.UnixStreamServer):
    """Answers each client in a thread of its own, so that none keeps the backend waiting."""

    def __init__(self, offered: OfferedStream) -> None:
        super().__init__("", _Handler, bind_and_activate=False)
        self.offered = offered
        self._clients: list[tuple[threading.Thread, socket.socket]] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._answer, args=(request, client_address), daemon=True)
        thread.start()
        self._clients.append((thread, request))

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the client has left
            pass
        finally:
            self.shutdown_request(request)

    def end_clients(self, *, wait: timedelta) -> None:
        """Disconnect the clients, and wait for their threads."""
        for thread, connection in self._clients:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(wait.total_seconds())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _REQUEST.total_seconds()
    server: _Server

    def do_GET(self) -> None:
        offered = self.server.offered
        self.close_connection = True
        if not offered.take(self.headers.get("Authorization", "")):
            self.send_response(HTTPStatus.FORBIDDEN)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.connection.settimeout(_BLOCK.total_seconds())
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(offered.size))
        self.end_headers()
        offered.pass_on(self.connection.sendall)

    def log_message(self, *_: object) -> None:
        """Log nothing: the backend reports the answers."""


@contextlib.contextmanager
def _bound(path: Path, offered: OfferedStream) -> Iterator[_Server]:
    """Bind a server to a path, by way of the directory: a socket's own path must be short."""
    with _Server(offered) as server:
        # The mode of the new file; with chmod, others could connect before it.
        os.fchmod(server.fileno(), _MODE)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            server.socket.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        try:
            server.server_activate()
            yield server
        finally:
            path.unlink(missing_ok=True)
