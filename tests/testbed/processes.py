"""Processes of one instance: started in their own sessions, recorded, stopped.

A process records itself before it becomes the service: boot id, then its line of
``/proc/PID/stat``. Pid, start time and boot id together name one process for ever, so a pid that
the kernel has given to somebody else is not mistaken for ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import Unavailable
from tests.testbed.layout import HOST
from tests.testbed.patience import CEILING, Patience

_RECORD_AND_BECOME = """
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/$$/stat
echo "$boot $stat" >"$0.new" && mv "$0.new" "$0" && exec "$@"
"""
_POLL_SECONDS = 0.05
_RECORD_SECONDS = 120
_AT_WORK = 0.5
"""Processor seconds that count as progress; an idle service uses less in minutes."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process for ever."""

    pid: int
    started: int
    """Clock ticks from the boot to its start."""

    @property
    def is_alive(self) -> bool:
        """Check whether any of it runs; a zombie may have threads that do, with open ports."""
        with contextlib.suppress(OSError):
            seen = _parse(Path(f"/proc/{self.pid}/stat").read_text())
            return seen.process == self and (not seen.is_zombie or seen.threads > 1)
        return False

    @property
    def session(self) -> list[Process]:
        """All processes of the session that it leads, itself among them; none when it is dead."""
        return (
            [process for process, leader in _processes() if leader == self.pid]
            if self.is_alive
            else []
        )

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still is the one that it was."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.is_alive:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def memory(self) -> int:
        """Return the proportional set size of its session in bytes."""
        return sum(_proportional_size(process.pid) for process in self.session)


@dataclass(frozen=True, slots=True)
class Records:
    """The processes of one instance, by name, in the directory of their records."""

    directory: Path

    def find(self, name: str) -> Process | None:
        """Return the living process of this name."""
        try:
            boot, stat = (self.directory / name).read_text().split(" ", 1)
        except (FileNotFoundError, ValueError):
            return None
        if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
            return None
        process = _parse(stat).process
        return process if process.is_alive else None

    def start(
        self,
        name: str,
        *,
        command: Sequence[str | Path],
        output: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start a command in a session of its own; its output is appended to a file."""
        self.directory.mkdir(parents=True, exist_ok=True)
        record = self.directory / name
        record.unlink(missing_ok=True)
        with output.open("ab") as file:
            subprocess.run(
                [
                    "setsid",
                    "--fork",
                    "/bin/sh",
                    "-c",
                    _RECORD_AND_BECOME,
                    str(record),
                    *map(str, command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=self.directory,
                env=os.environ | dict(variables or {}),
                check=True,
            )
        deadline = time.monotonic() + _RECORD_SECONDS
        while not record.exists() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 10)

    def await_ready(
        self,
        name: str,
        *,
        ready: Callable[[], bool],
        remedy: str,
        idle: float = 120,
        ceiling: float = CEILING,
    ) -> None:
        """Wait until a process that was started is ready, as long as it is at work.

        It is at work when it has used half a second of the processor within ``idle`` seconds.

        :raises Unavailable: it has ended, does nothing, or is busy beyond the ceiling
        """
        patience = Patience(
            lambda: int(self.cpu_seconds(name) / _AT_WORK), idle=idle, ceiling=ceiling
        )
        while not ready():
            if not self.find(name):
                raise Unavailable(name, "ended at its start", remedy)
            if patience.is_over():
                raise Unavailable(name, f"not ready {patience}", remedy)
            time.sleep(_POLL_SECONDS)

    def cpu_seconds(self, name: str) -> float:
        """Return the processor time of a session's living processes, 0 for a dead one."""
        leader = self.find(name)
        return sum(_cpu_seconds(process.pid) for process in leader.session) if leader else 0.0

    def stop(self, names: Iterable[str], *, seconds: float = 15) -> None:
        """Ask processes to end, all at once; those that have not done so in time are killed."""
        leaders = {name: leader for name in names if (leader := self.find(name))}
        members = [member for leader in leaders.values() for member in leader.session]
        for leader in leaders.values():
            leader.send(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(member.is_alive for member in members) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        _kill(members)
        for name in leaders:
            (self.directory / name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """Kill a process and its session without asking, and wait for the end."""
        leader = self.find(name)
        if leader:
            _kill(leader.session)
        (self.directory / name).unlink(missing_ok=True)


def require_free(port: int, service: str) -> None:
    """Make sure that nobody listens on a port of ours.

    :raises Unavailable: somebody does
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise Unavailable(
                service, f"port {port}: {error.strerror}", "choose another --port-base"
            ) from None


def _kill(processes: list[Process]) -> None:
    for process in processes:
        process.send(signal.SIGKILL)
    while any(process.is_alive for process in processes):
        time.sleep(_POLL_SECONDS)


def _processes() -> Iterator[tuple[Process, int]]:
    """Yield all processes of the machine, each with the pid of its session's leader."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                seen = _parse((entry / "stat").read_text())
                yield seen.process, seen.session


@dataclass(frozen=True, slots=True)
class _Sighting:
    """What a line of ``/proc/PID/stat`` says of a process."""

    process: Process
    session: int
    is_zombie: bool
    threads: int


def _parse(stat: str) -> _Sighting:
    """Read the fields 1 (pid), 3 (state), 6 (session), 20 (threads) and 22 (start) of proc(5)."""
    pid = int(stat.split(" ", 1)[0])
    fields = stat.rpartition(") ")[2].split()  # from field 3 on
    return _Sighting(
        Process(pid, int(fields[19])), int(fields[3]), fields[0] == "Z", int(fields[17])
    )


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its dead children: fields 14 to 17 of proc(5)."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _proportional_size(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
