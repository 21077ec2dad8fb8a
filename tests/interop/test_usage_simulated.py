"""`caso report` and `reconcile` after real runs, on a simulated cloud that knows the truth."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from caso.ledger.names import pack
from tests.simulators.openstack import Cloud, serving

BIN = Path(sys.prefix) / "bin"
DAY = timedelta(days=1)


class SpendingSite:
    """A site whose cloud is simulated."""

    def __init__(self, root: Path, cloud: Cloud, **options: str) -> None:
        self.root, self.cloud = root, cloud
        self.configuration = root / "caso.conf"
        self.configuration.touch(mode=0o600)
        lines = {"projects": "one,two", **options}
        self.configuration.write_text(
            "[DEFAULT]\nmessengers = ssm\nsite_name = S\nextractor = nova\n"
            f"spooldir = {root}/caso\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
            + f"[keystone_auth]\nauth_type = v3password\nauth_url = {cloud.url}/v3\n"
            f"username = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
            f"[ssm]\noutput_path = {root}/out\n"
        )

    def run(self, program: str, *words: str, expect: int = 0) -> str:
        verb, flags = (words[:1], words[1:]) if program == "caso" else ((), words)
        command = [str(BIN / program), *verb, "--root", str(self.root)]
        done = subprocess.run(
            [*command, "--config-file", str(self.configuration), *flags],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def shown(self, *words: str) -> Any:
        return json.loads(self.run("caso", *words, "--json"))


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with serving(Cloud(projects=("one", "two"), servers=8, deleted=3)) as served:
        yield served


def hours(cloud: Cloud, project: str) -> Counter[str]:
    """Return the seconds of each month, cut at its last second, by the simulator's truth."""
    found: Counter[str] = Counter()
    before, month = 0, (cloud.now - 41 * DAY).replace(day=1, hour=0, minute=0, second=0)
    while month <= cloud.now:
        following = (month + 32 * DAY).replace(day=1)
        end = min(following - timedelta(seconds=1), cloud.now)
        reached = sum(cloud.truth(project, until=end).values())
        found[f"{month:%Y-%m}"] += reached - before
        before, month = reached, following
    return found


def test_a_report_has_the_hours_of_the_cloud(cloud: Cloud, tmp_path: Path) -> None:
    site = SpendingSite(tmp_path, cloud)
    for days in (25, 10, 0):
        site.run("caso-extract", "--extract-to", (cloud.now - days * DAY).isoformat())
    rows = site.shown("report", "--by", "month,project")
    for row in rows:
        seconds = hours(cloud, row["project"])[row["month"]]
        assert (row["hours"], row["cpu_hours"]) == (
            round(seconds / 3600, 2),
            round(2 * seconds / 3600, 2),
        )
    assert sum(row["hours"] for row in rows) > 1000
    days_of = site.shown("report", "--by", "day")
    assert abs(sum(row["hours"] for row in days_of) - sum(row["hours"] for row in rows)) < 1
    assert all(row["hours"] <= 24 * row["things"] + 0.01 for row in days_of)


def test_it_agrees_with_novas_usage(cloud: Cloud, tmp_path: Path) -> None:
    site = SpendingSite(tmp_path, cloud)
    site.run("caso-extract", "--extract-to", cloud.now.isoformat())
    rows = site.shown("reconcile")
    assert {row["project"] for row in rows} == {"one", "two"}
    assert all(row["difference_percent"] == 0 for row in rows)
    for row in rows:
        seconds = hours(cloud, row["project"])[row["month"]]
        assert abs(row["used_hours"] - seconds / 3600) < 0.001


