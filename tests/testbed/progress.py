"""Tells of each step, one line with seconds, when it is over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Lines on standard error; steps of several threads may overlap."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._begin = time.monotonic()
        self._quiet = quiet
        self._one_at_a_time = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block and tell of it, unless it fails."""
        begin = time.monotonic()
        yield
        self.say(f"{name:<40} {time.monotonic() - begin:5.1f} s")

    def say(self, line: str) -> None:
        """Print a line with the seconds since the beginning."""
        if not self._quiet:
            with self._one_at_a_time:
                print(
                    f"[{time.monotonic() - self._begin:5.1f} s] {line}", file=sys.stderr, flush=True
                )
