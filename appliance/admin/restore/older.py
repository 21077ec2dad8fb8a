"""Whether accounting on this host is older than that of a backup: all that it delivered is in it.

A restore replaces a ledger or a journal only then. Both are read by their documented tables
(docs/formats).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

from appliance.core import lastrun
from appliance.core.run.layout import Layout

LEDGER = "/var/lib/fedcloud/caso/ledger.sqlite"
JOURNAL = "/var/lib/fedcloud/ssm/sent.sqlite"
CHECKPOINTS = "/var/spool/caso/"
SPOOLS = "/var/spool/apel/"
_PATIENCE = 10.0
_IN_WAL_MODE = slice(18, 20)
"""Bytes of SQLite's header; a database in memory has no write-ahead log."""

_FURTHER_IN_LEDGER = """
SELECT count(*) FROM here.deliveries AS mine
JOIN here.things AS thing ON thing.id = mine.thing
JOIN here.words AS kind ON kind.id = thing.kind
JOIN here.words AS destination ON destination.id = mine.destination
WHERE NOT EXISTS (
    SELECT 1 FROM main.deliveries AS other
    JOIN main.things AS same ON same.id = other.thing
    JOIN main.words AS its_kind ON its_kind.id = same.kind
    JOIN main.words AS its_destination ON its_destination.id = other.destination
    WHERE same.key = thing.key AND its_kind.text = kind.text AND other.month = mine.month
    AND its_destination.text = destination.text
    AND coalesce(other.progress, other.amount) >= coalesce(mine.progress, mine.amount)
)
"""
_INTENDED = "SELECT count(*) FROM here.intended"
_FURTHER_IN_JOURNAL = """
SELECT count(*) FROM here.record AS mine
JOIN here.destination AS place ON place.number = mine.destination
WHERE NOT EXISTS (
    SELECT 1 FROM main.record AS other
    JOIN main.destination AS same ON same.number = other.destination
    WHERE other.kind = mine.kind AND other.month = mine.month AND other.key = mine.key
    AND same.protocol = place.protocol AND same.name = place.name
    AND same.ams_project = place.ams_project
    AND other.measured >= mine.measured AND (mine.kind = 'ip' OR other.amount >= mine.amount)
)
"""
_QUERIES = {LEDGER: (_FURTHER_IN_LEDGER, _INTENDED), JOURNAL: (_FURTHER_IN_JOURNAL,)}
_NOUNS = {LEDGER: "deliveries", JOURNAL: "sent records"}


def newer(
    layout: Layout, contents: Mapping[str, bytes], is_in_backup: Callable[[str], bool]
) -> Iterator[str]:
    """Yield a line for all that this host knows further than a backup.

    ``contents`` are ledger, journal and checkpoints of the backup by their paths.
    """
    for name, noun in _NOUNS.items():
        path = layout.path(name)
        if path.exists() and (words := _compared(name, path, contents.get(name), noun)):
            yield f"{path}: {words}"
    for path in sorted(layout.path(CHECKPOINTS).glob("lastrun*")):
        if _goes_further(path, contents.get(f"{CHECKPOINTS}{path.name}")):
            yield f"{path}: is later than the backup"
    top = layout.path(SPOOLS)
    waiting = [
        path
        for path in top.rglob("*")
        if path.is_file()
        and path.name.isalnum()
        and not is_in_backup(f"{SPOOLS}{path.relative_to(top)}")
    ]
    if waiting:
        words = "messages wait that the backup does not have; send them: appliance run ssmsend"
        yield f"{top}: {len(waiting)} {words}"


def _compared(name: str, path: Path, content: bytes | None, noun: str) -> str:
    """Return how a database of this host goes further than that of the backup; empty if not."""
    if content is None:
        return "is not in the backup"
    data = bytearray(content)
    data[_IN_WAL_MODE] = b"\1\1"
    try:
        with closing(sqlite3.connect(":memory:", timeout=_PATIENCE, uri=True)) as connection:
            connection.deserialize(bytes(data))
            connection.execute("ATTACH ? AS here", (f"{path.absolute().as_uri()}?mode=rw",))
            one, two = (
                connection.execute(f"PRAGMA {which}.user_version").fetchone()[0]
                for which in ("main", "here")
            )
            if one != two:
                return f"has tables of version {two}, the backup of {one}: they cannot be compared"
            (count,) = (sum(connection.execute(query).fetchone()[0] for query in _QUERIES[name]),)
    except sqlite3.Error as error:
        return f"cannot be compared with the backup ({error})"
    return f"has {count} {noun} that the backup does not have" if count else ""


def _goes_further(path: Path, content: bytes | None) -> bool:
    try:
        mine = lastrun.read(path)
        other = datetime.fromisoformat(content.decode().strip()) if content else None
    except (ValueError, OSError):
        return True
    return mine is not None and (other is None or mine > other)
