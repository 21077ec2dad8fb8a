"""The SQLite file of what the cloud said before: names, and the servers that were running.

It only saves requests. A file that is damaged, foreign or of another release is replaced by an
empty one, and a run that cannot use it asks the cloud for everything, with one warning. So nothing
here fails a run. The file names users, hence its mode.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from appliance.core import files, sqlite, state_tables

logger = logging.getLogger(__name__)

_APPLICATION_ID = 0x4341534D
_VERSION = state_tables.MEMORY
_MODE = 0o640
_WITHOUT = "this run asks the cloud for everything"
_WAIT = 5.0
"""Seconds to wait for another process that writes."""
_TABLES = """
CREATE TABLE clouds (id INTEGER PRIMARY KEY, keystone TEXT NOT NULL UNIQUE);
CREATE TABLE names (
    cloud INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, name TEXT,
    asked INTEGER NOT NULL,
    PRIMARY KEY (cloud, kind, key)
) WITHOUT ROWID;
CREATE TABLE projects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cloud INTEGER NOT NULL, region TEXT NOT NULL, project TEXT NOT NULL, looked INTEGER NOT NULL,
    suspended INTEGER,
    UNIQUE (cloud, region, project)
);
CREATE TABLE flavors (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE servers (
    project INTEGER NOT NULL, id TEXT NOT NULL, created TEXT NOT NULL, launched TEXT NOT NULL,
    user TEXT NOT NULL, image TEXT NOT NULL, flavor INTEGER NOT NULL, addresses INTEGER NOT NULL,
    ended TEXT, suspended TEXT,
    PRIMARY KEY (project, id)
) WITHOUT ROWID;
"""


class MemoryFile:
    """An open file, which threads may share.

    With ``read_only`` nothing is written, and a file that does not exist is not made.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = self._open()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection | None]:
        """Give the connection in a transaction; None if the file cannot be used.

        If the file fails within it, the transaction changes nothing, and the file is used no more.
        """
        with self._lock:
            if self._connection is None:
                yield None
                return
            try:
                with self._connection:
                    yield self._connection
            except sqlite3.Error as error:
                self._give_up(error)

    def cloud(self, connection: sqlite3.Connection, keystone: str) -> int:
        """Return the number of a cloud."""
        if not self.read_only:
            connection.execute("INSERT OR IGNORE INTO clouds (keystone) VALUES (?)", (keystone,))
        found = connection.execute("SELECT id FROM clouds WHERE keystone = ?", (keystone,))
        return int((found.fetchone() or (0,))[0])

    def forget(self, user: str) -> None:
        """Remove a user's name, and the servers that were described with the user's id.

        The next run asks the cloud for these servers again.
        """
        with self.transaction() as connection:
            if connection is not None:
                connection.execute("DELETE FROM names WHERE key = ?", (user,))
                connection.execute("DELETE FROM servers WHERE user = ?", (user,))

    def _open(self) -> sqlite3.Connection | None:
        if self.read_only:
            if not self.path.is_file():
                return None
            connection = self._connect("ro")
            if _is_ours(connection):
                return connection
            connection.close()
            return None
        files.make_directory(self.path.parent)
        self._make()
        connection = self._connect("rw")
        if not _is_ours(connection):
            connection.close()
            if self.path.stat().st_size:
                logger.warning("%s: is no memory of this release; it is replaced", self.path)
            self._remove()
            self._make()
            connection = self._connect("rw")
            with connection:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
        return connection

    def _make(self) -> None:
        """Create the file with its mode, unless it exists; a link is replaced, not followed."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            self._remove()
        sqlite.create(self.path, mode=_MODE)

    def _remove(self) -> None:
        for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _connect(self, mode: str) -> sqlite3.Connection:
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT, check_same_thread=False)
        # What is removed is overwritten: names end with their age.
        connection.execute("PRAGMA secure_delete = ON").fetchall()
        return connection

    def _give_up(self, error: Exception) -> None:
        self.close()
        if isinstance(error, OSError):
            logger.warning("%s", files.describe_skipped(self.path, error, consequence=_WITHOUT))
        else:
            logger.warning("%s: cannot be used: %s; %s", self.path, error, _WITHOUT)
        code = getattr(error, "sqlite_errorcode", None)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and not self.read_only:
            with contextlib.suppress(OSError):
                self._remove()


def _is_ours(connection: sqlite3.Connection) -> bool:
    """Check whether a file has these tables and is whole."""
    try:
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if (mark, version) != (_APPLICATION_ID, _VERSION):
            return False
        return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return False
        raise
