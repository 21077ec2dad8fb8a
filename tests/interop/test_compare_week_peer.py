"""A week of hourly runs of cASO 5.2.2, with a sender every six hours, beside `caso shadow`.

Servers come and go, some are soft-deleted, some are never launched; a request of cASO fails, its
host is away for some hours, and a month ends. The hours of both sides are counted apart from the
code under test: ours by what the simulator knows of each server, cASO's by APEL's rule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.interop.test_compare_peer import DAY, HOUR, SimulatedSite
from tests.simulators.lives import Life, World, lives
from tests.simulators.openstack import Answer, Cloud, Request, serving

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(7200)]

HOURS = 7 * 24
LATER = timedelta(minutes=3)
"""How long after cASO the shadow looks."""
AWAY = range(50, 53)
"""The hours in which the host of cASO is away."""
FAILS = (30, 90)
"""The hours in which a request of cASO fails, for one project."""


def month_end() -> datetime:
    """Return the latest beginning of a month that a week can lie around."""
    now = datetime.now(UTC)
    border = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return border if now > border + 4 * DAY else (border - DAY).replace(day=1)


def never_launched(cloud: Cloud, begin: datetime) -> Iterable[dict[str, Any]]:
    """Return a server in an error, and one that was deleted after it."""
    launch: dict[str, Any] = {"OS-SRV-USG:launched_at": None, "created": f"{begin:%FT%TZ}"}
    ended = begin + 5 * HOUR
    yield {**cloud.server("one", 900), **launch, "status": "ERROR", "updated": f"{begin:%FT%TZ}"}
    yield {
        **cloud.server("one", 901),
        **launch,
        "status": "DELETED",
        "updated": f"{ended:%FT%TZ}",
        "OS-SRV-USG:terminated_at": f"{ended:%FT%T}",
    }


def test_a_week_is_explained_without_a_remainder(tmp_path: Path) -> None:
    border = month_end()
    begin, end = border - HOURS // 2 * HOUR, border + HOURS // 2 * HOUR
    all_lives = lives(60, ("one", "two"), begin - 10 * DAY, end, seed=12)
    is_failing = False

    def fault(request: Request) -> Answer | None:
        is_cut = is_failing and request.path.endswith("/servers/detail")
        return Answer(503) if is_cut and cloud.scope_of(request.token) == "two" else None

    cloud = Cloud(projects=("one", "two"), servers=0, deleted=0, now=end, fault=fault)
    world = World(cloud, all_lives)
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        world.advance(begin)
        # A shadow asks for these since its last run, which is not in the time of this cloud.
        cloud.more.setdefault("one", []).extend(never_launched(cloud, begin + 20 * HOUR))
        site.account(begin)
        site.send()
        site.look(begin)
        for number in range(1, HOURS + 1):
            now = begin + number * HOUR
            world.advance(now)
            if number not in AWAY:
                is_failing = number in FAILS
                site.account(now)
                is_failing = False
            world.advance(now + LATER)
            site.look(now + LATER)
            if number % 6 == 0:
                site.send()
        compared = site.compare()
    assert compared["unexplained"] == 0
    assert compared["unread"] == {"ours": 0, "caso": 0}
    found = {row["cause"] for row in compared["causes"]}
    assert {"cut", "never-launched"} <= found <= {"cut", "never-launched", "missing", "lost-run"}
    for row in compared["differences"]:
        both = row["wall_seconds"]
        assert sum(row["wall_causes"].values()) == both["ours"] - both["caso"]
    check_ours(compared, all_lives, begin, end + LATER)
    check_theirs(compared, site.kept(), begin)


def check_ours(compared: Any, known: list[Life], begin: datetime, until: datetime) -> None:
    """Compare our hours with the truth: a second for each server and month is left."""
    for month, total, servers in totals(compared, "ours"):
        start = datetime.strptime(f"{month} +0000", "%Y-%m %z")
        stop = min(until, (start + 32 * DAY).replace(day=1))
        spent = [life.seconds(start, stop) for life in known if life.died >= begin]
        assert abs(total - sum(spent)) <= servers, month


def check_theirs(compared: Any, records: list[dict[str, str]], begin: datetime) -> None:
    """Compare cASO's hours with the growth of the last records of each server and month."""
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    floors: dict[str, int] = {}
    first = begin.replace(day=1, hour=0, minute=0, second=0).timestamp()
    for record in records:
        wall, start = int(record["WallDuration"]), int(record["StartTime"])
        ends = int(record["EndTime"]) if record["Status"] == "completed" else start + wall
        rows[record["VMUUID"]][f"{datetime.fromtimestamp(ends, UTC):%Y-%m}"] = wall
        floors[record["VMUUID"]] = max(0, int(first) - start)
    wanted: Counter[str] = Counter()
    for server, of_months in rows.items():
        before = floors[server]
        for month, wall in sorted(of_months.items()):
            wanted[month] += wall - before
            before = wall
    assert {month: total for month, total, _ in totals(compared, "caso")} == wanted


def totals(compared: Any, side: str) -> list[tuple[str, int, int]]:
    """Return month, wall seconds and number of servers of a side."""
    found: Counter[str] = Counter()
    servers: Counter[str] = Counter()
    for row in compared["months"]:
        found[row["month"]] += row["wall_seconds"][side]
        servers[row["month"]] += row["servers"]
    return [(month, found[month], servers[month]) for month in sorted(found)]
