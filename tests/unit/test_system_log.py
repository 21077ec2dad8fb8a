"""The system's logs: what syslog and the journal receive, on sockets of their kind."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run import log, system_log
from appliance.core.run.log import FACILITIES, SystemLogs


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """Return a socket as syslog and the journal have it."""
    path = tmp_path / "log"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(path))
        listening.settimeout(5)
        yield path, listening


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before[0], before[1]


def fields(datagram: bytes) -> dict[str, str]:
    """Read a datagram by systemd's description of its protocol."""
    found = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        datagram = rest[9 + length :]
    return found


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.ERROR, "3"), (logging.WARNING, "4"), (logging.INFO, "6")]
)
def test_the_journal(level: int, priority: str, sink: tuple[Path, socket.socket]) -> None:
    path, listening = sink
    (handler,) = system_log.handlers(SystemLogs(journal=True), "caso-extract", journal=path)
    log.configure(also=[handler], console=False)
    logging.getLogger("caso.run").log(level, "two\nlines of %s", "ö")
    assert fields(listening.recv(4096)) == {
        "MESSAGE": "caso.run: two\\nlines of ö",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "caso-extract",
        "LOGGER": "caso.run",
    }
    handler.close()


def test_syslog(sink: tuple[Path, socket.socket]) -> None:
    path, listening = sink
    wanted = SystemLogs(syslog=True, facility="LOG_LOCAL3")
    (handler,) = system_log.handlers(wanted, "caso-extract", syslog=path)
    log.configure(also=[handler], console=False)
    logging.getLogger("caso.run").warning("a %s", "line")
    # RFC 3164: facility 19 (local3) by 8, and severity 4.
    assert listening.recv(4096).rstrip(b"\0") == b"<156>caso-extract: caso.run: a line"
    handler.close()


def test_secrets_are_masked(sink: tuple[Path, socket.socket]) -> None:
    path, listening = sink
    log.hide("s3cret-word")
    (handler,) = system_log.handlers(SystemLogs(journal=True), "x", journal=path)
    log.configure(also=[handler], console=False)
    logging.getLogger("x").warning("it is s3cret-word")
    assert "s3cret" not in fields(listening.recv(4096))["MESSAGE"]
    handler.close()


@pytest.mark.parametrize("wanted", [SystemLogs(syslog=True), SystemLogs(journal=True)])
def test_a_log_that_is_not_there(wanted: SystemLogs, tmp_path: Path) -> None:
    away = tmp_path / "away"
    with pytest.raises(FileNotFoundError):
        list(system_log.handlers(wanted, "x", syslog=away, journal=away))


def test_facilities_are_those_of_python() -> None:
    known = logging.handlers.SysLogHandler.facility_names
    assert {f"LOG_{name.upper()}" for name in known} - set(FACILITIES) <= {
        "LOG_CONSOLE", "LOG_NTP", "LOG_SECURITY", "LOG_SOLARIS-CRON",
    }  # fmt: skip
    assert all(name.removeprefix("LOG_").lower() in known for name in FACILITIES)
