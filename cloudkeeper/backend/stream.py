"""An image that a frontend offers over HTTP once: it goes to Glance as it comes, without a file.

    frontend ─ HTTP over a unix socket, or from a configured host ─┬─ format, marks ─┬─ Glance
                                                                   └─ digests ───────┘

Only sockets below the image directory are connected to, and only web servers that the backend's
own configuration names: a frontend cannot make the backend read from other places. Redirections
are not followed. The blocks pass through a ring of buffers, so the memory does not grow with the
image. In direct mode the frontend is in this process, and hands over the blocks themselves.
"""

from __future__ import annotations

import abc
import base64
import contextlib
import http.client
import os
import socket
import ssl
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from urllib.parse import SplitResult, urlsplit

from appliance.core import causes, hosts
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.digests import PENDING, Digests
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.image_data import (
    BLOCK,
    algorithm_of,
    check_digest,
    stopping,
    transfer_failure,
    unusable,
)
from cloudkeeper.formats import (
    START,
    STREAMED,
    Marks,
    Unusable,
    check_virtual_size,
    inspect_start,
)
from cloudkeeper.model import Format, ImageData
from cloudkeeper.wire import image_socket

_CONNECT = timedelta(seconds=20)
# Silence of the frontend after which it counts as dead; it resumes a broken download meanwhile.
_SILENCE = timedelta(minutes=5)
# Bytes a second: half of the slowest rate that the frontend accepts from a server.
_SLOWEST = 128 * 1024
# Between two looks at whether the stream is still wanted.
_POLL = timedelta(seconds=1)
_NOTHING: Mapping[str, str] = MappingProxyType({})


class FetchedStream:
    """Image data that arrive from a connection; they can be sent once.

    The first block has been read before: it has the headers. ``is_wanted`` is asked for each block.
    """

    is_repeatable = False

    def __init__(self, received: StreamReader, data: ImageData, *, algorithm: str) -> None:
        self._received = received
        self._data = data
        self._algorithms = sorted({algorithm_of(data), algorithm})
        self._is_started = False
        # One buffer more than the threads may still be hashing.
        self._ring = [memoryview(bytearray(min(BLOCK, data.size))) for _ in range(PENDING + 1)]
        self.digests: Mapping[str, str] = _NOTHING

    def __len__(self) -> int:
        return self._data.size

    def open(self) -> None:
        """Read the first block and check the headers in it.

        Raises:
            Failed: the stream breaks, or the image has another format than the frontend says.

        """
        assert BLOCK >= START  # noqa: S101  the first block holds all headers
        data, start = self._data, self._ring[0]
        self._received.fill(start)
        try:
            found = inspect_start(start.tobytes(), name="stream", declared=data.format)
            if found is Format.RAW:
                check_virtual_size("stream", data.size)
        except Unusable as error:
            raise unusable(data, error) from error
        if found is not data.format:
            raise transfer_failure(data, f"is {found}, but the frontend sent {data.format}")
        if found not in STREAMED:
            raise transfer_failure(data, f"is {found}, which needs a file", wants_file=True)

    def __iter__(self) -> Iterator[memoryview]:
        if self._is_started:
            raise transfer_failure(self._data, "Glance asked for the image twice", wants_file=True)
        self._is_started = True
        marks = Marks(self._data.format, name="stream")
        with Digests(self._algorithms) as digests:
            for block, is_last in self._blocks():
                try:
                    marks.feed(block)
                    if is_last:
                        marks.finish()
                except Unusable as error:
                    raise unusable(self._data, error) from error
                digests.update(block)
                if is_last:
                    found = digests.finish()
                    check_digest(self._data, found)
                yield block
        self.digests = found

    def digest(self, algorithm: str) -> str:
        """Return the digest of the bytes that were sent; see `ImageBytes`."""
        if algorithm not in self.digests:
            raise transfer_failure(
                self._data, f"Glance verifies images by {algorithm}", wants_file=True
            )
        return self.digests[algorithm]

    def _blocks(self) -> Iterator[tuple[memoryview, bool]]:
        left, number = self._data.size, 0
        while left:
            block = self._ring[number % len(self._ring)][:left]
            if number:
                self._received.fill(block)
            left, number = left - len(block), number + 1
            yield block, not left


