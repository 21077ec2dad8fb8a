"""Programs run within limits of time, size and disk space.

Each program runs in a process group of its own, so that its children end with it when a limit is
reached; the kernel kills it if this process dies. Its output goes to an unnamed file: a gigabyte of
it costs no memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO

from appliance.core import files
from bdii.messages import MOST_LINES, printable
from bdii.sources.model import LdifSource

# The start of a command that the kernel kills if the thread that runs it dies.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
# From SIGTERM to SIGKILL.
_GRACE = timedelta(seconds=2)
_POLL_SECONDS = 0.02
_BLOCK = 4096


class ProgramFailure(Exception):
    """A program was not run, was ended at a limit, or its output is incomplete."""


def run(
    source: LdifSource,
    output: IO[bytes],
    errors: IO[bytes],
    stop: threading.Event,
    *,
    given: IO[bytes] | None = None,
) -> int:
    """Run a program to its end and return its exit status; ``given`` is its standard input.

    Raises:
        ProgramFailure: it is not executable, was ended, or the disk is full.
        OSError: the program ``setpriv`` cannot be run.

    """
    program = Path(source.command[0])
    if program.is_absolute() and not os.access(program, os.X_OK):
        raise ProgramFailure(f"is not executable; run chmod +x {files.shell_word(program)}")
    process = subprocess.Popen(
        [*ENDS_WITH_US, *source.command],
        stdin=subprocess.DEVNULL if given is None else given,
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


def how_ended(status: int) -> str:
    """Return the words for an exit status."""
    return f"status {status}" if status > 0 else f"signal {signal.Signals(-status).name}"


def _check_space(output: IO[bytes]) -> None:
    """Reject the output if the disk is full: many programs do not notice that a write failed."""
    size = os.fstat(output.fileno()).st_size
    # A block more than the output finds the disk full even if the output just fitted.
    try:
        os.posix_fallocate(output.fileno(), size, _BLOCK)
    except OSError as error:
        cause = f"its output does not fit into BDII_VAR_DIR: {error.strerror}"
        raise ProgramFailure(cause) from error
    os.ftruncate(output.fileno(), size)


def _check_limits(
    source: LdifSource, outputs: Sequence[IO[bytes]], deadline: float, stop: threading.Event
) -> None:
    if stop.is_set():
        raise ProgramFailure("ended, because the BDII stops")
    if time.monotonic() > deadline:
        raise ProgramFailure(f"did not end within {source.timeout.total_seconds():g} s")
    if max(os.fstat(output.fileno()).st_size for output in outputs) > source.limit:
        raise ProgramFailure(
            f"printed more than {source.limit // 1_000_000} MB (BDII_SOURCE_LIMIT)"
        )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Check whether a program has ended, without reaping it: its process id stays reserved."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and its children, then reap it."""
    deadline = time.monotonic() + _GRACE.total_seconds()
    if not _has_ended(process):
        os.killpg(process.pid, signal.SIGTERM)
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    # children may run on after the program has ended, and keep its group's id in use
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_lines(errors: IO[bytes]) -> list[str]:
    """Return the last lines of standard error, each printable and at most 200 characters."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4000))
    lines = errors.read().decode("utf-8", "replace").splitlines()
    shown = [printable(" ".join(line.split())[:200]) for line in lines if line.strip()]
    return shown[-MOST_LINES:]
