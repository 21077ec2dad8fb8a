"""What a program takes: wall time, CPU and memory."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CLOCK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of wall time and CPU, and MiB of memory at the most."""

    wall: float
    cpu: float
    memory: float


def run(argv: Sequence[str]) -> Usage:
    """Run a program to its end, which must be a good one; its messages are shown if it is not."""
    with tempfile.NamedTemporaryFile() as messages:
        status, used = _run(argv, messages.name)
        if status:
            words = messages.read().decode(errors="replace")[-2000:]
            sys.exit(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}: {words}")
        return used


def _run(argv: Sequence[str], messages: str) -> tuple[int, Usage]:
    begin = time.perf_counter()
    quiet = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, messages, os.O_WRONLY, 0),
    ]
    process = os.posix_spawn(argv[0], list(argv), {**os.environ}, file_actions=quiet)
    memory = 0.0
    while True:
        # The kernel's own maximum begins with the size of the process that starts it: ours.
        memory = max(memory, high_water_mark(process))
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    cpu = usage.ru_utime + usage.ru_stime
    return status, Usage(time.perf_counter() - begin, cpu, memory)


def high_water_mark(process: int) -> float:
    """Return the MiB of memory that a process has had at the most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_of(process: int) -> float:
    """Return the seconds of CPU of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _CLOCK
