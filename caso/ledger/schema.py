"""The tables of the ledger, and their upgrades.

`docs/formats/ledger.md` describes them for people who read the file with other programs. Texts
that repeat are kept once and referred to by number, because a site with 100 000 servers has
millions of deliveries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x43415330
"""Marks a SQLite file as a ledger; ``file`` and other programs see it in the header."""

_FIRST = """
CREATE TABLE notes (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
INSERT INTO notes VALUES ('lost', 1);

CREATE TABLE words (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE origins (
    id INTEGER PRIMARY KEY,
    keystone TEXT NOT NULL, region TEXT NOT NULL, project TEXT NOT NULL,
    UNIQUE (keystone, region, project)
);
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL, kind INTEGER NOT NULL, destination INTEGER NOT NULL,
    checkpoint INTEGER,
    UNIQUE (origin, kind, destination)
);
CREATE VIEW named_streams AS
    SELECT streams.id, keystone, region, project, kinds.text AS kind,
        destinations.text AS destination, checkpoint
    FROM streams JOIN origins ON origins.id = origin
    JOIN words AS kinds ON kinds.id = kind
    JOIN words AS destinations ON destinations.id = destination;
CREATE TABLE windows (
    stream INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    is_known INTEGER NOT NULL,
    PRIMARY KEY (stream, start)
) WITHOUT ROWID;

CREATE TABLE things (
    id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, key NOT NULL,
    UNIQUE (kind, key)
);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, stream INTEGER NOT NULL, at INTEGER NOT NULL,
    is_confirmed INTEGER NOT NULL DEFAULT 0,
    start INTEGER, end INTEGER, checkpoint INTEGER, reason TEXT
);
CREATE UNIQUE INDEX outstanding ON batches (name) WHERE NOT is_confirmed;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, sha256 BLOB NOT NULL, records INTEGER NOT NULL
);
CREATE INDEX messages_batch ON messages (batch);
CREATE TABLE deliveries (
    month INTEGER NOT NULL, destination INTEGER NOT NULL, thing INTEGER NOT NULL,
    stream INTEGER NOT NULL, amount INTEGER NOT NULL, progress INTEGER, cpu INTEGER,
    measured INTEGER NOT NULL,
    vo INTEGER NOT NULL, user INTEGER, message INTEGER, flags INTEGER NOT NULL,
    PRIMARY KEY (month, destination, thing)
) WITHOUT ROWID;
CREATE VIEW delivered AS
    SELECT things.key, month, amount, measured, vos.text AS vo, users.name AS user, cpu, progress,
        flags, deliveries.stream, messages.sha256, batches.at, destination, thing
    FROM deliveries JOIN things ON things.id = thing JOIN words AS vos ON vos.id = vo
    JOIN messages ON messages.id = message JOIN batches ON batches.id = messages.batch
    LEFT JOIN users ON users.id = user;
CREATE TABLE intended (
    batch INTEGER NOT NULL, month INTEGER NOT NULL, thing INTEGER NOT NULL,
    amount INTEGER NOT NULL, progress INTEGER, cpu INTEGER, measured INTEGER NOT NULL,
    vo INTEGER NOT NULL, user INTEGER, message INTEGER, flags INTEGER NOT NULL,
    PRIMARY KEY (batch, month, thing)
) WITHOUT ROWID;
CREATE TABLE decreases (
    batch INTEGER NOT NULL, month INTEGER NOT NULL, thing INTEGER NOT NULL,
    before INTEGER NOT NULL, after INTEGER NOT NULL,
    PRIMARY KEY (batch, month, thing)
) WITHOUT ROWID;

CREATE TABLE facts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE looks (
    origin INTEGER NOT NULL, kind INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (origin, kind)
) WITHOUT ROWID;
CREATE TABLE sightings (
    thing INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER, lost INTEGER,
    origin INTEGER NOT NULL, kind INTEGER NOT NULL, facts INTEGER NOT NULL, user INTEGER,
    PRIMARY KEY (thing, since)
) WITHOUT ROWID;
CREATE VIEW segments AS
    SELECT things.key, keystone, region, project, users.name AS user, facts.text AS facts,
        since, until, lost, origin, sightings.kind, thing
    FROM sightings JOIN things ON things.id = thing JOIN origins ON origins.id = origin
    JOIN facts ON facts.id = facts LEFT JOIN users ON users.id = user;
CREATE INDEX present ON sightings (origin, kind, thing) WHERE until IS NULL;
"""

STEPS: Sequence[str] = (_FIRST,)
"""Step N makes version N + 1 of the tables from version N; version 0 is an empty file."""

TEMPORARY = """
CREATE TEMPORARY TABLE asked (
    key, month INTEGER, progress INTEGER, amount INTEGER, cpu INTEGER
);
CREATE TEMPORARY TABLE reached (key, month INTEGER, earliest INTEGER);
CREATE TEMPORARY TABLE page (
    key, month INTEGER, amount INTEGER, progress INTEGER, cpu INTEGER, measured INTEGER,
    vo INTEGER, user INTEGER, message INTEGER, flags INTEGER
);
CREATE TEMPORARY TABLE shown (key, facts INTEGER, user INTEGER, since INTEGER);
CREATE TEMPORARY TABLE seen (
    look INTEGER, thing INTEGER, facts INTEGER, user INTEGER, since INTEGER,
    PRIMARY KEY (look, thing)
) WITHOUT ROWID;
"""
"""Tables of the connection. Pages go through them: SQLite joins faster than Python asks."""


def version(connection: sqlite3.Connection) -> int:
    """Return the version of a file's tables; 0 for an empty file."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Check whether a file is a database of another program."""
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark == APPLICATION_ID:
        return False
    has_tables = connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
    return bool(mark or has_tables or version(connection))


def upgrade(connection: sqlite3.Connection, steps: Sequence[str] = STEPS) -> None:
    """Bring a file to the newest version; the caller has begun a transaction."""
    for step in steps[version(connection) :]:
        execute(connection, step)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(steps)}")


def execute(connection: sqlite3.Connection, script: str) -> None:
    """Execute statements, in the caller's transaction if there is one."""
    # `executescript` would commit that first.
    for statement in script.split(";\n"):
        connection.execute(statement)
