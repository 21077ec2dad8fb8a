"""A SQLite file that one of the programs writes, with errors as this project reports them.

error of SQLite                     here
full disk, nothing was written      `OSError` with ENOSPC
any other                           `LocalFailure`, with a remedy
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.core import files, sqlite
from appliance.core.run.errors import LocalFailure


class SQLiteFile:
    """A database in a file. One process at a time writes.

    ``noun`` names it in messages. ``prepare`` makes the missing tables. ``mode`` is SQLite's; in
    each mode a commit is durable when it returns. ``patience`` is the time in seconds to wait for
    another process that reads or writes.

    Raises:
        OSError: by each method, with ENOSPC: the disk is full, and nothing was written.
        LocalFailure: by each method: any other error of the database.

    """

    def __init__(
        self,
        path: Path,
        *,
        noun: str,
        prepare: Callable[[sqlite3.Connection], object],
        mode: str = "WAL",
        patience: float = 5,
    ) -> None:
        self._path, self._noun = path, noun
        with self.guarded():
            # Without isolation level sqlite3 begins no transactions of its own.
            self.connection = sqlite3.connect(path, isolation_level=None, timeout=patience)
            try:
                self.connection.execute(f"PRAGMA journal_mode = {mode}")
                self.connection.execute("PRAGMA synchronous = FULL")
                prepare(self.connection)
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for changes that are written together, or none of them."""
        with self.guarded(), sqlite.transaction(self.connection):
            yield self.connection

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Translate the errors of SQLite in the block."""
        try:
            yield
        except sqlite3.Error as error:
            if sqlite.is_full(error):
                raise OSError(errno.ENOSPC, "No space left on device", str(self._path)) from error
            raise failure(self._path, error, noun=self._noun) from error


def failure(path: Path, error: sqlite3.Error, *, noun: str) -> LocalFailure:
    """Return the failure of a database, with a remedy."""
    remedy = "check owner and mode; a file that is not a database may be moved away"
    if os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
        remedy = f"chown {os.geteuid()}:{os.getegid()} {files.shell_word(path)}"
    return LocalFailure(path, f"{noun}: {error}", remedy)
