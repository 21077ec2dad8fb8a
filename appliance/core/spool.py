"""The spool between producers and senders: directories and names as the dirq library's ``QueueSimple`` has them.

    PATH/DDDDDDDD/SSSSSSSSMMMMMR        an element: one message
    PATH/DDDDDDDD/SSSSSSSSMMMMMR.lck    its lock: a hard link to it
    PATH/DDDDDDDD/SSSSSSSSMMMMMR.tmp    being written by a producer

DDDDDDDD are seconds since the epoch in hex, rounded down to a minute; an element's name is 8 hex digits of seconds,
5 of microseconds and one that the producer draws. Everything else is foreign and left alone. Any number of
producers and senders, ours or others', may use a spool at once: whatever vanishes or appears under our hands was
theirs.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NewType

from appliance.core import files

ElementName = NewType("ElementName", str)
"""``DDDDDDDD/SSSSSSSSMMMMMR``: directory and file, the form in which elements are named everywhere."""

_DIRECTORY = re.compile(r"[0-9a-f]{8}")
_ELEMENT = re.compile(r"[0-9a-f]{14}")
_LEFTOVER = re.compile(r"[0-9a-f]{14}\.(tmp|lck)")
_GRANULARITY = 60


class Spool:
    """A spool at a path. Creating the object touches nothing; the first `adopt` makes the directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digit = secrets.randbelow(16)
        self._last_microsecond = 0
        self._durable: Path | None = None

    def adopt(self, source: Path) -> ElementName:
        """Move a complete, fsynced file of the same file system in as the newest element, durably and in one step.

        If the power goes, the file is at its old place or in the spool, never at both: a caller that moves a batch
        goes on with those that are still there. Elements of one `Spool` object are named in the order of the calls.
        """
        while True:
            name = self._next_name()
            target = self.path / name
            self._make_directory(target.parent)
            try:
                files.move_new(source, target)
            except FileExistsError:
                continue
            except FileNotFoundError:
                if source.exists():  # a purging sender removed the directory under us
                    continue
                raise
            with contextlib.suppress(FileNotFoundError):  # a sender took it, and purged the directory
                files.sync_directory(target.parent)
            files.sync_directory(source.parent)
            return name

    def names(self) -> Iterator[ElementName]:
        """Yield the elements, oldest first, locked ones included."""
        for directory in _listed(self.path, _DIRECTORY):
            for element in _listed(self.path / directory, _ELEMENT):
                yield ElementName(f"{directory}/{element}")

    def count(self) -> int:
        """Return the number of elements, locked ones included."""
        return sum(1 for _ in self.names())

    def lock(self, name: ElementName) -> bool:
        """Take the lock of an element; False when somebody else has it, or took the element away."""
        element, lock = self.path / name, self._lock_path(name)
        try:
            if not stat.S_ISREG(element.lstat().st_mode):  # foreign, whatever its name; a link may lead to any file
                return False
            os.link(element, lock)
        except (FileExistsError, FileNotFoundError):
            return False
        try:
            os.utime(element)  # same inode: stamps the lock, whose age decides when others may break it
        except FileNotFoundError:
            lock.unlink(missing_ok=True)
            return False
        return True

    def is_locked(self, name: ElementName) -> bool:
        """Say whether anybody holds the lock of an element."""
        return self._lock_path(name).exists()

    def locked_since(self, name: ElementName) -> float | None:
        """Return when the lock of an element was set or renewed (seconds since the epoch); None when there is none."""
        try:
            return self._lock_path(name).lstat().st_mtime
        except FileNotFoundError:
            return None

    def refresh(self, name: ElementName) -> None:
        """Renew a lock that this process holds, so that no other sender takes it for abandoned."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._lock_path(name))

    def read(self, name: ElementName) -> bytes:
        """Return the content of an element that this process has locked."""
        descriptor = os.open(self._lock_path(name), os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            return file.read()

    def size(self, name: ElementName) -> int:
        """Return the size of an element in bytes; 0 when it is gone."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, name: ElementName) -> None:
        """Remove an element that this process has locked: first the element, then the lock."""
        (self.path / name).unlink(missing_ok=True)
        self._lock_path(name).unlink(missing_ok=True)

    def unlock(self, name: ElementName) -> None:
        """Give back the lock of an element that stays."""
        self._lock_path(name).unlink(missing_ok=True)

    def purge(self, *, temporary: timedelta = timedelta(minutes=5), locked: timedelta = timedelta(minutes=10)) -> None:
        """Remove what crashed producers and senders left, and empty directories except the newest.

        The newest directory stays because a producer may be about to use it. The ages are those of dirq's ``purge``.
        """
        ages = {".tmp": temporary, ".lck": locked}
        now = time.time()
        directories = _listed(self.path, _DIRECTORY)
        for directory in directories:
            for leftover in _listed(self.path / directory, _LEFTOVER):
                path = self.path / directory / leftover
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    if now - path.stat().st_mtime > ages[path.suffix].total_seconds():
                        path.unlink()
        for directory in directories[:-1]:
            with contextlib.suppress(OSError):  # not empty, or gone already
                (self.path / directory).rmdir()

    def _lock_path(self, name: ElementName) -> Path:
        return self.path / f"{name}.lck"

    def _make_directory(self, path: Path) -> None:
        files.make_directory(path)
        if path != self._durable:  # whoever made it may not have come to fsync its name
            files.sync_directory(self.path)
            self._durable = path

    def _next_name(self) -> ElementName:
        # Never go backwards within one producer: a sender takes names in order, and order decides which record stays.
        self._last_microsecond = max(time.time_ns() // 1000, self._last_microsecond + 1)
        seconds, micros = divmod(self._last_microsecond, 1_000_000)
        directory = seconds - seconds % _GRANULARITY
        return ElementName(f"{directory:08x}/{seconds:08x}{micros:05x}{self._digit:01x}")


def _listed(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the matching names of a directory, sorted; nothing when the directory is gone."""
    try:
        return sorted(name for name in os.listdir(path) if pattern.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
