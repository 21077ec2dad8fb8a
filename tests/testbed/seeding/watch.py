"""Waits for servers in Nova's databases: asking the API would slow Nova down."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from appliance.core.run.errors import Unavailable
from tests.testbed.patience import Patience

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 300
_STATUS = {
    "active": "ACTIVE",
    "stopped": "SHUTOFF",
    "suspended": "SUSPENDED",
    "paused": "PAUSED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "resized": "VERIFY_RESIZE",
    "error": "ERROR",
    "deleted": "DELETED",
}
"""What the API calls Nova's ``vm_state`` when no task is under way."""


def statuses(databases: Collection[Path]) -> dict[str, str]:
    """Return the status of each server by id; one in the middle of a task has that task's name.

    A server that no host could take is in the database of ``cell0``, any other in that of its cell.
    """
    found: dict[str, str] = {}
    for database in databases:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
        try:
            rows = connection.execute(
                "SELECT uuid, vm_state, task_state, deleted FROM instances"
            ).fetchall()
        finally:
            connection.close()
        for server, state, task, deleted in rows:
            found[server] = "DELETED" if deleted else task or _STATUS.get(state, state)
    return found


def wait(databases: Collection[Path], wanted: Mapping[str, Collection[str]]) -> None:
    """Wait until each server, by id, has one of the statuses that are wanted of it.

    :raises Unavailable: it ends in an error, or none of them gets any further
    """
    now = statuses(databases)
    # of servers that get on, one after the other
    patience = Patience(lambda: now, idle=_PATIENCE_SECONDS)
    while True:
        now = statuses(databases)
        left = [server for server, good in wanted.items() if now.get(server) not in good]
        if not left:
            return
        stuck = [server for server in left if now.get(server) == "ERROR"] or left
        if now.get(stuck[0]) == "ERROR" or patience.is_over():
            goal = " or ".join(wanted[stuck[0]])
            raise Unavailable(
                f"server {stuck[0]}", f"{now.get(stuck[0])} instead of {goal}", "see log/nova.log"
            )
        time.sleep(_POLL_SECONDS)
