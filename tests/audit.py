"""What this process is about to ask of the file system, seen in process by an audit hook of Python.

A test may note the order, or act in between as another process would: nothing is replaced, and
what follows is the file system's own answer. `tests.syscalls` sees fsync itself, in a child.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Action = Callable[[Path], object]

_actions: list[tuple[str, Action]] = []


def _tell(
    event: str,
    arguments: tuple[object, ...],
    actions: list[tuple[str, Action]] = _actions,  # the module's names are gone at the very end
) -> None:
    for wanted, action in tuple(actions):
        if event == wanted and isinstance(arguments[0], str | os.PathLike):
            action(Path(arguments[0]))


sys.addaudithook(_tell)  # a hook can never be removed


@contextlib.contextmanager
def before(
    event: str, action: Action, *, path: Path | None = None, times: int = 1
) -> Iterator[None]:
    """Act just before the first events of a kind (``os.utime``, ``os.remove``, ``open``, …).

    ``path`` means those of this path only. What ``action`` raises, the caller of the operation
    gets; what it does itself is no event.
    """
    left, is_acting = times, False

    def act(found: Path) -> None:
        nonlocal left, is_acting
        if left and not is_acting and path in (None, found):
            left, is_acting = left - 1, True
            try:
                action(found)
            finally:
                is_acting = False

    _actions.append((event, act))
    try:
        yield
    finally:
        _actions.remove((event, act))
    assert left < times, f"no {event} came"


@contextlib.contextmanager
def directories_opened(action: Action) -> Iterator[None]:
    """Act just before each directory is opened, as `files.sync_directory` does."""

    def act(found: Path) -> None:
        if found.is_dir():
            action(found)

    with before("open", act, times=sys.maxsize):
        yield
