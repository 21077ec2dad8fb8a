"""Programs run within limits of time, size and space.

A program runs in a process group of its own, which is ended when its time or its size is over, and
it is told to end by the kernel when this program dies. Its output goes to a file without a name, so
that a gigabyte costs no memory.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO

from bdii.messages import MOST_LINES, printable
from bdii.sources.source import LdifSource

_GRACE = timedelta(seconds=2)
_POLL_SECONDS = 0.02
_BLOCK = 4096


class LimitReached(Exception):
    """A program was ended, or its output."""


def run(source: LdifSource, output: IO[bytes], errors: IO[bytes], stop: threading.Event) -> int:
    """Run a program to its end and return its exit status."""
    program = Path(source.command[0])
    if program.is_absolute() and not os.access(program, os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be run, chmod +x", str(program))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *source.command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )
    deadline = time.monotonic() + source.timeout.total_seconds()
    try:
        while not _has_ended(process):
            time.sleep(_POLL_SECONDS)
            _check_limits(source, (output, errors), deadline, stop)
    finally:
        _end_group(process)
    _check_space(output)
    return process.returncode


def _check_space(output: IO[bytes]) -> None:
    """Take no output from a full disk: programs that do not look whether they can write are many."""
    size = os.fstat(output.fileno()).st_size
    try:
        os.posix_fallocate(output.fileno(), size, _BLOCK)
    except OSError as error:
        raise LimitReached(
            f"its output does not fit into BDII_VAR_DIR: {error.strerror}"
        ) from error
    os.ftruncate(output.fileno(), size)


def _check_limits(
    source: LdifSource, outputs: Sequence[IO[bytes]], deadline: float, stop: threading.Event
) -> None:
    if stop.is_set():
        raise LimitReached("ended, because this program ends")
    if time.monotonic() > deadline:
        raise LimitReached(f"did not end within {source.timeout.total_seconds():g} s")
    if max(os.fstat(output.fileno()).st_size for output in outputs) > source.limit:
        raise LimitReached(f"printed more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether a program has ended, without reaping it: until then its number is nobody else's."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what there is of a program and its children, then reap it."""
    deadline = time.monotonic() + _GRACE.total_seconds()
    if not _has_ended(process):
        os.killpg(process.pid, signal.SIGTERM)
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_lines(errors: IO[bytes]) -> list[str]:
    """Return the last lines of what a program wrote to standard error."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4000))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    return [printable(" ".join(line.split())[:200]) for line in lines if line.strip()][-MOST_LINES:]


def cause(told: list[str]) -> list[str]:
    """Return the last line that tells a cause: ldapsearch goes on after it."""
    return [line for line in told if not line.startswith("Matched DN:")][-1:]
