"""A slapd that runs: the process, and the proof that it is the one that this BDII started.

slapd lives in a session of its own and outlives the program that started it. The next program finds
it by the process id in a file, or else as the process that listens at our socket. It is ours if it
uses one of our databases, and it is taken over only if it also is what we would start now: the same
program, arguments and configuration, at our socket.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from appliance.core import files
from bdii.settings import BdiiSettings
from bdii.slapd import configuration

# struct ucred of Linux: process, user and group at the other end of a unix socket.
_PEER = struct.Struct("iII")
_STOPPED = frozenset("Tt")
_ONE_SECOND = timedelta(seconds=1)


class ServerProcess:
    """A process, held by a descriptor: it names this process even if its id is used again.

    It need not be a child of this process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.descriptor = os.pidfd_open(pid)

    @property
    def has_ended(self) -> bool:
        """Check whether the process has ended."""
        return self.wait(timedelta(0))

    def wait(self, patience: timedelta) -> bool:
        """Wait for the end of the process; return whether it has ended."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        if not poll.poll(round(patience.total_seconds() * 1000)):
            return False
        with contextlib.suppress(ChildProcessError):  # another process started it
            os.waitpid(self.pid, os.WNOHANG)
        return True

    def end(self, *, patience: timedelta) -> None:
        """Ask the process to end, and kill it after ``patience``."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, _ONE_SECOND)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)
            if self.wait(seconds):
                return

    def kill(self) -> None:
        """Kill the process, and wait for its end."""
        self.end(patience=timedelta(0))

    @property
    def is_stopped(self) -> bool:
        """Check whether a signal has stopped the process, as SIGSTOP does."""
        return _stat(self.pid)[:1] in _STOPPED

    @property
    def processor_ticks(self) -> int:
        """Return the processor time that the process has used, in ticks of the system's clock."""
        fields = _stat(self.pid).split()
        return int(fields[11]) + int(fields[12]) if fields else 0

    def arguments(self) -> list[str]:
        """Return the command line; empty if the process has ended."""
        try:
            data = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [os.fsdecode(word) for word in data.split(b"\0")[:-1]]

    def close(self) -> None:
        """Let go of the process; it runs on."""
        os.close(self.descriptor)


def _stat(pid: int) -> str:
    """Return /proc/PID/stat from the state on; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return ""


def find(settings: BdiiSettings) -> ServerProcess | None:
    """Return the slapd that runs on one of our databases: that of the file, or at the socket.

    If the disk was full when it started, the file does not name it.
    """
    databases = f"{settings.state / 'db'}/"
    for number in (_of_file, _of_socket):
        try:
            found = ServerProcess(number(settings))
        except (OSError, ValueError):
            continue
        if any(argument.startswith(databases) for argument in found.arguments()):
            return found
        found.close()
    return None


def pid_file(settings: BdiiSettings) -> Path:
    """Return the path of the file with slapd's process id."""
    return settings.state / "slapd.pid"


def _of_file(settings: BdiiSettings) -> int:
    return int(files.read_regular(pid_file(settings), limit=100))


def _of_socket(settings: BdiiSettings) -> int:
    return _listener(settings.socket)


def why_foreign(
    process: ServerProcess,
    settings: BdiiSettings,
    command: Callable[[Path], Sequence[str]],
) -> str:
    """Return why a slapd of ours cannot be taken over; empty if it is what we would start now.

    ``command`` returns the command line for a slapd on the database in a directory.
    """
    directory = directory_of(process)
    if process.arguments() != list(command(directory)):
        return "it was started with other addresses or options"
    try:
        if Path(f"/proc/{process.pid}/exe").readlink() != settings.slapd.resolve():
            return "its program has been replaced"
        if any(
            (directory / name).read_text() != text
            for name, text in configuration.files(settings, directory).items()
        ):
            return "its configuration differs"
        if _listener(settings.socket) != process.pid:
            return "another process has the socket"
    except OSError as error:
        return f"{error.filename or settings.socket}: {error.strerror}"
    return ""


def directory_of(process: ServerProcess) -> Path:
    """Return the directory of the database that a slapd uses."""
    words = process.arguments()
    named = words[words.index("-f") + 1] if "-f" in words[:-1] else os.devnull
    return Path(named).parent


def _listener(path: Path) -> int:
    """Return the id of the process that listens at a unix socket, as the kernel knows it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(path))
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(peer)[0])
