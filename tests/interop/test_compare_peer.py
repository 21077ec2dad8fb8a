"""`caso shadow` and `compare` beside cASO 5.2.2 on a simulated cloud, where its defects show.

The truth of our hours is the simulator's own; the hours of cASO are counted from its messages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.demo import counters
from tests.simulators.openstack import Answer, Cloud, Request, serving

PEER = Path(sys.prefix).parent / "peer/bin/caso-extract"
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True)
class SimulatedSite:
    """A site whose cloud is simulated, on which cASO runs."""

    root: Path
    cloud: Cloud

    @property
    def configuration(self) -> Path:
        path = self.root / "caso.conf"
        path.touch(mode=0o600)
        path.write_text(
            "[DEFAULT]\nmessengers = ssm\nsite_name = S\nextractor = nova\n"
            f"projects = {','.join(self.cloud.projects)}\nspooldir = {self.root}/caso\n"
            f"[keystone_auth]\nauth_type = v3password\nauth_url = {self.cloud.url}/v3\n"
            "username = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
            f"[ssm]\noutput_path = {self.root}/out\n"
        )
        return path

    @property
    def shadow(self) -> Path:
        return self.root / "var/lib/fedcloud/caso/shadow"

    def account(self, until: datetime, *, zone: str = "UTC") -> None:
        """Run cASO."""
        flags = ("--config-file", str(self.configuration), "--extract-to", until.isoformat())
        subprocess.run(
            [PEER, *flags],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            check=True,
            timeout=120,
        )

    def send(self) -> None:
        """Take the messages away, as a sender does."""
        shutil.rmtree(self.root / "out", ignore_errors=True)

    def look(self, until: datetime | None) -> None:
        """Run `caso shadow`."""
        assert until is not None
        flags = ("--config-file", str(self.configuration), "--extract-to", until.isoformat())
        self._verb("shadow", *flags)

    def compare(self) -> Any:
        return json.loads(self._verb("compare", "--json"))

    def _verb(self, name: str, *flags: str) -> str:
        words = (name, "--root", str(self.root), *flags)
        done = warm.run("caso.cmds.control:main", *words, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kept(self) -> list[dict[str, str]]:
        """Return the records that cASO has spooled since the shadow began."""
        paths = sorted((self.shadow / "cASO").glob("*/*"))
        return list(counters.records(path.read_text() for path in paths))

    def hours(self, until: datetime) -> Counter[str]:
        """Return the seconds of each month, by the truth of the simulator."""
        found: Counter[str] = Counter()
        for project in self.cloud.projects:
            before = 0
            for end in month_ends(self.cloud.now - 41 * DAY, until):
                reached = sum(self.cloud.truth(project, until=end).values())
                found[f"{end:%Y-%m}"] += reached - before
                before = reached
        return found


def month_ends(begin: datetime, until: datetime) -> list[datetime]:
    """Return the last seconds of the months of a time; that of the last one is its end."""
    ends, month = [], begin.replace(day=1, hour=0, minute=0, second=0)
    while (month := (month + 32 * DAY).replace(day=1)) <= until:
        ends.append(month - timedelta(seconds=1))
    return [*ends, until]


def seconds(compared: Any, side: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in compared["months"]:
        found[row["month"]] += row["wall_seconds"][side]
    return found


def causes(compared: Any) -> dict[str, int]:
    return {row["cause"]: row["wall_seconds"] for row in compared["causes"]}


def test_weeks_of_caso_are_explained(tmp_path: Path) -> None:
    """A sender takes messages every other time; a run of cASO fails while servers end."""
    broken = False

    def fault(request: Request) -> Answer | None:
        is_cut = broken and request.path.endswith("/servers/detail")
        return Answer(503) if is_cut and cloud.scope_of(request.token) == "two" else None

    cloud = Cloud(projects=("one", "two"), servers=30, deleted=10, fault=fault)
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        start = cloud.now - 38 * DAY
        site.account(start)
        site.send()
        site.look(start + HOUR)
        for days in (34, 28, 15, 1):  # the servers ended thirty days ago
            broken = days == 28
            site.account(cloud.now - days * DAY)
            broken = False
            site.look(cloud.now - days * DAY + HOUR * days / 10)
            if days % 2:
                site.send()
        site.account(cloud.now)
        site.look(cloud.now)
        compared = site.compare()
        assert compared["unexplained"] == 0
        assert set(causes(compared)) == {"cut", "missing"}
        lost = [row for row in compared["differences"] if "missing" in row["wall_causes"]]
        assert {row["server"] for row in lost} == {cloud.uuid("two", one) for one in range(10)}
        assert seconds(compared, "ours") == site.hours(cloud.now)
        counted, _ = counters.accounted(site.kept())
        first = min(seconds(compared, "caso"))
        theirs = {key: value.seconds for key, value in counted.items() if key[1] > first}
        for month, total in seconds(compared, "caso").items():
            if month > first:
                assert total == sum(value for key, value in theirs.items() if key[1] == month)


def test_servers_above_novas_limit(tmp_path: Path) -> None:
    """CASO asks for usage below microversion 2.40, which Nova cuts off without a word."""
    cloud = Cloud(projects=("one",), servers=260, deleted=0, max_limit=210)
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        site.account(cloud.now - 2 * HOUR)
        site.look(cloud.now - HOUR)
        site.account(cloud.now)
        site.look(cloud.now)
        compared = site.compare()
    assert compared["unexplained"] == 0
    assert compared["only_ours"] >= 50
    missing = [row for row in compared["differences"] if "missing" in row["wall_causes"]]
    assert len({row["server"] for row in missing}) == 50


def test_servers_that_were_never_launched(tmp_path: Path) -> None:
    """Two end in an error: cASO counts a second of one, and the whole life of the deleted one."""
    cloud = Cloud(projects=("one",), servers=4, deleted=0, now=_middle_of_a_month())
    ended = cloud.now - timedelta(minutes=90)
    born, died = f"{ended - 5 * HOUR:%Y-%m-%dT%H:%M:%S}", f"{ended:%Y-%m-%dT%H:%M:%S}"
    launch: dict[str, Any] = {"OS-SRV-USG:launched_at": None, "created": f"{born}Z"}
    cloud.more["one"] = [
        {**cloud.server("one", 50), **launch, "status": "ERROR", "updated": f"{died}Z"},
        {
            **cloud.server("one", 51),
            **launch,
            "status": "DELETED",
            "updated": f"{died}Z",
            "OS-SRV-USG:terminated_at": died,
        },
    ]
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        site.account(cloud.now - 7 * HOUR)
        site.look(cloud.now - 7 * HOUR)
        site.account(cloud.now)
        site.look(cloud.now)
        compared = site.compare()
    assert compared["unexplained"] == 0
    assert causes(compared) == {"never-launched": -5 * 3600 - 1}


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_a_host_in_another_time_zone(zone: str, tmp_path: Path) -> None:
    cloud = Cloud(projects=("one",), servers=6, deleted=0)
    with serving(cloud):
        border = cloud.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        if border > cloud.now - 2 * HOUR:  # the first hours of a month
            border = (border - DAY).replace(day=1)
        sign = -1 if zone.startswith("America") else 1  # in which direction the month changes
        site = SimulatedSite(tmp_path, cloud)
        site.account(border - DAY, zone=zone)
        site.look(border - DAY)
        site.account(border + sign * HOUR, zone=zone)
        site.look(border + sign * HOUR)
        compared = site.compare()
    assert compared["unexplained"] == 0
    assert "time-zone" in causes(compared)


def test_a_run_that_takes_hours_back(tmp_path: Path) -> None:
    cloud = Cloud(projects=("one",), servers=6, deleted=0, now=_middle_of_a_month())
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        site.account(cloud.now - 5 * DAY)
        site.look(cloud.now - 4 * DAY)
        site.account(cloud.now)
        (site.root / "caso/lastrun.one").write_text(str(cloud.now - 4 * DAY))
        site.account(cloud.now - 3 * DAY)
        site.look(cloud.now)
        compared = site.compare()
    assert compared["unexplained"] == 0
    assert causes(compared) == {"taken-back": 6 * 3 * 86_400}


def _middle_of_a_month() -> datetime:
    now = datetime.now(UTC).replace(microsecond=0)
    return now if now.day > 6 else now.replace(day=1) - 2 * DAY


def test_a_flavor_that_changes_between_the_two(tmp_path: Path) -> None:
    cloud = Cloud(projects=("one",), servers=6, deleted=0, changed=6, now=_middle_of_a_month())
    with serving(cloud):
        site = SimulatedSite(tmp_path, cloud)
        site.account(cloud.now - DAY)
        site.look(cloud.now - DAY)
        site.account(cloud.now)
        for server in cloud.all_servers("one")[:2]:
            server["flavor"]["vcpus"] = 4
        site.look(cloud.now)
        compared = site.compare()
    assert compared["unexplained"] == 0
    (cause,) = compared["causes"]
    assert (cause["cause"], cause["wall_seconds"]) == ("flavor", 0)
    assert cause["cpu_seconds"] > 0
