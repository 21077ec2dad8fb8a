"""Going to the background, as SSM's receiver does."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import Busy


def detach(pidfile: Path) -> None:
    """Go on in a child process without terminal; the parent ends with status 0.

    To be called before there are threads, locks or connections.

    :raises Busy: the process that the file names is alive; a file left by one that is dead does not
    matter
    """
    if (holder := _living(pidfile)) is not None:
        raise Busy(
            "Cannot start SSM",
            f"Pidfile {pidfile} already exists, process {holder} is alive",
            "stop it first",
        )
    files.make_directory(pidfile.parent)
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


@contextlib.contextmanager
def named_in(pidfile: Path) -> Iterator[None]:
    """Let the file hold this process's id for the block; to be called by who holds the lock."""
    files.write_atomic(pidfile, f"{os.getpid()}\n".encode(), mode=0o644)
    try:
        yield
    finally:
        pidfile.unlink(missing_ok=True)


def _living(pidfile: Path) -> int | None:
    """Return the process that the file names, None when there is none."""
    try:
        process = int(pidfile.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    if process <= 0 or process == os.getpid():
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:  # alive, and somebody else's
        return process
    return process
