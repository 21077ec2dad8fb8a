"""The journal of received messages, by which duplicates are found.

Senders and brokers both repeat messages after a failure. A row is written when the element of a
message is complete in a queue's staging directory, before it moves into the queue:

    row     element       meaning
    yes     in the queue  stored
    yes     staged        stored, as soon as the program runs again
    no      staged        not accepted: the broker delivers the message again
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
"""The disk is full and nothing was written. After other errors a commit may have happened."""


@dataclass(frozen=True, slots=True)
class MessageKey:
    """The identity of a message: signer, id and text, in one queue."""

    queue: str
    signer: str
    id: str
    sha256: bytes

    @classmethod
    def of(cls, queue: str, *, signer: str, message_id: str, body: bytes) -> MessageKey:
        """Return the key of a message with this text."""
        return cls(queue, signer, message_id, hashlib.sha256(body).digest())


class Journal:
    """The journal in a file. One process at a time.

    Raises:
        OSError: by each method, with ENOSPC: the disk is full, and nothing was written.
        LocalFailure: by each method: any other error of the database.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._guarded():
            # Without isolation level sqlite3 begins no transactions of its own.
            self._connection = sqlite3.connect(path, isolation_level=None)
            try:
                # A commit is one fsync of the write-ahead log; with FULL it is durable when it
                # returns.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
            except sqlite3.Error:
                self._connection.close()
                raise

    def knows(self, key: MessageKey) -> bool:
        """Check whether a message has a row."""
        query = "SELECT 1 FROM received WHERE queue = ? AND signer = ? AND id = ? AND sha256 = ?"
        with self._guarded():
            return (
                self._connection.execute(
                    query, (key.queue, key.signer, key.id, key.sha256)
                ).fetchone()
                is not None
            )

    def has_element(self, queue: str, element: str) -> bool:
        """Check whether an element has a row."""
        query = "SELECT 1 FROM received WHERE queue = ? AND element = ?"
        with self._guarded():
            return self._connection.execute(query, (queue, element)).fetchone() is not None

    def add(self, rows: Iterable[tuple[MessageKey, str]], *, at: datetime) -> None:
        """Write rows of a key and the name of its element, durably, all or none."""
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
        return "check owner and mode; a file that is not a database may be moved away"
