"""What has been received: so that a message that comes again is known, whoever sends it again and why.

A row is written after its element lies complete in a queue's staging directory and before the
element moves into the queue. So a row means: stored, or will be as soon as the program runs; and a
staged element without a row has not been accepted and will come again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure

_SCHEMA = """
CREATE TABLE IF NOT EXISTS received (
    queue TEXT NOT NULL, signer TEXT NOT NULL, id TEXT NOT NULL, sha256 BLOB NOT NULL,
    element TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (queue, signer, id, sha256)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS received_element ON received (queue, element);
CREATE INDEX IF NOT EXISTS received_at ON received (at);
"""
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
"""The disk is full, and nothing was written. Other errors leave it open whether a transaction counts."""


@dataclass(frozen=True, slots=True)
class MessageKey:
    """What makes two messages the same one: signer, id and text, in the same queue."""

    queue: str
    signer: str
    id: str
    sha256: bytes

    @classmethod
    def of(cls, queue: str, *, signer: str, message_id: str, body: bytes) -> MessageKey:
        """Return the key of a message with this text."""
        return cls(queue, signer, message_id, hashlib.sha256(body).digest())


class Journal:
    """The journal in a file; one process at a time.

    Each method raises `OSError` (ENOSPC) when the disk is full, in which case nothing was written,
    and `LocalFailure` for anything else that the database says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guarded():
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    def knows(self, key: MessageKey) -> bool:
        """Say whether this message is stored."""
        query = "SELECT 1 FROM received WHERE queue = ? AND signer = ? AND id = ? AND sha256 = ?"
        with self._guarded():
            return (
                self._connection.execute(
                    query, (key.queue, key.signer, key.id, key.sha256)
                ).fetchone()
                is not None
            )

    def has_element(self, queue: str, element: str) -> bool:
        """Say whether a row stands for this element."""
        query = "SELECT 1 FROM received WHERE queue = ? AND element = ?"
        with self._guarded():
            return self._connection.execute(query, (queue, element)).fetchone() is not None

    def add(self, rows: Iterable[tuple[MessageKey, str]], *, at: datetime) -> None:
        """Write rows (key, name of the element), durably, all or none."""
        values = [
            (key.queue, key.signer, key.id, key.sha256, element, at.timestamp())
            for key, element in rows
        ]
        with self._guarded(), self._transaction():
            self._connection.executemany("INSERT INTO received VALUES (?, ?, ?, ?, ?, ?)", values)

    def forget(self, *, before: datetime) -> None:
        """Remove old rows."""
        with self._guarded(), self._transaction():
            self._connection.execute("DELETE FROM received WHERE at < ?", (before.timestamp(),))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in _FULL:
                raise OSError(errno.ENOSPC, "No space left on device", str(self.path)) from error
            cause = f"the journal of received messages: {error}"
            raise LocalFailure(self.path, cause, self._remedy()) from error

    def _remedy(self) -> str:
        if os.path.lexists(self.path) and not os.access(self.path, os.R_OK | os.W_OK):
            return f"chown {os.geteuid()}:{os.getegid()} {files.shell_word(self.path)}"
        return "check owner and mode; a file that is no database may be moved away"
