"""The messenger for Logstash and whatever else takes lines of JSON over TCP, one for each record.

A plain TCP connection has no acknowledgement. So after the last record our side of the connection
is closed, and the records count as accepted when the service has read to that end and closed its
side as well, without an error. Logstash's input ``tcp`` does so.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from appliance.core import hosts
from appliance.core.config.settings import Settings
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind
from caso.messengers.waiting import OpenService, WaitingRecord

# Before 1.4.2, messengers were configured by the names of their classes.
NAMES = ("logstash", "caso.messenger.logstash.LogstashMessenger")

_HOST = "localhost"
_PORT = 5000
_TIMEOUT = timedelta(seconds=30)
"""For a connection, for each block of records, and for the end of the connection."""
_BLOCK = 2**16
_REMEDY = "check [logstash] host and port, and the service's logs"


@dataclass(frozen=True, slots=True)
class Logstash:
    """The messenger ``logstash``."""

    host: str
    port: int
    kinds: tuple[RecordKind[Any], ...]
    timeout: timedelta = _TIMEOUT
    name: str = "logstash"

    def open(self, checkpoints: Checkpoints) -> OpenService:
        """Return the messenger for a run."""
        return OpenService(self, checkpoints)

    def connect(self) -> LogstashConnection:
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

    def send(self, records: Iterable[WaitingRecord]) -> None:
        """Send records, and return when the service has read all of them."""
        subject = hosts.join_port(self.service.host, self.service.port)
        seconds = self.service.timeout.total_seconds()
        address = (self.service.host, self.service.port)
        try:
            with socket.create_connection(address, timeout=seconds) as connection:
                for block in _blocks(records):
                    connection.sendall(block)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(_BLOCK):  # an answer in words means nothing to us
                    pass
        except TimeoutError as error:
            words = f"does not take records, or does not close the connection, within {seconds:g} s"
            raise Unavailable(subject, words, _REMEDY) from error
        except OSError as error:
            words = f"cannot take records: {(error.strerror or str(error)).lower()}"
            raise Unavailable(subject, words, _REMEDY) from error

    def close(self) -> None:
        """Do nothing: no connection stays open."""


def _blocks(records: Iterable[WaitingRecord]) -> Iterator[bytes]:
    lines = (f"{record.text}\n".encode() for record in records)
    while block := b"".join(itertools.islice(lines, 100)):
        yield block


def read(
    settings: Settings, _layout: Layout, name: str, kinds: tuple[RecordKind[Any], ...]
) -> Logstash:
    """Read the section [logstash]."""
    if name != NAMES[0]:
        settings.deprecate("DEFAULT", "messengers", f"{name}: write {NAMES[0]}")
    return Logstash(
        host=settings.text("logstash", "host", default=_HOST),
        port=settings.integer("logstash", "port", default=_PORT, minimum=1, maximum=65535),
        kinds=kinds,
    )
