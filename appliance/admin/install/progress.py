"""Progress lines of a build or an installation.

On a terminal a step is one line with its seconds, redrawn every second, so that a long step is seen
to be alive. Elsewhere a step prints plain lines.

    with step("container images") as detail:
        detail("caso")
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TextIO

_WIDTH = 52
_EVERY = 1.0
"""Seconds between two redraws on a terminal."""
_EVERY_ELSEWHERE = 60.0
"""Seconds between two lines of a long step in a file or pipe."""

Detail = Callable[[str], None]
"""Takes the name of the part of the step that begins now."""
Step = Callable[[str], AbstractContextManager[Detail]]


@contextlib.contextmanager
def step(label: str, *, stream: TextIO | None = None, is_terse: bool = False) -> Iterator[Detail]:
    """Show a step while the block runs, and then how many seconds it took.

    With ``is_terse``, nothing is printed except on a terminal, unless the step takes a minute.
    """
    out = stream or sys.stderr
    shown, is_terminal, done = [label], out.isatty(), threading.Event()
    begin = time.monotonic()

    def seconds() -> int:
        return round(time.monotonic() - begin)

    def redraw() -> None:
        while not done.wait(_EVERY if is_terminal else _EVERY_ELSEWHERE):
            _write(out, shown[0], f"{seconds():4} s", is_terminal=is_terminal)

    def detail(word: str) -> None:
        shown[0] = f"{label}: {word}"
        if is_terminal:
            _write(out, shown[0], f"{seconds():4} s", is_terminal=True)

    is_shown = is_terminal or not is_terse
    if is_shown:
        _write(out, label, "", is_terminal=is_terminal)
    # A daemon thread: it must not keep the process alive after an interrupt.
    ticker = threading.Thread(target=redraw, daemon=True)
    ticker.start()
    word = "failed"
    try:
        yield detail
        word = f"{seconds():4} s"
    finally:
        done.set()
        ticker.join()
        if is_shown:
            _write(out, label, word, is_terminal=is_terminal, is_last=True)


@contextlib.contextmanager
def silent(_label: str) -> Iterator[Detail]:
    """Show nothing."""
    yield lambda _word: None


def _write(out: TextIO, label: str, word: str, *, is_terminal: bool, is_last: bool = False) -> None:
    """Write a line; on a terminal it replaces the previous one."""
    line = (
        f"  {label:{_WIDTH}.{_WIDTH}} {word}".rstrip()
        if is_terminal
        else f"  {label}: {word or 'begins'}"
    )
    if is_terminal:
        out.write(f"\r{line}\x1b[K" + ("\n" if is_last else ""))
    else:
        out.write(f"{line}\n")
    out.flush()
