"""Progress of the transfers that run: a line for each on a terminal, and lines of the log.

    egi_vm_images/ubuntu:24.04    45 %   1.2 GiB of 2.7 GiB    85.3 MiB/s   18 s left

The log has when a download begins and ends and, between them, a line for each further tenth or
minute, but not more than one in `_SHORTEST` seconds. The lines on the terminal are drawn again
below whatever else is printed there; in a file or pipe there are none.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TextIO

from appliance.core.download import pace
from appliance.core.download.downloader import Timeouts
from appliance.core.run import log
from cloudkeeper.frontend.sources import ImageOpener
from cloudkeeper.model import ImageSource, Offer

logger = logging.getLogger(__name__)

# Seconds between two redraws on a terminal.
_EVERY = 1.0
# Seconds between two lines of the log: at least, and at most.
_SHORTEST, _LONGEST = 10.0, 60.0
# The part of a file that is worth a line.
_STEP = 0.1
# Seconds over which the rate is measured.
_RECENT = 5.0
_NAME_WIDTH = 32
_NARROWEST = 40
_UP_AND_CLEAR = "\x1b[{}A\x1b[J"


class Meter:
    """The bytes of a transfer; ``size`` is None if nobody knows it."""

    def __init__(self, name: str, size: int | None) -> None:
        self.name, self.size, self.received = name, size, 0
        self._began = self._logged_at = self._marked_at = time.monotonic()
        self._logged = self._marked = 0
        self._rate = 0.0

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield blocks and count them."""
        for block in blocks:
            self.received += len(block)
            self._log_if_due()
            yield block

    def line(self) -> str:
        """Return the line for a terminal."""
        rate = self._recent_rate()
        parts = [f"{self.name[:_NAME_WIDTH]:{_NAME_WIDTH}}"]
        if self.size:
            parts.append(f"{100 * self.received // self.size:3} %")
            parts.append(f"{pace.amount(self.received)} of {pace.amount(self.size)}".rjust(22))
        else:
            parts.append(pace.amount(self.received).rjust(10))
        parts.append(pace.shown(rate).rjust(13))
        if self.size and rate > 0 and self.received < self.size:
            left = timedelta(seconds=int((self.size - self.received) / rate))
            parts.append(f"{left} left")
        return "  ".join(parts)

    def log_begin(self) -> None:
        """Log that the transfer begins."""
        size = f"{self.size} bytes" if self.size else "an unknown number of bytes"
        logger.info("%s: receiving %s", self.name, size)

    def log_end(self) -> None:
        """Log how much has come, and how fast."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = pace.amount(self.received / seconds)
        logger.info("%s: received %d bytes in %.1f s, %s", self.name, self.received, seconds, rate)

    def _log_if_due(self) -> None:
        seconds = time.monotonic() - self._logged_at
        if seconds < _SHORTEST:
            return
        further = self.received - self._logged
        if seconds >= _LONGEST or (self.size and further >= _STEP * self.size):
            of = f" of {self.size}" if self.size else ""
            rate = pace.shown(further / seconds)
            logger.info("%s: %d%s bytes received, %s", self.name, self.received, of, rate)
            self._logged_at, self._logged = time.monotonic(), self.received

    def _recent_rate(self) -> float:
        seconds = time.monotonic() - self._marked_at
        if seconds >= _RECENT or not self._rate:
            self._rate = (self.received - self._marked) / max(seconds, 1e-3)
        if seconds >= _RECENT:
            self._marked_at, self._marked = time.monotonic(), self.received
        return self._rate


class Progress:
    """Shows the transfers of a run; several threads may use it."""

    def __init__(self) -> None:
        self._screen: _Screen | None = None

    @contextlib.contextmanager
    def displayed(self, out: TextIO | None) -> Iterator[None]:
        """Draw the transfers on ``out`` during the block, if it is a terminal.

        The logs that go there are printed above the lines.
        """
        if out is None or not out.isatty():
            yield
            return
        screen = self._screen = _Screen(out)
        handlers = [
            handler
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is out
        ]
        stop = threading.Event()
        # A daemon thread: it must not keep the process alive after an interrupt.
        ticker = threading.Thread(target=screen.tick, args=(stop,), daemon=True)
        for handler in handlers:
            handler.setStream(screen)
        ticker.start()
        try:
            yield
        finally:
            stop.set()
            ticker.join()
            self._screen = None
            for handler in handlers:
                handler.setStream(out)
            screen.close()

    @contextlib.contextmanager
    def following(self, name: str, size: int | None) -> Iterator[Meter]:
        """Show a transfer during the block."""
        meter, screen = Meter(log.one_line(log.redact(name)), size), self._screen
        meter.log_begin()
        if screen:
            screen.add(meter)
        try:
            yield meter
        finally:
            if screen:
                screen.remove(meter)
            meter.log_end()

    def followed(self, source: ImageOpener, offer: Offer) -> ImageOpener:
        """Return a source whose downloads are shown under the name of an offer."""
        return _FollowedSource(source, self, offer.appliance.identifier)


@dataclass(frozen=True, slots=True)
class _FollowedSource:
    source: ImageOpener
    progress: Progress
    label: str

    @contextlib.contextmanager
    def open(
        self, source: ImageSource, *, name: str, timeouts: Timeouts
    ) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """Open the data of an image; see `ImageOpener`."""
        with (
            self.source.open(source, name=name, timeouts=timeouts) as (size, blocks),
            self.progress.following(self.label, size or source.size) as meter,
        ):
            yield size, meter.counted(blocks)


class _Screen:
    """A terminal whose last lines are those of the meters; handlers of the log write through it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._meters: list[Meter] = []
        self._drawn = 0

    def add(self, meter: Meter) -> None:
        with self._lock:
            self._meters.append(meter)
            self._redraw()

    def remove(self, meter: Meter) -> None:
        with self._lock:
            self._meters.remove(meter)
            self._redraw()

    def close(self) -> None:
        """Leave no line behind, also of a transfer that an interrupt has left running."""
        with self._lock:
            self._meters.clear()
            self._redraw()

    def tick(self, stop: threading.Event) -> None:
        """Redraw the lines until the event."""
        while not stop.wait(_EVERY):
            with self._lock:
                self._redraw()

    def write(self, text: str) -> int:
        """Print a text of a log above the lines."""
        with self._lock:
            self._redraw(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: all is flushed when it is written."""

    def _redraw(self, above: str = "") -> None:
        erase = _UP_AND_CLEAR.format(self._drawn) if self._drawn else ""
        width = max(shutil.get_terminal_size().columns - 1, _NARROWEST)
        lines = "".join(f"{meter.line()[:width]}\n" for meter in self._meters)
        self._drawn = len(self._meters)
        if erase or above or lines:
            with contextlib.suppress(OSError):  # the terminal has gone; the run goes on
                self._out.write(f"{erase}{above}{lines}")
                self._out.flush()
