"""slapd as a child process: started on a database, switched to another one, stopped.

A switch of databases goes like this: the next database is made beside the one that is served; only
when it is complete is slapd stopped and started again on the new one. Clients find no server for
some 0.1 s.

The kernel ends slapd if this process dies (``PR_SET_PDEATHSIG``). In addition slapd's process id is
written to a file before the process becomes slapd, and the next start ends a process found that
way: two of them must never serve one state directory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from appliance.core import files, hosts
from appliance.core.directory import Directory
from appliance.core.run import place
from appliance.core.run.errors import LocalFailure, Unavailable
from bdii.settings import BdiiSettings
from bdii.slapd import database
from bdii.slapd.database import Database
from bdii.tree import NO_TREE, Tree

logger = logging.getLogger(__name__)

# File descriptors of slapd: the number of clients at a time, less a few for its own files.
CONNECTIONS = 512

_START_TIME = timedelta(seconds=15)
_ANSWER_TIME = timedelta(seconds=30)
_STOP_TIME = timedelta(seconds=3)
_POLL_SECONDS = 0.02


class Slapd:
    """The slapd of one BDII. All methods may be called from any thread.

    ``generation`` counts the databases served. After it has changed, `content` is the only source
    for the tree that is served.
    """

    def __init__(self, settings: BdiiSettings) -> None:
        self.settings = settings
        self.generation = 0
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._database: Database | None = None
        self._databases = settings.state / "db"
        self._pid_file = settings.state / "slapd.pid"

    @property
    def is_alive(self) -> bool:
        """Check whether slapd runs."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def content(self) -> tuple[int, Database]:
        """Return the generation and the database on which slapd was started."""
        with self._lock:
            if self._database is None:
                raise Unavailable("slapd", "does not run")
            return self.generation, self._database

    def recover(self) -> None:
        """End a slapd that a killed run left, and remove its databases."""
        with self._lock:
            files.make_directory(self.settings.state)
            files.make_directory(self.settings.run, mode=0o700)
            with contextlib.suppress(OSError, ValueError):
                _end_leftover(int(files.read_regular(self._pid_file, limit=100)), self._databases)
            # names that are no numbers may belong to the slapd of the upstream bdii package
            for directory in self._databases.glob("[0-9]*"):
                shutil.rmtree(directory, ignore_errors=True)
                if os.path.lexists(directory):
                    words = "is in the way of a database and cannot be removed"
                    error = OSError(errno.EEXIST, words, str(directory))
                    logger.warning("%s", files.describe_skipped(directory, error))

    def serve(self, wanted: Tree, *, instead: Tree = NO_TREE) -> Database:
        """Make a database that holds a tree, switch to it, and return it.

        An entry that slapd rejects is served as in the tree ``instead``, if it is there.

        Raises:
            Unavailable: slapd cannot start; the old one has been stopped.
            LocalFailure: the database cannot be made; the old one still serves.

        """
        with self._lock:
            # the long part, during which the old slapd serves
            made = database.make(self.settings, wanted, self._free_directory(), instead=instead)
            self.stop()
            self._start(made)
            self.generation += 1
            if self._database is not None:
                shutil.rmtree(self._database.directory, ignore_errors=True)
            self._database = made
            return made

    def stop(self) -> None:
        """Stop slapd: it answers pending requests for some seconds, then it is killed."""
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
        """Kill slapd if it is still that of ``generation``; the watching thread restarts it."""
        with self._lock:
            if self._process is not None and generation == self.generation:
                self._process.kill()
                self._process.wait()

    def connect(self) -> Directory:
        """Return a connection that may write; raises `Unavailable`."""
        return Directory(self.settings.socket, timeout=_ANSWER_TIME)

    def _free_directory(self) -> Path:
        """Return the directory of the next database; a number that cannot be freed is skipped."""
        number = self.generation + 1
        while os.path.lexists(self._databases / str(number)):
            shutil.rmtree(self._databases / str(number), ignore_errors=True)
            if not os.path.lexists(self._databases / str(number)):
                break
            number += 1
        return self._databases / str(number)

    def _start(self, made: Database) -> None:
        _check_ports(self.settings)
        # a foreign pipe under this name would block the shell that writes the process id
        self._pid_file.unlink(missing_ok=True)
        log = made.directory / "slapd.log"
        places = [hosts.join_port(name, self.settings.port) for name in self.settings.addresses]
        urls = [f"ldap://{address}/" for address in places]
        # slapd's own URL extension: the mode of the socket
        urls.append(f"ldapi://{quote(str(self.settings.socket), safe='')}/????x-mod=0700")
        command = [
            # the shell writes the process id, which stays the same through each exec
            *("sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self._pid_file)),
            # the limit of descriptors is the limit of clients: slapd cannot exhaust the host
            *("prlimit", f"--nofile={CONNECTIONS}:{CONNECTIONS}"),
            *("setpriv", "--pdeathsig", "TERM", "--"),
            # -d keeps slapd in the foreground, where its end is noticed; level 0 prints errors only
            *(str(self.settings.slapd), "-d", "0", "-f", str(made.directory / "slapd.conf")),
            *("-h", " ".join(urls)),
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
        cause = f"does not start: {words or 'no answer'}"
        remedy = "check that it may use BDII_VAR_DIR (AppArmor, owner, free space)"
        raise Unavailable(self.settings.slapd, cause, remedy)


def _check_ports(settings: BdiiSettings) -> None:
    """Raise `LocalFailure` if a port is in use: slapd reports that as an error number only."""
    for address in settings.addresses:
        try:
            hosts.check_free(address, settings.port)
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            cause = error.strerror or str(error)
            raise LocalFailure(
                hosts.join_port(address, settings.port),
                "is taken by another program" if is_taken else cause,
                _remedy(settings.port) if is_taken else "correct SLAPD_HOST and BDII_PORT",
            ) from None


def _remedy(port: int) -> str:
    """Return how to free a port; in a container the program cannot choose another one."""
    if place.is_container():
        return f"stop that program: ss -ltnp 'sport = :{port}' shows which one it is"
    return "stop that program, or set BDII_PORT"


def _end_leftover(pid: int, databases: Path) -> None:
    """End a process if it is a slapd on one of our databases."""
    # the descriptor keeps naming this process, even if its id is used again meanwhile
    descriptor = os.pidfd_open(pid)
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if not any(argument.startswith(os.fsencode(f"{databases}/")) for argument in arguments):
            return
        logger.warning("ending the slapd of an earlier run, process %d", pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            deadline = time.monotonic() + _STOP_TIME.total_seconds()
            while time.monotonic() < deadline:
                if Path(f"/proc/{pid}/cmdline").read_bytes() == b"":  # a zombie has none
                    return
                time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)
