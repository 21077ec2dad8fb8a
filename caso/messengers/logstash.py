"""The messenger for Logstash and whatever else takes lines of JSON over TCP, one for each record.

A plain TCP connection has no acknowledgement. So after the last record our side of the connection
is closed, and the records count as accepted when the service has read to that end and closed its
side as well, without an error. Logstash's input ``tcp`` does so. A side that the service closes
before it has our end says nothing about the records: a load balancer without servers does that, and
so does a service that is stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError, Unavailable
from appliance.core.run.layout import Layout
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind
from caso.messengers import record_types
from caso.messengers.messenger import Messenger
from caso.messengers.waiting import OpenService, WaitingRecord

# Before 1.4.2, messengers were configured by the names of their classes.
NAMES = ("logstash", "caso.messenger.logstash.LogstashMessenger")

_TIMEOUT = timedelta(seconds=30)
"""For a connection, for each block of records, and for the end of the connection."""
_LINES = 100
_ENDED = (6, 7)
"""TCP_TIME_WAIT and TCP_CLOSE of linux/tcp_states.h: each side has acknowledged the other's end."""
_CLOSED_EARLY = "it closes the connection before it has all records"
_REMEDY = "check [logstash] host and port, and the service's logs"


def read(settings: Settings, _layout: Layout, name: str) -> Messenger:
    """Read the section [logstash]."""
    if name != NAMES[0]:
        settings.deprecate("DEFAULT", "messengers", f"{name}: write {NAMES[0]}")
    return Logstash(
        host=settings.text("logstash", "host", default="localhost"),
        port=settings.integer("logstash", "port", default=5000, minimum=1, maximum=65535),
        kinds=record_types.kinds(settings, NAMES[0]),
    )


@dataclass(frozen=True, slots=True)
class Logstash:
    """The messenger ``logstash``."""

    host: str
    port: int
    kinds: tuple[RecordKind[Any], ...]
    timeout: timedelta = _TIMEOUT
    name: str = NAMES[0]

    def open(self, checkpoints: Checkpoints) -> OpenService:
        """Return the messenger for a run."""
        return OpenService(self, checkpoints)

    def connect(self, _quarantine: Path) -> LogstashConnection:
        """Return a connection, which is opened for each project and kind."""
        return LogstashConnection(self)

    def describe(self) -> str:
        """Return what becomes of records."""
        titles = ", ".join(kind.title for kind in self.kinds)
        return f"{titles}, as lines of JSON, to {hosts.join_port(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class LogstashConnection:
    """Sends records, over a connection of its own each time."""

    service: Logstash
    refused: tuple[ApplianceError, ...] = ()
    accepted: int = 0
    """None: the service says nothing of single records."""

    def send(self, records: Iterable[WaitingRecord]) -> None:
        """Send records, and return when the service has read all of them."""
        with self._explained():
            seconds = self.service.timeout.total_seconds()
            address = (self.service.host, self.service.port)
            connection = socket.create_connection(address, timeout=seconds)
        with connection:
            for block in _blocks(records):
                with self._explained():
                    connection.sendall(block)
            with self._explained():
                self._finish(connection)

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _finish(self, connection: socket.socket) -> None:
        """Wait until the service has read everything.

        Raises:
            OSError: it closed its side before it had the end of ours.

        """
        deadline = time.monotonic() + self.service.timeout.total_seconds()
        while select.select([connection], [], [], 0)[0]:
            if not _has_answered(connection, deadline):
                raise ConnectionError(_CLOSED_EARLY)
        connection.shutdown(socket.SHUT_WR)
        while _has_answered(connection, deadline):
            pass
        # Both ends may have crossed. Then ours is not acknowledged yet, or was answered by a reset.
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state not in _ENDED or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise ConnectionError(_CLOSED_EARLY)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        subject = hosts.join_port(self.service.host, self.service.port)
        try:
            yield
        except TimeoutError as error:
            seconds = f"{self.service.timeout.total_seconds():g}"
            words = f"does not take records, or does not close the connection, within {seconds} s"
            raise Unavailable(subject, words, _REMEDY) from error
        except (OSError, UnicodeError) as error:  # the latter: a host's name that is none
            said = (getattr(error, "strerror", "") or str(error)).lower()
            raise Unavailable(subject, f"cannot take records: {said}", _REMEDY) from error


def _has_answered(connection: socket.socket, deadline: float) -> bool:
    """Read a part of an answer, whose words mean nothing to us; False if it has ended."""
    if time.monotonic() > deadline:
        raise TimeoutError
    return bool(connection.recv(2**16))


def _blocks(records: Iterable[WaitingRecord]) -> Iterator[bytes]:
    lines = (f"{record.text}\n".encode("ascii") for record in records)
    while block := b"".join(itertools.islice(lines, _LINES)):
        yield block
