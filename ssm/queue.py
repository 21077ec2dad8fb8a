"""Queues of received and of undeliverable messages, laid out as the dirq library's ``Queue``.

    PATH/NNNNNNNN/<14 hex>/FIELD        an element: a directory, one file a field
    PATH/temporary, PATH/obsolete       dirq's own
    PARENT/.NAME.staging/<14 hex>/…     ours: elements on their way in

An element is written and fsynced in the staging directory, then renamed into the queue: readers never see half of one.
It is not dirq's ``temporary``, because a reader's ``purge`` empties that after five minutes, and what lies there after
a crash may be all that there is of a message that is known as received.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.core import files

_DIRECTORY = re.compile(r"[0-9a-f]{8}")
_ELEMENT = re.compile(r"[0-9a-f]{14}")
_MAX_ELEMENTS = 16_000
"""Of a directory, as in dirq."""


class Queue:
    """A queue to be added to by one process; made if it is not there. Any number of dirq readers may be at work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.staging = path.parent / f".{path.name}.staging"
        for directory in (path / "temporary", path / "obsolete", self.staging):
            files.make_directory(directory)
        self._digit = secrets.randbelow(16)
        self._last_microsecond = 0
        self._unsealed: list[int] = []
        self._directory, self._count = self._find_directory()

    def stage(self, fields: Mapping[str, bytes], *, name: str = "") -> str:
        """Write an element to the staging directory and return its name; it is durable after `seal`.

        Without ``name`` it gets one that sorts behind all that this object made before. An `OSError` leaves nothing.
        """
        name = name or self._next_name()
        element = self.staging / name
        self.discard(name)
        try:
            element.mkdir(mode=0o750)
            for field, value in fields.items():
                descriptor = os.open(element / field, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
                self._unsealed.append(descriptor)
                written = 0
                while written < len(value):
                    written += os.write(descriptor, memoryview(value)[written:])
            self._unsealed.append(os.open(element, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            self.discard(name)
            raise OSError(error.errno, error.strerror, str(element)) from error
        return name

    def abandon(self, names: Iterable[str]) -> None:
        """Remove staged elements that were not sealed."""
        while self._unsealed:
            os.close(self._unsealed.pop())
        for name in names:
            self.discard(name)

    def seal(self) -> None:
        """Make all that has been staged durable.

        Writing is begun for all files before the first is waited for: the disk then works on them together, at half the
        time of one after the other.
        """
        descriptors, self._unsealed = self._unsealed, []
        try:
            for descriptor in descriptors:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            for descriptor in descriptors:
                os.fsync(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.staging)) from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        files.sync_directory(self.staging)

    def publish(self, names: Iterable[str]) -> dict[str, str]:
        """Move staged elements into the queue, durably; those that have been moved already are skipped.

        Returns where they are, ``NNNNNNNN/name`` by name.
        """
        moved = {name: f"{self._move(name)}/{name}" for name in names if (self.staging / name).is_dir()}
        for directory in {place.split("/")[0] for place in moved.values()}:
            with contextlib.suppress(FileNotFoundError):  # a reader took all out and removed it
                files.sync_directory(self.path / directory)
        if moved:
            files.sync_directory(self.staging)
        return moved

    def staged(self) -> list[str]:
        """Return the names in the staging directory, oldest first."""
        return sorted(name for name in os.listdir(self.staging) if _ELEMENT.fullmatch(name))

    def discard(self, name: str) -> None:
        """Remove a staged element."""
        shutil.rmtree(self.staging / name, ignore_errors=True)

    def holds(self, name: str) -> bool:
        """Say whether an element of this name is in the queue."""
        return any((self.path / directory / name).is_dir() for directory in self._directories())

    def _move(self, name: str) -> str:
        if self._count >= _MAX_ELEMENTS:
            self._directory, self._count = self._find_directory()
        while True:
            files.make_directory(self.path / self._directory)
            try:
                (self.staging / name).rename(self.path / self._directory / name)
            except FileNotFoundError:  # the directory has just been purged
                if not (self.staging / name).is_dir():
                    raise
                continue
            self._count += 1
            return self._directory

    def _find_directory(self) -> tuple[str, int]:
        """Return the directory that takes the next element, and how many it has."""
        newest = max(self._directories(), default="00000000")
        count = len(os.listdir(self.path / newest)) if (self.path / newest).is_dir() else 0
        return (newest, count) if count < _MAX_ELEMENTS else (f"{int(newest, 16) + 1:08x}", 0)

    def _directories(self) -> list[str]:
        return [name for name in os.listdir(self.path) if _DIRECTORY.fullmatch(name)]

    def _next_name(self) -> str:
        self._last_microsecond = max(time.time_ns() // 1000, self._last_microsecond + 1)
        seconds, micros = divmod(self._last_microsecond, 1_000_000)
        return f"{seconds:08x}{micros:05x}{self._digit:01x}"
