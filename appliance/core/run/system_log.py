"""The system's logs as places for our log: syslog, and systemd's journal by its own protocol."""

from __future__ import annotations

import logging
import logging.handlers
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.core.run.log import SystemLogs

SYSLOG = Path("/dev/log")
JOURNAL = Path("/run/systemd/journal/socket")
_PATIENCE = 1
"""Seconds for the journal to take an entry; a program must not wait for its log."""
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


class SystemJournal:
    """A connection to systemd's journal (systemd: Native Journal Protocol).

    Raises:
        OSError: there is no journal, or it does not listen.

    """

    def __init__(self, path: Path = JOURNAL) -> None:
        self._is_stuck = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.settimeout(_PATIENCE)
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def send(self, fields: Mapping[str, str]) -> None:
        """Send an entry.

        Raises:
            OSError: the journal has not taken it.

        """
        data = b"".join(_field(name, text) for name, text in fields.items())
        # A journal that has hung once gets no more of the program's time until it works again.
        self._socket.settimeout(0 if self._is_stuck else _PATIENCE)
        self._is_stuck = True
        self._socket.send(data)
        self._is_stuck = False

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def priority_of(level: int) -> int:
    """Return the priority of syslog for a level of Python's logging."""
    return next(number for least, number in _PRIORITIES if level >= least)


class JournalHandler(logging.Handler):
    """A handler that writes to systemd's journal; ``fields`` are added to each entry."""

    def __init__(self, program: str, path: Path, fields: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._fields = {**(fields or {}), "SYSLOG_IDENTIFIER": program}
        self._journal = SystemJournal(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            fields = {
                "MESSAGE": self.format(record),
                "PRIORITY": str(priority_of(record.levelno)),
                "LOGGER": record.name,
            }
            self._journal.send(fields | self._fields)
        except Exception:  # noqa: BLE001  as in all handlers of logging
            self.handleError(record)

    def close(self) -> None:
        """Close the connection."""
        self._journal.close()
        super().close()


def _field(name: str, text: str) -> bytes:
    # The form with a length takes any text.
    data = text.encode(errors="backslashreplace")
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
