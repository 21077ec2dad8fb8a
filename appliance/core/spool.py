"""The spool between producers and senders, in the format of dirq's ``QueueSimple``.

    PATH/DDDDDDDD/SSSSSSSSMMMMMR        an element: one message
    PATH/DDDDDDDD/SSSSSSSSMMMMMR.lck    its lock: a hard link to it
    PATH/DDDDDDDD/SSSSSSSSMMMMMR.tmp    being written by a producer

DDDDDDDD are seconds since the epoch in hex, rounded down to a minute. An element's name is 8 hex
digits of seconds, 5 of microseconds and one that the producer draws. All other names are foreign
and left alone. Any number of producers and senders, ours or others', may use a spool at once, so
elements may appear and vanish at any time.

A path that has such a name and cannot be used (a directory that root made, a link, a file that
this user may not read) is skipped, with a line in `Spool.skipped`; it never blocks the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NewType

from appliance.core import files
from appliance.core.run.errors import LocalFailure

ElementName = NewType("ElementName", str)
"""Directory and file, ``DDDDDDDD/SSSSSSSSMMMMMR``: the name of an element in all our files."""

NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{14}")
"""The form of the names of elements."""
_DIRECTORY = re.compile(r"[0-9a-f]{8}")
_ELEMENT = re.compile(r"[0-9a-f]{14}")
_LEFTOVER = re.compile(r"[0-9a-f]{14}\.(tmp|lck)")
_GRANULARITY = 60
"""Seconds; dirq's default, so that our elements share directories with other producers'."""
_LATEST = 2**32 - 1 - 366 * 86400
"""Seconds; after a later name of 8 hex digits there is no room for the names of a year."""


class Spool:
    """A spool. Creating the object changes nothing; the first `adopt` makes the directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: dict[Path, LocalFailure] = {}
        """The paths that this object could not use, each with cause and remedy."""
        self._digit = secrets.randbelow(16)
        self._last_microsecond = 0
        self._durable: Path | None = None
        self._later = 0
        """Seconds by which directories are later than their elements; see `adopt`."""

    def adopt(self, source: Path) -> ElementName:
        """Move a complete, fsynced file of the same file system into the spool, durably.

        It becomes the newest element in one step. After a power failure the file is at its old
        path or in the spool, never at both, so a caller that moves a batch continues with the
        files that are left. Names of elements follow the order of the calls.
        """
        while True:
            name = self._next_name()
            target = self.path / name
            if not self._make_directory(target.parent):
                self._later += _GRANULARITY
                continue
            try:
                files.move_new(source, target)
            except FileExistsError:
                continue
            except FileNotFoundError:
                if source.exists():  # a sender that purges has removed the directory
                    continue
                raise
            # A sender may have taken the element and purged the directory.
            with contextlib.suppress(FileNotFoundError):
                files.sync_directory(target.parent)
            files.sync_directory(source.parent)
            return name

    def names(self) -> Iterator[ElementName]:
        """Yield the elements that this user may read, oldest first, locked ones included.

        Raises:
            LocalFailure: the spool itself cannot be read.

        """
        for directory in self._directories():
            for element in self._listed(directory, _ELEMENT):
                yield ElementName(f"{directory.name}/{element.name}")

    def latest(self, count: int, *, since: datetime) -> list[ElementName]:
        """Return up to ``count`` of the newest elements, oldest first.

        Directories from before ``since`` are not looked at. A spool may have very many of them, if
        no sender takes its elements, or none removes its empty directories.

        Raises:
            LocalFailure: the spool itself cannot be read.

        """
        found: list[ElementName] = []
        for directory in self._newest(since=int(since.timestamp()) - _GRANULARITY):
            elements = self._listed(directory, _ELEMENT)[-(count - len(found)) :]
            found[:0] = [ElementName(f"{directory.name}/{one.name}") for one in elements]
            if len(found) >= count:
                break
        return found

    def count(self) -> int:
        """Return the number of elements, also of those that are locked or may not be read.

        Raises:
            LocalFailure: the spool itself cannot be read.

        """
        return sum(_count_files(directory, _ELEMENT) for directory in self._directories())

    def lock(self, name: ElementName) -> bool:
        """Lock an element; return False if another sender has the lock or took the element.

        Returns False, too, if this user may not lock or remove it; `skipped` then has the cause.
        """
        element, lock = self.path / name, self._lock_path(name)
        try:
            # A link of this name could lead to any file.
            if not stat.S_ISREG(element.lstat().st_mode):
                return False
            _require_removable(element)
            os.link(element, lock)
        except (FileExistsError, FileNotFoundError):
            return False
        except PermissionError as error:
            self._skip(element, error)
            return False
        try:
            # This stamps the lock, the same inode: others break a lock by its age.
            os.utime(element)
        except FileNotFoundError:
            lock.unlink(missing_ok=True)
            return False
        except PermissionError as error:
            lock.unlink(missing_ok=True)
            self._skip(element, error)
            return False
        return True

    def is_usable(self, name: ElementName) -> bool:
        """Check whether an element can be sent, because `skipped` does not name it."""
        element = self.path / name
        return not {element, element.parent} & self.skipped.keys()

    def is_locked(self, name: ElementName) -> bool:
        """Check whether a sender holds the lock of an element."""
        return os.path.lexists(self._lock_path(name))

    def locked_since(self, name: ElementName) -> float | None:
        """Return when an element was locked, in seconds since the epoch; None if it is not."""
        try:
            return self._lock_path(name).lstat().st_mtime
        except FileNotFoundError:
            return None

    def refresh(self, name: ElementName) -> None:
        """Renew a lock of this process, so that no other sender breaks it as abandoned."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._lock_path(name))

    def read(self, name: ElementName) -> bytes:
        """Return the content of an element that this process has locked."""
        descriptor = os.open(self._lock_path(name), os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            return file.read()

    def peek(self, name: ElementName) -> bytes:
        """Return the content of an element, whoever has locked it."""
        with files.open_regular(self.path / name) as file:
            return file.read()

    def size(self, name: ElementName) -> int:
        """Return the size of an element in bytes; 0 if it was removed."""
        try:
            return (self.path / name).stat().st_size
        except FileNotFoundError:
            return 0

    def made_at(self, name: ElementName) -> datetime:
        """Return when an element was made, from its name: its mtime is that of the lock."""
        return datetime.fromtimestamp(int(name[9:17], 16), UTC)

    def remove(self, name: ElementName) -> None:
        """Remove an element that this process has locked, then its lock."""
        (self.path / name).unlink(missing_ok=True)
        self._lock_path(name).unlink(missing_ok=True)

    def unlock(self, name: ElementName) -> None:
        """Release the lock of an element that stays."""
        self._lock_path(name).unlink(missing_ok=True)

    def purge(
        self,
        *,
        temporary: timedelta = timedelta(minutes=5),
        locked: timedelta = timedelta(minutes=10),
    ) -> None:
        """Remove files that crashed producers and senders left, and empty directories.

        The newest directory stays, because a producer may be about to use it. The ages are those
        of dirq's ``purge``. Files that this user may not remove stay and are noted in `skipped`.
        """
        ages = {".tmp": temporary, ".lck": locked}
        now = time.time()
        directories = self._directories()
        for directory in directories:
            for path in _leftovers(directory):
                try:
                    age = now - path.lstat().st_mtime
                    if age > ages[path.suffix].total_seconds():
                        path.unlink()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._skip(path, error)
        for directory in directories[:-1]:
            with contextlib.suppress(OSError):  # not empty, or removed by another sender
                directory.rmdir()

    def _lock_path(self, name: ElementName) -> Path:
        return self.path / f"{name}.lck"

    def _directories(self) -> list[Path]:
        """Return the directories that this user may read, oldest first."""
        try:
            return self._listed(self.path, _DIRECTORY, directories=True)
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error

    def _newest(self, *, since: int) -> Iterator[Path]:
        """Yield the directories of a time (in seconds) and later, newest first.

        Each is checked only when it is asked for.
        """
        try:
            names = filter(_DIRECTORY.fullmatch, os.listdir(self.path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error
        for name in sorted(names, reverse=True):
            if int(name, 16) < since:
                return
            listing = files.checked([self.path / name], directories=True)
            self.skipped.update(listing.skipped)
            yield from listing.paths

    def _listed(
        self, path: Path, pattern: re.Pattern[str], *, directories: bool = False
    ) -> list[Path]:
        """Return the usable paths with a matching name, sorted; none if ``path`` was removed."""
        try:
            listing = files.listed(path, pattern.fullmatch, directories=directories)
        except FileNotFoundError:
            return []
        except OSError as error:
            if path == self.path:
                raise
            self._skip(path, error)
            return []
        self.skipped.update(listing.skipped)
        return list(listing.paths)

    def _skip(self, path: Path, error: OSError) -> None:
        """Note a path that cannot be used; for many elements of a directory, note it once."""
        if isinstance(error, PermissionError) and not os.access(
            path.parent, os.W_OK | os.X_OK, effective_ids=True
        ):
            path = path.parent
        self.skipped[path] = files.describe_skipped(path, error)

    def _make_directory(self, path: Path) -> bool:
        """Make a directory for elements; return False if a path that is there cannot be one."""
        if os.path.lexists(path) and not _is_usable(path):
            refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            no_directory = files.NotAFile(errno.ENOTDIR, "is not a directory", str(path))
            self._skip(path, refusal if _is_directory(path) else no_directory)
            return False
        files.make_directory(path)
        if path != self._durable:  # another producer may have made it, and not yet fsynced it
            files.sync_directory(self.path)
            self._durable = path
        return True

    def _next_name(self) -> ElementName:
        # For the same order, a directory that cannot be used is replaced by a later one for good.
        now = time.time_ns() // 1000
        if self._last_microsecond == 0:
            self._last_microsecond = self._newest_microsecond(now // 1_000_000)
        self._last_microsecond = max(now, self._last_microsecond + 1)
        seconds, micros = divmod(self._last_microsecond, 1_000_000)
        directory = seconds - seconds % _GRANULARITY + self._later
        return ElementName(f"{directory:08x}/{seconds:08x}{micros:05x}{self._digit:01x}")

    def _newest_microsecond(self, now: int) -> int:
        """Return the time that the newest element has in its name, or its directory if later.

        Return 0 if it is in no directory of the minute of ``now`` (in seconds) or later: an element
        of this minute comes after all that are in earlier directories.
        """
        for directory in self._newest(since=now - now % _GRANULARITY):
            # Rounded up, because the directories of new elements are rounded down.
            start = -(-int(directory.name, 16) // _GRANULARITY) * _GRANULARITY
            elements = self._listed(directory, _ELEMENT)
            if elements and start <= _LATEST:
                name = elements[-1].name
                made = int(name[:8], 16) * 1_000_000 + int(name[8:13], 16)
                return max(start * 1_000_000, min(made, _LATEST * 1_000_000))
        return 0


def _count_files(path: Path, pattern: re.Pattern[str]) -> int:
    """Return the number of regular files with a matching name in a directory."""
    try:
        with os.scandir(path) as entries:
            return sum(
                entry.is_file(follow_symlinks=False)
                for entry in entries
                if pattern.fullmatch(entry.name)
            )
    except OSError:  # removed, or noted when its parent was listed
        return 0


def _leftovers(path: Path) -> list[Path]:
    """Return the files that have the name of a leftover."""
    try:
        with os.scandir(path) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if _LEFTOVER.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _is_usable(path: Path) -> bool:
    """Check whether this user may add files to a directory."""
    needed = os.R_OK | os.W_OK | os.X_OK
    return _is_directory(path) and os.access(path, needed, effective_ids=True)


def _is_directory(path: Path) -> bool:
    """Check whether a path is a directory, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def _require_removable(path: Path) -> None:
    """Raise `PermissionError` if an element cannot be removed: each run would send it again.

    In a sticky directory, only the owner of a file or of the directory may remove the file.
    """
    above, user = path.parent.stat(), os.geteuid()
    if not above.st_mode & stat.S_ISVTX or user in (0, above.st_uid, path.lstat().st_uid):
        return
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
