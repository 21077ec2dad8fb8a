"""Consistent copies of SQLite files, while programs write them."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.run.layout import Layout

_HEADER = b"SQLite format 3\0"
_PATIENCE = 30.0
"""Seconds to wait for a writer."""
_FOLDER = "/var/lib/fedcloud/backup"
"""Beside the originals: a copy that a killed run leaves is nowhere where they were not."""


def is_database(path: Path) -> bool:
    """Return whether a file is one of SQLite."""
    with files.open_regular(path) as file:
        return file.read(len(_HEADER)) == _HEADER


@contextlib.contextmanager
def folder(layout: Layout) -> Iterator[Path]:
    """Give a directory for copies, empty at first, which goes with the block."""
    path = layout.path(_FOLDER)
    shutil.rmtree(path, ignore_errors=True)
    files.make_directory(path.parent, mode=0o755)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copy(source: Path, target: Path) -> tuple[int, int]:
    """Copy a database; return its ``application_id`` and ``user_version``.

    It is opened for writing: only so are a journal that a kill has left rolled back, and the files
    beside it removed when it is closed. SQLite gives those to the owner of the database.

    Raises:
        LocalFailure: It cannot be read, or is damaged.

    """
    uri = f"{source.absolute().as_uri()}?mode=rw"
    target.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as original,
            closing(sqlite3.connect(target)) as made,
        ):
            original.backup(made)
            (state,) = made.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                raise LocalFailure(source, f"is damaged ({state})", "move it away")
            (mark,) = made.execute("PRAGMA application_id").fetchone()
            (version,) = made.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise LocalFailure(
            source, f"cannot be copied ({error})", "wait for its job, check the disk, run it again"
        ) from error
    return mark, version


def tables(path: Path) -> int:
    """Return the version of a database's tables, its ``user_version``.

    Raises:
        LocalFailure: It cannot be read.

    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as connection:
            return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        cause = f"cannot be read ({error})"
        raise LocalFailure(path, cause, "wait for its job, check the disk, run it again") from error
