"""The bytes a second that all downloads of images together may use: a token bucket.

Reading is slowed down, so that the server sends no faster than that (TCP's flow control). The time
that a download waits for its tokens is not the server's, as that of any other consumer
(`appliance.core.download.pace`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from appliance.core import retry

LEAST_RATE = 512 * 1024
"""Bytes a second that each transfer must get: twice the rate at which a server counts as too slow.

The limits of time of a download, and of the backend that waits for it, are made for that rate.
"""


class Bandwidth:
    """A bucket that holds the tokens of one second; ``rate`` is in bytes, None: no limit.

    It is safe for use by several threads. Each waits behind those that came before it, so that they
    share the rate evenly.
    """

    def __init__(
        self, rate: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = float(rate or 0)
        self._counted = clock()

    def limited(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield blocks, each when there are tokens for it."""
        for block in blocks:
            if self._rate is not None and (seconds := self._taken(len(block), self._rate)) > 0:
                retry.wait(seconds)  # an interrupt of the run ends it
            yield block

    def _taken(self, number: int, rate: int) -> float:
        """Take tokens, perhaps of the future; return the seconds until they are there."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._tokens + (now - self._counted) * rate, float(rate))
            self._counted = now
            self._tokens -= number
            return -self._tokens / rate
