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

FAULTS = ("refuse", "reset", "hang", "never close")


@dataclass(slots=True)
class LineService:
    """The service: what came whole, line by line, and how it fails."""

    port: int = 0
    fault: str = ""
    """One of `FAULTS`: it reads some bytes and resets the connection, reads nothing, or keeps the
    connection open."""
    documents: list[dict[str, Any]] = field(default_factory=list)
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
        if self.fault == "reset":
            connection.recv(10)
            # An abortive close: the other side gets a RST.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if self.fault == "hang":
            self._stop.wait(5)
            return
        with connection.makefile("rb") as lines:
            self.documents += [json.loads(line) for line in lines]
        if self.fault == "never close":
            self._stop.wait(5)

    def stop(self) -> None:
        """End what waits."""
        self._stop.set()


@contextmanager
def serving(fault: str = "") -> Iterator[LineService]:
    """Serve on a free port of loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service = LineService(listener.getsockname()[1], fault)
        thread = threading.Thread(target=service.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.stop()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
