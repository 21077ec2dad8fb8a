"""The service: slapd with the last good tree at once, then cycles until a signal ends it.

The main thread starts slapd or takes over the one that runs, starts it again if it ends or stops
answering, and takes the signals; a worker thread does the cycles. SIGTERM and SIGINT end all of it
within ten seconds; SIGHUP reloads the configuration and starts a cycle. If this process ends in
another way, slapd keeps serving (`bdii.service.supervise`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from appliance.core.directory import NoAnswer
from appliance.core.run import lock
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord, recorded
from bdii.messages import ProblemLog
from bdii.service.cycle import Cycle, Updater
from bdii.service.state import StateDirectory
from bdii.settings import BdiiSettings
from bdii.slapd.process import Slapd
from bdii.slapd.watch import AnswerWatch
from bdii.tree import Tree

logger = logging.getLogger(__name__)

# Between two attempts to start a slapd that has ended, until the pause below is over.
_WATCH = timedelta(milliseconds=200)
# For the first answers of the sources of a new host; between two looks whether they are there.
_FIRST = timedelta(seconds=60)
_POLL = timedelta(milliseconds=20)
# Before a failed start of slapd or a failed cycle is repeated.
_RETRY = timedelta(seconds=3)
# For the worker to end; together with slapd's own time this stays below ten seconds.
_END = timedelta(seconds=6)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class BdiiService:
    """A running BDII. ``read`` reads the configuration again; it raises `ApplianceError`.

    With ``must_read`` that is done before the first cycle.
    """

    def __init__(
        self,
        settings: BdiiSettings,
        read: Callable[[], BdiiSettings],
        *,
        must_read: bool = False,
    ) -> None:
        self._settings = settings
        self._read = read
        self._slapd = Slapd(settings)
        self._answers = AnswerWatch(self._slapd)
        # The interpreter writes the numbers of signals here. A handler that sets an Event deadlocks
        # if it interrupts the main thread while that holds the event's lock.
        self._signals, self._signal_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stop = threading.Event()
        self._reload = threading.Event()
        if must_read:
            self._reload.set()
        self._wake = threading.Event()
        self._problems = ProblemLog()
        self._bug: BaseException | None = None
        # Why slapd could not be restarted; empty while it runs.
        self._no_start = ""

    def run(self) -> ExitStatus:
        """Serve until a signal ends it.

        Raises `Busy` if another BDII uses the state directory, and `Unavailable` if slapd cannot
        start.
        """
        with recorded(f"bdii-{self._settings.level}", self._settings.runs, is_service=True):
            return self._run()

    def _run(self) -> ExitStatus:
        with lock.hold(self._settings.state / "lock"):
            self._handle_signals()
            updater = self._serve(StateDirectory(self._settings.state))
            # a daemon thread: a cycle that hangs must not keep the process from ending
            worker = threading.Thread(
                target=self._work, args=(updater,), name="cycles", daemon=True
            )
            worker.start()
            if updater.first is not None and not updater.started.is_set():
                self._start_slapd(updater.first, updater)
            self._watch(updater)
            worker.join(_END.total_seconds())
            if self._bug is not None:
                raise self._bug  # slapd keeps serving
            self._slapd.stop()
        return ExitStatus.DONE

    def _serve(self, state: StateDirectory) -> Updater:
        """Serve the tree published last, if no slapd does already, and read the state.

        On a new host there is none: slapd starts with the first cycle.
        """
        if self._slapd.recover():
            return Updater(self._settings, state, self._slapd)
        is_served = self._slapd.serve_file(state.published_file)
        updater = Updater(self._settings, state, self._slapd)
        if updater.first is not None and not is_served:
            updater.started.clear()
            return updater
        if is_served and updater.is_as_stored:
            self._slapd.knows(updater.published)
        else:
            self._slapd.serve(updater.published)
        self._note_start(updater.published)
        return updater

    def _start_slapd(self, first: queue.SimpleQueue[Tree], updater: Updater) -> None:
        """Start slapd on the tree of the first cycle.

        A tree that is loaded before slapd answers is never seen in part, and loads faster. But a
        source that does not answer must not keep slapd from starting.
        """
        tree = updater.published
        deadline = time.monotonic() + _FIRST.total_seconds()
        while time.monotonic() < deadline and not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                tree = first.get_nowait()
                break
            self._wait(_POLL)
        if not self._stop.is_set():
            self._note_start(self._slapd.serve(tree).tree)
            updater.started.set()

    def _note_start(self, tree: Tree) -> None:
        logger.info("serving %d entries on port %d", len(tree), self._settings.port)

    def _handle_signals(self) -> None:
        signal.set_wakeup_fd(self._signal_writer)
        for handled in _SIGNALS:
            signal.signal(handled, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _wait(self, patience: timedelta) -> None:
        """Wait for a signal, the end of slapd, or the end of the time, and take the signals."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        process = self._slapd.process
        if process is not None and not process.has_ended:
            poll.register(process.descriptor, select.POLLIN)
        ready = poll.poll(round(patience.total_seconds() * 1000))
        if any(descriptor == self._signals for descriptor, _ in ready):
            for number in os.read(self._signals, 64):
                (self._reload if number == signal.SIGHUP else self._stop).set()
            self._wake.set()

    def _watch(self, updater: Updater) -> None:
        """Start slapd again whenever it ends or stops answering, until the service stops."""
        not_before = 0.0
        while not self._stop.is_set():
            self._wait(self._answers.pause if self._slapd.is_alive else _WATCH)
            if self._stop.is_set():
                return
            if self._slapd.is_alive:
                self._end_if_stuck()
            if not self._slapd.is_alive and time.monotonic() >= not_before:
                is_failing = not self._revive(updater) or self._slapd.keeps_ending
                not_before = time.monotonic() + (_RETRY.total_seconds() if is_failing else 0)

    def _end_if_stuck(self) -> None:
        generation = self._slapd.generation
        if self._answers.is_stuck():
            logger.error("slapd does not answer and uses no CPU; it is restarted")
            self._slapd.give_up(generation)

    def _revive(self, updater: Updater) -> bool:
        """Start slapd again; return whether it runs."""
        logger.error("slapd has ended; it is started again")
        try:
            self._slapd.revive(updater.published)
            self._no_start = ""
        except (ApplianceError, OSError) as error:
            self._no_start = _reason(error)
            logger.error("%s", self._no_start)  # noqa: TRY400  one clear line
        # a cycle finds out what slapd serves now, and restores the entry below o=infosys
        self._wake.set()
        return not self._no_start

    def _work(self, updater: Updater) -> None:
        patience = _RETRY
        try:
            while not self._stop.is_set():
                self._wake.clear()
                if self._reload.is_set():
                    self._reload.clear()
                    self._apply_settings(updater)
                done = self._cycle(updater)
                breathe = updater.settings.breathe
                pause = breathe if done else _RETRY
                # a source without any answer often only starts later than the BDII: ask it soon,
                # then less and less often
                if done and done.unheard:
                    pause, patience = patience, min(2 * patience, breathe)
                self._wake.wait(min(pause, breathe).total_seconds())
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._bug = error
            self._stop.set()

    def _apply_settings(self, updater: Updater) -> None:
        try:
            settings = self._read()
        except ApplianceError as error:
            words = "configuration not reloaded, the old one stays in use: %s"
            logger.error(words, error)  # noqa: TRY400  one clear line
            return
        if settings.listens_unlike(self._settings):
            logger.warning(
                "addresses, port and directories are read at start only; restart to apply them"
            )
        updater.reload(settings)
        self._problems.forget()
        logger.info("configuration reloaded")

    def _cycle(self, updater: Updater) -> Cycle | None:
        """Do one cycle and write its run record; return None if it did not reach its end."""
        with recorded(f"bdii-{updater.settings.level}", updater.settings.runs) as record:
            generation = self._slapd.generation
            try:
                done = updater.cycle(self._stop)
            except (ApplianceError, OSError) as error:
                done = None
                if not self._stop.is_set():  # else the signal may have ended slapadd, too
                    self._note_failure(error, updater, record)
                    if isinstance(error, NoAnswer):
                        self._slapd.give_up(generation)
            if self._stop.is_set():
                record.is_kept = False
                return None
            if done is not None:
                self._problems.report(done.problems)
                for problem in done.problems:
                    record.fail(problem)
                record.counts |= figures(done)
                logger.info("%s", summary(done))
            return done

    def _note_failure(
        self, error: ApplianceError | OSError, updater: Updater, record: RunRecord
    ) -> None:
        logger.error("cycle failed: %s", _reason(error))
        if self._no_start:
            record.fail(f"slapd cannot be started: {self._no_start}")
        record.fail(_reason(error))
        record.counts["entries"] = len(updater.published)
        if updater.planned is not None:
            record.counts["changes_left"] = updater.planned
        record.status = ExitStatus.NOTHING


def _reason(error: ApplianceError | OSError) -> str:
    return str(error if isinstance(error, ApplianceError) else LocalFailure.from_os(error))


def figures(done: Cycle) -> dict[str, float]:
    """Return a cycle's figures under the names of the metrics."""
    statistics = done.statistics
    return {
        "entries": statistics.total,
        "entries_added": statistics.new,
        "entries_modified": statistics.modified,
        "entries_deleted": statistics.deleted,
        "entries_refused": statistics.failed_adds
        + statistics.failed_modifies
        + statistics.failed_deletes,
        "entries_stale": done.stale,
        "deletions_waiting": done.waiting,
        "sources": done.sources,
        "collect_seconds": round(statistics.collecting, 3),
        "apply_seconds": round(statistics.applying, 3),
    }


def summary(done: Cycle) -> str:
    """Return the result of a cycle in one line."""
    statistics = done.statistics
    return (
        f"{statistics.total} entries from {done.sources} sources: {statistics.new} added, "
        f"{statistics.modified} modified, {statistics.deleted} deleted, {done.stale} stale, "
        f"{done.waiting} deletions waiting, {len(done.problems)} problems"
    )
