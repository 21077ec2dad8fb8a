"""Reading of the sent journal, also while the sender writes it, and on a read-only mount.

Each page is a transaction of its own, so that no reader keeps the sender waiting.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from appliance.core import files, sqlite
from appliance.core.run.errors import LocalFailure
from appliance.core.usage_messages import SentRecord
from ssm import sqlite_file
from ssm.sending import sent_journal

_PAGE = 1000
_MESSAGES = """
SELECT message.number, at, id, element, sha256, bytes, protocol, name AS destination, ams_project,
       spool, broker, argo_id, records, unread
FROM message JOIN destination ON destination.number = message.destination
WHERE message.number > :after AND at >= :since
ORDER BY message.number LIMIT :page
"""
_RECORDS = """
SELECT kind, key, month, amount, measured, uuid, project, cpu, destination.name AS destination,
       spool, at, id, sha256, record.destination AS number
FROM record JOIN message ON message.number = record.message
            JOIN destination ON destination.number = record.destination
WHERE (record.destination, kind, month, key) > (:number, :kind, :month, :key)
  AND (:only_month = '' OR month = :only_month)
  AND (:only_uuid = '' OR uuid = :only_uuid OR key = :only_uuid) AND at >= :since
ORDER BY record.destination, kind, month, key LIMIT :page
"""
_NEWER = """
SELECT kind, key, month, amount, id, at
FROM record JOIN message ON message.number = record.message
            JOIN destination ON destination.number = record.destination
WHERE spool = :spool AND kind = :kind AND key = :key AND month = :month
  AND CASE :element WHEN '' THEN at > :since ELSE element > :element END
"""
_FIRST = {"number": 0, "kind": "", "month": "", "key": ""}


def is_missing(path: Path) -> bool:
    """Check whether no message has been sent yet.

    Raises:
        LocalFailure: it is no regular file, or cannot be seen.

    """
    try:
        return sqlite.is_missing(path)
    except OSError as error:
        raise files.describe_unusable(path, error) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading.

    Raises:
        LocalFailure: there is none, or it cannot be read.

    """
    nothing = LocalFailure(path, "no message has been sent yet", "see [journal] path")
    if is_missing(path):
        raise nothing
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None
        )
        try:
            connection.row_factory = sqlite3.Row
            if not sent_journal.check_version(connection, path):
                raise nothing
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        failure = sqlite_file.failure(path, error, noun=sent_journal.NOUN)
        if sent_journal.is_torn(path):
            remedy = "the next run of ssmsend restores it"
            failure = LocalFailure(path, "the sender was stopped while it wrote", remedy)
        raise failure from error


def messages(
    connection: sqlite3.Connection, *, since: datetime | None = None
) -> Iterator[Mapping[str, Any]]:
    """Yield the sent messages, in the order in which they were acknowledged."""
    after = 0
    since_text = sent_journal.stamp(since) if since else ""
    while rows := connection.execute(
        _MESSAGES, {"after": after, "since": since_text, "page": _PAGE}
    ).fetchall():
        after = rows[-1]["number"]
        for row in rows:
            yield {name: row[name] for name in row.keys() if name != "number"}  # noqa: SIM118


def records(
    connection: sqlite3.Connection,
    *,
    month: str = "",
    uuid: str = "",
    since: datetime | None = None,
) -> Iterator[Mapping[str, Any]]:
    """Yield the last delivery of each record of a month, of a server or volume, or of both."""
    last: dict[str, Any] = _FIRST
    wanted = {
        "only_month": month,
        "only_uuid": uuid,
        "since": sent_journal.stamp(since) if since else "",
        "page": _PAGE,
    }
    while rows := connection.execute(_RECORDS, {**last, **wanted}).fetchall():
        last = {name: rows[-1][name] for name in _FIRST}
        for row in rows:
            yield {name: row[name] for name in row.keys() if name != "number"}  # noqa: SIM118


def newer(
    connection: sqlite3.Connection,
    wanted: Iterable[SentRecord],
    *,
    spool: Path,
    element: str,
    since: str,
) -> Iterator[Mapping[str, Any]]:
    """Yield those of some records that were delivered from a later element of the same spool.

    Elements of a dirq spool are in the order of their names. ``element`` is empty for one without
    such a name; then deliveries after ``since`` count.
    """
    for one in wanted:
        place = {"spool": str(spool), "element": element, "since": since}
        this = {"kind": one.kind, "key": one.key, "month": one.month}
        for row in connection.execute(_NEWER, place | this).fetchall():
            yield dict(row)
