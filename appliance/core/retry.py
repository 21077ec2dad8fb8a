"""Attempts, and the pauses between them.

Pauses double from a first to a longest one. Up to half of each is taken off at random, so that
clients which lost the same service do not come back at the same moment.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def pauses(*, first: float = 1.0, longest: float = 300.0) -> Iterator[float]:
    """Yield the seconds to wait before each further attempt, without end."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311  spreads clients, protects nothing
        pause = min(2 * pause, longest)


def call(
    action: Callable[[], T],
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    attempts: int,
    longest: float,
    decide: Callable[[Exception, float], float | None],
) -> T:
    """Return the result of ``action``, which is tried up to ``attempts`` times.

    ``decide`` gets each error of a kind in ``on``, but for the last attempt's, and the pause in
    seconds that is due. It returns the seconds to wait, or None to let the error pass.
    """
    for pause in itertools.islice(pauses(longest=longest), attempts - 1):
        try:
            return action()
        except on as error:
            wait = decide(error, pause)
            if wait is None:
                raise
        _sleep(wait)
    return action()


def wait(seconds: float) -> None:
    """Wait before an attempt that `call` does not make."""
    _sleep(seconds)


def interrupt() -> None:
    """End the pauses of all threads, and all later ones: the process is about to stop."""
    _interrupted.set()


_interrupted = threading.Event()
_sleep: Callable[[float], object] = _interrupted.wait
