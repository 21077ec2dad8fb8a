"""What listings showed: since when each thing is there, with which facts, and what has vanished.

Some services keep no history: Cinder shows only the present size of a volume. And a server that was
deleted and archived between two runs is in no listing of Nova. So each complete look at a project
is compared with the one before:

    a thing is new                     a segment begins
    its facts or its owner changed     the segment ends, and another one begins
    it is in the listing as before     nothing changes
    it is in the listing no more       it is lost since the look before. Its segment stays open
                                       until `end` is called

Only changes are written, so an hourly look at thousands of servers costs little. Every look returns
all lost things whose segments are open, so a run that is killed forgets none of them.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from caso.ledger import names
from caso.ledger.model import Origin, Sight, Sighting, moment_of, seconds
from caso.ledger.store import LedgerFile

_ADD_THINGS = "INSERT OR IGNORE INTO things (kind, key) SELECT ?, key FROM temp.shown"
_SEE = """
INSERT OR REPLACE INTO temp.seen (look, thing, facts, user, since)
SELECT ?, things.id, shown.facts, shown.user, shown.since
FROM temp.shown CROSS JOIN things ON things.kind = ? AND things.key = shown.key
"""
_CHANGED = """
SELECT seen.thing, seen.facts, seen.user, seen.since, old.since FROM temp.seen AS seen
LEFT JOIN sightings AS old ON old.thing = seen.thing AND old.until IS NULL
WHERE seen.look = :look AND (old.thing IS NULL OR old.facts <> seen.facts
    OR old.origin <> :origin OR old.user IS NOT seen.user)
"""
_FOUND_AGAIN = """
UPDATE sightings SET lost = NULL WHERE origin = :origin AND kind = :kind AND until IS NULL
AND lost IS NOT NULL AND thing IN (SELECT thing FROM temp.seen WHERE look = :look)
"""
_LOST = """
UPDATE sightings SET lost = coalesce(
    (SELECT at FROM looks WHERE looks.origin = :origin AND looks.kind = :kind), since)
