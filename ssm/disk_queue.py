"""Queues of received messages and of dead letters, laid out as the dirq library's ``Queue``.

    PATH/NNNNNNNN/<14 hex>/FIELD        an element: a directory with one file for each field
    PATH/temporary, PATH/obsolete       used by dirq alone
    PARENT/.NAME.staging/<14 hex>/…     used by this module alone: elements on their way in

An element goes through three steps, each durable before the next begins:

    stage       write its fields into the staging directory
    seal        fsync all that was staged
    publish     rename it into the queue, so that readers never see half of one

The staging directory is not dirq's ``temporary``: a reader's ``purge`` empties that after five
minutes, and after a crash a staged element may be the only copy of a message whose sender has its
acknowledgement.

Files that others left under such names and that cannot be used are skipped and kept in
`DiskQueue.skipped`, as in `appliance.core.spool`.
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
"""Elements in one directory, as in dirq."""
_MAX_FIELD = 64 * 1024  # of fields that are read back: ids, not bodies


class DiskQueue:
    """A queue for one writer and any number of dirq readers; created when it is missing."""

    def __init__(self, path: Path) -> None:
        """Create the missing directories of the queue.

        Raises:
            LocalFailure: the queue or its staging directory cannot be used.

        """
        self.path = path
        self.staging = path.parent / f".{path.name}.staging"
        self.skipped: dict[Path, LocalFailure] = {}
        """Why paths of the queue could not be used."""
        for directory in (path, self.staging):
            _require(directory)
        for directory in (path / "temporary", path / "obsolete"):
            try:
                files.make_directory(directory)
            except OSError as error:  # used by dirq alone
                self._skip(directory, error)
        self._digit = secrets.randbelow(16)
        self._last_microsecond = 0
        self._unsealed: list[int] = []
        self._directory, self._count = self._find_directory()

    def stage(self, fields: Mapping[str, bytes], *, name: str = "") -> str:
        """Write an element to the staging directory and return its name; `seal` makes it durable.

        Without ``name`` it gets one that sorts after all that this object made before.

        Raises:
            OSError: the element could not be written; nothing is left of it.

        """
        name = name or self._next_name()
        element = self.staging / name
        self.discard(name)  # with a given name, a run that was killed may have left one
        try:
            element.mkdir(mode=0o750)
            for field, value in fields.items():
                # Left open until `seal`, which needs the descriptor for fsync.
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
        """Make all staged elements durable.

        ``POSIX_FADV_DONTNEED`` starts the writing of a file without waiting for it. Once it is
        started for all of them, the disk works on them together, in half the time.
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
        """Move staged elements into the queue, durably, and return their places by name.

        A place is ``NNNNNNNN/name``. Names that are no longer staged are left out. An element that
        cannot be moved stays staged and is added to `skipped`.
        """
        moved = {}
        for name in filter(self.is_staged, names):
            try:
                moved[name] = f"{self._move(name)}/{name}"
            except PermissionError as error:
                self._skip(self.staging / name, error)
        # The new names first: after a power cut an element may be in both places, not in neither.
        for directory in {place.split("/")[0] for place in moved.values()}:
            with contextlib.suppress(FileNotFoundError):  # a reader emptied and removed it
                files.sync_directory(self.path / directory)
        if moved:
            files.sync_directory(self.staging)
        return moved

    def staged(self) -> list[str]:
        """Return the names in the staging directory, oldest first."""
        return [path.name for path in self._listed(self.staging, _ELEMENT)]

    def is_staged(self, name: str) -> bool:
        """Check whether an element of this name is in the staging directory."""
        return (self.staging / name).is_dir()

    def discard(self, name: str) -> None:
        """Remove a staged element; one that cannot be removed is added to `skipped`."""
        element = self.staging / name
        shutil.rmtree(element, ignore_errors=True)
        if os.path.lexists(element):
            self._skip(element, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def field(self, name: str, field: str) -> bytes | None:
        """Return a field of an element of the queue; None when there is no such element.

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
                if _is_usable(self.path / self._directory):  # then the element is at fault
                    raise
                self._directory, self._count = self._find_directory()
                continue
            self._count += 1
            return self._directory

    def _find_directory(self) -> tuple[str, int]:
        """Return the directory for the next element, and the number of elements in it."""
        usable = [path for path in self._listed(self.path, _DIRECTORY) if self._is_ours(path)]
        with contextlib.suppress(FileNotFoundError):  # a reader emptied and removed it
            if usable and (count := len(os.listdir(usable[-1]))) < _MAX_ELEMENTS:
                return usable[-1].name, count
        number = int(usable[-1].name, 16) + 1 if usable else 0
        # A later directory may exist and belong to another user.
        while os.path.lexists(self.path / f"{number:08x}"):
            number += 1
        return f"{number:08x}", 0

    def _is_ours(self, directory: Path) -> bool:
        """Check whether this user may add to a directory of the queue; note why not."""
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
        # The form of dirq's names; never backwards, also when the clock is set back.
        self._last_microsecond = max(time.time_ns() // 1000, self._last_microsecond + 1)
        seconds, micros = divmod(self._last_microsecond, 1_000_000)
        return f"{seconds:08x}{micros:05x}{self._digit:01x}"


def _require(directory: Path) -> None:
    """Create a directory that this program needs; raise `LocalFailure` if it is unusable."""
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
