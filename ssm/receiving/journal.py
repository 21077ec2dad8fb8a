"""The journal of received messages, by which duplicates are found.

Senders and brokers both repeat messages after a failure. A row is written when the element of a
message is complete in a queue's staging directory, before it moves into the queue:

    row     element       meaning
    yes     in the queue  stored
    yes     staged        stored, as soon as the program runs again
    no      staged        not accepted: the broker delivers the message again
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ssm.sqlite_file import SQLiteFile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS received (
    queue TEXT NOT NULL, signer TEXT NOT NULL, id TEXT NOT NULL, sha256 BLOB NOT NULL,
    element TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (queue, signer, id, sha256)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS received_element ON received (queue, element);
CREATE INDEX IF NOT EXISTS received_at ON received (at);
"""


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
        # A commit is one fsync of the write-ahead log.
        self._database = SQLiteFile(
            path,
            noun="the journal of received messages",
            prepare=lambda connection: connection.executescript(_SCHEMA),
        )

    def knows(self, key: MessageKey) -> bool:
        """Check whether a message has a row."""
        query = "SELECT 1 FROM received WHERE queue = ? AND signer = ? AND id = ? AND sha256 = ?"
        return self._has(query, key.queue, key.signer, key.id, key.sha256)

    def has_element(self, queue: str, element: str) -> bool:
        """Check whether an element has a row."""
        return self._has("SELECT 1 FROM received WHERE queue = ? AND element = ?", queue, element)

    def add(self, rows: Iterable[tuple[MessageKey, str]], *, at: datetime) -> None:
        """Write rows of a key and the name of its element, durably, all or none."""
        values = [
            (key.queue, key.signer, key.id, key.sha256, element, at.timestamp())
            for key, element in rows
        ]
        with self._database.transaction() as connection:
            connection.executemany("INSERT INTO received VALUES (?, ?, ?, ?, ?, ?)", values)

    def forget(self, *, before: datetime) -> None:
        """Remove old rows."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM received WHERE at < ?", (before.timestamp(),))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _has(self, query: str, *values: str | bytes) -> bool:
        with self._database.guarded():
            return self._database.connection.execute(query, values).fetchone() is not None
