"""SQLite for services with threads: many readers, one writer, early write locks.

A transaction that reads first and writes later would fail at once with "database is locked" when
somebody else has written in between; taken at BEGIN, the lock is waited for. A power cut may cost
the databases: they are for tests.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

_PRAGMAS = ("journal_mode=WAL", "synchronous=OFF", "busy_timeout=60000")


@event.listens_for(Engine, "connect")
def _tune(connection: Any, _record: Any) -> None:
    if "sqlite" in type(connection).__module__:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


@event.listens_for(Engine, "begin")
def _lock(connection: Connection) -> None:
    if connection.dialect.name == "sqlite" and "in_transaction" not in connection.info:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        # oslo.db's listener comes after this one and would begin again
        connection.info["in_transaction"] = True
