"""Image files that a backend on another host fetches over HTTP: the remote mode of 1.7.1.

    file ── http://HOST:PORT/TOKEN/NAME, user name and password ──> backend, once

1.7.1 starts nginx for that, and 2.0 as well; here it is a server of the run itself. Each image has
a path that nobody can guess, and a password of its own, for the time of its call. It is sent to one
client at a time and, once it has been sent whole, not again. A client may go on where a connection
broke (``Range``). HTTP is not encrypted: the backend compares the digest, which it gets by the
call; for TLS a proxy stands before this server.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.server
import os
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Self
from urllib.parse import quote

from appliance.core import hosts
from appliance.core.run.errors import LocalFailure, Unavailable
from cloudkeeper.frontend.backend_client import digested
from cloudkeeper.frontend.remote_place import RemotePlace
from cloudkeeper.model import ImageData, TransferMode

_USER = "backend"
# For the request, which a client sends at once, and for each block.
_REQUEST, _BLOCK_WAIT = timedelta(seconds=20), timedelta(minutes=5)
_SETTLED = timedelta(seconds=10)
# For a client that asks again at once.
_NEXT = timedelta(seconds=1)
# Connections at a time that have not asked for an image yet; for a further one, the oldest is
# closed. A backend asks at once, and strangers can hold none of its connections back.
_MOST = 32
# Requests of one image with the right password: a client goes on after a broken connection.
_ATTEMPTS = 100
_BLOCK = 2**20
_POLL = timedelta(milliseconds=50)
_RANGE = re.compile(r"bytes=([0-9]{1,18})-")


class OfferedFile:
    """A file that one client may fetch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.password = secrets.token_urlsafe(32)
        self.sent = threading.Event()
        """Set once it has been sent whole."""
        self._attempts = 0
        self._turn = threading.Lock()

    def is_settled(self) -> bool:
        """Return whether it has been sent whole, or not been asked for at all.

        A backend that has these data already does not ask. One that has them just now may report
        that before the thread that has sent them goes on.
        """
        return not self._attempts or self.sent.wait(_SETTLED.total_seconds())

    @contextlib.contextmanager
    def taken(self, authorization: str) -> Iterator[HTTPStatus]:
        """Yield whether a client may have the file now: OK, or the answer to give instead."""
        secret = base64.b64encode(f"{_USER}:{self.password}".encode()).decode("ascii")
        if not hmac.compare_digest(authorization.encode(), f"Basic {secret}".encode()):
            yield HTTPStatus.UNAUTHORIZED
            return
        self._attempts += 1
        # The one before may have been answered, and its thread not have gone on yet.
        is_free = self._turn.acquire(timeout=_NEXT.total_seconds())
        try:
            is_over = self.sent.is_set() or self._attempts > _ATTEMPTS
            free = HTTPStatus.OK if is_free else HTTPStatus.SERVICE_UNAVAILABLE
            yield HTTPStatus.GONE if is_over else free
        finally:
            if is_free:
                self._turn.release()


class RemoteImages:
    """A server at an address of this host, for the time of a run.

    Raises:
        LocalFailure: nothing can be served there.

    """

    def __init__(self, place: RemotePlace) -> None:
        self._place = place
        self._files: dict[str, OfferedFile] = {}
        try:
            self._server = _RemoteServer(place, self._files)
        except OSError as error:
            where = hosts.join_port(place.address, place.port)
            words = f"images cannot be served there: {(error.strerror or str(error)).lower()}"
            remedy = "in cloudkeeper.yml set nginx: ip-address: to an address of this host, and "
            raise LocalFailure(where, words, f"{remedy}port: to a free port") from error

    def __enter__(self) -> Self:
        wait = _POLL.total_seconds()
        threading.Thread(target=self._server.serve_forever, args=(wait,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def offered(self, data: ImageData) -> Iterator[ImageData]:
        """Serve a file during the block; yield where and how the backend gets it.

        Raises:
            Unavailable: the backend reports success, and has not fetched the whole file.
            LocalFailure: the file cannot be read.

        """
        data = data if data.checksum else digested(data)
        path = Path(data.location)
        offered, token = OfferedFile(path), secrets.token_urlsafe(32)
        where = f"/{token}/{quote(path.name)}"
        self._files[where] = offered
        try:
            yield replace(
                data,
                location=f"{self._place.url}{where}",
                mode=TransferMode.REMOTE,
                username=_USER,
                password=offered.password,
            )
        finally:
            del self._files[where]
        if not offered.is_settled():
            # 0.9 does not compare sizes, so it would offer what has arrived.
            words = "the backend reports success, but has not fetched the whole image"
            raise Unavailable(path.name, words, "look at the image in Glance, and delete it")


class _RemoteServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, place: RemotePlace, files: dict[str, OfferedFile]) -> None:
        # The family is that of the address.
        found = socket.getaddrinfo(place.address, place.port, type=socket.SOCK_STREAM)
        self.address_family = found[0][0]
        self.files = files
        self._strangers: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(found[0][4][:2], _RemoteHandler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client in a thread of its own, in place of the one that has waited longest."""
        with self._lock:
            is_full = len(self._strangers) >= _MOST
            oldest = next(iter(self._strangers)) if is_full else None
            self._strangers.pop(oldest, None)
            self._strangers[request] = None
        if oldest:
            with contextlib.suppress(OSError):  # it has ended
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def admit(self, request: Any) -> None:
        """Note that a client is one that an image is offered to, or that it has ended."""
        with self._lock:
            self._strangers.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.admit(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: the client has left, and the backend reports that."""


class _RemoteHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _REQUEST.total_seconds()
    server: _RemoteServer

    def do_GET(self) -> None:
        self.close_connection = True
        if (offered := self.server.files.get(self.path)) is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with offered.taken(self.headers.get("Authorization", "")) as status:
            if status is not HTTPStatus.OK:
                self._refuse(status)
                return
            self.server.admit(self.connection)
            with offered.path.open("rb") as file:
                self._send(file, offered)

    def _send(self, file: BinaryIO, offered: OfferedFile) -> None:
        size = os.fstat(file.fileno()).st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        if first >= size:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return
        self.connection.settimeout(_BLOCK_WAIT.total_seconds())
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        self.connection.sendfile(file, first)
        offered.sent.set()

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="images"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the backend reports what it was answered."""
