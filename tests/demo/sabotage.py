"""Kills that strike in the middle of the work; one before or after it is tried again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.demo.report import Row

ATTEMPTS = 5


def kill_at_work(
    process: subprocess.Popen[str], *, has_begun: Callable[[], bool], kill: Callable[[], object]
) -> bool:
    """Kill a program as soon as its work has begun; return whether it was still running."""
    while process.poll() is None and not has_begun():
        time.sleep(0.002)
    is_running = process.poll() is None
    kill()
    return is_running


def strike(act: str, *, is_running: bool, is_half_done: bool, counted_by: str) -> Row:
    """Return the row whether a kill struck: the program ran, and left some work undone."""
    return Row(
        act,
        "kills in the middle of the work",
        "1",
        str(int(is_running)),
        str(int(is_half_done)),
        counted_by,
    )


def until_struck(act: Callable[[], tuple[Row, list[Row]]], say: Callable[[str], None]) -> list[Row]:
    """Play an act of sabotage until it strikes, at most five times.

    It returns its `strike` and its other rows.

    An act with another row that says no is not played again: a second time could hide what the
    first one found.
    """
    struck, rows = act()
    for _ in range(ATTEMPTS - 1):
        if struck.is_equal or not all(row.is_equal for row in rows):
            break
        say("  the kill did not come in the middle of the work: once more")
        struck, rows = act()
    return [struck, *rows]
