"""What is removed: old months on request and by age, and the ids of users on request.

The windows stay. They are small, and say for which months something was delivered once, so that the
guard can refuse to deliver these months again when the amounts are no longer known.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from caso.ledger import schema
from caso.ledger.model import MONTHS, Month
from caso.ledger.store import LedgerFile

_FLOOR = "purged before"
_UNUSED = """
DELETE FROM messages WHERE id NOT IN (SELECT message FROM deliveries)
    AND id NOT IN (SELECT message FROM intended);
DELETE FROM batches WHERE is_confirmed AND id NOT IN (SELECT batch FROM messages)
    AND (reason IS NULL OR at < {before});
DELETE FROM decreases WHERE batch NOT IN (SELECT id FROM batches);
DELETE FROM things WHERE id NOT IN (SELECT thing FROM deliveries)
    AND id NOT IN (SELECT thing FROM intended) AND id NOT IN (SELECT thing FROM sightings)
    AND id NOT IN (SELECT thing FROM decreases);
DELETE FROM facts WHERE id NOT IN (SELECT facts FROM sightings);
DELETE FROM users WHERE id NOT IN (SELECT user FROM deliveries WHERE user IS NOT NULL)
    AND id NOT IN (SELECT user FROM intended WHERE user IS NOT NULL)
    AND id NOT IN (SELECT user FROM sightings WHERE user IS NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has removed."""

    deliveries: int
    segments: int


class Retention:
    """The age limit of a ledger."""

    def __init__(self, file: LedgerFile, *, months: int = MONTHS) -> None:
        self._file = file
        self._months = months

    def first_kept(self, now: datetime) -> Month:
        """Return the oldest month that a purge leaves."""
        back = now.year * 12 + now.month - 1 - self._months
        return Month(back // 12 * 100 + back % 12 + 1)

    def floor(self) -> Month | None:
        """Return the month before which everything was removed; None before the first purge."""
        with self._file.reading() as connection:
            found = connection.execute("SELECT value FROM notes WHERE name = ?", (_FLOOR,))
            row = found.fetchone()
        return None if row is None else Month(row[0])

    def is_due(self, now: datetime) -> bool:
        """Check whether there is something older than the retention."""
        first = self.first_kept(now)
        with self._file.reading() as connection:
            oldest = connection.execute("SELECT min(month) FROM deliveries").fetchone()[0]
        return oldest is not None and oldest < first

    def purge(self, now: datetime) -> Purged:
        """Remove everything older than the retention; later rows reuse its space."""
        first = self.first_kept(now)
        before = int(datetime(first // 100, first % 100, 1, tzinfo=now.tzinfo).timestamp())
        with self._file.transaction() as connection:
            gone = connection.execute("DELETE FROM deliveries WHERE month < ?", (first,)).rowcount
            segments = connection.execute(
                "DELETE FROM sightings WHERE until < ?", (before,)
            ).rowcount
            connection.execute(
                "INSERT INTO notes VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
                (_FLOOR, first),
            )
            schema.execute(connection, _UNUSED.format(before=before))
            self._file.numbers.forget()
        self._file.empty_log()
        return Purged(gone, segments)

    def count(self, user: str) -> int:
        """Return in how many rows the id of a user is."""
        with self._file.reading() as connection:
            return _count(connection, user)

    def forget(self, user: str) -> int:
        """Blank the id of a user everywhere, and return in how many rows it was.

        The hours stay. If the user still has servers, the next run brings the id back.
        """
        with self._file.transaction() as connection:
            rows = _count(connection, user)
            connection.execute("UPDATE users SET name = NULL WHERE name = ?", (user,))
            self._file.numbers.forget()
        self._file.empty_log()
        return rows


def _count(connection: sqlite3.Connection, user: str) -> int:
    query = """
        SELECT (SELECT count(*) FROM deliveries WHERE user = id)
            + (SELECT count(*) FROM sightings WHERE user = id) FROM users WHERE name = ?
    """
    found = connection.execute(query, (user,)).fetchone()
    return int(found[0]) if found else 0
