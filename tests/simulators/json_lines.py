"""A service that takes lines of JSON over TCP, as Logstash does, with faults."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LineService:
    """The service: what came whole, line by line, and how it fails."""

    port: int = 0
    fault: str = ""
    """``reset``: it reads some bytes and resets the connection; ``answer``: it answers before that;
    ``hang``: it reads nothing; ``never close``: it keeps the connection open; ``close first``,
    ``close meanwhile``: it closes its side without reading, before the end of the other side or
    while that is on its way."""
    documents: list[dict[str, Any]] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    """After a connection of the faults that close first."""
    cut: list[bytes] = field(default_factory=list)
    """Lines without an end, of a program that was killed."""
    connections: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the end."""
        while not self._stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        if self.fault in {"reset", "answer"}:
            connection.recv(10)
            if self.fault == "answer":
                connection.sendall(b"no such input\n")
            # An abortive close: the other side gets a RST.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if self.fault == "hang":
            self._stop.wait(5)
            return
        if self.fault in {"close first", "close meanwhile"}:
            # The small buffer of `serving` keeps the other side's end from arriving.
            self._stop.wait(0.2 if self.fault == "close meanwhile" else 0)
            connection.shutdown(socket.SHUT_WR)
            self.closed.set()
            self._stop.wait(5)
            return
        with connection.makefile("rb") as stream:
            lines = list(stream)
        self.cut += [line for line in lines if not line.endswith(b"\n")]
        self.documents += [json.loads(line) for line in lines if line.endswith(b"\n")]
        if self.fault == "never close":
            self._stop.wait(5)

    def stop(self) -> None:
        """End what waits."""
        self._stop.set()


@contextmanager
def serving(fault: str = "") -> Iterator[LineService]:
    """Serve on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if fault == "close meanwhile":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        service = LineService(listener.getsockname()[1], fault)
        thread = threading.Thread(target=service.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.stop()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
