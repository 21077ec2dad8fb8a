"""What does not change of a server, remembered for the next run.

A row of Nova's usage has the times, the state, the name and the sizes of a server. Its creation,
user, image and flavor cost ten times as much to ask for. They hold as long as the usage shows the
same launch and the same flavor: a rebuild, which may change the image, and a resize are launches.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from appliance.core import clock
from caso.memory.store import MemoryFile

Server = dict[str, Any]
Used = dict[str, Any]

SUSPENDED = "suspended"
"""The key of a server's description under which its suspended time stands, if a site asks for it.
Nova has no such key."""
_FLUSHED = 500
"""Servers that are held until they are written."""
_FORGOTTEN = timedelta(days=90)
"""Servers of a project that was not accounted for so long are removed."""
_NOTED = timedelta(days=1)
"""How old the note of a project's last run may get: each write costs several fsyncs."""
_OF_PROJECT = "FROM projects WHERE cloud = ? AND region = ? AND project = ?"
_SIZES = ("vcpus", "ram", "disk", "ephemeral")
_STATES = {
    "active": "ACTIVE",
    "building": "BUILD",
    "deleted": "DELETED",
    "error": "ERROR",
    "paused": "PAUSED",
    "rescued": "RESCUE",
    "resized": "VERIFY_RESIZE",
    "shelved": "SHELVED",
    "shelved_offloaded": "SHELVED_OFFLOADED",
    "soft-delete": "SOFT_DELETED",
    "stopped": "SHUTOFF",
    "suspended": "SUSPENDED",
    "terminated": "DELETED",
}
"""The status of a server that Nova's API shows for a state in its usage."""


class KnownServer(NamedTuple):
    """A server that an earlier run has seen. ``ended`` is set if it was deleted by then.

    ``suspended`` is what `caso.sources.suspension` has added to its description, as JSON.
    """

    flavor: Mapping[str, Any]
    created: str
    launched: str
    user: str
    image: str
    addresses: int
    """Floating IP addresses."""
    ended: str | None
    suspended: str | None = None

    def fits(self, row: Used) -> bool:
        """Check whether what is remembered still holds for a row of usage."""
        flavor = self.flavor
        return (
            self.launched == row["started_at"]
            and flavor["original_name"] == row["flavor"]
            and flavor["vcpus"] == row["vcpus"]
            and flavor["ram"] == row["memory_mb"]
            and flavor["disk"] + flavor["ephemeral"] == row["local_gb"]
            and row["state"] in _STATES
            # Deleted without an end: only Nova's description has a time for it.
            and (row["state"] != "deleted" or self.ended is not None)
        )

    def server(self, row: Used, project_id: str, addresses: int | None) -> Server:
        """Return the server as Nova would describe it, but for what no record has.

        ``addresses`` is the number of its floating IP addresses, None if that is not known.
        """
        count = self.addresses if addresses is None else addresses
        suspended = {SUSPENDED: json.loads(self.suspended)} if self.suspended else {}
        return {
            **suspended,
            "id": row["instance_id"],
            "name": row["name"],
            "status": _STATES[row["state"]],
            "tenant_id": project_id,
            "user_id": self.user,
            "created": self.created,
            "updated": self.ended or self.created,
            "OS-SRV-USG:launched_at": row["started_at"],
            "OS-SRV-USG:terminated_at": row["ended_at"] or self.ended,
            "flavor": self.flavor,
            "image": {"id": self.image} if self.image else "",
            "addresses": {"": [{"OS-EXT-IPS:type": "floating"}] * count},
        }