WHERE origin = :origin AND kind = :kind AND until IS NULL AND lost IS NULL
AND thing NOT IN (SELECT thing FROM temp.seen WHERE look = :look)
"""
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Vanished:
    """A thing that no listing shows any more, and when one showed it last."""

    sighting: Sighting
    last_seen: datetime


class Look:
    """One complete listing of the things of a kind in a project.

    After a power failure the look before may count instead: the next one finds the same changes.
    """

    def __init__(self, file: LedgerFile, origin: Origin, kind: str, number: int) -> None:
        self._file = file
        self._origin = origin
        self._kind = kind
        self._number = number

    def see(self, sights: Sequence[Sight]) -> None:
        """Take a page of the listing."""
        numbers = self._file.numbers
        with self._file.transaction(is_durable=False) as connection:
            kind = numbers.word(connection, self._kind)
            connection.executemany(
                "INSERT INTO temp.shown VALUES (?, ?, ?, ?)",
                [
                    (
                        names.pack(sight.key),
                        numbers.facts(connection, _text(sight)),
                        numbers.user(connection, sight.user),
                        None if sight.since is None else seconds(sight.since),
                    )
                    for sight in sights
                ],
            )
            connection.execute(_ADD_THINGS, (kind,))
            connection.execute(_SEE, (self._number, kind))
            connection.execute("DELETE FROM temp.shown")

    def close(self, at: datetime) -> list[Vanished]:
        """Note what has changed, and return what has vanished, when the listing is complete.

        ``at`` is the moment up to which the listing is accounted.
        """
        numbers = self._file.numbers
        with self._file.transaction(is_durable=False) as connection:
            values = {
                "look": self._number,
                "origin": numbers.origin(connection, self._origin),
                "kind": numbers.word(connection, self._kind),
                "at": seconds(at),
            }
            _note_changes(connection, values)
            connection.execute(_FOUND_AGAIN, values)
            connection.execute(_LOST, values)
            connection.execute("INSERT OR REPLACE INTO looks VALUES (:origin, :kind, :at)", values)
            connection.execute("DELETE FROM temp.seen WHERE look = :look", values)
            gone = connection.execute(
                "SELECT * FROM segments WHERE origin = :origin AND kind = :kind"
                " AND until IS NULL AND lost IS NOT NULL ORDER BY thing",
                values,
            ).fetchall()
        return [Vanished(_sighting(row), moment_of(row[8])) for row in gone]

    def abandon(self) -> None:
        """Forget a listing that is not complete; nothing changes."""
        with self._file.transaction(is_durable=False) as connection:
            connection.execute("DELETE FROM temp.seen WHERE look = ?", (self._number,))


class Sightings:
    """The sightings in a ledger."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file
        self._looks = itertools.count()

    def look(self, origin: Origin, kind: str) -> Look:
        """Begin a look at a project."""
        return Look(self._file, origin, kind, next(self._looks))

    def overlapping(self, origin: Origin, kind: str, *, since: datetime) -> list[Sighting]:
        """Return the segments of a project that reach beyond a moment, by thing, oldest first."""
        with self._file.reading() as connection:
            found = connection.execute(
                "SELECT * FROM segments WHERE keystone = ? AND region = ? AND project = ?"
                " AND kind = ? AND (until IS NULL OR until > ?) ORDER BY thing, since",
                (
                    *(origin.keystone, origin.region, origin.project),
                    *(names.find_word(connection, kind), seconds(since)),
                ),
            ).fetchall()
        return [_sighting(row) for row in found]

    def of(self, key: str) -> list[Sighting]:
        """Return the segments of a thing, oldest first."""
        with self._file.reading() as connection:
            found = connection.execute(
                "SELECT * FROM segments WHERE thing IN (SELECT id FROM things WHERE key = ?"
                " AND kind IN (SELECT id FROM words)) ORDER BY since",
                (names.pack(key),),
            ).fetchall()
        return [_sighting(row) for row in found]

    def last(self, origin: Origin, kind: str, key: str) -> Sighting | None:
        """Return the latest segment of a thing, if that is of this project, in any region."""
        with self._file.reading() as connection:
            row = connection.execute(
                "SELECT * FROM segments WHERE thing = (SELECT id FROM things WHERE kind = ?"
                " AND key = ?) ORDER BY since DESC LIMIT 1",
                (names.find_word(connection, kind), names.pack(key)),
            ).fetchone()
        found = _sighting(row) if row else None
        return found if found and found.origin.project == origin.project else None

    def of_kind(self, kind: str) -> list[Sighting]:
        """Return all segments of a kind of which few things are."""
        with self._file.reading() as connection:
            found = connection.execute(
                "SELECT * FROM segments WHERE thing IN (SELECT id FROM things WHERE kind = ?)",
                (names.find_word(connection, kind),),
            ).fetchall()
        return [_sighting(row) for row in found]

    def keep(self, origin: Origin, kind: str, sight: Sight) -> None:
        """Write the segment of a thing that begins at ``sight.since``, in place of the one there.

        It is no part of a look.
        """
        numbers = self._file.numbers
        with self._file.transaction() as connection:
            word, key = numbers.word(connection, kind), names.pack(sight.key)
            connection.execute(
                "INSERT OR IGNORE INTO things (kind, key) VALUES (?, ?)", (word, key)
            )
            values = (
                *(seconds(sight.since or moment_of(0)), numbers.origin(connection, origin), word),
                *(numbers.facts(connection, _text(sight)), numbers.user(connection, sight.user)),
            )
            connection.execute(
                "INSERT OR REPLACE INTO sightings (thing, since, origin, kind, facts, user)"
                " SELECT id, ?, ?, ?, ?, ? FROM things WHERE kind = ? AND key = ?",
                (*values, word, key),
            )

    def end(self, kind: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """End the open segments of things (key, moment)."""
        with self._file.transaction() as connection:
            number = names.find_word(connection, kind)
            connection.executemany(
                "UPDATE sightings SET until = max(since, ?) WHERE until IS NULL"
                " AND thing = (SELECT id FROM things WHERE kind = ? AND key = ?)",
                ((seconds(moment), number, names.pack(key)) for key, moment in ends),
            )


def _note_changes(connection: sqlite3.Connection, values: dict[str, int]) -> None:
    """End the segments of things that changed, and begin one for each changed or new thing."""
    changed = connection.execute(_CHANGED, values).fetchall()
    for thing, facts, user, said, begun in changed:
        since = values["at"] if said is None else said
        if begun is not None:
            # A service may give a moment before the segment, and two changes in one second.
            since = max(since, begun + 1)
            connection.execute(
                "UPDATE sightings SET until = ? WHERE thing = ? AND until IS NULL", (since, thing)
            )
        connection.execute(
            "INSERT OR REPLACE INTO sightings (thing, since, origin, kind, facts, user)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (thing, since, values["origin"], values["kind"], facts, user),
        )


def _text(sight: Sight) -> str:
    return _JSON.encode(dict(sight.facts))


def _sighting(row: Sequence[Any]) -> Sighting:
    key, keystone, region, project, user, facts, since, until, *_ = row
    return Sighting(
        names.unpack(key),
        Origin(keystone, region, project),
        user,
        json.loads(facts),
        moment_of(since),
        None if until is None else moment_of(until),
    )
