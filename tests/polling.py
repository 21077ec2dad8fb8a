"""Looking again and again at what must not change, while something else is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_PAUSE = 0.05


@contextlib.contextmanager
def repeated(look: Callable[[], None]) -> Iterator[None]:
    """Call a function every 50 ms during the block, and once before it begins."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.wait(_PAUSE):
            look()

    look()
    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
