"""What a program takes: wall time, CPU and memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of wall time and CPU, and MiB of memory at the most."""

    wall: float
    cpu: float
    memory: float


def run(argv: Sequence[str]) -> Usage:
    """Run a program to its end, which must be a good one, with its output thrown away."""
    begin = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_WRONLY, 0) for descriptor in (1, 2)]
    process = os.posix_spawn(argv[0], list(argv), {**os.environ}, file_actions=quiet)
    memory = 0.0
    while True:
        # The kernel's own maximum begins with the size of the process that starts it: ours.
        memory = max(memory, _high_water_mark(process))
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    if status:
        sys.exit(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return Usage(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, memory)


def _high_water_mark(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
