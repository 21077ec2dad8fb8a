"""Servers that live and die over months, decided beforehand, on a simulated cloud.

A life knows its own truth; the cloud shows of it what Nova would at that moment. A part of the
servers is soft-deleted: they accrue until they are reclaimed, and a plain listing hides them.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulators.openstack import Cloud

RECLAIM = timedelta(days=7)
"""How long a soft-deleted server can be restored (``reclaim_instance_interval``)."""
ARCHIVED = timedelta(days=35)
"""How long after its death a server's row stays in Nova's tables."""
_BOOT = timedelta(seconds=20)
Month = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Life:
    """One server: its birth, the user's wish to delete it, and the end of its use."""

    id: str
    project: str
    born: datetime
    deleted: datetime
    died: datetime
    cores: int

    def seconds(self, start: datetime, end: datetime) -> float:
        """Return how long it existed between two moments."""
        return max(0.0, (min(self.died, end) - max(self.born, start)).total_seconds())


def lives(
    number: int, projects: Sequence[str], begin: datetime, end: datetime, *, seed: int
) -> list[Life]:
    """Return servers of all sorts: some for ever, some for weeks, some for hours."""
    chance = random.Random(seed)
    found = []
    for count in range(number):
        born = begin + chance.random() * (end - begin)
        lasting = chance.choices((400.0, 20.0, 0.4), weights=(1, 4, 5))[0]
        if count % 10 == 0:  # there from the beginning
            born = begin - timedelta(days=chance.random() * 30)
        born = born.replace(microsecond=0)
        length = timedelta(days=chance.expovariate(1 / lasting), minutes=1)
        deleted = (born + length).replace(microsecond=0)
        died = deleted + (RECLAIM if chance.random() < 0.3 else timedelta(0))
        project = projects[count % len(projects)]
        identity = Cloud.uuid(project, count)
        found.append(Life(identity, project, born, deleted, died, chance.choice((1, 2, 4))))
    return found


def months(begin: datetime, end: datetime) -> Iterator[tuple[Month, datetime, datetime]]:
    """Yield the months between two moments, each with its own beginning and end."""
    start = begin.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while start < end:
        following = (start + timedelta(days=32)).replace(day=1)
        yield (start.year, start.month), start, min(following, end)
        start = following


@dataclass(slots=True)
class World:
    """The lives on a cloud, up to a moment that only moves on."""

    cloud: Cloud
    all: Sequence[Life]
    _events: list[tuple[datetime, int, str, Life]] = field(default_factory=list)
    _shown: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Put the events of all lives into their order."""
        order = itertools.count()
        for life in self.all:
            stages = {
                "born": life.born,
                "deleted": life.deleted,
                "died": life.died,
                "archived": life.died + ARCHIVED,
            }
            for stage, moment in stages.items():
                heapq.heappush(self._events, (moment, next(order), stage, life))

    def advance(self, moment: datetime) -> None:
        """Let everything happen that happens up to a moment."""
        while self._events and self._events[0][0] <= moment:
            at, _, stage, life = heapq.heappop(self._events)
            if stage == "born":
                self._shown[life.id] = _server(life)
                self.cloud.more.setdefault(life.project, []).append(self._shown[life.id])
            elif stage == "deleted" and life.died > life.deleted:
                self._shown[life.id] |= {
                    "status": "SOFT_DELETED", "_hidden": True, "updated": _z(at),
                }  # fmt: skip
            elif stage == "died":
                ended = at.replace(tzinfo=None).isoformat(timespec="microseconds")
                self._shown[life.id] |= {
                    "status": "DELETED", "updated": _z(at), "OS-SRV-USG:terminated_at": ended,
                }  # fmt: skip
            elif stage == "archived":
                self.cloud.more[life.project].remove(self._shown.pop(life.id))

    def truth(self, begin: datetime, until: datetime) -> dict[tuple[str, Month], float]:
        """Return the seconds in each month, also before ``begin``, of servers that lived then."""
        return {
            (life.id, month): spent
            for life in self.all
            if life.died > begin
            for month, start, end in months(life.born, until)
            if (spent := life.seconds(start, end)) > 0
        }


class Repository:
    """What a repository that keeps the last record of a server and a month has (APEL's rule).

    A month's use is the growth since the record of the month before.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Month], int] = {}
        self.taken_back: list[tuple[str, Month, int]] = []
        """Each record that made a month smaller, with the seconds."""

    def load(self, records: Iterable[dict[str, str]]) -> None:
        """Take records in the order of their arrival."""
        for record in records:
            wall = int(record["WallDuration"])
            is_over = record["Status"] == "completed"
            measured = int(record["EndTime"]) if is_over else int(record["StartTime"]) + wall
            at = datetime.fromtimestamp(measured, UTC)
            key = record["VMUUID"], (at.year, at.month)
            if wall < self.rows.get(key, 0):
                self.taken_back.append((*key, self.rows[key] - wall))
            self.rows[key] = wall

    def seconds(self) -> dict[tuple[str, Month], int]:
        """Return the seconds of each server in each month."""
        found, before = {}, dict[str, int]()
        for (server, month), wall in sorted(self.rows.items(), key=lambda row: row[0][1]):
            found[server, month] = wall - before.get(server, 0)
            before[server] = wall
        return found


def _server(life: Life) -> dict[str, Any]:
    launched = (life.born + _BOOT).replace(tzinfo=None).isoformat(timespec="microseconds")
    return {
        "id": life.id,
        "name": f"vm-{life.id[:8]}",
        "status": "ACTIVE",
        "tenant_id": life.project,
        "user_id": "user1",
        "created": _z(life.born),
        "updated": _z(life.born + _BOOT),
        "OS-SRV-USG:launched_at": launched,
        "OS-SRV-USG:terminated_at": None,
        "flavor": {
            "vcpus": life.cores, "ram": 2048, "disk": 20, "ephemeral": 0,
            "original_name": "m1", "extra_specs": {},
        },
        "image": {"id": "image"},
        "addresses": {},
        "metadata": {},
    }  # fmt: skip


def _z(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
