"""One run at a time.

Locks are POSIX record locks (``lockf``): the kernel frees them however the holder ends.
oslo.concurrency uses the same kind, so cASO and `caso-extract` exclude each other on one lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from appliance.core import clock, files
from appliance.core.run.errors import Busy

_POLL_SECONDS = 0.05
# struct flock of Linux on machines of 64 bits: type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi4x")


@contextlib.contextmanager
def hold(path: Path, *, wait: timedelta = timedelta(0)) -> Iterator[None]:
    """Hold the lock file at ``path`` for the block.

    The file stays afterwards: removing it would let two holders in. The lock excludes other
    processes only: within one, closing any descriptor of the file frees it.

    Raises:
        Busy: another program still held it after ``wait``; the error names holder and start.

    """
    files.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640)
    try:
        files.require_regular(path, os.fstat(descriptor))
        with files.named(path):
            _acquire(descriptor, path, deadline=time.monotonic() + wait.total_seconds())
        _note(descriptor, f"{os.getpid()} {clock.now().isoformat(timespec='seconds')}\n")
        try:
            yield
        finally:
            _note(descriptor, "")  # the next holder may be a program that writes no note
    finally:
        os.close(descriptor)


def holder(path: Path) -> str:
    """Return who holds the lock file at ``path``, "running since …"; empty if nobody does.

    It writes nothing and takes no lock, so it cannot hinder a program that starts.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # nothing has run yet, or only others may look
        return ""
    try:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, request)
        is_free = _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK
        return "" if is_free else _holder(descriptor)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, deadline: float) -> None:
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                raise Busy(path, _holder(descriptor)) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _note(descriptor: int, text: str) -> None:
    # The note is for people only: a full disk must not stop the run that would empty it.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    # A program that has just taken the lock is about to write its note.
    for pause in (0, _POLL_SECONDS, 2 * _POLL_SECONDS):
        time.sleep(pause)
        pid, _, since = (
            os.pread(descriptor, 100, 0).decode("ascii", "replace").strip().partition(" ")
        )
        if since:
            return f"running since {since} (pid {pid})"
    return "held by another program"
