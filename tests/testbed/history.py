"""Thousands of servers of the past, put straight into Nova's databases.

Each is a copy of a seeded server of the same project, in every table that Nova has it in, with an
id, a life and a name of its own (``bulk-PROJECT-NUMBER``). They are on a host that does not exist,
so that no compute service looks after them. Times are random but the same for the same number of
servers already there.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.core import clock
from appliance.core.run.errors import Unavailable
from tests.testbed.layout import Layout
from tests.testbed.seed import Seed

_HOST = "archive1"
_NAME = "bulk-"
_AT_ONCE = 10_000
"""Servers a transaction: Nova waits for its end."""
_LAUNCH = timedelta(seconds=30)
_YOUNGEST = timedelta(hours=1)
_LIFE_SECONDS = (600, 108_600)
_PATIENCE_SECONDS = 600

_DELETED = {
    "deleted": "CASE WHEN planned.died IS NULL THEN 0 ELSE planned.id END",
    "deleted_at": "planned.died",
}
_INSTANCE = _DELETED | {
    "id": "planned.id",
    "uuid": "planned.uuid",
    "display_name": "planned.name",
    "hostname": "planned.name",
    "host": f"'{_HOST}'",
    "node": f"'{_HOST}'",
    "launched_on": f"'{_HOST}'",
    "compute_id": "NULL",
    "task_state": "NULL",
    "created_at": "planned.born",
    "launched_at": "planned.launched",
    "updated_at": "COALESCE(planned.died, planned.launched)",
    "terminated_at": "planned.died",
    "vm_state": "CASE WHEN planned.died IS NULL THEN 'active' ELSE 'deleted' END",
    "power_state": "CASE WHEN planned.died IS NULL THEN 1 ELSE 0 END",
    "cleaned": "planned.died IS NOT NULL",
}
_PART = {"id": "NULL", "instance_uuid": "planned.uuid"}
_TABLES: dict[str, tuple[str, Mapping[str, str]]] = {
    "main.instances": ("uuid", _INSTANCE),
    "main.instance_extra": ("instance_uuid", _PART | _DELETED),
    "main.instance_system_metadata": ("instance_uuid", _PART | _DELETED),
    "main.instance_info_caches": (
        "instance_uuid",
        _PART
        | _DELETED
        | {"network_info": "CASE WHEN planned.died IS NULL THEN network_info ELSE '[]' END"},
    ),
    "api.instance_mappings": (
        "instance_uuid",
        _PART | {"queued_for_delete": "planned.died IS NOT NULL"},
    ),
}
"""For each table: the column that names the server, and the columns that a copy changes."""

_DOOMED = f"""
CREATE TEMP TABLE doomed AS
SELECT uuid FROM main.instances WHERE display_name LIKE '{_NAME}%' AND host = '{_HOST}'
LIMIT {_AT_ONCE}
"""  # noqa: S608  constants

_PLAN = """
CREATE TEMP TABLE planned (
  id INTEGER PRIMARY KEY, uuid TEXT, name TEXT, model TEXT, born TEXT, launched TEXT, died TEXT)
"""


@dataclass(frozen=True, slots=True)
class History:
    """The invented past of one instance."""

    layout: Layout

    def insert(self, count: int, *, seed: Seed, project: str, days: int, running: int) -> None:
        """Add ``count`` servers born within ``days``; ``running`` percent of them still live.

        :raises Unavailable: the project has no servers that could be copied
        """
        models = _models(seed, project)
        with self._databases() as databases:
            (first,) = databases.execute(
                "SELECT COALESCE(MAX(id), 0) + 1 FROM main.instances"
            ).fetchone()
            chance = random.Random(f"{project} {first}")
            for begin in range(first, first + count, _AT_ONCE):
                numbers = range(begin, min(begin + _AT_ONCE, first + count))
                plan = [
                    _plan(number, project, models, days=days, running=running, chance=chance)
                    for number in numbers
                ]
                _insert(databases, plan)

    def clear(self) -> int:
        """Remove all of them, whatever the project; return how many there were."""
        if not self.layout.database("nova").exists():
            return 0
        cleared = 0
        with self._databases() as databases:
            while count := _clear_some(databases):
                cleared += count
        return cleared

    @contextlib.contextmanager
    def _databases(self) -> Iterator[sqlite3.Connection]:
        """Open both databases that know servers, as schemas ``main`` and ``api``."""
        path = self.layout.database("nova")
        if not path.exists():
            raise Unavailable(path, "does not exist", "run: python -m tests.testbed up")
        connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("ATTACH ? AS api", (str(self.layout.database("nova_api")),))
            yield connection
        finally:
            connection.close()


def _models(seed: Seed, project: str) -> list[str]:
    """Return the ids of the seeded servers that can be copied: nothing unique refers to them."""
    unique = {ip.server for ip in seed.floating_ips} | {
        volume.server for volume in seed.volumes.values()
    }
    plain = [
        server.id
        for server in seed.servers.values()
        if server.project == project
        and server.name not in unique
        and server.status in ("ACTIVE", "SHUTOFF", "SUSPENDED", "PAUSED")
    ]
    if not plain:
        raise Unavailable(
            f"project {project}",
            "has no servers to copy",
            f"choose one of {', '.join(seed.projects)}",
        )
    return plain


def _plan(
    number: int, project: str, models: list[str], *, days: int, running: int, chance: random.Random
) -> tuple[object, ...]:
    """Invent one server, as a row of the table ``planned``."""
    now = clock.now()
    born = (
        now - _YOUNGEST - timedelta(seconds=chance.uniform(0, timedelta(days=days).total_seconds()))
    )
    lives = number % 100 < running
    died = None if lives else min(born + timedelta(seconds=chance.randint(*_LIFE_SECONDS)), now)
    name = f"{_NAME}{project}-{number}"
    return (
        number,
        str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        name,
        models[number % len(models)],
        _text(born),
        _text(born + _LAUNCH),
        _text(died) if died else None,
    )


def _text(moment: datetime) -> str:
    """Write a moment as SQLAlchemy does: UTC without saying so, microseconds always."""
    return moment.replace(microsecond=0).strftime("%Y-%m-%d %H:%M:%S.%f")


def _insert(databases: sqlite3.Connection, plan: list[tuple[object, ...]]) -> None:
    with _transaction(databases):
        databases.execute(_PLAN)
        databases.executemany("INSERT INTO planned VALUES (?, ?, ?, ?, ?, ?, ?)", plan)
        for table, (named_by, changes) in _TABLES.items():
            schema, name = table.split(".")
            columns = [row[1] for row in databases.execute(f"PRAGMA {schema}.table_info({name})")]
            values = ", ".join(changes.get(column, f"model.{column}") for column in columns)
            databases.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608  constants, Nova's columns
                f"SELECT {values} FROM planned "
                f"JOIN {table} AS model ON model.{named_by} = planned.model"
            )
        databases.execute("DROP TABLE planned")


def _clear_some(databases: sqlite3.Connection) -> int:
    with _transaction(databases):
        databases.execute(_DOOMED)
        for table, (column, _) in _TABLES.items():
            databases.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT uuid FROM doomed)")  # noqa: S608  constants
        (count,) = databases.execute("SELECT COUNT(*) FROM doomed").fetchone()
        databases.execute("DROP TABLE doomed")
    return int(count)


@contextlib.contextmanager
def _transaction(databases: sqlite3.Connection) -> Iterator[None]:
    databases.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        databases.execute("ROLLBACK")
        raise
    databases.execute("COMMIT")
