"""Delivered hours beside Nova's usage of the same time.

Nova's usage counts a server from its launch; records count from its creation. So a server differs
by the time that it took to build, and a project by well under a per cent. A resize, a rebuild or a
rescue is a new launch, so usage loses what was before: `add_earlier` brings it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from appliance.core import clock
from caso.usage.hours import Spent


@dataclass(slots=True)
class ServerHours:
    """Wall seconds of one server in a month."""

    delivered: float = 0
    used: float = 0

    @property
    def surplus(self) -> float:
        """Return what was delivered too much; negative if too little."""
        return self.delivered - self.used


@dataclass(slots=True)
class ProjectHours:
    """A project and month on both sides."""

    region: str
    project: str
    month: str
    vo: str
    until: datetime
    """The last moment that was delivered; Nova's usage is counted up to it."""
    servers: dict[str, ServerHours] = field(default_factory=dict)

    @property
    def delivered(self) -> float:
        """Return the seconds that were delivered."""
        return sum(one.delivered for one in self.servers.values())

    @property
    def used(self) -> float:
        """Return the seconds of Nova's usage."""
        return sum(one.used for one in self.servers.values())

    @property
    def difference(self) -> float:
        """Return by how many per cent the delivered time differs from the used one."""
        if not self.used:
            return 100.0 if self.delivered else 0.0
        return 100 * (self.delivered - self.used) / self.used

    @property
    def has_surplus(self) -> bool:
        """Check whether a server has too much, which an earlier launch may explain."""
        return any(one.surplus > _LEAST for one in self.servers.values())

    def differing(self, tolerance: float) -> Iterator[tuple[str, ServerHours]]:
        """Yield the servers that differ by more per cent, and by ten minutes, largest first."""
        for key, one in sorted(self.servers.items(), key=lambda item: -abs(item[1].surplus)):
            largest = max(one.used, one.delivered)
            if abs(one.surplus) > max(largest * tolerance / 100, _LEAST):
                yield key, one


_LEAST = 600
"""Seconds by which a server must differ to be named: more than it takes to build."""


def add_delivered(found: ProjectHours, spent: Iterable[Spent]) -> None:
    """Add what was delivered for a project and month."""
    for one in spent:
        found.servers.setdefault(one.key, ServerHours()).delivered += one.amount


def add_used(found: ProjectHours, rows: Iterable[Mapping[str, Any]], start: datetime) -> None:
    """Add Nova's usage from ``start`` up to the last moment that was delivered.

    The hours that Nova gives are rounded; the times of a row are exact.
    """
    for row in rows:
        begin = max(clock.parse(row["started_at"]), start)
        end = clock.parse(row["ended_at"]) if row["ended_at"] else found.until
        seconds = (min(end, found.until) - begin).total_seconds()
        if seconds > 0:
            found.servers.setdefault(row["instance_id"], ServerHours()).used += seconds


def add_earlier(found: ProjectHours, servers: Iterable[dict[str, Any]], start: datetime) -> None:
    """Count servers that have too much otherwise from their creation, not from their last launch.

    ``servers`` are those that changed since ``start``, as Nova describes them.
    """
    from caso.sources.server import (  # noqa: PLC0415  loads the OpenStack clients
        NotUnderstood,
        life_of,
        reading,
    )

    for server in servers:
        mine = found.servers.get(server["id"])
        if mine is None or mine.surplus <= _LEAST:
            continue
        with contextlib.suppress(NotUnderstood), reading():
            life = life_of(server)
            end = found.until if life.died is None else min(life.died, found.until)
            mine.used = max(mine.used, (end - max(life.born, start)).total_seconds())
