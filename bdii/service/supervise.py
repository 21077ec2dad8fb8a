"""The process that starts the engine, and starts it again if it is killed.

    bdii-update --serve   this process: waits, and forwards signals
      └ engine            asks the sources, changes the tree; may be killed, or end with a bug
    slapd                 a session of its own; serves whatever happens to the engine

In a container this is process 1, whose end is the end of all others, so the engine, which does all
the work, must be another one. Outside, the engine ends with this process, and slapd is taken over
by the next start.

The engine ends with an exit status of its own if it was asked to, or could not start: that is the
status of this process then. If slapd still runs, the engine has broken, and starts again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from appliance.core.run import lock
from appliance.core.run.errors import Busy, ExitStatus
from bdii.settings import BdiiSettings
from bdii.slapd import process

logger = logging.getLogger(__name__)

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED_FOR = {*_FORWARDED, signal.SIGCHLD}
# From the signal to stop until the engine is killed: less than the ten seconds after which a
# container is.
_STOP_TIME = timedelta(seconds=9)
# An engine that has lived so long starts again at once; one that keeps ending waits longer and
# longer.
_LONG_LIFE = timedelta(seconds=60)
_LONGEST_PAUSE = timedelta(seconds=60)

Engine = Callable[[bool], int]
"""Runs until its end; the argument is whether it takes the place of one that has broken."""


@dataclass(slots=True)
class _Child:
    pid: int
    started: float
    status: int | None = None
    """As waitpid reports it; None while the process runs."""

    @property
    def reason(self) -> str:
        """Return how the process ended."""
        if self.status is None:
            return "runs"
        code = os.waitstatus_to_exitcode(self.status)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with status {code}"


def supervise(settings: BdiiSettings, engine: Engine, *, reopen_log: Callable[[], object]) -> int:
    """Run an engine in a child process until its orderly end, and return its exit status.

    In the child this returns what ``engine`` returns. ``reopen_log`` is called before this process
    logs: the file may have been renamed since it was opened.
    """
    # blocked signals stay pending until this process asks for them, or the engine handles them
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    is_first, pause = True, 0.0
    while True:
        child = _start()
        if child is None:
            return engine(not is_first)
        is_asked = _wait_for(child)
        status = os.waitstatus_to_exitcode(child.status or 0)
        if is_asked or (status >= 0 and not _has_left_slapd(settings)):
            _end_slapd(settings)
            return status if status >= 0 else ExitStatus.NOTHING
        is_first = False
        reopen_log()
        logger.error("the engine %s; it is started again", child.reason)
        has_lived = time.monotonic() - child.started > _LONG_LIFE.total_seconds()
        pause = 0.0 if has_lived else pause
        if _asks_to_stop(within=pause):
            _end_slapd(settings)
            return ExitStatus.DONE
        pause = min(2 * pause + 1, _LONGEST_PAUSE.total_seconds())


def _start() -> _Child | None:
    """Fork; return None in the child, which the kernel ends if its parent dies."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        # `writer` stays open until this process ends, however it ends
        return _Child(pid, time.monotonic())
    os.close(writer)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    threading.Thread(target=_end_with_parent, args=(reader,), name="parent", daemon=True).start()
    return None


def _end_with_parent(reader: int) -> None:
    """Wait for the end of the parent, and end this process as abruptly: slapd keeps serving."""
    os.read(reader, 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for(child: _Child) -> bool:
    """Forward signals until the child has ended; return whether one of them asked it to end."""
    deadline: float | None = None
    while True:
        _reap(child)
        if child.status is not None:
            return deadline is not None
        if deadline is None:
            number = signal.sigwait(_WAITED_FOR)
        else:
            left = max(0.0, deadline - time.monotonic())
            taken = signal.sigtimedwait(_WAITED_FOR, left)
            number = signal.SIGKILL if taken is None else signal.Signals(taken.si_signo)
        if number == signal.SIGCHLD:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)
        if number != signal.SIGHUP and deadline is None:
            deadline = time.monotonic() + _STOP_TIME.total_seconds()


def _reap(child: _Child) -> None:
    """Take the status of all processes that have ended: process 1 inherits those of others."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == child.pid:
                child.status = status


def _has_left_slapd(settings: BdiiSettings) -> bool:
    """Check whether slapd runs without an engine: that of another `bdii-update` does not count."""
    return not lock.holder(settings.state / "lock") and process.runs(settings)


def _end_slapd(settings: BdiiSettings) -> None:
    """End a slapd that the engine could not end, unless another `bdii-update` uses it."""
    with contextlib.suppress(Busy, OSError), lock.hold(settings.state / "lock"):
        process.end_leftover(settings)


def _asks_to_stop(*, within: float) -> bool:
    """Wait; return early, and whether, a signal asks this process to end."""
    deadline = time.monotonic() + within
    while True:
        taken = signal.sigtimedwait(_WAITED_FOR, max(0.0, deadline - time.monotonic()))
        if taken is None:
            return False
        if taken.si_signo in {signal.SIGTERM, signal.SIGINT}:
            return True
