"""Each VM-month is right to a second: after a first run, an outage, soft deletion, clock steps.

The truth is that of the lives; the hours are those of a repository with APEL's rule. The second
is that of a month's last record, which ends at 23:59:59. cASO has 312 406 of 365 163 hours in the
wrong month after the first two.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import retry
from tests.e2e.test_simulated_year import PROJECTS, Year
from tests.simulators import lives
from tests.simulators.lives import Life, Month, World
from tests.simulators.openstack import Cloud, serving

AUGUST = datetime(2026, 8, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MONTH_END = datetime(2026, 11, 1, tzinfo=UTC)
SECOND = 1.0


@dataclass(slots=True)
class Months(Year):
    """A site with runs at chosen moments."""

    lasted: float = 0
    """Seconds of the last run: the records of its own month go on while it lasts."""
    statuses: list[int] = field(default_factory=list)

    def run_at(self, moments: Iterable[datetime], *, sends: bool = True) -> None:
        for at in moments:
            self.world.advance(at)
            begin = time.perf_counter()
            self.statuses.append(self.run(at))
            self.lasted = time.perf_counter() - begin
            self.end = at
            if sends:
                self.send()

    def off(self) -> dict[tuple[str, Month], float]:
        """Return by how many seconds VM-months are wrong, if by more than one."""
        self.send()
        truth, found = self.world.truth(self.begin, self.end), self.repository.seconds()
        last = self.end.year, self.end.month
        differences = {key: found.get(key, 0) - truth.get(key, 0) for key in truth.keys() | found}
        return {
            (server, month): seconds
            for (server, month), seconds in differences.items()
            if not -SECOND <= seconds <= SECOND + self.lasted * (month == last)
        }


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(retry, "_sleep", lambda _seconds: None)  # time is not that of the test
    # A server that Nova has archived before anybody looked is lost to everybody.
    monkeypatch.setattr(lives, "ARCHIVED", timedelta(days=365))
    with serving(Cloud(PROJECTS, servers=0, deleted=0)) as made:
        yield made


def months(
    cloud: Cloud,
    root: Path,
    some: list[Life],
    *,
    begin: datetime = AUGUST,
    host_ahead: Mapping[datetime, timedelta] | None = None,
    options: str = "",
) -> Months:
    site = Months(root, cloud, World(cloud, some), begin, begin, host_ahead=host_ahead or {})
    words = site.configuration.read_text()
    site.configuration.write_text(words.replace("[DEFAULT]\n", f"[DEFAULT]\n{options}"))
    return site


def long_lives() -> list[Life]:
    return lives.lives(60, PROJECTS, AUGUST, NOVEMBER, seed=7)


def test_a_first_run_on_120_days(cloud: Cloud, tmp_path: Path) -> None:
    site = months(cloud, tmp_path, long_lives())
    site.run_at([NOVEMBER])
    assert site.off() == {}
    assert site.statuses == [0]
    known = {month for _, month in site.repository.rows}
    assert {(2026, 8), (2026, 9), (2026, 10), (2026, 11)} <= known


def test_an_outage_of_two_months(cloud: Cloud, tmp_path: Path) -> None:
    """Runs until 20 September, and the next one on 22 November."""
    site = months(cloud, tmp_path, long_lives())
    autumn = datetime(2026, 9, 20, 10, 14, tzinfo=UTC)
    site.run_at([autumn - 9 * DAY, autumn - HOUR, autumn, NOVEMBER, NOVEMBER + HOUR])
    assert site.off() == {}
    assert site.statuses == [0] * 5
    assert site.repository.taken_back == []


def test_soft_deleted_over_the_end_of_a_month(cloud: Cloud, tmp_path: Path) -> None:
    """F-A3: deleted on 30 October, reclaimed on 6 November; a plain listing hides them."""
    some = [
        Life(
            Cloud.uuid(project, number),
            project,
            born=MONTH_END - 20 * DAY + number * HOUR,
            deleted=MONTH_END - 2 * DAY + number * timedelta(minutes=7),
            died=MONTH_END + 5 * DAY + number * timedelta(minutes=7),
            cores=2,
        )
        for project in PROJECTS
        for number in range(3)
    ]
    site = months(cloud, tmp_path, some, begin=MONTH_END - 25 * DAY)
    around = [MONTH_END + step * HOUR + timedelta(minutes=14) for step in (-60, -30, -1, 0, 1, 24)]
    site.run_at([*around, MONTH_END + 7 * DAY, MONTH_END + 8 * DAY])
    assert site.off() == {}
    assert set(site.statuses) == {0}
    assert site.repository.taken_back == []


@pytest.mark.parametrize("step", [2 * HOUR, timedelta(seconds=200)], ids=["refused", "allowed"])
@pytest.mark.parametrize("sends", [True, False], ids=["sent", "waiting"])
def test_steps_of_the_clock(cloud: Cloud, tmp_path: Path, step: timedelta, *, sends: bool) -> None:
    """F-A4: ahead before the end of a month, behind after it; messages wait in the spool or not."""
    minutes = (-180, -2, -1, 1, 2, 60, 120)
    at = [MONTH_END + timedelta(minutes=one) for one in minutes]
    ahead = {at[1]: step, at[2]: step, at[3]: -step, at[4]: -step}
    some = lives.lives(40, PROJECTS, MONTH_END - 3 * DAY, MONTH_END + 2 * HOUR, seed=3)
    begin, options = MONTH_END - 4 * DAY, "max_clock_skew = 300\n"
    site = months(cloud, tmp_path, some, begin=begin, host_ahead=ahead, options=options)
    site.run_at(at, sends=sends)
    assert site.off() == {}
    assert site.repository.taken_back == []
    refused = step > timedelta(seconds=300)
    assert [status != 0 for status in site.statuses] == [refused and one in ahead for one in at]