class StreamReader(abc.ABC):
    """Fills buffers from an image that arrives, while it is wanted and does not stall."""

    def __init__(self, data: ImageData, is_wanted: Callable[[], bool]) -> None:
        self._data, self._is_wanted = data, is_wanted
        self._received = 0
        self._end = time.monotonic() + _SILENCE.total_seconds() + data.size / _SLOWEST

    @abc.abstractmethod
    def _receive(self, block: memoryview) -> int | None:
        """Return the number of bytes received, 0 at the end; None if none came for a moment."""

    def fill(self, block: memoryview) -> None:
        """Fill a buffer.

        Raises:
            Failed: the stream ends or stalls, or it is no longer wanted.

        """
        at, heard = 0, time.monotonic()
        while at < len(block):
            if not self._is_wanted():
                raise stopping(self._data)
            got = self._receive(block[at:])
            now = time.monotonic()
            if got is None and now - heard > _SILENCE.total_seconds():
                seconds = int(_SILENCE.total_seconds())
                raise self._broken(f"nothing came for {seconds} s")
            if now > self._end:
                raise self._broken("it is too slow")
            if got == 0:
                raise self._broken("the frontend ended it")
            if got:
                heard, at = now, at + got
                self._received += got

    def _broken(self, cause: str) -> Exception:
        words = f"ended after {self._received} of {self._data.size} bytes: {cause}"
        return transfer_failure(self._data, f"{words}; nothing was stored")


class HandedReader(StreamReader):
    """Fills buffers from the blocks of a frontend in this process."""

    def __init__(
        self, blocks: Iterator[bytes], data: ImageData, is_wanted: Callable[[], bool]
    ) -> None:
        super().__init__(data, is_wanted)
        self._blocks = blocks
        self._left = memoryview(b"")

    def _receive(self, block: memoryview) -> int:
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        got = min(len(block), len(self._left))
        block[:got] = self._left[:got]
        self._left = self._left[got:]
        return got


class BodyReader(StreamReader):
    """Fills buffers from the body of an answer."""

    def __init__(
        self,
        response: http.client.HTTPResponse,
        sock: socket.socket,
        data: ImageData,
        is_wanted: Callable[[], bool],
    ) -> None:
        super().__init__(data, is_wanted)
        self._socket = sock
        # What http.client has read beyond the header; the rest is read into our buffers.
        self._buffered = response.fp
        self._held = _held(self._buffered, sock)
        sock.settimeout(None)
        # Unlike Python's own timeout, the kernel's lets a buffer be filled in one call.
        timeval = struct.pack("@ll", _POLL.seconds, _POLL.microseconds)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        # With TLS there are no flags.
        self._flags = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL

    def _receive(self, block: memoryview) -> int | None:
        if self._held:
            got = self._buffered.readinto(block[: self._held])
            self._held -= got
            return got
        try:
            return self._socket.recv_into(block, len(block), self._flags)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:
            raise self._broken((error.strerror or str(error)).lower()) from error


def _held(buffered: BufferedReader, sock: socket.socket) -> int:
    """Return the number of bytes that have been read into a buffer; wait for none."""
    sock.settimeout(0)  # an empty buffer asks the socket, and the first block may take minutes
    try:
        return len(buffered.peek())
    except ssl.SSLWantReadError:
        return 0


@contextlib.contextmanager
def open_stream(
    data: ImageData, *, places: DataPlaces, is_wanted: Callable[[], bool], algorithm: str
) -> Iterator[FetchedStream]:
    """Ask the frontend for an image, and read its first block.

    ``algorithm`` is that of the digest that Glance computes.

    Raises:
        Failed: the place is not allowed or does not answer, or its image is not the one of the
            call.

    """
    if data.size <= 0:
        raise transfer_failure(data, "has no size, so its end cannot be recognised")
    with _received(data, places, is_wanted) as received:
        stream = FetchedStream(received, data, algorithm=algorithm)
        try:
            stream.open()
            yield stream
        except Failed as error:
            # Only a frontend that streams over a socket can send a file instead.
            error.wants_file &= image_socket.socket_of(data.location) is not None
            raise


