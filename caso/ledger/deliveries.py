"""What was delivered, and the life of a batch.

    call       effect in the ledger                         killed after it, the next start
    begin      the batch is outstanding
    add        its rows are intended, in pages              withdraws it: nothing was handed over
    seal       all of its rows, its window and its
               checkpoint are intended
               (the messenger commits the batch)            confirms it: the messenger has it
    confirm    rows, window and checkpoint count            finds it done
    withdraw   nothing is left of the batch                 finds nothing

So the ledger never claims less than what a messenger has. `reconcile` is the start: it asks the
messenger which of the outstanding batches it has.

A confirmed row replaces that of an earlier batch for the same thing, month and destination. A
message is kept as long as a row refers to it, so the file does not grow with the number of runs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from appliance.core import clock
from caso.ledger import names, windows
from caso.ledger.model import (
    Charged,
    Decrease,
    DeliveredRow,
    LedgerRow,
    Month,
    Outstanding,
    Shrinkage,
    Span,
    Stream,
    first_second,
    moment_of,
    month_before,
    months_between,
    seconds,
)
from caso.ledger.store import LedgerFile

PAGE = 1000
"""Rows in one transaction."""

ESTIMATED, ENDED = 1, 2
"""Flags of a row."""

_ADD_THINGS = "INSERT OR IGNORE INTO things (kind, key) SELECT ?, key FROM temp.page"
_INTEND = """
INSERT INTO intended
    (batch, month, thing, amount, progress, cpu, measured, vo, user, message, flags)
SELECT ?, page.month, things.id, page.amount, page.progress, page.cpu, page.measured, page.vo,
    page.user, page.message, page.flags
FROM temp.page JOIN things ON things.kind = ? AND things.key = page.key
WHERE true
ON CONFLICT DO UPDATE SET amount = excluded.amount, progress = excluded.progress,
    cpu = excluded.cpu, measured = excluded.measured, vo = excluded.vo, user = excluded.user,
    message = excluded.message, flags = excluded.flags
"""
_REPLACED = """
SELECT count(*), old.message FROM intended AS new JOIN deliveries AS old
ON old.month = new.month AND old.destination = :destination AND old.thing = new.thing
WHERE new.batch = :batch GROUP BY old.message
"""
_CONFIRM = """
INSERT INTO deliveries
    (month, destination, thing, stream, amount, progress, cpu, measured, vo, user, message, flags)
SELECT month, :destination, thing, :stream, amount, progress, cpu, measured, vo, user, message,
    flags
FROM intended WHERE batch = :batch
ON CONFLICT DO UPDATE SET stream = excluded.stream, amount = excluded.amount,
    progress = excluded.progress, cpu = excluded.cpu, measured = excluded.measured,
    vo = excluded.vo, user = excluded.user, message = excluded.message, flags = excluded.flags
"""
_DROP_DECREASES = """
DELETE FROM intended WHERE batch = :batch AND EXISTS (
    SELECT 1 FROM deliveries AS old WHERE old.month = intended.month
    AND old.destination = :destination AND old.thing = intended.thing
    AND (coalesce(old.progress, old.amount), old.amount)
    > (coalesce(intended.progress, intended.amount), intended.amount)
)
"""
_KEEP_DECREASES = """
INSERT INTO decreases (batch, month, thing, before, after)
SELECT new.batch, new.month, new.thing, old.amount, new.amount
FROM intended AS new JOIN deliveries AS old ON old.month = new.month
AND old.destination = :destination AND old.thing = new.thing
AND (coalesce(old.progress, old.amount), old.amount)
    > (coalesce(new.progress, new.amount), new.amount)
WHERE new.batch = :batch
"""
_RECORDS = """
UPDATE messages SET records = counted.records
FROM (SELECT message, count(*) AS records FROM intended WHERE batch = :batch GROUP BY message)
AS counted WHERE messages.id = counted.message
"""
_SHRINKING = """
SELECT asked.key, asked.month, coalesce(old.progress, old.amount), asked.progress
FROM temp.asked CROSS JOIN things ON things.kind = :kind AND things.key = asked.key
CROSS JOIN deliveries AS old
ON old.month = asked.month AND old.destination = :destination AND old.thing = things.id
WHERE (coalesce(old.progress, old.amount), old.amount) > (asked.progress, asked.amount)
"""
_CHARGED = """
SELECT asked.key, asked.month, old.amount, old.cpu
FROM temp.asked CROSS JOIN things ON things.kind = :kind AND things.key = asked.key
CROSS JOIN deliveries AS old ON old.month = CASE
    WHEN EXISTS (SELECT 1 FROM deliveries AS same WHERE same.month = asked.month
    AND same.destination = :destination AND same.thing = things.id)
    THEN asked.month
    ELSE asked.month - CASE WHEN asked.month % 100 > 1 THEN 1 ELSE 89 END END
