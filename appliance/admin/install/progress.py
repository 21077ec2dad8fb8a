"""Says what a build or an installation is at.

On a terminal it is one line with the seconds, renewed every second; elsewhere plain lines.

    with step("container images") as detail:
        detail("caso")

Nobody who watches has to wonder for longer than a second whether anything still happens.
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
"""Seconds between two renewals on a terminal."""
_EVERY_ELSEWHERE = 60.0
"""Seconds between two lines that a long step writes to a file or pipe."""

Detail = Callable[[str], None]
"""Takes a word for the part of the step that begins now."""
Step = Callable[[str], AbstractContextManager[Detail]]


@contextlib.contextmanager
def step(label: str, *, stream: TextIO | None = None, is_terse: bool = False) -> Iterator[Detail]:
    """Show a step for as long as the block lasts, and how many seconds it took.

    A terse one says nothing elsewhere than on a terminal, unless it takes a minute.
    """
    out = stream or sys.stderr
    shown, is_terminal, done = [label], out.isatty(), threading.Event()
    begin = time.monotonic()

    def seconds() -> int:
        return round(time.monotonic() - begin)

    def renew() -> None:
        while not done.wait(_EVERY if is_terminal else _EVERY_ELSEWHERE):
            _write(out, shown[0], f"{seconds():4} s", is_terminal=is_terminal)

    def detail(word: str) -> None:
        shown[0] = f"{label}: {word}"
        if is_terminal:
            _write(out, shown[0], f"{seconds():4} s", is_terminal=True)

    is_shown = is_terminal or not is_terse
    if is_shown:
        _write(out, label, "", is_terminal=is_terminal)
    watch = threading.Thread(target=renew, daemon=True)
    watch.start()
    word = "failed"
    try:
        yield detail
        word = f"{seconds():4} s"
    finally:
        done.set()
        watch.join()
        if is_shown:
            _write(out, label, word, is_terminal=is_terminal, is_last=True)


@contextlib.contextmanager
def silent(_label: str) -> Iterator[Detail]:
    """Show nothing."""
    yield lambda _word: None


def _write(out: TextIO, label: str, word: str, *, is_terminal: bool, is_last: bool = False) -> None:
    """Write a line; on a terminal in place of the one before."""
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
