"""Calls of gRPC that are written frame by frame, so that they may be cut or lie about themselves.

HTTP/2 (RFC 9113) without anything that a server may leave out: header fields are literals (RFC
7541, 6.2.2), and answers are read only as far as a test asks.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS = 1, 4
_CANCEL = 8
_SERVICE = "/cloudkeeper_grpc.Communicator/"


def message(content: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """Return a message with gRPC's prefix, which may state another ``length``."""
    stated = len(content) if length is None else length
    return struct.pack(">BI", compressed, stated) + content


@dataclass
class RawCalls:
    """A connection to the unix socket at ``path``, and its calls."""

    path: str
    _socket: socket.socket = field(init=False)
    _last: int = -1
    """Number of the last stream; those of a client are odd."""

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(self.path)
        self._socket.sendall(_PREFACE)
        self._send(_SETTINGS, 0, 0, b"")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, method: str, body: bytes, *, ends: bool = True, resets: bool = False) -> int:
        """Send the headers and the ``body`` of a call; return the number of its stream.

        It ends as a call does, or is reset, or stays open.
        """
        self._last += 2
        self._send(_HEADERS, _END_HEADERS, self._last, _headers(_SERVICE + method))
        self._send(_DATA, _END_STREAM if ends else 0, self._last, body)
        if resets:
            self._send(_RESET, 0, self._last, struct.pack(">I", _CANCEL))
        return self._last

    def wait(self, stream: int) -> None:
        """Read answers until a stream has ended."""
        while True:
            kind, flags, found = self._receive()
            if found == stream and (kind == _RESET or flags & _END_STREAM):
                return

    def _send(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        length = struct.pack(">I", len(content))[1:]
        self._socket.sendall(length + struct.pack(">BBI", kind, flags, stream) + content)

    def _receive(self) -> tuple[int, int, int]:
        header = self._exactly(9)
        self._exactly(int.from_bytes(header[:3], "big"))
        kind, flags, stream = struct.unpack(">BBI", header[3:])
        return kind, flags, stream

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                raise EOFError("the server closed the connection")
            found += part
        return found


def _headers(path: str) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
