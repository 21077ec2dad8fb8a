"""A spool that is a plain directory of files, as SSM has it with ``path_type: directory``.

Every regular file in it is a message, whatever its name, oldest first by modification time.
Directories are ignored; links, pipes and devices are skipped and reported. Messages are not locked:
a lock file keeps our own runs apart. A file that another program is still writing waits for the
next run, where the file system reports that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import urllib.parse
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.spool import ElementName, Spool

_PLAIN = " !#$&'()*+,/:;=?@[]~"
"""Characters of names that are not quoted, besides letters, digits and ``_.-``."""


class DirectorySpool(Spool):
    """A directory of messages.

    An element has the name of its file; characters that are not plain are quoted as in a URL.
    """

    def adopt(self, source: Path) -> ElementName:
        """Move a complete file of the same file system in, durably, as the newest message."""
        name = ElementName(self._next_name().rpartition("/")[2])
        os.utime(source)
        files.move_new(source, self.path / name)
        for directory in (self.path, source.parent):
            files.sync_directory(directory)
        return name

    def names(self) -> Iterator[ElementName]:
        """Yield the files that this user may read, oldest first.

        Raises:
            LocalFailure: the directory itself cannot be read.

        """
        found = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.name))
        for _, name in sorted(found):
            yield ElementName(urllib.parse.quote(os.fsencode(name), safe=_PLAIN))

    def count(self) -> int:
        """Return the number of files, unreadable ones included."""
        try:
            with os.scandir(self.path) as entries:
                return sum(entry.is_file(follow_symlinks=False) for entry in entries)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error

    def lock(self, name: ElementName) -> bool:
        """Check whether a file may be sent and removed. No other sender is kept from it."""
        path = self._path(name)
        if not os.access(self.path, os.W_OK | os.X_OK, effective_ids=True):
            self._skip(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            return False
        return os.path.lexists(path) and not _is_being_written(path)

    def is_locked(self, name: ElementName) -> bool:
        """Check whether a file is still being written."""
        return _is_being_written(self._path(name))

    def locked_since(self, name: ElementName) -> float | None:  # noqa: ARG002  of the base class
        """Return None: there are no locks to take over."""
        return None

    def refresh(self, name: ElementName) -> None:
        """Do nothing: there are no locks."""

    def read(self, name: ElementName) -> bytes:
        """Return the content of a file."""
        with files.open_regular(self._path(name)) as file:
            return file.read()

    def peek(self, name: ElementName) -> bytes:
        """Return the content of a file."""
        return self.read(name)

    def size(self, name: ElementName) -> int:
        """Return the size of a file in bytes; 0 when it no longer exists."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def made_at(self, name: ElementName) -> datetime:
        """Return the modification time of a file."""
        return datetime.fromtimestamp(self._path(name).stat().st_mtime, UTC)

    def remove(self, name: ElementName) -> None:
        """Remove a file."""
        self._path(name).unlink(missing_ok=True)

    def unlock(self, name: ElementName) -> None:
        """Do nothing: there are no locks."""

    def purge(
        self,
        *,
        temporary: timedelta = timedelta(),
        locked: timedelta = timedelta(),
    ) -> None:
        """Do nothing: leftovers of producers cannot be distinguished from messages."""

    def is_usable(self, name: ElementName) -> bool:
        """Check whether `skipped` has neither a file nor its directory."""
        return not {self._path(name), self.path} & self.skipped.keys()

    def _path(self, name: ElementName) -> Path:
        return self.path / os.fsdecode(urllib.parse.unquote_to_bytes(name))

    def _files(self) -> list[Path]:
        try:
            # Directories are ignored, as SSM does; a link to one is reported.
            listing = files.listed(
                self.path,
                lambda name: (path := self.path / name).is_symlink() or not path.is_dir(),
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error
        self.skipped.update(listing.skipped)
        return list(listing.paths)


def _is_being_written(path: Path) -> bool:
    """Check whether a program has a file open for writing.

    The kernel grants a read lease only on files that no program writes; only to their owner, and
    only on local file systems. Any other file counts as complete, as SSM treats it.
    """
    try:
        with files.open_regular(path) as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
