"""A spool that is a plain directory of files, as SSM has it with ``path_type: directory``.

Every regular file in it is a message, whatever its name, oldest first by its time of modification;
directories are ignored, and so is what is neither. There are no locks: the run's own keeps our runs
apart. A file that another program is still writing waits for the next run, where the file system
can say so.
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


class DirectorySpool(Spool):
    """A directory of messages. The name of an element is its file's, quoted as in a URL where it is not plain."""

    def names(self) -> Iterator[ElementName]:
        """Yield the files that this user may read, oldest first.

        :raises LocalFailure: the directory itself cannot be read
        """
        found = []
        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.name))
        for _, name in sorted(found):
            yield ElementName(_quoted(name))

    def count(self) -> int:
        """Return the number of files, also of those that may not be read."""
        try:
            with os.scandir(self.path) as entries:
                return sum(entry.is_file(follow_symlinks=False) for entry in entries)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error

    def lock(self, name: ElementName) -> bool:
        """Say whether a file may be sent and removed; it is not locked for anybody else."""
        path = self._path(name)
        if not os.access(self.path, os.W_OK | os.X_OK, effective_ids=True):
            self._skip(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            return False
        return os.path.lexists(path) and not _is_being_written(path)

    def is_locked(self, name: ElementName) -> bool:
        """Say whether a file is still being written."""
        return _is_being_written(self._path(name))

    def locked_since(self, name: ElementName) -> float | None:  # noqa: ARG002  there are no locks
        """Return None: there are no locks to be taken over."""
        return None

    def refresh(self, name: ElementName) -> None:
        """Do nothing: there are no locks."""

    def read(self, name: ElementName) -> bytes:
        """Return the content of a file."""
        with files.open_regular(self._path(name)) as file:
            return file.read()

    def size(self, name: ElementName) -> int:
        """Return the size of a file in bytes; 0 when it is gone."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def made_at(self, name: ElementName) -> datetime:
        """Return when a file was written last."""
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
        """Do nothing: producers leave nothing that could be told from messages."""

    def is_usable(self, name: ElementName) -> bool:
        """Say whether nothing that `skipped` names keeps a file from being sent."""
        return not {self._path(name), self.path} & self.skipped.keys()

    def _path(self, name: ElementName) -> Path:
        return self.path / os.fsdecode(urllib.parse.unquote_to_bytes(name))

    def _files(self) -> list[Path]:
        try:
            listing = files.listed(self.path, lambda name: _is_candidate(self.path / name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.describe_unusable(self.path, error) from error
        self.skipped.update(listing.skipped)
        return list(listing.paths)


def _quoted(name: str) -> str:
    return urllib.parse.quote(os.fsencode(name), safe=" !#$&'()*+,/:;=?@[]~")


def _is_candidate(path: Path) -> bool:
    """Say whether a name is worth a word when it cannot be used: directories are ignored, as SSM does."""
    return path.is_symlink() or not path.is_dir()


def _is_being_written(path: Path) -> bool:
    """Say whether some program has a file open for writing.

    The kernel grants a read lease only on files that nobody writes. It can tell of our own files,
    on a local file system; of all others we know no better than SSM.
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
