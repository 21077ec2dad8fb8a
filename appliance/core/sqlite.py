"""What the SQLite files of this project have in common."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


def is_full(error: sqlite3.Error) -> bool:
    """Check whether the disk is full and nothing was written.

    After other errors a commit may have happened.
    """
    return getattr(error, "sqlite_errorcode", None) in _FULL


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make the changes of the block together, or none of them.

    The connection has no isolation level, so that sqlite3 begins no transaction of its own.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_missing(path: Path) -> bool:
    """Check whether there is no file, or an empty one, which is what a kill leaves of a new file.

    Raises:
        OSError: it is no regular file, or cannot be seen.

    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    files.require_regular(path, found)
    return found.st_size == 0


def create(path: Path, *, mode: int) -> None:
    """Make an empty file unless it exists; SQLite gives its mode to the files beside it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
