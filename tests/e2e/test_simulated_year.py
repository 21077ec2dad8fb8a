"""Hourly runs over weeks and over a year: every VM-month is right, and none ever shrinks.

Time is that of the whole process, the cloud's and the host's: `caso-extract` runs in it as cron
would start it. A sender takes the spool four times a day, in the order of names, as SSM does.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import time_machine

from appliance.core import retry
from appliance.core.run import cli
from caso.cmds import control, extract
from caso.ledger import schema
from tests import audit
from tests.demo import counters
from tests.simulators import lives
from tests.simulators.lives import Life, Repository, World
from tests.simulators.openstack import Answer, Cloud, Fault, Request, serving

HOUR = timedelta(hours=1)
MESSAGE = re.compile(r"[0-9a-f]{14}")
PROJECTS = ("alpha", "beta", "gamma", "delta")


def sometimes(share: float, seed: int) -> Fault:
    """Answer a share of the requests with an error, or not at all."""
    chance = random.Random(seed)

    def fault(_request: Request) -> Answer | None:
        if chance.random() < share:
            return chance.choice((Answer(503, {"error": "busy"}), Answer(drops=True)))
        return None

    return fault


@dataclass(slots=True)
class Year:
    """A site that runs for a while; ``host_ahead`` has the steps of its clock, by hour."""

    root: Path
    cloud: Cloud
    world: World
    begin: datetime
    end: datetime
    outages: tuple[tuple[datetime, datetime], ...] = ()
    host_ahead: Mapping[datetime, timedelta] = field(default_factory=dict)
    lost_ledger: datetime | None = None
    repository: Repository = field(default_factory=Repository)
    said: list[str] = field(default_factory=list)
    """What each run wrote that did not end with status 0."""

    def __post_init__(self) -> None:
        """Write the configuration."""
        self.configuration.touch(mode=0o600)
        self.configuration.write_text(
            "[DEFAULT]\nmessengers = ssm\nsite_name = S\n[keystone_auth]\nauth_type = v3password\n"
            f"auth_url = {self.cloud.url}/v3\nusername = u\nuser_domain_name = Default\n"
            "password = p\n"
        )

    @property
    def configuration(self) -> Path:
        return self.root / "caso.conf"

    @property
    def spool(self) -> Path:
        return self.root / "var/spool/apel/outgoing/openstack"

    def live(self) -> None:
        """Let the time pass, hour by hour; runs are at 14 minutes past."""
        at = self.begin + timedelta(minutes=14)
        while at <= self.end:
            self.world.advance(at)
            if at == self.lost_ledger:
                self._lose_ledger()
            if not any(start <= at < over for start, over in self.outages):
                self.run(at)
            if at.hour % 6 == 0:
                self.send()
            if (at.day, at.hour) == (3, 5):
                self._republish_last_month(at)
            at += HOUR
        self.cloud.fault = lambda _: None
        self.world.advance(self.end)
        self.run(self.end)
        self.send()

    def run(self, at: datetime) -> int:
        return self._at(at, extract.main, [*self._flags(), "--since", f"{self.begin:%Y-%m-%d}"])

    def _republish_last_month(self, at: datetime) -> None:
        last = at.replace(day=1) - timedelta(days=1)
        if last > self.begin:
            caso = partial(cli.main, control.PROGRAM)
            self._at(
                at,
                caso,
                ["republish", *self._flags(), "--month", f"{last:%Y-%m}", "--allow-decrease"],
            )

    def _flags(self) -> list[str]:
        return ["--root", str(self.root), "--config-file", str(self.configuration)]

    def _at(self, at: datetime, main: Callable[[Sequence[str]], int], argv: list[str]) -> int:
        host = at + self.host_ahead.get(at, timedelta(0))
        self.cloud.clock_offset = at - host
        words = io.StringIO()
        with (
            time_machine.travel(host, tick=True),
            contextlib.redirect_stdout(words),
            contextlib.redirect_stderr(words),
        ):
            status = main(argv)
        if status:
            self.said.append(f"{at}: {status}: {words.getvalue()}")
        assert "Traceback" not in words.getvalue()
        return status

    def send(self) -> None:
        """Take all messages, as a sender does."""
        found = sorted(self.spool.glob("????????/" + "?" * 14))
        for path in found:
            if MESSAGE.fullmatch(path.name):
                self.repository.load(counters.records([path.read_text()]))
                path.unlink()
        for directory in sorted(self.spool.glob("????????"))[:-1]:
            directory.rmdir()

    def _lose_ledger(self) -> None:
        for place in ("var/lib/fedcloud/caso", "var/spool/caso"):
            for path in (self.root / place).glob("ledger*"):
                path.unlink()

    def wrong(self) -> dict[tuple[str, lives.Month], float]:
        """Return the hours by which each VM-month differs from the truth, if by more than 0.1."""
        truth, found = self.world.truth(self.begin, self.end), self.repository.seconds()
        differences = {
            key: (found.get(key, 0) - truth.get(key, 0)) / 3600 for key in truth.keys() | found
        }
        return {key: hours for key, hours in differences.items() if abs(hours) > 0.1}

    def size(self) -> int:
        """Return the bytes of the state."""
        places = (self.root / "var/lib/fedcloud", self.root / "var/spool/caso")
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setattr(retry, "_sleep", lambda _seconds: None)  # time is not that of the test
    with serving(Cloud(PROJECTS, servers=0, deleted=0)) as made:
        yield made


def year(
    cloud: Cloud, root: Path, *, servers: int, begin: datetime, end: datetime, **more: object
) -> Year:
    some: list[Life] = lives.lives(servers, PROJECTS, begin, end, seed=12)
    return Year(root, cloud, World(cloud, some), begin, end, **more)  # type: ignore[arg-type]


def test_a_month_end_with_faults(cloud: Cloud, tmp_path: Path) -> None:
    """F-A3, F-A4: soft-deleted servers, and a clock that was two hours ahead."""
    begin, end = datetime(2026, 10, 30, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC)
    ahead = begin + timedelta(hours=31, minutes=14)
    cloud.fault = sometimes(0.01, seed=1)
    site = year(
        cloud,
        tmp_path,
        servers=40,
        begin=begin,
        end=end,
        host_ahead={ahead: timedelta(hours=2)},
        outages=((begin + timedelta(hours=40), begin + timedelta(hours=52)),),
    )
    site.live()
    assert site.wrong() == {}, site.said
    assert site.repository.taken_back == []


OF_ANY_AGE = re.compile(
    r"SCAN (?!(streams|projects|names|json_each|counted|CONSTANT|temp\.\w+)\b"
    r"|.* INDEX outstanding$)"
)
"""A plan of SQLite that reads a whole table which grows with the years."""


def whole_tables(statements: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the statements that read such a table, each with that step of SQLite's plan."""
    found = set[tuple[str, str]]()
    for target in {target for target, _ in statements}:
        with contextlib.closing(sqlite3.connect(target, uri=True)) as connection:
            if "ledger" in target:
                schema.execute(connection, schema.TEMPORARY)
            asked = {text for file, text in statements if file == target}
            for text in asked:
                if text.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                    plan = connection.execute(f"EXPLAIN QUERY PLAN {text}").fetchall()
                    found |= {(text, row[3]) for row in plan if OF_ANY_AGE.match(row[3])}
    return found


