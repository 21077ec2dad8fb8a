"""`caso report` and `caso reconcile` on the test bed: the hours are those of Nova's database."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.demo import counters
from tests.e2e.caso_site import CasoSite
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]

_USED = """
SELECT project_id, SUM(MAX(0,
    MIN(:until, COALESCE(CAST(strftime('%s', substr(terminated_at, 1, 19)) AS INTEGER), :until))
    - MAX(:since, CAST(strftime('%s', substr(launched_at, 1, 19)) AS INTEGER))))
FROM instances WHERE launched_at < datetime(:until, 'unixepoch')
GROUP BY project_id
"""
"""Seconds from the launch, which Nova's usage counts, by project."""


@pytest.fixture(scope="module")
def testbed(testbed: Testbed) -> Iterator[Testbed]:
    testbed.bulk(60, days=70, running=40)
    yield testbed
    testbed.clear_bulk()


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    return CasoSite(tmp_path / "site", testbed)


def moment() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)


def shown(site: CasoSite, verb: str, *flags: str, expect: int = 0) -> Any:
    """Return what a verb prints as JSON."""
    return json.loads(run(site, verb, "--json", *flags, expect=expect).stdout)


def run(
    site: CasoSite, verb: str, *flags: str, expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a verb of caso; the flags follow it."""
    program, *common = site.command("caso")
    command = [program, verb, *common, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == expect, f"{done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def usage(site: CasoSite, until: datetime) -> dict[tuple[str, str], counters.Usage]:
    tagged = {one.id for one in site.testbed.seed().projects.values() if "caso" in one.tags}
    counted = counters.nova_usage(site.testbed.nova_database, until)
    return {key: value for key, value in counted.items() if key[0] in tagged}


def test_a_report_has_the_hours_of_novas_database(site: CasoSite) -> None:
    until = moment()
    site.run("caso-extract", "--extract-to", (until - timedelta(days=20)).isoformat())
    site.run("caso-extract", "--extract-to", until.isoformat())
    wanted = usage(site, until)
    found = shown(site, "report", "--by", "month,project")
    assert {(row["project"], row["month"]): row["things"] for row in found} == {
        key: value.servers for key, value in wanted.items()
    }
    for row in found:
        seconds = wanted[row["project"], row["month"]].seconds
        assert row["hours"] == round(seconds / 3600, 2)
    days: Counter[str] = Counter()
    for row in shown(site, "report", "--by", "day,project"):
        assert row["hours"] <= 24.01 * row["things"]
        days[row["day"][:7]] += row["hours"]
    for month, hours in days.items():
        total = sum(value.seconds for key, value in wanted.items() if key[1] == month)
        assert abs(hours - total / 3600) < 1


def test_a_local_project_is_counted_and_never_sent(site: CasoSite) -> None:
    """It has the tag of the accounted projects."""
    site.default["local_projects"] = "vo-fedcloud"
    site.write()
    site.run("caso-extract")
    assert {record["FQAN"] for record in site.records()} == {"ops", "biomed"}
    until = moment()
    found = {row["month"]: row for row in shown(site, "report") if row["vo"] == "local"}
    local = site.testbed.seed().projects["vo-fedcloud"].id
    for (project, month), value in usage(site, until).items():
        if project == local and month in found:
            assert found[month]["things"] == value.servers
            assert abs(found[month]["hours"] - value.seconds / 3600) < 1
    assert f"{until:%Y-%m}" in found
    site.default |= {"projects": "vo-fedcloud"}
    site.write()
    error = run(site, "report", expect=2).stderr
    assert "local_projects: 'vo-fedcloud' is in projects, too" in error


def test_a_local_project_that_nobody_sees_is_one_line(site: CasoSite) -> None:
    site.run("caso-extract")
    site.default["local_projects"] = "nosuch"
    site.write()
    done = run(site, "report", expect=1)
    assert "project nosuch: the account 'accounting' sees no such project" in done.stderr
    assert "fedcloud.egi.eu" in done.stdout


def test_delivered_hours_agree_with_novas_usage(site: CasoSite) -> None:
    until = moment()
    site.run("caso-extract", "--extract-to", until.isoformat())
    # Servers of the seed are seconds old, of which their launch takes a good part.
    found = shown(site, "reconcile", "--tolerance", "99")
    first = min(row["month"] for row in found)
    assert first >= f"{until - timedelta(days=40):%Y-%m}"
    wanted = usage(site, until)
    for row in found:
        delivered = wanted.get((row["project"], row["month"]), counters.Usage(0, 0))
        assert abs(row["delivered_hours"] - delivered.seconds / 3600) < 0.001
        month = datetime.fromisoformat(f"{row['month']}-01T00:00:00+00:00")
        last = min(until, (month + timedelta(days=32)).replace(day=1) - timedelta(seconds=1))
        used = launched(site.testbed.nova_database, month - timedelta(seconds=1), last).get(
            row["project"], 0
        )
        assert abs(row["used_hours"] - used / 3600) < 0.02
        assert row["servers"] == []
    bulk = [row for row in found if row["vo"] == "fedcloud.egi.eu"]
    assert all(abs(row["difference_percent"]) < 1 for row in bulk)


def launched(database: Path, since: datetime, until: datetime) -> dict[str, float]:
    """Return the seconds since the launch in a time, by project."""
    values = {"since": int(since.timestamp()), "until": int(until.timestamp())}
    uri = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return dict(connection.execute(_USED, values).fetchall())


def test_what_was_delivered_too_much_is_listed(site: CasoSite) -> None:
    """Servers that Nova no longer knows, and one that was delivered for twice its time."""
    site.run("caso-extract")
    ledger = site.root / "var/lib/fedcloud/caso/ledger.sqlite"
    with closing(sqlite3.connect(ledger)) as connection, connection:
        # Only the longest of a month may be altered: a smaller one would stay within a per cent.
        query = (
            "SELECT month, thing, amount FROM deliveries ORDER BY month DESC, amount DESC LIMIT 1"
        )
        month, thing, amount = connection.execute(query).fetchone()
        connection.execute(
            "UPDATE deliveries SET amount = ? WHERE month = ? AND thing = ?",
            (2 * amount, month, thing),
        )
    found = shown(site, "reconcile", "--from", f"{moment():%Y-%m}", expect=1)
    surplus = [one for row in found for one in row["servers"]]
    largest = max(surplus, key=lambda one: one["surplus_hours"])
    assert abs(largest["surplus_hours"] - amount / 3600) < 0.05  # half a minute of its launch
    text = run(site, "reconcile", "--from", f"{moment():%Y-%m}", expect=1).stdout
    assert f"server {largest['server']}: {largest['surplus_hours']:.2f} h too much" in text
    assert "more than 1 %" in text
