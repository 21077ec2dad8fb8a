"""The system's logs as places for our log: syslog, and systemd's journal by its own protocol."""

from __future__ import annotations

import logging
import logging.handlers
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from appliance.core.run.log import SystemLogs

SYSLOG = Path("/dev/log")
JOURNAL = Path("/run/systemd/journal/socket")
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Priorities of syslog by the least level of Python's logging that has them."""


def handlers(
    wanted: SystemLogs, program: str, *, syslog: Path = SYSLOG, journal: Path = JOURNAL
) -> Iterator[logging.Handler]:
    """Yield a handler for each log that is asked for; ``program`` is the name of its lines.

    Raises:
        OSError: a log does not exist on this host, or does not listen.

    """
    if wanted.syslog:
        facility = wanted.facility.removeprefix("LOG_").lower()
        syslog.stat()  # the handler itself would wait for it without a word
        number = logging.handlers.SysLogHandler.facility_names[facility]
        found = logging.handlers.SysLogHandler(str(syslog), number)
        found.ident = f"{program}: "
        yield found
    if wanted.journal:
        yield JournalHandler(program, journal)


class JournalHandler(logging.Handler):
    """A handler that writes to systemd's journal (systemd: Native Journal Protocol)."""

    def __init__(self, program: str, path: Path) -> None:
        super().__init__()
        self._program = program
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            priority = next(number for least, number in _PRIORITIES if record.levelno >= least)
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": str(priority),
                "SYSLOG_IDENTIFIER": self._program,
                "LOGGER": record.name,
            }
            self._socket.send(b"".join(_field(name, text) for name, text in fields.items()))
        except Exception:  # noqa: BLE001  as in all handlers of logging
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _field(name: str, text: str) -> bytes:
    # The form with a length takes any text.
    data = text.encode(errors="backslashreplace")
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