AND old.destination = :destination AND old.thing = things.id
WHERE old.cpu > asked.cpu OR old.cpu * asked.amount > asked.cpu * old.amount
"""
_REACHED = """
SELECT reached.key, reached.month, old.amount, coalesce(old.cpu, 0)
FROM temp.reached CROSS JOIN things ON things.kind = :kind AND things.key = reached.key
CROSS JOIN deliveries AS old ON old.month = (
    SELECT max(one.month) FROM json_each(:months) AS known CROSS JOIN deliveries AS one
    ON one.month = known.value AND one.destination = :destination AND one.thing = things.id
    WHERE one.month <= reached.month AND one.month >= reached.earliest
)
AND old.destination = :destination AND old.thing = things.id
"""
_CPU_BY_VO = """
SELECT words.text, sum(CASE
    WHEN old.thing IS NOT NULL THEN new.cpu - old.cpu
    WHEN new.amount > 0
        THEN new.cpu * min(new.amount, new.measured - :begin + 1) / CAST(new.amount AS REAL)
    ELSE 0 END)
FROM deliveries AS new JOIN words ON words.id = new.vo
LEFT JOIN deliveries AS old
ON old.month = :before AND old.destination = new.destination AND old.thing = new.thing
WHERE new.month = :month AND new.destination = :destination AND new.cpu IS NOT NULL
GROUP BY new.vo
"""
_OF = """
SELECT * FROM delivered WHERE month IN (SELECT value FROM json_each(?))
AND destination IN (SELECT destination FROM streams)
AND thing IN (SELECT id FROM things WHERE key = ? AND kind IN (SELECT kind FROM streams))
ORDER BY month, destination
"""
_OF_MONTH = """
SELECT * FROM delivered WHERE month = ? AND destination = ? AND thing > ? ORDER BY thing LIMIT ?
"""
_DECREASES = """
SELECT stream, key, month, before, after, at, reason
FROM decreases JOIN batches ON batches.id = batch JOIN things ON things.id = thing
ORDER BY batch, month, thing
"""


@dataclass(slots=True)
class Reconciled:
    """The outstanding batches that a start has settled, by name."""

    confirmed: list[str]
    withdrawn: list[str]


class Compared(NamedTuple):
    """What was delivered of records before, where that is more than they have."""

    shrinking: list[Shrinkage]
    """Records that go less far than the delivered ones, or as far with a smaller amount.

    Addresses that were released since are missing in a later count for the same moment.
    """
    charged: dict[tuple[str, Month], Charged]
    """What has more CPU time, or more for each second of the amount.

    CPU time grows from month to month, so that of the month before counts if there is none of the
    same month.
    """


class Intent:
    """A batch that is being written. Memory holds at most a page of its rows."""

    def __init__(self, file: LedgerFile, name: str, stream: Stream, reason: str | None) -> None:
        self.name = name
        self._file = file
        self._stream = stream
        self._reason = reason
        self._messages: list[tuple[bytes, Sequence[LedgerRow]]] = []
        self._rows = 0
        self._number: int | None = None
        """The number of the batch, once it is in the file."""

    def add(self, sha256: bytes, rows: Sequence[LedgerRow]) -> None:
        """Add the rows of one message, in its order; a destination without messages gives b""."""
        self._messages.append((sha256, rows))
        self._rows += len(rows)
        if self._rows >= PAGE:
            self._write(is_durable=False)  # `seal` makes it so

    def seal(self, window: Span | None, *, checkpoint: datetime | None) -> None:
        """Make the intention durable; the messenger may commit the batch then.

        ``checkpoint`` is the start of the next window; None leaves it where it is.
        """
        self._write(window, checkpoint)

    def _write(
        self,
        window: Span | None = None,
        checkpoint: datetime | None = None,
        *,
        is_durable: bool = True,
    ) -> None:
        file = self._file
        with file.transaction(is_durable=is_durable) as connection:
            stream = file.numbers.stream(connection, self._stream)
            number = self._number or _begin(connection, self.name, stream, self._reason)
            if self._rows:
                kind = file.numbers.word(connection, self._stream.kind)
                self._fill_page(connection, number)
                connection.execute(_ADD_THINGS, (kind,))
                connection.execute(_INTEND, (number, kind))
                connection.execute("DELETE FROM temp.page")
            connection.execute(
                "UPDATE batches SET start = ?, end = ?, checkpoint = ? WHERE id = ?",
                (
                    seconds(window.start) if window else None,
                    seconds(window.end) if window else None,
                    seconds(checkpoint) if checkpoint else None,
                    number,
                ),
            )
        self._number = number
        self._messages, self._rows = [], 0

    def _fill_page(self, connection: sqlite3.Connection, batch: int) -> None:
        word, user = self._file.numbers.word, self._file.numbers.user
        for sha256, rows in self._messages:
            query = "INSERT INTO messages (batch, sha256, records) VALUES (?, ?, 0) RETURNING id"
            [(message,)] = connection.execute(query, (batch, sha256)).fetchall()
            connection.executemany(
                "INSERT INTO temp.page VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(names.pack(row.key), row.month, row.amount, row.progress, row.cpu),
                        *(seconds(row.measured), word(connection, row.vo)),
                        *(user(connection, row.user), message),
                        ESTIMATED * row.is_estimated + ENDED * row.has_ended,
                    )
                    for row in rows
                ),
            )


def _begin(connection: sqlite3.Connection, name: str, stream: int, reason: str | None) -> int:
    query = "INSERT INTO batches (name, stream, at, reason) VALUES (?, ?, ?, ?) RETURNING id"
    values = (name, stream, seconds(clock.now()), reason)
    [(number,)] = connection.execute(query, values).fetchall()
    return int(number)


class Deliveries:
    """The deliveries in a ledger."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def intent(self, name: str, stream: Stream, *, reason: str | None = None) -> Intent:
        """Begin a batch; ``name`` is that by which the messenger knows it.

        A batch with a ``reason`` may deliver less than before; the reason is kept with it.
        """
        return Intent(self._file, name, stream, reason)

    def shrinking(
        self, stream: Stream, page: Sequence[tuple[str, Month, int, int]]
    ) -> list[Shrinkage]:
        """Return which records (key, month, progress, amount) take back what was delivered."""
        return self.compared(stream, [(*one, None) for one in page]).shrinking

    def compared(
        self, stream: Stream, page: Sequence[tuple[str, Month, int, int, int | None]]
    ) -> Compared:
        """Compare records (key, month, progress, amount, CPU time) with what was delivered.

        The region and the Keystone of the stream do not matter: a site may name them differently
        from one day to the next, and the repository keeps one record all the same.
        """
        with self._file.reading() as connection:
            connection.executemany(
                "INSERT INTO temp.asked VALUES (?, ?, ?, ?, ?)",
                [(names.pack(key), *more) for key, *more in page],
            )
            numbers = {
                "kind": names.find_word(connection, stream.kind),
                "destination": names.find_word(connection, stream.destination),
            }
            shrinking = connection.execute(_SHRINKING, numbers).fetchall()
            charged = connection.execute(_CHARGED, numbers).fetchall()
            connection.execute("DELETE FROM temp.asked")
        return Compared(
            [Shrinkage(names.unpack(key), *more) for key, *more in shrinking],
            {(names.unpack(key), month): Charged(*more) for key, month, *more in charged},
        )

    def reached(
        self, stream: Stream, page: Sequence[tuple[str, Month]], *, is_cumulative: bool
    ) -> dict[tuple[str, Month], tuple[int, int]]:
        """Return amount and CPU seconds up to which things (key, month) were delivered.

        Of records that are cumulative, that of the latest month up to the asked one counts.
        """
        months = json.dumps(self.months())
        with self._file.reading() as connection:
            connection.executemany(
                "INSERT INTO temp.reached VALUES (?, ?, ?)",
                ((names.pack(key), month, 0 if is_cumulative else month) for key, month in page),
            )
            values = {
                "kind": names.find_word(connection, stream.kind),
                "destination": names.find_word(connection, stream.destination),
                "months": months,
            }
            found = connection.execute(_REACHED, values).fetchall()
            connection.execute("DELETE FROM temp.reached")
        return {(names.unpack(key), month): (amount, cpu) for key, month, amount, cpu in found}

    def outstanding(self) -> list[Outstanding]:
        """Return the batches that were begun and not confirmed, oldest first."""
        with self._file.reading() as connection:
            streams = names.read_streams(connection)
            found = connection.execute(
                # Without the sign, SQLite would go through all batches in the order of their ids.
                "SELECT name, stream, at FROM batches WHERE NOT is_confirmed ORDER BY +id"
            )
            return [Outstanding(name, streams[number], moment_of(at)) for name, number, at in found]

    def reconcile(self, is_held: Callable[[Outstanding], bool | None]) -> Reconciled:
        """Settle the outstanding batches.

        ``is_held`` returns whether the messenger has a batch, or has handed it over; None if it
        cannot say. Then the rows may have arrived, so they count for the guard. The window does not
        count, so that it is extracted again.
        """
        done = Reconciled([], [])
        for batch in self.outstanding():
            counts = self._settle(batch.name, is_held(batch))
            (done.confirmed if counts else done.withdrawn).append(batch.name)
        return done

    def settle(self, stream: Stream, is_held: Callable[[str], bool | None]) -> None:
        """Settle what this process has committed of a stream and could not confirm.

        The next batch of the stream may have the same name, and would be taken for that one.
        ``is_held`` answers as for `reconcile`.
        """
        with self._file.reading() as connection:
            query = "SELECT name FROM batches WHERE NOT is_confirmed AND stream = ? ORDER BY +id"
            found = connection.execute(query, (names.find_stream(connection, stream),)).fetchall()
        for (name,) in found:
            self._settle(name, is_held(name))

    def _settle(self, name: str, held: bool | None) -> bool:
        """Settle a batch, and return whether it counts."""
        if held is False:
            self.withdraw(name)
            return False
        self.confirm(name, has_progress=held is True)
        return True

    def confirm(self, name: str, *, has_progress: bool = True) -> None:
        """Count a batch as delivered; without ``has_progress`` not its window and checkpoint."""
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT id, stream, start, end, checkpoint, reason FROM batches"
                " WHERE name = ? AND NOT is_confirmed",
                (name,),
            ).fetchone()
            if found is None:  # a start that was killed has confirmed it
                return
            batch, stream, start, end, checkpoint, reason = found
            connection.execute("UPDATE batches SET is_confirmed = 1 WHERE id = ?", (batch,))
            _count(connection, batch, stream, may_decrease=reason is not None)
            if has_progress and start is not None:
                windows.add(connection, stream, Span(moment_of(start), moment_of(end)))
            if has_progress and checkpoint is not None:
                windows.advance(connection, stream, checkpoint)

    def withdraw(self, name: str) -> None:
        """Remove a batch that was not handed over."""
        with self._file.transaction() as connection:
            found = connection.execute(
                "SELECT id FROM batches WHERE name = ? AND NOT is_confirmed", (name,)
            ).fetchone()
            if found is not None:
                connection.execute("DELETE FROM intended WHERE batch = ?", found)
                connection.execute("DELETE FROM messages WHERE batch = ?", found)
                connection.execute("DELETE FROM batches WHERE id = ?", found)

    def of(self, key: str) -> list[DeliveredRow]:
        """Return what was delivered for a thing, oldest month first."""
        months = json.dumps(self.months())
        with self._file.reading() as connection:
            streams = names.read_streams(connection)
            # All columns of both keys are given, so that SQLite seeks and does not scan.
            found = connection.execute(_OF, (months, names.pack(key))).fetchall()
        return [_delivered(streams, row) for row in found]

    def last_part(self, kind: str, key: str) -> str | None:
        """Return the end of the last delivered key that is ``key`` and ``/``, and more."""
        with self._file.reading() as connection:
            query = "SELECT max(key) FROM things WHERE kind = ? AND key > ? AND key < ?"
            # The character after "/" is "0".
            values = (names.find_word(connection, kind), f"{key}/", f"{key}0")
            (found,) = connection.execute(query, values).fetchone()
        return None if found is None else str(found).partition("/")[2]

    def rows(self, month: Month, destination: str) -> Iterator[DeliveredRow]:
        """Yield everything that was delivered to a destination for a month, in pages."""
        last = -1
        while True:
            with self._file.reading() as connection:
                streams = names.read_streams(connection)
                values = (month, names.find_word(connection, destination), last, PAGE)
                page = connection.execute(_OF_MONTH, values).fetchall()
            for row in page:
                yield _delivered(streams, row)
            if len(page) < PAGE:
                return
            last = page[-1][-1]

    def cpu_by_vo(self, month: Month, destination: str) -> dict[str, float]:
        """Return the CPU seconds of a month by VO, as far as they were delivered.

        They are the growth since the record of the month before. Of a thing without one, its life
        since the beginning of the month counts.
        """
        with self._file.reading() as connection:
            values = {
                "month": month,
                "before": month_before(month),
                "begin": seconds(first_second(month)),
                "destination": names.find_word(connection, destination),
            }
            return dict(connection.execute(_CPU_BY_VO, values).fetchall())

    def estimated(self) -> list[DeliveredRow]:
        """Return the rows of things that were closed at their last sight, oldest month first."""
        with self._file.reading() as connection:
            streams = names.read_streams(connection)
            query = "SELECT * FROM delivered WHERE flags & ? ORDER BY month, destination, thing"
            found = connection.execute(query, (ESTIMATED,)).fetchall()
        return [_delivered(streams, row) for row in found]

    def decreases(self) -> list[Decrease]:
        """Return the amounts that a person has lowered, oldest first."""
        with self._file.reading() as connection:
            streams = names.read_streams(connection)
            found = connection.execute(_DECREASES).fetchall()
        return [
            Decrease(
                streams[stream], names.unpack(key), month, before, after, moment_of(at), reason
            )
            for stream, key, month, before, after, at, reason in found
        ]

    def months(self) -> list[Month]:
        """Return the months from the first to the last one with deliveries."""
        with self._file.reading() as connection:
            # Each of the two is one step of the index; in one query they would read all rows.
            query = (
                "SELECT (SELECT min(month) FROM deliveries), (SELECT max(month) FROM deliveries)"
            )
            first, last = connection.execute(query).fetchone()
        return [] if first is None else months_between(Month(first), Month(last))


