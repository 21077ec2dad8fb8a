"""Digests of passing blocks: a thread for each algorithm, because hashing takes most of the time.

hashlib releases the interpreter's lock while it hashes, so the blocks are received and sent
meanwhile.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

PENDING = 7
"""Blocks that `Digests.update` keeps at most for the threads, which bounds the memory."""


class Digests:
    """The digests of all blocks, by algorithm; a context, which ends the threads."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashes = {name: hashlib.new(name) for name in algorithms}
        # One worker each, which takes the blocks in their order.
        self._threads = {name: ThreadPoolExecutor(1) for name in self._hashes}
        self._pending: deque[tuple[Future[None], ...]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads.values():
            thread.shutdown(cancel_futures=True)

    def update(self, block: bytes | memoryview) -> None:
        """Add a block, which must not change until `PENDING` others have been added."""
        self._pending.append(
            tuple(
                thread.submit(self._hashes[name].update, block)
                for name, thread in self._threads.items()
            )
        )
        self._wait(PENDING)

    def finish(self) -> Mapping[str, str]:
        """Return the digests of all blocks, in hexadecimal digits."""
        self._wait(0)
        return {name: found.hexdigest() for name, found in self._hashes.items()}

    def _wait(self, most: int) -> None:
        while len(self._pending) > most:
            for future in self._pending.popleft():
                future.result()
