"""The numbers by which rows refer to texts that repeat, and the form of the keys of things."""

from __future__ import annotations

import functools
import re
import sqlite3
import uuid
from collections.abc import Callable

from caso.ledger.model import Origin, Stream

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@functools.lru_cache(maxsize=4096)
def pack(key: str) -> bytes | str:
    """Return a key as it is stored: 16 bytes for an id in the usual form of a UUID.

    The records of a thing come together, and each is packed for the guard and for its row.
    """
    return bytes.fromhex(key.replace("-", "")) if _UUID.fullmatch(key) else key


def unpack(stored: bytes | str) -> str:
    """Return the key that `pack` was given."""
    return stored if isinstance(stored, str) else str(uuid.UUID(bytes=stored))


class Numbers:
    """The numbers of texts, read once.

    Those made in a transaction that is rolled back must be dropped with `forget`.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, object], int] = {}

    def forget(self) -> None:
        """Read all of them again."""
        self._known.clear()

    def word(self, connection: sqlite3.Connection, text: str) -> int:
        """Return the number of a text, made when it is new."""
        return self._number(("words", text), lambda: _insert(connection, "words (text)", text))

    def user(self, connection: sqlite3.Connection, name: str | None) -> int | None:
        """Return the number of a user's id, made when it is new."""
        if name is None:
            return None
        return self._number(("users", name), lambda: _insert(connection, "users (name)", name))

    def facts(self, connection: sqlite3.Connection, text: str) -> int:
        """Return the number of facts, made when they are new."""
        return self._number(("facts", text), lambda: _insert(connection, "facts (text)", text))

    def origin(self, connection: sqlite3.Connection, origin: Origin) -> int:
        """Return the number of an origin, made when it is new."""
        columns = "origins (keystone, region, project)"
        values = (origin.keystone, origin.region, origin.project)
        return self._number(("origins", origin), lambda: _insert(connection, columns, *values))

    def stream(self, connection: sqlite3.Connection, stream: Stream) -> int:
        """Return the number of a stream, made when it is new."""

        def make() -> int:
            values = (
                self.origin(connection, stream.origin),
                self.word(connection, stream.kind),
                self.word(connection, stream.destination),
            )
            return _insert(connection, "streams (origin, kind, destination)", *values)

        return self._number(("streams", stream), make)

    def _number(self, name: tuple[str, object], make: Callable[[], int]) -> int:
        number = self._known.get(name)
        if number is None:
            number = self._known[name] = make()
        return number


def _insert(connection: sqlite3.Connection, table: str, *values: object) -> int:
    name, _, columns = table.partition(" ")
    where = " AND ".join(f"{column} = ?" for column in columns.strip("()").split(", "))
    places = ", ".join("?" * len(values))
    # Only this module gives the names of tables and columns.
    connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", values)  # noqa: S608
    query = f"SELECT id FROM {name} WHERE {where}"  # noqa: S608
    found: int = connection.execute(query, values).fetchone()[0]
    return found


def find_word(connection: sqlite3.Connection, text: str) -> int | None:
    """Return the number of a text, None if it has none."""
    found = connection.execute("SELECT id FROM words WHERE text = ?", (text,)).fetchone()
    return None if found is None else int(found[0])


def find_stream(connection: sqlite3.Connection, stream: Stream) -> int | None:
    """Return the number of a stream, None if it has none."""
    found = connection.execute(
        "SELECT id FROM named_streams WHERE keystone = ? AND region = ? AND project = ?"
        " AND kind = ? AND destination = ?",
        (
            stream.origin.keystone,
            stream.origin.region,
            stream.origin.project,
            stream.kind,
            stream.destination,
        ),
    ).fetchone()
    return None if found is None else int(found[0])


def read_streams(connection: sqlite3.Connection) -> dict[int, Stream]:
    """Return all streams by number, in the order of their names."""
    return {
        number: Stream(Origin(*origin), kind, destination)
        for number, *origin, kind, destination in connection.execute(
            "SELECT id, keystone, region, project, kind, destination FROM named_streams"
            " ORDER BY keystone, region, project, kind, destination"
        )
    }
