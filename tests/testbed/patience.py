"""How long to wait for something on a machine of unknown speed: as long as it makes progress.

A fixed limit measures the machine: what takes 5 s on an idle one took more than 120 s on one with
ten times the load, and the whole run was lost. So the time without any progress is limited, and the
whole only by a generous ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_REST, _LONGEST_REST = 0.05, 1.0
"""Seconds between two looks."""
CEILING = 1800.0
"""Seconds after which the wait ends in spite of progress: a process may be busy for ever."""


def until(is_true: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until something is true, for at most some seconds; return whether it is.

    A look may start programs. The rest after it is twice as long as the look, so that looking takes
    no more than a third of a core from the work that it waits for.
    """
    begin = look = time.monotonic()
    while not is_true():
        now = time.monotonic()
        if now - begin > seconds:
            return False
        time.sleep(min(max(_REST, 2 * (now - look)), _LONGEST_REST))
        look = time.monotonic()
    return True


class Patience:
    """Waits while ``progress`` returns new values, at most ``idle`` seconds for the next one.

    ``progress`` is something that changes while the work is done: CPU seconds, a count, the state
    of each item.
    """

    def __init__(
        self, progress: Callable[[], object], *, idle: float, ceiling: float = CEILING
    ) -> None:
        self._progress = progress
        self._idle = idle
        self._ceiling = ceiling
        self._begin = self._since = time.monotonic()
        self._seen = progress()

    @property
    def waited(self) -> float:
        """Return the seconds since the wait began."""
        return time.monotonic() - self._begin

    def is_over(self) -> bool:
        """Look at the progress; return whether it is of no use to wait any longer."""
        now = time.monotonic()
        if (seen := self._progress()) != self._seen:
            self._seen, self._since = seen, now
        return now - self._since > self._idle or now - self._begin > self._ceiling

    def __str__(self) -> str:
        still = time.monotonic() - self._since
        return f"within {self.waited:.0f} s, the last {still:.0f} s of them without progress"
