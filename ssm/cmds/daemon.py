"""The background process of `ssmreceive --daemon`, as SSM's receiver has it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import Busy


def detach(pidfile: Path) -> None:
    """Go on in a child process without a terminal; exit the parent with status 0.

    The caller must not have threads, locks or connections yet: a child does not inherit them.

    Raises:
        Busy: the process named in the file is alive. A file of a dead process is ignored.

    """
    if (holder := _living(pidfile)) is not None:
        raise Busy(
            "Cannot start SSM",
            f"Pidfile {pidfile} already exists, process {holder} is alive",
            "stop it first",
        )
    files.make_directory(pidfile.parent)
    # Unwritten output would be written twice, by parent and child.
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")  # keeps no file system busy
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


@contextlib.contextmanager
def named_in(pidfile: Path) -> Iterator[None]:
    """Keep this process's id in the file for the block. The caller holds the lock of the run."""
    files.write_atomic(pidfile, f"{os.getpid()}\n".encode(), mode=0o644)
    try:
        yield
    finally:
        pidfile.unlink(missing_ok=True)


def _living(pidfile: Path) -> int | None:
    """Return the id of the process named in the file; None when it is not alive."""
    try:
        process = int(pidfile.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    if process <= 0 or process == os.getpid():
        return None
    try:
        with contextlib.suppress(PermissionError):  # alive, and of another user
            os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return None
    return process
