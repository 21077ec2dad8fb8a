"""The sent journal: what the brokers have acknowledged, of which the spool keeps nothing.

`docs/formats/sent-journal.md` describes the file, which other programs read while this one writes.

A message leaves the spool after its rows are durable, so a kill or a power cut in between sends it
once more, as a kill before the receipt does. Sending has priority over remembering
(docs/adr/0062-a-journal-of-sent-messages.md): if the rows cannot be written, the message leaves the
spool all the same, and the rows wait here for the next write. After a failure at most
`_MOST_WAITING` deliveries wait; the oldest further ones are lost, and the run says how many.

The file keeps a rollback journal beside it and no write-ahead log: readers in other containers
have its directory mounted read-only, where SQLite cannot open a database with such a log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock, files, state_tables
from appliance.core.run.errors import LocalFailure
from appliance.core.spool import NAME
from ssm.settings import SenderSettings

if TYPE_CHECKING:  # start-up is a cost: most runs find an empty spool
    import sqlite3

    from appliance.core.usage_messages import Contents, SentRecord
    from ssm.sqlite_file import SQLiteFile

logger = logging.getLogger("ssm.ssm2")

NOUN = "the journal of sent messages"
APPLICATION, VERSION = 0x65676973, state_tables.SENT_JOURNAL
"""SQLite's ``application_id`` and ``user_version``: whose file it is, and which tables it has."""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS destination (
    number INTEGER PRIMARY KEY, protocol TEXT NOT NULL, name TEXT NOT NULL,
    ams_project TEXT NOT NULL, spool TEXT NOT NULL,
    UNIQUE (protocol, name, ams_project, spool)
);
CREATE TABLE IF NOT EXISTS message (
    number INTEGER PRIMARY KEY AUTOINCREMENT, destination INTEGER NOT NULL,
    id TEXT NOT NULL, element TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    broker TEXT NOT NULL, argo_id TEXT NOT NULL, at TEXT NOT NULL,
    records INTEGER NOT NULL, unread INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS record (
    destination INTEGER NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, month TEXT NOT NULL,
    amount INTEGER NOT NULL, measured INTEGER NOT NULL, uuid TEXT NOT NULL, project TEXT NOT NULL,
    cpu INTEGER, message INTEGER NOT NULL,
    PRIMARY KEY (destination, kind, month, key)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
_DESTINATION = """
SELECT number FROM destination WHERE (protocol, name, ams_project, spool) = (?, ?, ?, ?)
"""
_NEWEST = """
SELECT max(element) FROM
    (SELECT element FROM message WHERE destination = ? ORDER BY number DESC LIMIT 1000)
"""
_FURTHER = """
SELECT 1 FROM record JOIN message ON message.number = record.message
WHERE record.destination = :destination AND kind = :kind AND month = :month AND key = :key
    AND element > :element AND CASE kind WHEN 'ip' THEN record.measured > :measured
    ELSE record.amount > :amount END
"""
_MOST_WAITING = 64
_STEP = timedelta(days=31)
"""The most that one run removes, from the oldest row on: its clock may be wrong."""
_DAY = timedelta(days=1)
_PATIENCE, _IMPATIENCE = 5.0, 0.1
"""Seconds to wait for readers: at first, and after a write that failed."""


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that a broker has acknowledged."""

    id: str
    """As it was sent: the name of its element, or of a part, perhaps with ``.again``."""
    element: str
    sha256: str
    """Of the element as it lay in the spool, also for a part of it."""
    size: int
    """Bytes of the text of this message."""
    broker: str
    argo_id: str
    at: datetime
    contents: Contents


class SentJournal:
    """The journal for the deliveries of one configuration; it is opened when it is needed.

    No method raises when the file cannot be used: `failures` has the lines about that.
    """

    def __init__(self, settings: SenderSettings) -> None:
        self._section, link = settings.kept.journal, settings.link
        project = link.ams.project if link.ams else ""
        protocol = "AMS" if link.ams else "STOMP"
        self._destination = (protocol, link.destination, project, str(settings.path))
        self._waiting: list[SentMessage] = []
        self._database: SQLiteFile | None = None
        self._problem: LocalFailure | None = None
        self._lost = 0
        self._newest: str | None = None
        """The last element that was sent; None if it has to be read."""

    @property
    def is_on(self) -> bool:
        """Check whether the configuration asks for a journal."""
        return self._section.months > 0

    @property
    def lost(self) -> int:
        """Return how many deliveries are missing in the file."""
        return self._lost + len(self._waiting)

    def failures(self) -> list[str]:
        """Return the lines for the administrator: what is missing in the file, and why."""
        if self._problem is None:
            return []
        words = f"; sent messages that it does not have: {self.lost}" if self.lost else ""
        return [f"{self._problem}{words}"]

    def write(self, deliveries: Sequence[SentMessage] = ()) -> None:
        """Write deliveries durably, and those that still wait; what cannot be written waits."""
        if not self.is_on:
            return
        self._waiting += deliveries
        if not self._waiting:
            return
        try:
            with self._opened().transaction() as connection:
                self._insert(connection, self._waiting)
            self._waiting.clear()
            self._problem = self._problem if self._lost else None
        except (OSError, LocalFailure) as error:
            self._fail(error)
            self._lost += max(len(self._waiting) - _MOST_WAITING, 0)
            del self._waiting[:-_MOST_WAITING]

    def replaced(self, element: str, contents: Contents) -> list[SentRecord]:
        """Return the records of a message that later elements have delivered further.

        Messages of a dirq spool are sent in the order of their names. One that comes late was
        locked or unreadable for a while, or lies in an older copy of the spool. Without a usable
        file there are none.
        """
        if not self.is_on or not NAME.fullmatch(element):
            return []
        from appliance.core import sqlite  # noqa: PLC0415  start-up is a cost

        try:
            if sqlite.is_missing(self._section.path):
                return []
            database = self._opened()
            with database.guarded():
                return self._find_replaced(database.connection, element, contents)
        except (OSError, LocalFailure) as error:
            self._fail(error)
            return []

    def _find_replaced(
        self, connection: sqlite3.Connection, element: str, contents: Contents
    ) -> list[SentRecord]:
        found = connection.execute(_DESTINATION, self._destination).fetchone()
        if found is None:
            return []
        if self._newest is None:
            self._newest = connection.execute(_NEWEST, found).fetchone()[0] or ""
        if element >= self._newest:
            return []
        place = {"destination": found[0], "element": element}
        return [
            one
            for one in contents.records
            if connection.execute(_FURTHER, place | one._asdict()).fetchone()
        ]

    def finish(self) -> None:
        """End a run: write what still waits, and remove rows that are too old."""
        self.write()
        path = self._section.path
        if self.is_on and not self._waiting and (self._database or _needs_upkeep(path)):
            try:
                forget(self._opened(), months=self._section.months, at=clock.now(), step=_STEP)
                os.utime(path)
            except (OSError, LocalFailure) as error:
                self._fail(error)
        self._close()

    def _fail(self, error: OSError | LocalFailure) -> None:
        self._close()
        is_first = self._problem is None
        self._problem = error if isinstance(error, LocalFailure) else LocalFailure.from_os(error)
        if is_first:
            logger.warning("%s; sending goes on", self._problem)

    def _opened(self) -> SQLiteFile:
        if self._database is None:
            patience = _PATIENCE if self._problem is None else _IMPATIENCE
            self._database = open_journal(self._section.path, patience=patience)
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _insert(self, connection: sqlite3.Connection, deliveries: Sequence[SentMessage]) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO destination VALUES (NULL, ?, ?, ?, ?)", self._destination
        )
        (number,) = connection.execute(_DESTINATION, self._destination).fetchone()
        self._newest = None
        for one in deliveries:
            cursor = connection.execute(
                "INSERT INTO message VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(number, one.id, one.element, one.sha256, one.size),
                    *(one.broker, one.argo_id, stamp(one.at)),
                    *(len(one.contents.records), one.contents.unread),
                ),
            )
            message = cursor.lastrowid
            connection.executemany(
                "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(number, *record, message) for record in one.contents.records],
            )


def open_journal(path: Path, *, patience: float = _PATIENCE) -> SQLiteFile:
    """Open the journal for writing; a missing one is made.

    Raises:
        OSError: the disk is full, or the file cannot be made.
        LocalFailure: it cannot be used.

    """
    from ssm.sqlite_file import SQLiteFile  # noqa: PLC0415  start-up is a cost

    files.make_directory(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o640)
        try:
            files.require_regular(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise files.describe_unusable(path, error) from error
    # Readers have the directory mounted read-only: without a write-ahead log, see above.
    return SQLiteFile(
        path,
        noun=NOUN,
        prepare=lambda connection: _prepare(connection, path),
        mode="TRUNCATE",
        patience=patience,
    )


def check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file has our tables; raise `LocalFailure` for a file of others."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION and version == VERSION:
        return True
    if application == APPLICATION and version:
        cause = f"{NOUN} is of a newer version of this program (tables {version})"
        raise LocalFailure(path, cause, "install that version, or move the file away")
    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise LocalFailure(path, f"is not {NOUN}", "move it away")
    return False


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not check_version(connection, path):
        connection.executescript(_SCHEMA)


def forget(
    database: SQLiteFile, *, months: int, at: datetime, step: timedelta = timedelta.max
) -> int:
    """Remove the messages before the last ``months`` whole months, and the records in them.

    At most ``step`` is removed, counted from the oldest message. Returns the number of messages.
    """
    index = at.year * 12 + at.month - 1 - months
    limit = stamp(datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC))
    with database.transaction() as connection:
        # Rows are in the order of time, unless a clock was set back.
        (oldest,) = connection.execute(
            "SELECT min(at) FROM (SELECT at FROM message ORDER BY number LIMIT 1000)"
        ).fetchone()
        if oldest is None or oldest >= limit:
            return 0
        with contextlib.suppress(OverflowError):
            limit = min(limit, stamp(clock.parse(oldest) + step))
        connection.execute(
            "DELETE FROM record WHERE message IN (SELECT number FROM message WHERE at < ?)",
            (limit,),
        )
        return connection.execute("DELETE FROM message WHERE at < ?", (limit,)).rowcount


def stamp(moment: datetime) -> str:
    """Return a time as the journal has it: ISO 8601 in UTC, which sorts by time."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def complaint(path: Path) -> str:
    """Return why the journal could not be written, for a check that writes nothing."""
    if path.exists():
        is_writable = os.access(path, os.R_OK | os.W_OK, effective_ids=True)
        return "" if is_writable else f"{path}: {NOUN} cannot be written"
    above = next(one for one in path.parents if one.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        return ""
    return f"{path}: {NOUN} cannot be made here: no right to write in {above}"


def is_torn(path: Path) -> bool:
    """Check whether a killed run left a file that only a program that may write can restore.

    While a run writes, it looks the same.
    """
    try:
        return path.with_name(f"{path.name}-journal").stat().st_size > 0
    except OSError:
        return False


def _needs_upkeep(path: Path) -> bool:
    """Check whether a run that sends nothing has to open the journal.

    Rows become too old at a site that sends no more, too.
    """
    try:
        return is_torn(path) or time.time() - path.stat().st_mtime > _DAY.total_seconds()
    except OSError:
        return False
