"""A supervised child process: it has a deadline, and receives the signals sent to this process.

Signals arrive through a pipe and the child's end through its pidfd, so that one ``poll`` waits for
both and for the deadline. If this process is killed, the kernel sends SIGTERM to the child.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = timedelta(seconds=30)
"""Time for a job between SIGTERM and SIGKILL."""
_SETPRIV = "/usr/bin/setpriv"
_LAST_WORDS = 5  # seconds; a grandchild may hold the pipe open
_LONGEST_POLL = 86400  # seconds: the kernel counts milliseconds in 32 bits

Forward = Callable[[str], bool]
"""Forwards a signal, by name, to the job's container; returns whether one received it."""


@dataclass(frozen=True, slots=True)
class ChildExit:
    """The exit status of a child, as a shell reports it, and what stopped it, if anything."""

    code: int
    stopped_by: str


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: BinaryIO | None,
    timeout: timedelta,
    forward: Forward,
    grace: timedelta = GRACE,
    errors: Callable[[bytes], None] | None = None,
) -> ChildExit:
    """Run a command to its end.

    A signal for which ``forward`` returns False goes to the child itself. SIGKILL follows after
    ``grace``. ``output`` replaces standard output and standard error of the child; ``errors``, if
    given, is called with each line of standard error instead.
    """
    with _signals() as pending:
        child = subprocess.Popen(
            [_SETPRIV, "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if errors is None else subprocess.PIPE,
            env=dict(environment),
            # The terminal then interrupts this process only, which forwards the signal once.
            start_new_session=True,
        )
        reader = threading.Thread(target=_read, args=(child.stderr, errors), daemon=True)
        if errors is not None:
            reader.start()
        try:
            return _watch(child, pending=pending, timeout=timeout, grace=grace, forward=forward)
        finally:
            if errors is not None:
                reader.join(_LAST_WORDS)


def _read(stream: BinaryIO | None, errors: Callable[[bytes], None]) -> None:
    """Call ``errors`` with each line until all writers have closed the stream."""
    if stream is not None:
        with stream:
            for line in stream:
                errors(line)


def _watch(
    child: subprocess.Popen[bytes],
    *,
    pending: int,
    timeout: timedelta,
    grace: timedelta,
    forward: Forward,
) -> ChildExit:
    # Unlike a process id, a pidfd cannot come to stand for another process.
    end = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    poll.register(pending, select.POLLIN)
    deadline, stopped_by = time.monotonic() + timeout.total_seconds(), ""
    try:
        while True:
            ready = dict(
                poll.poll(round(min(max(0, deadline - time.monotonic()), _LONGEST_POLL) * 1000))
            )
            if end in ready:
                return ChildExit(_status(child.wait()), stopped_by)
            if pending in ready:
                name = signal.Signals(os.read(pending, 1)[0]).name
            elif time.monotonic() < deadline:
                continue
            else:
                name = "SIGKILL" if stopped_by else "SIGTERM"
            first = not stopped_by
            if first:
                stopped_by = name if pending in ready else f"its time limit of {_length(timeout)}"
                deadline = time.monotonic() + grace.total_seconds()
            # SIGKILL also for the child, which must not outlive its container.
            if not forward(name) or name == "SIGKILL":
                child.send_signal(signal.Signals[name])
            if name == "SIGKILL":
                deadline = time.monotonic() + grace.total_seconds()
    finally:
        os.close(end)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Yield a descriptor from which each signal to forward is read as one byte."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {number: signal.signal(number, lambda *_: None) for number in FORWARDED}
    # A handler only runs between two bytecodes; the descriptor wakes up poll() at once.
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _status(code: int) -> int:
    # Popen reports death by signal N as -N, a shell as 128 + N.
    return code if code >= 0 else 128 - code


def _length(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and not seconds % length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
