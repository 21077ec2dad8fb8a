"""Locks by key: threads that need the same answer request it once, the others do not wait."""

from __future__ import annotations

import threading
from collections.abc import Hashable


class Locks:
    """A lock for each key, which is made on first use."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._all: dict[Hashable, threading.Lock] = {}

    def of(self, key: Hashable) -> threading.Lock:
        """Return the lock of a key."""
        with self._guard:
            return self._all.setdefault(key, threading.Lock())
