"""Queues of received and of undeliverable messages, laid out as the dirq library's ``Queue``.

    PATH/NNNNNNNN/<14 hex>/FIELD        an element: a directory, one file a field
    PATH/temporary, PATH/obsolete       dirq's own
    PARENT/.NAME.staging/<14 hex>/…     ours: elements on their way in

An element is written and fsynced in the staging directory, then renamed into the queue: readers
never see half of one. It is not dirq's ``temporary``, because a reader's ``purge`` empties that
after five minutes, and what lies there after a crash may be all that there is of a message that is
known as received.

What others left under such names and cannot be used is passed by and kept in `DiskQueue.skipped`, as in
`appliance.core.spool`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure

_DIRECTORY = re.compile(r"[0-9a-f]{8}")
_ELEMENT = re.compile(r"[0-9a-f]{14}")
_MAX_ELEMENTS = 16_000
"""Of a directory, as in dirq."""
_MAX_FIELD = 64 * 1024


class DiskQueue:
    """A queue to be added to by one process; made if it is not there. Any number of dirq readers may be at work."""

    def __init__(self, path: Path) -> None:
        """Make what is missing of the queue.

        :raises LocalFailure: the queue or its staging directory cannot be used
        """
        self.path = path
        self.staging = path.parent / f".{path.name}.staging"
        self.skipped: dict[Path, LocalFailure] = {}
        """What this object came across and could not use, by path."""
        for directory in (path, self.staging):
            _require(directory)
        for directory in (path / "temporary", path / "obsolete"):
            try:
                files.make_directory(directory)
            except OSError as error:  # dirq's own, of no use to us
                self._skip(directory, error)
        self._digit = secrets.randbelow(16)
        self._last_microsecond = 0
        self._unsealed: list[int] = []
        self._directory, self._count = self._find_directory()

    def stage(self, fields: Mapping[str, bytes], *, name: str = "") -> str:
        """Write an element to the staging directory and return its name; it is durable after `seal`.

        Without ``name`` it gets one that sorts behind all that this object made before. An
        `OSError` leaves nothing.
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

        Writing is begun for all files before the first is waited for: the disk then works on them
        together, at half the time of one after the other.
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
        """Move staged elements into the queue, durably; those that have been moved already are left out.

        Returns where they are, ``NNNNNNNN/name`` by name. One that cannot be moved is kept in
        `skipped` and stays staged.
        """
        moved = {}
        for name in filter(self.is_staged, names):
            try:
                moved[name] = f"{self._move(name)}/{name}"
            except PermissionError as error:
                self._skip(self.staging / name, error)
        for directory in {place.split("/")[0] for place in moved.values()}:
            with contextlib.suppress(FileNotFoundError):  # a reader took all out and removed it
                files.sync_directory(self.path / directory)
        if moved:
            files.sync_directory(self.staging)
        return moved

    def staged(self) -> list[str]:
        """Return the names in the staging directory, oldest first."""
        return [path.name for path in self._listed(self.staging, _ELEMENT)]

    def is_staged(self, name: str) -> bool:
        """Say whether an element of this name is in the staging directory."""
        return (self.staging / name).is_dir()

    def discard(self, name: str) -> None:
        """Remove a staged element; one that cannot be removed is kept in `skipped`."""
        element = self.staging / name
        shutil.rmtree(element, ignore_errors=True)
        if os.path.lexists(element):
            self._skip(element, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def field(self, name: str, field: str) -> bytes | None:
        """Return a field of an element of the queue; None when it has no such element.

        A field that is missing or cannot be read is empty.
        """
        for directory in self._listed(self.path, _DIRECTORY):
            element = directory / name
            if os.path.lexists(element):
                with contextlib.suppress(OSError):
                    return files.read_regular(element / field, limit=_MAX_FIELD)
                return b""
        return None

    def _move(self, name: str) -> str:
        if self._count >= _MAX_ELEMENTS:
            self._directory, self._count = self._find_directory()
        while True:
            files.make_directory(self.path / self._directory)
            try:
                (self.staging / name).rename(self.path / self._directory / name)
            except FileNotFoundError:  # the directory has just been purged
                if not self.is_staged(name):
                    raise
                continue
            except PermissionError:
                if _is_usable(self.path / self._directory):  # then it is the element
                    raise
                self._directory, self._count = self._find_directory()
                continue
            self._count += 1
            return self._directory

    def _find_directory(self) -> tuple[str, int]:
        """Return the directory that takes the next element, and how many it has."""
        usable = [path for path in self._listed(self.path, _DIRECTORY) if self._is_ours(path)]
        with contextlib.suppress(FileNotFoundError):  # a reader took all out and removed it
            if usable and (count := len(os.listdir(usable[-1]))) < _MAX_ELEMENTS:
                return usable[-1].name, count
        number = int(usable[-1].name, 16) + 1 if usable else 0
        while os.path.lexists(self.path / f"{number:08x}"):
            number += 1
        return f"{number:08x}", 0

    def _is_ours(self, directory: Path) -> bool:
        """Say whether this user may add to a directory of the queue; if not, keep the reason."""
        if not _is_usable(directory):
            refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
            self._skip(directory, refusal)
            return False
        return True

    def _listed(self, path: Path, pattern: re.Pattern[str]) -> list[Path]:
        listing = files.listed(path, pattern.fullmatch, directories=True)
        self.skipped.update(listing.skipped)
        return list(listing.paths)

    def _skip(self, path: Path, error: OSError) -> None:
        self.skipped[path] = files.describe_skipped(path, error)

    def _next_name(self) -> str:
        self._last_microsecond = max(time.time_ns() // 1000, self._last_microsecond + 1)
        seconds, micros = divmod(self._last_microsecond, 1_000_000)
        return f"{seconds:08x}{micros:05x}{self._digit:01x}"


def _require(directory: Path) -> None:
    """Make a directory that this program cannot do without; raises `LocalFailure`."""
    try:
        files.make_directory(directory)
        if not _is_usable(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise files.describe_unusable(directory, error) from error
        raise LocalFailure.from_os(error) from error


def _is_usable(directory: Path) -> bool:
    return os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)
