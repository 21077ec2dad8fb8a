"""The rate of a server: at least `LEAST` bytes must come in each window of time.

The time that the consumer of the bytes takes, for example to send them on, does not count. Neither
do outages of the server or of the network, up to `_GRACE` in one download.
"""

from __future__ import annotations

import time
from datetime import timedelta

LEAST = 2**20
"""Bytes that must come in a window."""
# Seconds of a gap that count: a server that breaks the connection after each byte is slow, too.
_SHORT = 2.0
_GRACE = 300.0


class Pace:
    """The bytes that came in the present window, which is as long as ``window`` at least."""

    def __init__(self, window: timedelta) -> None:
        self.window = window
        self._since = self._last = time.monotonic()
        self._grace = _GRACE
        self._bytes = 0
        self.excluded = 0.0
        """The seconds that the consumer has taken."""

    def restart(self) -> None:
        """Begin a window now."""
        self._since = self._last = time.monotonic()
        self._bytes = 0

    def exclude(self, since: float) -> None:
        """Leave out the time of the consumer, from a moment of ``time.monotonic()`` until now."""
        self._last = time.monotonic()
        self._since += self._last - since
        self.excluded += self._last - since

    def forgive(self) -> None:
        """Leave out an outage, which began after the last bytes and ends now."""
        gap = time.monotonic() - self._last - _SHORT
        forgiven = min(max(gap, 0.0), self._grace)
        self._grace -= forgiven
        self._since += forgiven

    def add(self, number: int) -> float | None:
        """Count bytes that came; return the rate in bytes a second if it is too low.

        A window that is over and had enough bytes is followed by another one.
        """
        self._last = time.monotonic()
        self._bytes += number
        seconds = self._last - self._since
        if seconds < self.window.total_seconds():
            return None
        if self._bytes < LEAST:
            return self._bytes / seconds
        self.restart()
        return None

    @property
    def least(self) -> float:
        """The lowest rate that is allowed, in bytes a second."""
        return LEAST / self.window.total_seconds()


def shown(rate: float) -> str:
    """Return a rate for a message, in the unit that fits."""
    return f"{amount(rate)}/s"


def amount(number: float) -> str:
    """Return a number of bytes for a message, in the unit that fits."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} bytes"