def test_a_server_that_was_launched_again_has_not_too_much(cloud: Cloud, tmp_path: Path) -> None:
    """Nova's usage shows a server from its last launch: a resize, a rebuild or a rescue."""
    site = SpendingSite(tmp_path, cloud)
    for number, days in ((50, 40), (51, 2)):
        launched = cloud.now - timedelta(hours=1)
        server = {
            **cloud.server("one", number),
            "created": f"{cloud.now - days * DAY:%Y-%m-%dT%H:%M:%SZ}",
            "updated": f"{launched:%Y-%m-%dT%H:%M:%SZ}",
            "OS-SRV-USG:launched_at": f"{launched:%Y-%m-%dT%H:%M:%S}.000000",
        }
        cloud.more.setdefault("one", []).append(server)
    ended = cloud.now - timedelta(minutes=5)
    cloud.more["one"][1] |= {"status": "DELETED", "updated": f"{ended:%Y-%m-%dT%H:%M:%SZ}"}
    cloud.more["one"][1]["OS-SRV-USG:terminated_at"] = f"{ended:%Y-%m-%dT%H:%M:%S}.000000"
    site.run("caso-extract", "--extract-to", cloud.now.isoformat())
    rows = site.shown("reconcile")
    assert all(row["difference_percent"] == 0 for row in rows)
    for row in rows:
        seconds = hours(cloud, row["project"])[row["month"]]
        assert abs(row["used_hours"] - seconds / 3600) < 0.001
    with closing(sqlite3.connect(tmp_path / "caso/ledger.sqlite")) as connection, connection:
        connection.execute(
            "UPDATE deliveries SET amount = amount + 36000 WHERE month = (SELECT max(month) FROM"
            " deliveries) AND thing = (SELECT id FROM things WHERE key = ?)",
            (pack(cloud.more["one"][0]["id"]),),
        )
    text = site.run("caso", "reconcile", "--tolerance", "0.1", expect=1)
    named = [line for line in text.splitlines() if line.startswith("  server ")]
    assert named == [f"  server {cloud.more['one'][0]['id']}: 10.00 h too much"]


def test_what_was_delivered_too_much_is_named(cloud: Cloud, tmp_path: Path) -> None:
    """A row that somebody raised: its server and hours are named, and the others are not."""
    site = SpendingSite(tmp_path, cloud)
    site.run("caso-extract", "--extract-to", cloud.now.isoformat())
    with closing(sqlite3.connect(tmp_path / "caso/ledger.sqlite")) as connection, connection:
        query = "SELECT month, thing FROM deliveries WHERE NOT flags & 2 ORDER BY month DESC"
        month, thing = connection.execute(query).fetchone()
        connection.execute(
            "UPDATE deliveries SET amount = amount + 36000 WHERE month = ? AND thing = ?",
            (month, thing),
        )
    text = site.run("caso", "reconcile", "--tolerance", "0.1", expect=1)
    named = [line for line in text.splitlines() if line.startswith("  server ")]
    assert len(named) == 1
    assert named[0].endswith(": 10.00 h too much")


def test_a_project_without_an_answer_stops_no_other(cloud: Cloud, tmp_path: Path) -> None:
    site = SpendingSite(tmp_path, cloud)
    site.run("caso-extract", "--extract-to", cloud.now.isoformat())
    cloud.closed = frozenset({"two"})
    text = site.run("caso", "reconcile", expect=1)
    assert "project one, VO vo.one:" in text
    assert "caso reconcile: project two: " in text


def test_local_projects_are_counted_and_never_sent(cloud: Cloud, tmp_path: Path) -> None:
    site = SpendingSite(tmp_path, cloud, projects="one", local_projects="two")
    site.run("caso-extract", "--extract-to", cloud.now.isoformat())
    spool = "".join(path.read_text() for path in tmp_path.glob("out/????????/*"))
    assert "LocalGroupId: one" in spool
    assert "LocalGroupId: two" not in spool
    found = {(row["vo"], row["month"]): row for row in site.shown("report")}
    now = f"{datetime.now(UTC):%Y-%m}"
    for month, seconds in hours(cloud, "two").items():
        if ("local", month) in found:
            row = found["local", month]
            # The month of now goes on while the report is made.
            assert abs(row["hours"] - seconds / 3600) <= (1 if month == now else 0.01)
    assert ("local", f"{cloud.now:%Y-%m}") in found


def test_regions_are_reconciled_each(tmp_path: Path) -> None:
    cloud = Cloud(projects=("one", "two"), servers=4, deleted=0, regions=("R", "S"))
    cloud.more["S/one"] = [cloud.server("one", number) for number in range(50, 53)]
    with serving(cloud):
        site = SpendingSite(tmp_path, cloud, region_name="R,S")
        site.run("caso-extract", "--extract-to", cloud.now.isoformat())
        rows = site.shown("reconcile", "--from", f"{cloud.now:%Y-%m}")
    used = {(row["region"], row["project"]): row["used_hours"] for row in rows}
    assert used["S", "one"] > 0
    assert used["S", "two"] == 0
    assert used["R", "one"] == used["R", "two"] > used["S", "one"]
    assert all(row["difference_percent"] == 0 for row in rows)
