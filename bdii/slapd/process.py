"""slapd as a child: started on a database, watched, replaced by another one, ended.

The kernel ends it when this program dies (``PR_SET_PDEATHSIG``). It writes down its process id all
the same, before it becomes slapd, and the next start ends one that it finds: never do two of them
serve one state directory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from appliance.core import files
from appliance.core.directory import Directory
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure, Unavailable
from bdii.settings import BdiiSettings
from bdii.slapd import database
from bdii.slapd.database import Database
from bdii.tree import NO_TREE, Tree

logger = logging.getLogger(__name__)

CONNECTIONS = 512
"""File descriptors that slapd may have: as many strangers can be connected, less a few."""

_START_TIME = timedelta(seconds=15)
_ANSWER_TIME = timedelta(seconds=30)
_STOP_TIME = timedelta(seconds=3)
_POLL_SECONDS = 0.02


class Slapd:
    """The slapd of one BDII. All methods may be called from any thread.

    ``generation`` counts the databases served; an observer who finds it changed knows the tree from
    `content` only.
    """

    def __init__(self, settings: BdiiSettings) -> None:
        self.settings = settings
        self.generation = 0
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether slapd runs."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def content(self) -> tuple[int, Database]:
        """Return the generation and the database on which slapd was started."""
        with self._lock:
            if self._database is None:
                raise Unavailable("slapd", "does not run")
            return self.generation, self._database

    def recover(self) -> None:
        """End the slapd that a killed run left, and remove its databases."""
        with self._lock:
            files.make_directory(self.settings.state)
            files.make_directory(self.settings.run, mode=0o700)
            with contextlib.suppress(OSError, ValueError):
                _end_stranger(int(files.read_regular(self._pid_file, limit=100)), self._databases)
            # other names may be those of the bdii package's slapd
            for directory in self._databases.glob("[0-9]*"):
                shutil.rmtree(directory, ignore_errors=True)
                if os.path.lexists(directory):
                    words = "is in the way of a database and cannot be removed"
                    error = OSError(errno.EEXIST, words, str(directory))
                    logger.warning("%s", files.describe_skipped(directory, error))

    def serve(self, wanted: Tree, *, instead: Tree = NO_TREE) -> Database:
        """Serve a tree from a database of its own instead of what is served now; returns it.

        An entry that slapd refuses is served as it is in the tree ``instead``, if it is there.

        It is made while the old one serves; nobody is served only while slapd is replaced, some 0.1
        s. Raises `Unavailable` with the reason when slapd cannot start; the old one has ended then,
        unless making failed.
        """
        with self._lock:
            directory = self._free_directory()
            made = database.make(self.settings, wanted, directory, instead=instead)
            self.stop()
            self._start(made)
            self.generation += 1
            if self._database is not None:
                shutil.rmtree(self._database.directory, ignore_errors=True)
            self._database = made
            return made

    def stop(self) -> None:
        """End slapd: it answers what was asked already, for at most some seconds."""
        with self._lock:
            if self._process is None:
                return
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIME.total_seconds())
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._pid_file.unlink(missing_ok=True)

    def give_up(self, generation: int) -> None:
        """Kill slapd, which does not answer, unless another one serves by now: whoever watches starts a new one."""
        with self._lock:
            if self._process is not None and generation == self.generation:
                self._process.kill()
                self._process.wait()

    def connect(self) -> Directory:
        """Return a connection that may write; raises `Unavailable`."""
        return Directory(self.settings.socket, timeout=_ANSWER_TIME)

    @property
    def _databases(self) -> Path:
        return self.settings.state / "db"

    def _free_directory(self) -> Path:
        """Return where the next database goes; a number that something foreign has is skipped."""
        number = self.generation + 1
        while os.path.lexists(self._databases / str(number)):
            shutil.rmtree(self._databases / str(number), ignore_errors=True)
            if not os.path.lexists(self._databases / str(number)):
                break
            number += 1
        return self._databases / str(number)

    @property
    def _pid_file(self) -> Path:
        return self.settings.state / "slapd.pid"

    def _start(self, made: Database) -> None:
        _check_free(self.settings)
        self._pid_file.unlink(missing_ok=True)  # a pipe of somebody else's would hold up the shell
        log = made.directory / "slapd.log"
        urls = [
            f"ldap://{_url_host(address)}:{self.settings.port}/"
            for address in self.settings.addresses
        ]
        urls.append(f"ldapi://{quote(str(self.settings.socket), safe='')}/????x-mod=0700")
        command = [
            # known before it is slapd
            *("sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._pid_file)),
            *(
                "prlimit",
                f"--nofile={CONNECTIONS}:{CONNECTIONS}",
                "setpriv",
                "--pdeathsig",
                "TERM",
                "--",
            ),
            *(
                str(self.settings.slapd),
                "-d",
                "0",
                "-f",
                str(made.configuration),
                "-h",
                " ".join(urls),
            ),
        ]
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
            )
        self._wait_until_ready(log)

    def _wait_until_ready(self, log: Path) -> None:
        deadline = time.monotonic() + _START_TIME.total_seconds()
        while self.is_alive and time.monotonic() < deadline:
            try:
                with self.connect():
                    return
            except Unavailable:
                time.sleep(_POLL_SECONDS)
        self.stop()
        words = " ".join(log.read_text(errors="replace").split())[-400:]
        raise Unavailable(self.settings.slapd, f"does not start: {words or 'no answer'}")


def _check_free(settings: BdiiSettings) -> None:
    """Raise `LocalFailure` when a port is taken: slapd itself says so only in passing, and by a number."""
    for address in settings.addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, settings.port))
            except OSError as error:
                is_taken = error.errno == errno.EADDRINUSE
                cause = (
                    "is taken by another program" if is_taken else (error.strerror or str(error))
                )
                remedy = _remedy(settings.port) if is_taken else "correct SLAPD_HOST and BDII_PORT"
                raise LocalFailure(f"{_url_host(address)}:{settings.port}", cause, remedy) from None


def _remedy(port: int) -> str:
    """Return what frees a port; in a container the port is not the program's to choose."""
    if place.is_container():
        return f"stop that program: ss -ltnp 'sport = :{port}' shows which it is"
    return "stop that program, or set BDII_PORT"


def _url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _end_stranger(pid: int, databases: Path) -> None:
    """End a process if it is a slapd on one of our databases."""
    descriptor = os.pidfd_open(pid)
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if not any(argument.startswith(os.fsencode(f"{databases}/")) for argument in arguments):
            return
        logger.warning("slapd of an earlier run (pid %d) is still there: ending it", pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            deadline = time.monotonic() + _STOP_TIME.total_seconds()
            while time.monotonic() < deadline:
                if Path(f"/proc/{pid}/cmdline").read_bytes() == b"":  # a zombie has none
                    return
                time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)
