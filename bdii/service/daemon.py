"""The service: slapd on the last good tree at once, then a cycle after another until told to end.

The main thread starts slapd, watches it and takes the signals; a second one does the cycles.
SIGTERM and SIGINT end both within ten seconds, SIGHUP reads the configuration again and begins a
cycle.
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
from appliance.core.run.record import RunRecord, failure_recorded
from bdii.service.cycle import Cycle, Updater
from bdii.service.state import StateDirectory
from bdii.settings import BdiiSettings
from bdii.slapd.process import Slapd

logger = logging.getLogger(__name__)

_WATCH = timedelta(milliseconds=200)
_RETRY = timedelta(seconds=3)
_END = timedelta(seconds=6)


class BdiiService:
    """One BDII at work. ``read`` reads the configuration again; it raises `ApplianceError`."""

    def __init__(self, settings: BdiiSettings, read: Callable[[], BdiiSettings]) -> None:
        self._settings = settings
        self._read = read
        self._server = Slapd(settings)
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        """What handlers write to: they may interrupt the main thread while it holds the lock of an event."""
        self._stop = threading.Event()
        self._reload = threading.Event()
        self._wake = threading.Event()
        self._bug: BaseException | None = None
        self._no_start = ""
        """Why slapd could not be started again; empty while it runs."""

    def run(self) -> ExitStatus:
        """Serve until told to end. Raises `Busy` when another one serves this directory, and what stops slapd."""
        with failure_recorded(f"bdii-{self._settings.level}", self._settings.runs):
            return self._run()

    def _run(self) -> ExitStatus:
        with lock.hold(self._settings.state / "lock"):
            self._server.recover()
            engine = Updater(self._settings, StateDirectory(self._settings.state), self._server)
            for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(handled, lambda number, _: self._signals.put(number))
            try:
                self._server.serve(engine.published)
                logger.info(
                    "serving %d entries on port %d", len(engine.published), self._settings.port
                )
                worker = threading.Thread(
                    target=self._work, args=(engine,), name="cycles", daemon=True
                )
                worker.start()
                self._watch(engine)
                worker.join(_END.total_seconds())
            finally:
                self._server.stop()
        if self._bug is not None:
            raise self._bug
        return ExitStatus.DONE

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    def _take_signal(self, patience: timedelta) -> None:
        with contextlib.suppress(queue.Empty):
            number = self._signals.get(timeout=patience.total_seconds())
            (self._reload if number == signal.SIGHUP else self._stop).set()
            self._wake.set()

    def _watch(self, engine: Updater) -> None:
        """Keep slapd alive until told to end."""
        not_before = 0.0
        while not self._stop.is_set():
            self._take_signal(_WATCH)
            if self._stop.is_set() or self._server.is_alive or time.monotonic() < not_before:
                continue
            logger.error("slapd has ended: starting it on the tree published last")
            try:
                self._server.serve(engine.published)
                self._no_start = ""
            except (ApplianceError, OSError) as error:
                self._no_start = _told(error)
                logger.error("%s", self._no_start)  # noqa: TRY400  one clear line
            self._wake.set()  # the entry below o=infosys has gone with the old database
            not_before = time.monotonic() + _RETRY.total_seconds()

    def _work(self, engine: Updater) -> None:
        patience = _RETRY
        try:
            while not self._stop.is_set():
                self._wake.clear()
                if self._reload.is_set():
                    self._reload.clear()
                    self._apply_settings(engine)
                done = self._cycle(engine)
                breathe = engine.settings.breathe
                pause = breathe if done else _RETRY
                if done and done.unheard:  # often it only starts later than we did
                    pause, patience = patience, min(2 * patience, breathe)
                self._wake.wait(min(pause, breathe).total_seconds())
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._bug = error
            self._end()

    def _apply_settings(self, engine: Updater) -> None:
        try:
            settings = self._read()
        except ApplianceError as error:
            logger.error("configuration not read again, the old one stays: %s", error)  # noqa: TRY400
            return
        if settings.listens_unlike(self._settings):
            logger.warning(
                "addresses, port and directories are read at the start only: restart to change them"
            )
        engine.reload(settings)
        logger.info("configuration read again")

    def _cycle(self, engine: Updater) -> Cycle | None:
        """Do one cycle and record it; None when it did not come to its end."""
        record = RunRecord(f"bdii-{engine.settings.level}")
        generation = self._server.generation
        try:
            done = engine.cycle(self._stop)
        except (ApplianceError, OSError) as error:
            if self._stop.is_set():  # who ends us may have ended slapadd, too
                return None
            logger.error("cycle given up: %s", _told(error))  # noqa: TRY400
            if isinstance(error, NoAnswer):
                self._server.give_up(generation)
            if self._no_start:
                record.fail(f"slapd cannot be started: {self._no_start}")
            record.fail(_told(error))
            record.counts["entries"] = len(engine.published)
            if engine.planned is not None:
                record.counts["changes_left"] = engine.planned
            record.close(ExitStatus.NOTHING, engine.settings.runs)
            return None
        if self._stop.is_set():
            return None
        for problem in done.problems:
            logger.warning("%s", problem)
            record.fail(problem)
        record.counts |= figures(done)
        record.close(ExitStatus.PARTLY if done.problems else ExitStatus.DONE, engine.settings.runs)
        logger.info("%s", summary(done))
        return done


def _told(error: ApplianceError | OSError) -> str:
    return str(error if isinstance(error, ApplianceError) else LocalFailure.from_os(error))


def figures(done: Cycle) -> dict[str, float]:
    """Return a cycle's figures by the names that metrics have."""
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
    """Return a cycle in one line."""
    statistics = done.statistics
    return (
        f"{statistics.total} entries from {done.sources} sources: {statistics.new} added, "
        f"{statistics.modified} modified, {statistics.deleted} deleted, {done.stale} stale, "
        f"{done.waiting} deletions waiting, {len(done.problems)} problems"
    )