@contextlib.contextmanager
def _received(
    data: ImageData, places: DataPlaces, is_wanted: Callable[[], bool]
) -> Iterator[StreamReader]:
    path = image_socket.socket_of(data.location)
    if path and places.is_with_frontend:
        blocks = image_socket.taken_here(path, data.username, data.password)
        if blocks is None:
            raise transfer_failure(data, "the frontend does not offer it", wants_file=True)
        yield HandedReader(blocks, data, is_wanted)
        return
    with contextlib.closing(_connection(data, places)) as connection:
        response, sock = _ask(connection, data)
        with response:
            yield BodyReader(response, sock, data, is_wanted)


def _connection(data: ImageData, places: DataPlaces) -> http.client.HTTPConnection:
    if path := image_socket.socket_of(data.location):
        try:
            is_inside = path.parent.resolve().is_relative_to(places.directory.resolve())
        except (OSError, ValueError):  # a loop of links, or a NUL in the path
            is_inside = False
        if not is_inside:
            raise _outside(data, places)
        return _SocketConnection(path, data, places)
    try:
        parts = urlsplit(data.location)
        names = {parts.hostname, parts.netloc.rpartition("@")[2].lower()}
        port = parts.port
    except ValueError:
        raise transfer_failure(data, "its location is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise transfer_failure(data, "its location is not a URL of a web server")
    if not names & places.remote_hosts:
        raise transfer_failure(
            data,
            f"images from {parts.hostname} are not allowed",
            "add it to remote_hosts in cloudkeeper-os.conf, or in cloudkeeper.yml set "
            "remote-mode: false",
        )
    return _web_connection(parts, port, places)


def _outside(data: ImageData, places: DataPlaces) -> Failed:
    return transfer_failure(
        data,
        f"its socket is not below the image directory {places.directory}",
        "set image_dir to the image-dir of the frontend",
        wants_file=True,
    )


def _web_connection(
    parts: SplitResult, port: int | None, places: DataPlaces
) -> http.client.HTTPConnection:
    host, seconds = parts.hostname or "", _CONNECT.total_seconds()
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=seconds)
    context = ssl.create_default_context()
    if places.authorities:
        context.load_verify_locations(places.authorities)
    return http.client.HTTPSConnection(host, port, timeout=seconds, context=context)


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, data: ImageData, places: DataPlaces) -> None:
        super().__init__("frontend", timeout=_CONNECT.total_seconds())
        self._path, self._data, self._places = path, data, places

    def connect(self) -> None:
        """Connect by way of a descriptor: a socket's own path must be short.

        It is checked once it is open, because a link may be exchanged at any time.

        Raises:
            Failed: the socket is not below the image directory, or is a link.

        """
        descriptor = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            place = Path(f"/proc/self/fd/{descriptor}")
            is_inside = place.readlink().is_relative_to(self._places.directory.resolve())
            if not is_inside or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                raise _outside(self._data, self._places)
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(place))
        finally:
            os.close(descriptor)


def _ask(
    connection: http.client.HTTPConnection, data: ImageData
) -> tuple[http.client.HTTPResponse, socket.socket]:
    """Return the header of the answer, and the socket that its body comes from."""
    secret = base64.b64encode(f"{data.username}:{data.password}".encode()).decode("ascii")
    headers = {"Authorization": f"Basic {secret}"} if data.username or data.password else {}
    parts = urlsplit(data.location)
    target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    try:
        connection.connect()
        sock = connection.sock  # the connection drops it when the server wants to close
        assert sock is not None  # noqa: S101  it is connected
        connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers})
        response = connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = getattr(error, "strerror", None) or causes.of_connection(error)
        where = hosts.of_url(data.location) if image_socket.socket_of(data.location) is None else ""
        raise transfer_failure(
            data,
            f"cannot be fetched{' from ' if where else ''}{where}: {words.lower()}",
            "check that frontend and backend share the image directory" if not where else "",
            wants_file=not where,
        ) from error
    if response.status != http.client.OK:
        words = f"the frontend answers {response.status} {response.reason[:80]}".rstrip()
        raise transfer_failure(data, words)
    if response.length != data.size:
        raise transfer_failure(
            data, f"has {response.length} bytes, but the frontend sent {data.size}"
        )
    return response, sock
