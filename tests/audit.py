"""What this process is about to ask of the file system, seen in process by an audit hook of Python.

A test may note the order, or act in between as another process would: nothing is replaced, and
what follows is the file system's own answer. `tests.syscalls` sees fsync itself, in a child.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

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


@dataclass(slots=True)
class Effort:
    """What a block has cost, in figures that are the same on each machine."""

    statements: list[tuple[str, str]] = field(default_factory=list)
    """The statements that SQLite was given, each with the file as it was opened."""
    steps: list[None] = field(default_factory=list)
    """An item for each 20 steps of SQLite's virtual machine: each row that is read costs some."""
    listed: list[Path] = field(default_factory=list)
    """The directories that were listed."""

    def connect(self, target: str, **options: Any) -> sqlite3.Connection:
        """Open a file, and count what is asked of it."""
        connection = sqlite3.Connection(target, **options)
        connection.set_trace_callback(lambda text: self.statements.append((target, text)))
        connection.set_progress_handler(lambda: self.steps.append(None), 20)
        return connection

    @property
    def figures(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in ("statements", "steps", "listed")}


@contextlib.contextmanager
def effort() -> Iterator[Effort]:
    """Count what this process asks of SQLite and of directories; threads are included."""
    found = Effort()
    actions = [("os.listdir", found.listed.append), ("os.scandir", found.listed.append)]
    _actions.extend(actions)
    try:
        with mock.patch.object(sqlite3, "connect", found.connect):
            yield found
    finally:
        for action in actions:
            _actions.remove(action)
