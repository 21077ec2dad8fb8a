"""slapd as a process of its own: started, found again, restarted when it has ended.

slapd outlives the program that started it, which may be killed or crash: clients are served on. The
next program takes it over (`Slapd.adopt`), and learns from slapd itself which entries it serves. A
slapd that another version or other settings started is replaced. Only an orderly end of this
program ends slapd too (docs/adr/0055).

A slapd that was killed starts again on its database, in some 0.1 s and whatever the size: what it
had committed is in the files. If it cannot, or ends at once, a new database is made.

    STATE/slapd.pid           process id, written before the process becomes slapd
    STATE/db/N                the database (`bdii.slapd.database`)
    RUN/ldapi                 socket of the writer
    RUN/address               slapd's URL, for the health check of a container
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from appliance.core import files, hosts
from appliance.core.directory import Directory
from appliance.core.run import place
from appliance.core.run.errors import ApplianceError, LocalFailure, Unavailable
from bdii.settings import BdiiSettings
from bdii.slapd import configuration, database, probe, running
from bdii.slapd.database import Database
from bdii.slapd.running import ServerProcess
from bdii.tree import Tree

logger = logging.getLogger(__name__)

# File descriptors of slapd: the number of clients at a time, less some for its own files. slapd
# needs 2 kB of memory for each.
CONNECTIONS = 8192

_START_TIME = timedelta(seconds=15)
_ANSWER_TIME = timedelta(seconds=30)
# For answers to slow clients; no new client is answered meanwhile.
_STOP_TIME = timedelta(seconds=1)
_POLL_SECONDS = 0.02
# A slapd that ends so many times within this time after its start gets a new database.
_PROOF_TIME = timedelta(seconds=10)
_QUICK_ENDS = 3


class Slapd:
    """The slapd of one BDII. All methods may be called from any thread.

    ``generation`` counts the times that it became another slapd. After it has changed, `content` is
    the only source for the tree that is served.
    """

    def __init__(self, settings: BdiiSettings) -> None:
        self.settings = settings
        self.generation = 0
        self._lock = threading.RLock()
        self._process: ServerProcess | None = None
        self._directory: Path | None = None
        # The tree of a new database; None if only slapd knows what it serves.
        self._tree: Tree | None = None
        self._started = 0.0
        self._quick_ends = 0
        self._databases = settings.state / "db"
        self._pid_file = running.pid_file(settings)

    @property
    def is_alive(self) -> bool:
        """Check whether slapd runs."""
        with self._lock:
            return self._process is not None and not self._process.has_ended

    @property
    def keeps_ending(self) -> bool:
        """Check whether slapd has ended several times, each time soon after its start."""
        return self._quick_ends >= _QUICK_ENDS

    @property
    def process(self) -> ServerProcess | None:
        """The running slapd, or the one that has ended; None if none was started."""
        with self._lock:
            return self._process

    def content(self) -> tuple[int, Tree | None]:
        """Return the generation and the tree served at its start; None if slapd has to be asked.

        The tree is returned once: it is not kept in memory for the next question.
        """
        with self._lock:
            if self._directory is None:
                raise Unavailable("slapd", "does not run")
            tree, self._tree = self._tree, None
            return self.generation, tree

    def recover(self) -> bool:
        """Take over the slapd of an earlier run, or end it and remove its databases.

        Return whether it was taken over.
        """
        with self._lock:
            files.make_directory(self.settings.state)
            files.make_directory(self.settings.run, mode=0o700)
            if (found := running.find(self.settings)) is not None:
                if self._adopt(found):
                    return True
                found.end(patience=_STOP_TIME)
                found.close()
            self._remove_databases()
            return False

    def _adopt(self, found: ServerProcess) -> bool:
        reason = running.why_foreign(found, self.settings, self._command)
        if not reason:
            try:
                self.connect().close()
            except Unavailable as error:
                reason = str(error)
        if reason:
            logger.warning("ending the slapd of an earlier run, process %d: %s", found.pid, reason)
            return False
        logger.info("taking over slapd, process %d", found.pid)
        self._process, self._directory = found, running.directory_of(found)
        self._started = time.monotonic()
        self.generation += 1
        return True

    def _remove_databases(self) -> None:
        # names that are no numbers may belong to the slapd of the upstream bdii package
        for directory in self._databases.glob("[0-9]*"):
            shutil.rmtree(directory, ignore_errors=True)
            if os.path.lexists(directory):
                words = "is in the way of a database and cannot be removed"
                error = OSError(errno.EEXIST, words, str(directory))
                logger.warning("%s", files.describe_skipped(directory, error))

    def serve(self, wanted: Tree) -> Database:
        """Make a database that holds a tree, serve it, and return it.

        Raises:
            Unavailable: slapd cannot start; the old one has been stopped.
            LocalFailure: the database cannot be made; the old one still serves.

        """
        with self._lock:
            # the long part, during which the old slapd serves
            made = database.make(self.settings, wanted, self._free_directory())
            self.stop()
            self._start(made.directory)
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
            self._directory, self._tree = made.directory, made.tree
            return made

    def serve_file(self, text: Path) -> bool:
        """Serve what a file holds, before anybody has read it; return whether slapd serves it.

        `knows` tells what that is. A file that does not exist, or that slapd does not load to its
        end, is not served.

        Raises:
            Unavailable: slapd cannot start.
            LocalFailure: the database cannot be made.

        """
        with self._lock:
            directory = self._free_directory()
            try:
                files.open_regular(text).close()
            except OSError:
                return False
            if not database.make_of_file(self.settings, text, directory):
                return False
            self._start(directory)
            self._directory = directory
            return True

    def knows(self, served: Tree) -> None:
        """Note the tree that slapd serves from a file: it needs not be asked for it."""
        with self._lock:
            self._tree = served

    def revive(self, published: Tree) -> None:
        """Start a slapd that has ended, on its database, or else on a new one that holds a tree.

        Raises:
            Unavailable: slapd cannot start.
            LocalFailure: a new database cannot be made.

        """
        with self._lock:
            if self.is_alive:
                return
            is_quick = time.monotonic() - self._started < _PROOF_TIME.total_seconds()
            self._quick_ends = self._quick_ends + 1 if is_quick else 0
            if self._directory is not None and not self.keeps_ending:
                try:
                    self._start(self._directory)
                except ApplianceError as error:
                    logger.warning("%s; a new database is made", error)
                else:
                    self._tree = None
                    return
            elif self.keeps_ending:
                logger.warning("slapd keeps ending; a new database is made")
            self.serve(published)

    def stop(self) -> None:
        """Stop slapd: it answers pending requests for some seconds, then it is killed."""
        with self._lock:
            if self._process is None:
                return
            self._process.end(patience=_STOP_TIME)
            self._process.close()
            self._process = None
            self._pid_file.unlink(missing_ok=True)

    def give_up(self, generation: int) -> None:
        """Kill slapd if it is still that of ``generation``; the watching thread restarts it."""
        with self._lock:
            if self._process is not None and generation == self.generation:
                self._process.kill()

    def connect(self) -> Directory:
        """Return a connection that may write; raises `Unavailable`."""
        return Directory(self.settings.socket, timeout=_ANSWER_TIME)

    def answer_time(self, *, patience: timedelta) -> float | None:
        """Return the seconds that a stranger's query takes; None if there is no answer."""
        settings = self.settings
        return probe.answer_time(settings.addresses, settings.port, patience=patience)

    def _free_directory(self) -> Path:
        """Return the directory of the next database; a number that cannot be freed is skipped."""
        number = self.generation + 1
        while os.path.lexists(self._databases / str(number)):
            if self._databases / str(number) != self._directory:
                shutil.rmtree(self._databases / str(number), ignore_errors=True)
            if not os.path.lexists(self._databases / str(number)):
                break
            number += 1
        return self._databases / str(number)

    def _command(self, directory: Path) -> list[str]:
        """Return the command line of slapd on the database in a directory."""
        places = [hosts.join_port(name, self.settings.port) for name in self.settings.addresses]
        urls = [f"ldap://{address}/" for address in places]
        # slapd's own URL extension: the mode of the socket
        urls.append(f"ldapi://{quote(str(self.settings.socket), safe='')}/????x-mod=0700")
        # -d keeps slapd in the foreground, where its end is noticed; level 0 prints errors only
        options = ["-d", "0", "-f", str(directory / "slapd.conf"), "-h", " ".join(urls)]
        return [str(self.settings.slapd), *options]

    def _start(self, directory: Path) -> None:
        """Start slapd on a database, and wait until it answers."""
        _check_ports(self.settings)
        if self._process is not None:
            self._process.close()
            self._process = None
        # a foreign pipe under this name would block the shell that writes the process id
        self._pid_file.unlink(missing_ok=True)
        log = directory / "slapd.log"
        limit = _descriptors()
        command = [
            # The shell writes the process id, which stays the same through each exec. A full disk
            # must not keep slapd from serving, so it starts without the file as well.
            *("sh", "-c", 'echo $$ >"$0"; exec "$@"', str(self._pid_file)),
            # the limit of descriptors is the limit of clients: slapd cannot exhaust the host
            *("prlimit", f"--nofile={limit}:{limit}", "--"),
            *self._command(directory),
        ]
        with files.named(log), log.open("wb") as errors:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._process = ServerProcess(child.pid)
        child.returncode = 0  # `ServerProcess` waits for it, not the destructor of this object
        self._started = time.monotonic()
        self.generation += 1
        self._wait_until_ready(log)
        address = f"{probe.url(self.settings.addresses, self.settings.port)}\n"
        files.write_atomic(self.settings.run / "address", address.encode())

    def _wait_until_ready(self, log: Path) -> None:
        deadline = time.monotonic() + _START_TIME.total_seconds()
        while self.is_alive and time.monotonic() < deadline:
            try:
                with self.connect():
                    return
            except Unavailable:
                time.sleep(_POLL_SECONDS)
        self.stop()
        words = " ".join(configuration.messages(log.read_text(errors="replace")))[-400:]
        cause = f"does not start: {words or 'no answer'}"
        remedy = "check that it may use BDII_VAR_DIR (AppArmor, owner, free space)"
        raise Unavailable(self.settings.slapd, cause, remedy)


def end_leftover(settings: BdiiSettings) -> bool:
    """End a slapd that has outlived its program; return whether there was one."""
    found = running.find(settings)
    if found is None:
        return False
    found.end(patience=_STOP_TIME)
    found.close()
    return True


def runs(settings: BdiiSettings) -> bool:
    """Check whether a slapd of this BDII runs, whichever program started it."""
    found = running.find(settings)
    if found is None:
        return False
    has_ended = found.has_ended
    found.close()
    return not has_ended


def _descriptors() -> int:
    """Return the limit of descriptors for slapd: `CONNECTIONS`, or what this process may set."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most in (resource.RLIM_INFINITY, -1) or most >= CONNECTIONS:
        return CONNECTIONS
    logger.warning(
        "the limit of open files, %d, allows fewer clients than %d at a time; raise LimitNOFILE or"
        " ulimit -n",
        most,
        CONNECTIONS,
    )
    return most


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
