"""Part files: the bytes of a download that was cut, for the next run to go on with.

    NAME.download.part   the bytes as they came
    NAME.download.json   the image and the version of its file (ETag, date, size)

The next run asks for the rest of the same version (``Range``, ``If-Range``), and verifies the
digest over all bytes, those of the part file included. A file without ETag and date cannot be
resumed across runs: nothing would show that it is still the same. Nor can a stream: it has no file.

A part file that no run has used for a day is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from appliance.core import clock, files, json_file
from appliance.core.download.partial import PartialData
from appliance.core.download.resume import CannotResume
from appliance.core.run.errors import Unavailable
from cloudkeeper.model import ImageSource

PART, NOTE = ".download.part", ".download.json"
KEPT = timedelta(hours=24)
"""How long a part file waits for the next run."""
# Bytes of a note: a URL, a digest and a few headers.
_LARGEST = 2**16


@dataclass(frozen=True, slots=True)
class PartFile:
    """The part file of one image; ``stem`` is the path of its files without their suffixes."""

    stem: Path

    @property
    def path(self) -> Path:
        """The bytes."""
        return self.stem.with_name(f"{self.stem.name}{PART}")

    @property
    def _note(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}{NOTE}")

    def found(self, wanted: ImageSource) -> PartialData:
        """Return the part of an image that an earlier run has left; empty if there is none."""
        try:
            note: Any = json_file.read(self._note, limit=_LARGEST)
            if [note["place"], note["digest"]] == [_place(wanted), wanted.digest]:
                total = note["total"]
                number = _size(self.path)
                if number and isinstance(total, int | None) and (not total or number < total):
                    return PartialData(number, str(note["etag"]), str(note["modified"]), total)
        except (OSError, ValueError, LookupError, TypeError):
            pass
        return PartialData()

    def note(self, wanted: ImageSource, version: PartialData) -> None:
        """Write down which version of the file the bytes are of, if anything says so.

        Raises:
            LocalFailure: the note cannot be written.

        """
        if not version.is_resumable:
            return
        json_file.write(
            self._note,
            {
                "place": _place(wanted),
                "digest": wanted.digest,
                "etag": version.etag,
                "modified": version.modified,
                "total": version.total,
            },
        )

    @contextlib.contextmanager
    def open(self, number: int) -> Iterator[BinaryIO]:
        """Open the file, with its first ``number`` bytes; a new one without any."""
        if not number:
            self.drop_bytes()
        # O_EXCL: a name that exists was not made by this run, and a link could lead anywhere.
        flags = os.O_NOFOLLOW if number else os.O_CREAT | os.O_EXCL
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o640)
        with open(descriptor, "r+b") as file:
            files.require_regular(self.path, os.fstat(descriptor))
            file.truncate(number)
            yield file

    @contextlib.contextmanager
    def filling(self, version: PartialData) -> Iterator[None]:
        """Keep the bytes if the block is cut short and they can be resumed; else remove them.

        When it has ended well, the bytes are whole, and there is nothing left to note.
        """
        try:
            yield
        except (Unavailable, KeyboardInterrupt) as error:
            if isinstance(error, CannotResume) or not version.is_resumable:
                self.drop()
            raise
        except BaseException:
            self.drop()
            raise
        self._drop_note()

    def drop_bytes(self) -> None:
        """Remove the bytes."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the bytes and the note, if they are there and can be removed."""
        self.drop_bytes()
        self._drop_note()

    def _drop_note(self) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)


def _place(wanted: ImageSource) -> str:
    """Return what stands for the URL of an image, which may hold a token."""
    return hashlib.sha256(wanted.uri.encode()).hexdigest()


def waiting(directory: Path) -> frozenset[str]:
    """Return the names of the files that the next run may go on with.

    Raises:
        OSError: the directory cannot be read.

    """
    names: set[str] = set()
    for name in os.listdir(directory):
        stem, suffix = name.removesuffix(PART), name.endswith(PART)
        note = directory / f"{stem}{NOTE}"
        if suffix and _is_recent(directory / name) and _size(note):
            names |= {name, note.name}
    return frozenset(names)


def _is_recent(path: Path) -> bool:
    """Check whether a file was written in the last day; a clock may have gone back since."""
    try:
        age = clock.now().timestamp() - path.lstat().st_mtime
    except OSError:
        return False
    return abs(age) <= KEPT.total_seconds()


def _size(path: Path) -> int:
    """Return the bytes of a regular file; 0 for anything else."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