class ServerMemory:
    """The servers of one project in one region."""

    def __init__(self, file: MemoryFile, keystone: str, region: str, project_id: str) -> None:
        self._file = file
        self._flavors: dict[int, Mapping[str, Any]] = {}
        self._numbers: dict[str, int] = {}
        self._new: dict[str, KnownServer] = {}
        self._ended: list[str] = []
        """Servers that no later usage shows."""
        self._project = 0
        self.suspended_until: datetime | None = None
        """Up to when the suspended times of the servers are complete."""
        with file.transaction() as connection:
            if connection is not None:
                values = (file.cloud(connection, keystone), region, project_id)
                if not file.read_only:
                    _note(connection, values)
                query = f"SELECT id, suspended {_OF_PROJECT}"
                self._project, until = connection.execute(query, values).fetchone() or (0, None)
                self.suspended_until = None if until is None else datetime.fromtimestamp(until, UTC)

    def known(self, ids: Sequence[str]) -> dict[str, KnownServer]:
        """Return those of some servers that are remembered."""
        found: dict[str, KnownServer] = {}
        with self._file.transaction() as connection:
            if connection is not None:
                rows = connection.execute(
                    "SELECT id, flavor, created, launched, user, image, addresses, ended, suspended"
                    " FROM servers WHERE project = ? AND id IN (SELECT value FROM json_each(?))",
                    (self._project, json.dumps(ids)),
                ).fetchall()
                self._read_flavors(connection, {row[1] for row in rows})
                for number, flavor, *facts in rows:
                    if flavor in self._flavors:
                        found[number] = KnownServer(self._flavors[flavor], *facts)
        return found

    def others(self, seen: set[str]) -> dict[str, str | None]:
        """Return the remembered servers that are not among ``seen``, each with its end if any."""
        found: dict[str, str | None] = {}
        with self._file.transaction() as connection:
            if connection is not None:
                query = "SELECT id, ended FROM servers WHERE project = ?"
                rows = connection.execute(query, (self._project,))
                found = {number: ended for number, ended in rows if number not in seen}
        return found

    def learn(self, server: Server, *, since: datetime) -> None:
        """Remember a server, unless it ended before ``since``, when no usage shows it any more."""
        found = _facts(server)
        if found is None:
            return
        if found.ended is not None and clock.parse(found.ended) < since:
            self.leave(server["id"])
            return
        self._new[server["id"]] = found
        if len(self._new) >= _FLUSHED:
            self._flush()

    def leave(self, number: str) -> None:
        """Forget a server at the end of the listing, because no later usage will show it."""
        self._ended.append(number)

    def forget(self, ids: Iterable[str]) -> None:
        """Remove servers."""
        if self._file.read_only:
            return
        with self._file.transaction() as connection:
            if connection is not None:
                connection.executemany(
                    "DELETE FROM servers WHERE project = ? AND id = ?",
                    ((self._project, number) for number in ids),
                )

    def finish(self, *, suspended_until: datetime | None = None) -> None:
        """Write what is new, and remove what belongs to projects that are accounted no more.

        All suspended times up to ``suspended_until`` have been learned; None if they were not
        asked for.
        """
        self._flush()
        if self._file.read_only:
            return
        if self._ended:
            self.forget(self._ended)
        old = int((clock.now() - _FORGOTTEN).timestamp())
        with self._file.transaction() as connection:
            if connection is not None:
                if suspended_until is not None:
                    connection.execute(
                        "UPDATE projects SET suspended = max(coalesce(suspended, 0), ?)"
                        " WHERE id = ?",
                        (int(suspended_until.timestamp()), self._project),
                    )
                connection.execute(
                    "DELETE FROM servers WHERE project IN"
                    " (SELECT id FROM projects WHERE looked < ?)",
                    (old,),
                )
                connection.execute("DELETE FROM projects WHERE looked < ?", (old,))

    def _flush(self) -> None:
        new, self._new = self._new, {}
        if not new or self._file.read_only:
            return
        with self._file.transaction() as connection:
            if connection is not None:
                connection.executemany(
                    "INSERT OR REPLACE INTO servers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (
                            *(self._project, number, one.created, one.launched, one.user),
                            *(one.image, self._number(connection, one.flavor)),
                            *(one.addresses, one.ended, one.suspended),
                        )
                        for number, one in new.items()
                    ],
                )

    def _number(self, connection: sqlite3.Connection, flavor: Mapping[str, Any]) -> int:
        text = json.dumps(flavor, sort_keys=True, separators=(",", ":"))
        if text not in self._numbers:
            connection.execute("INSERT OR IGNORE INTO flavors (text) VALUES (?)", (text,))
            found = connection.execute("SELECT id FROM flavors WHERE text = ?", (text,))
            self._numbers[text] = found.fetchone()[0]
        return self._numbers[text]

    def _read_flavors(self, connection: sqlite3.Connection, wanted: set[int]) -> None:
        found = connection.execute(
            "SELECT id, text FROM flavors WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([*wanted - self._flavors.keys()]),),
        )
        self._flavors.update((number, json.loads(text)) for number, text in found)


def _note(connection: sqlite3.Connection, project: tuple[int, str, str]) -> None:
    """Note that a project is accounted, at once, so that the end of another does not remove it."""
    now, age = int(clock.now().timestamp()), int(_NOTED.total_seconds())
    # One from the future was noted while the clock was wrong.
    recent = f"SELECT 1 {_OF_PROJECT} AND looked BETWEEN ? AND ?"
    if not connection.execute(recent, (*project, now - age, now)).fetchone():
        connection.execute(
            "INSERT INTO projects (cloud, region, project, looked) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET looked = excluded.looked",
            (*project, now),
        )


def nothing() -> ServerMemory:
    """Return a memory of no server, which remembers none."""
    return ServerMemory(MemoryFile(Path(), read_only=True), "", "", "")


def _facts(server: Server) -> KnownServer | None:
    """Return what to remember of a server; None if it was never launched, or is malformed."""
    launched, ended = server.get("OS-SRV-USG:launched_at"), server.get("OS-SRV-USG:terminated_at")
    if ended is None and server.get("status") == "DELETED":
        ended = server.get("updated")
    try:
        flavor = server["flavor"]
        sizes = [flavor[name] for name in _SIZES]
        # A flavor without its properties is kept without them: Nova's policy hides them.
        kept = {
            name: flavor[name]
            for name in (*_SIZES, "original_name", "extra_specs")
            if name in flavor
        }
        image = server["image"]["id"] if server["image"] else ""
        addresses = sum(
            address.get("OS-EXT-IPS:type") == "floating"
            for network in server["addresses"].values()
            for address in network
        )
        texts = (server["id"], server["created"], launched, server["user_id"], image)
        if not launched or not all(isinstance(text, str) for text in texts):
            return None
        # Half a surrogate pair, which JSON can contain, cannot be stored.
        "".join(map(str, texts)).encode()
        if not all(isinstance(size, int) for size in sizes) or "original_name" not in kept:
            return None
        if ended is not None:
            clock.parse(ended)
        suspended = json.dumps(server[SUSPENDED]) if SUSPENDED in server else None
        facts = (server["created"], launched, server["user_id"], image)
        return KnownServer(kept, *facts, addresses, ended, suspended)
    except (LookupError, TypeError, AttributeError, ValueError):
        return None
