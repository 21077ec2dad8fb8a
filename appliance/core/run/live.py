"""``--check-live``: a program tries what its runs contact, and reports what does not work.

The attempts run in a thread, because a call into a library may hang for longer than its own time
limit. The findings made until then are reported in any case.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from appliance.core.run.finding import Finding

Attempts = Callable[[argparse.Namespace], Iterable[Finding]]
"""Yields a finding for each fault; a check without ``--write`` changes nothing anywhere."""
LIMIT = timedelta(seconds=40)
"""Time limit of all attempts of a program; `appliance check` ends within a minute."""
BOOT_LIMIT = timedelta(minutes=6)
"""The same of a check that boots a server."""
_END = object()


def findings(attempts: Attempts, arguments: argparse.Namespace, *, row: str) -> Iterator[Finding]:
    """Yield the findings of the attempts until they end or the limit has passed.

    ``row`` is that of attempts that do not end.

    Raises:
        Exception: An attempt has raised it.

    """
    made: queue.SimpleQueue[object] = queue.SimpleQueue()
    boots = getattr(arguments, "as_egi", None) and getattr(arguments, "write", False)
    limit = BOOT_LIMIT if boots else LIMIT

    def work() -> None:
        try:
            for finding in attempts(arguments):
                made.put(finding)
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            made.put(error)
        else:
            made.put(_END)

    end = time.monotonic() + limit.total_seconds()
    threading.Thread(target=work, daemon=True).start()
    while True:
        try:
            found = made.get(timeout=max(end - time.monotonic(), 0))
        except queue.Empty:
            yield _late(limit, row)
            return
        if isinstance(found, Finding):
            yield found
        elif isinstance(found, BaseException):
            raise found
        else:
            return


def _late(limit: timedelta, row: str) -> Finding:
    words = f"the attempts did not end within {limit.seconds} s; the rest was not tried"
    return Finding("", 0, "", f"{words}: look at what hangs, and check again", row)
