"""Waits of the main thread that a signal ends, whichever thread the kernel delivers it to.

Python runs the handler of a signal in the main thread, between two of its instructions. A wait for
a lock is one instruction. The signal cuts it short only if the main thread itself receives it, and
is asleep by then; otherwise SIGTERM would stop a run only after its transfers have ended.
"""

from __future__ import annotations

import time
from concurrent import futures
from datetime import timedelta
from typing import TypeVar

_Result = TypeVar("_Result")
_SLICE = timedelta(milliseconds=250)


def result_of(future: futures.Future[_Result], *, within: timedelta = timedelta.max) -> _Result:
    """Return the result of a future, or raise its exception.

    Raises:
        TimeoutError: it does not come in time.

    """
    ends = time.monotonic() + within.total_seconds()
    while not future.done():
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        futures.wait([future], min(left, _SLICE.total_seconds()))
    return future.result()
