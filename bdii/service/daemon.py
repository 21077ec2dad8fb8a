"""The service: slapd with the last good tree at once, then cycles until a signal ends it.

The main thread starts slapd, restarts it if it ends, and takes the signals; a worker thread does
the cycles. SIGTERM and SIGINT end both within ten seconds; SIGHUP reloads the configuration and
starts a cycle.
"""

from __future__ import annotations

import contextlib
import logging
import queue
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

logger = logging.getLogger(__name__)

# Between two looks at slapd.
_WATCH = timedelta(milliseconds=200)
# Before a failed start of slapd or a failed cycle is repeated.
_RETRY = timedelta(seconds=3)
# For the worker to end; together with slapd's own time this stays below ten seconds.
_END = timedelta(seconds=6)


class BdiiService:
    """A running BDII. ``read`` reads the configuration again; it raises `ApplianceError`."""

    def __init__(self, settings: BdiiSettings, read: Callable[[], BdiiSettings]) -> None:
        self._settings = settings
        self._read = read
        self._slapd = Slapd(settings)
        # Signal handlers write to a SimpleQueue, which is reentrant: a handler that sets an Event
        # deadlocks if it interrupts the main thread while that holds the event's lock.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._reload = threading.Event()
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
            self._slapd.recover()
            updater = Updater(self._settings, StateDirectory(self._settings.state), self._slapd)
            for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(handled, lambda number, _: self._signals.put(number))
            try:
                self._slapd.serve(updater.published)
                logger.info(
                    "serving %d entries on port %d", len(updater.published), self._settings.port
                )
                # a daemon thread: a cycle that hangs must not keep the process from ending
                worker = threading.Thread(
                    target=self._work, args=(updater,), name="cycles", daemon=True
                )
                worker.start()
                self._watch(updater)
                worker.join(_END.total_seconds())
            finally:
                self._slapd.stop()
        if self._bug is not None:
            raise self._bug
        return ExitStatus.DONE

    def _take_signal(self, patience: timedelta) -> None:
        with contextlib.suppress(queue.Empty):
            number = self._signals.get(timeout=patience.total_seconds())
            (self._reload if number == signal.SIGHUP else self._stop).set()
            self._wake.set()

    def _watch(self, updater: Updater) -> None:
        """Restart slapd whenever it ends, until the service stops."""
        not_before = 0.0
        while not self._stop.is_set():
            self._take_signal(_WATCH)
            if self._stop.is_set() or self._slapd.is_alive or time.monotonic() < not_before:
                continue
            logger.error("slapd has ended; restarting it with the tree published last")
            try:
                self._slapd.serve(updater.published)
                self._no_start = ""
            except (ApplianceError, OSError) as error:
                self._no_start = _reason(error)
                logger.error("%s", self._no_start)  # noqa: TRY400  one clear line
            # a cycle restores the entry below o=infosys, which the new database does not have
            self._wake.set()
            not_before = time.monotonic() + _RETRY.total_seconds()

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