def _count(connection: sqlite3.Connection, batch: int, stream: int, *, may_decrease: bool) -> None:
    """Turn the intended rows of a batch into deliveries."""
    query = "SELECT destination FROM streams WHERE id = ?"
    [(destination,)] = connection.execute(query, (stream,)).fetchall()
    values = {"batch": batch, "stream": stream, "destination": destination}
    # The guard has let no smaller amount pass, unless a person allowed it. If one is here all the
    # same, the greater one stays the floor.
    connection.execute(_KEEP_DECREASES if may_decrease else _DROP_DECREASES, values)
    replaced = connection.execute(_REPLACED, values).fetchall()
    connection.execute(_RECORDS, values)
    connection.executemany("UPDATE messages SET records = records - ? WHERE id = ?", replaced)
    connection.execute(_CONFIRM, values)
    connection.execute("DELETE FROM intended WHERE batch = :batch", values)
    _remove_unused(connection, [message for _, message in replaced], batch)


def _remove_unused(connection: sqlite3.Connection, messages: list[int], batch: int) -> None:
    """Remove messages to which no row refers any more, and batches without messages."""
    connection.execute("DELETE FROM messages WHERE batch = ? AND records = 0", (batch,))
    batches = {batch}
    for message in messages:
        query = "DELETE FROM messages WHERE id = ? AND records = 0 RETURNING batch"
        batches.update(number for (number,) in connection.execute(query, (message,)))
    connection.executemany(
        "DELETE FROM batches WHERE id = ? AND is_confirmed AND reason IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM messages WHERE batch = batches.id)",
        ((number,) for number in batches),
    )


def _delivered(streams: Mapping[int, Stream], row: Sequence[Any]) -> DeliveredRow:
    key, month, amount, measured, vo, user, cpu, progress, flags, stream, sha256, at, *_ = row
    return DeliveredRow(
        streams[stream],
        LedgerRow(
            *(names.unpack(key), month, amount, moment_of(measured), vo, user, cpu, progress),
            is_estimated=bool(flags & ESTIMATED),
            has_ended=bool(flags & ENDED),
        ),
        sha256.hex() or None,
        moment_of(at),
    )
