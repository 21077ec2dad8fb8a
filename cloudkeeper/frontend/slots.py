"""Transfers that run at the same time, each in a slot of its own.

    waiting ── a slot is free, its host has fewer than half of them, its bytes fit ──> running
            ── only hosts that have half of the slots wait ──────────────────────────> running

The first transfer of a file runs alone: it fetches the file, for which the others would only wait,
and its project becomes the owner if the backend shares images. The others follow side by side.

A slow server holds its own slot only: as long as transfers of other hosts wait, no host gets more
than half of the slots, and never more than ``per_host``. Small images go first. The bytes of all
running transfers are taken off the free space before another one begins; one that alone does not
fit begins nevertheless, and reports that itself.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from appliance.core.run.errors import Unavailable
from cloudkeeper.frontend.waiting import result_of

if TYPE_CHECKING:
    from appliance.core.download.downloader import Timeouts
    from cloudkeeper.frontend.sources import ImageOpener, Stream
    from cloudkeeper.model import ImageSource

_Result = TypeVar("_Result")
# For running transfers to end after an interrupt: to remove their files.
_END = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[_Result]):
    host: str
    image: str
    size: int
    length: float
    action: Callable[[], _Result]
    future: Future[_Result] = field(default_factory=Future)

    def run(self) -> None:
        """Set the result; the thread goes on after an error of any kind."""
        try:
            self.future.set_result(self.action())
        except BaseException as error:  # noqa: BLE001  it is raised where the result is read
            self.future.set_exception(error)


class Slots:
    """Runs up to ``number`` transfers at a time, with files on a disk of ``free()`` bytes.

    ``per_host`` limits those of one host; None: all may be of one.

    With the number 0 there are no threads: a transfer runs when its result is read.

    As a context: an exception in the block, an interrupt for example, calls ``abort``, which makes
    the running transfers fail. Those that wait do not begin any more.
    """

    def __init__(
        self,
        number: int,
        *,
        free: Callable[[], int],
        abort: Callable[[], object],
        per_host: int | None = None,
    ) -> None:
        self._number = number
        self._per_host = number if per_host is None else per_host
        self._free = free
        self._abort = abort
        self._changed = threading.Condition()
        self._waiting: list[_Job[Any]] = []
        self._running: list[_Job[Any]] = []
        self._followed: set[str] = set()
        """The images whose first transfer has ended."""
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def submit(
        self,
        action: Callable[[], _Result],
        *,
        host: str,
        image: str,
        size: int,
        length: float = 0,
    ) -> Callable[[], _Result]:
        """Run an action in a slot; return a function that waits for its result.

        ``image`` stands for the file: its second transfer begins when the first one has ended.
        ``size`` are the bytes that it needs on disk, ``length`` those to transfer.
        Without slots, that function is the action itself.
        """
        if not self._number:
            return action
        job = _Job(host, image, size, length, action)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        if len(self._threads) < self._number:
            # A daemon thread: it must not keep the process alive after an interrupt.
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        return functools.partial(result_of, job.future)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_closed = True
            for job in self._waiting:
                job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        if error is not None:
            self._abort()
        ends = time.monotonic() + _END.total_seconds()
        for thread in self._threads:
            thread.join(max(ends - time.monotonic(), 0))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job.run()
            with self._changed:
                self._running.remove(job)
                self._followed.add(job.image)
                self._changed.notify_all()

    def _next(self) -> _Job[Any] | None:
        with self._changed:
            while True:
                if self._is_closed:
                    return None
                if (job := self._chosen()) is not None:
                    self._waiting.remove(job)
                    self._running.append(job)
                    return job
                self._changed.wait()

    def _chosen(self) -> _Job[Any] | None:
        busy = Counter(job.host for job in self._running)
        half = max(self._number // 2, 1)
        images = {job.image for job in self._running}
        may_begin = (
            job
            for job in self._waiting
            if busy[job.host] < self._per_host and job.image not in images - self._followed
        )
        # First other images than those that run, because those share one file, and of these first
        # those of hosts that have fewer than half of the slots; then those whose file is there
        # already, and small ones.
        in_turn = sorted(
            may_begin,
            key=lambda job: (
                job.image in images,
                busy[job.host] >= half,
                job.image not in self._followed,
                job.length,
            ),
        )
        try:
            room = self._free() - sum(job.size for job in self._running)
        except OSError:  # each transfer reports it, one after the other
            room = 0
        for job in in_turn:
            if not self._running or job.size <= room:
                return job
        return None


@dataclass(frozen=True, slots=True)
class StoppableSource:
    """A source that opens nothing more when a run is stopped, whoever still waits for it."""

    source: ImageOpener
    stopping: threading.Event

    def open(self, source: ImageSource, *, name: str, timeouts: Timeouts) -> Stream:
        """Open the data of an image; see `ImageOpener`."""
        if self.stopping.is_set():
            raise Unavailable(name, "is not fetched, because the run is stopped")
        return self.source.open(source, name=name, timeouts=timeouts)