def test_a_run_costs_what_is_running_and_not_what_has_been(cloud: Cloud, tmp_path: Path) -> None:
    """In month 20 as in month 1, with the same servers, though no empty directory is removed."""
    months = [datetime(2025 + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(20)]
    day = timedelta(days=1)
    end = months[-1] + 27 * day
    lasting = [(f"lasting {n}", months[0], end + day) for n in range(5)]
    passing = [(f"{n} of {at}", at + 4 * day, at + 6 * day) for at in months for n in range(10)]
    some = [
        Life(str(uuid.uuid5(uuid.NAMESPACE_OID, name + project)), project, born, died, died, 1)
        for name, born, died in [*lasting, *passing]
        for project in PROJECTS
    ]
    site = Year(tmp_path, cloud, World(cloud, some), months[0], end)

    def run(at: datetime) -> dict[str, int]:
        site.world.advance(at)
        cloud.requests.clear()
        with audit.effort() as effort:
            assert site.run(at) == 0
        for message in site.spool.glob("????????/*"):
            message.unlink()
        if at > months[-1]:
            assert whole_tables(effort.statements) == set()
        return {**effort.figures, "requests": cloud.requests.total()}

    costs: dict[datetime, dict[str, int]] = {}
    for month in months:
        run(month + 5 * day)
        if month in (months[0], months[-1]):
            run(month + 20 * day)
            after_the_end = run(month + 20 * day + HOUR)
            costs[month] = run(month + 20 * day + 2 * HOUR)
            assert after_the_end["requests"] == costs[month]["requests"]
    first, last = costs.values()
    assert last.pop("steps") < first.pop("steps") * 1.05
    assert first == last


@pytest.mark.matrix
@pytest.mark.timeout(7200)
def test_a_year(cloud: Cloud, tmp_path: Path) -> None:
    """2 000 servers, three outages, two steps of the clock, a lost ledger, republished months."""
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    cloud.fault = sometimes(0.01, seed=2)

    def at(*when: int) -> datetime:
        return datetime(2026, *when, 14, tzinfo=UTC)  # type: ignore[misc, arg-type]

    site = year(
        cloud,
        tmp_path,
        servers=2000,
        begin=begin,
        end=end,
        outages=(
            (at(3, 30, 2), at(4, 2, 3)),
            (at(7, 11, 0), at(7, 15, 9)),
            (at(9, 1, 0), at(9, 3, 0)),
        ),
        host_ahead={at(5, 20, 11): timedelta(hours=2), at(10, 31, 23): -timedelta(hours=3)},
        lost_ledger=at(8, 17, 6),
    )
    site.live()
    assert site.wrong() == {}
    assert site.repository.taken_back == []
    assert site.size() <= 200 * 10**6
    shutil.rmtree(tmp_path)
