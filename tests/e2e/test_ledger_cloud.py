"""The ledger on the cloud of the test bed: the repository has the months of Nova's database."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.demo import counters
from tests.demo.counters import Usage
from tests.e2e.caso_site import PROGRAMS, CasoSite
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]
ByMonth = dict[tuple[str, str], Usage]


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> Iterator[CasoSite]:
    testbed.bulk(60, days=70, running=40)
    yield CasoSite(tmp_path / "site", testbed)
    testbed.clear_bulk()


def truth(site: CasoSite, until: datetime) -> ByMonth:
    """Return what Nova's database has of the tagged projects."""
    tagged = {
        project.id for project in site.testbed.seed().projects.values() if "caso" in project.tags
    }
    found = counters.nova_usage(site.testbed.nova_database, until)
    return {key: usage for key, usage in found.items() if key[0] in tagged}


def reached(site: CasoSite) -> datetime:
    """Return up to when all projects are accounted."""
    [moment] = set(site.checkpoints().values())
    return datetime.fromisoformat(moment) - timedelta(seconds=1)


def repository(site: CasoSite) -> ByMonth:
    return counters.accounted(site.records())[0]


def test_an_explicit_period_takes_no_hours_from_a_complete_month(site: CasoSite) -> None:
    """F-A1: midnight of the last day of a month, as people write it."""
    site.run("caso-extract")
    end = reached(site)
    assert repository(site) == truth(site, end)
    month = (end.replace(day=1) - timedelta(days=1)).replace(day=1)
    last_day = end.replace(day=1) - timedelta(days=1)
    shown = site.run(
        "caso-extract",
        *("--extract-from", f"{month:%Y-%m-%d}", "--extract-to", f"{last_day:%Y-%m-%d}"),
    )
    assert shown.stderr.count("more of this month was delivered before") == 3
    assert repository(site) == truth(site, end)
    assert reached(site) == end
    # In the current month, what was delivered is the end.
    earlier = (end - timedelta(hours=5)).isoformat()
    site.run("caso-extract", "--extract-from", f"{month:%Y-%m-%d}", "--extract-to", earlier)
    assert repository(site) == truth(site, end)


def test_the_later_run_counts_after_a_clock_that_was_ahead(site: CasoSite) -> None:
    """F-A4: two hours ahead for one run, with a spool that was not sent."""
    now = datetime.now(UTC).replace(microsecond=0)
    site.run("caso-extract", "--extract-to", (now - timedelta(hours=3)).isoformat())
    ahead = int(timedelta(hours=2).total_seconds())
    for path in sorted(site.spool.glob("????????/" + "?" * 14)):
        made = int(path.name[:8], 16) + ahead
        later = site.spool / f"{made - made % 60:08x}"
        later.mkdir(exist_ok=True)
        path.rename(later / f"{made:08x}{path.name[8:]}")
    site.run("caso-extract")
    assert repository(site) == truth(site, reached(site))


def test_servers_that_were_deleted_and_archived_are_closed(site: CasoSite) -> None:
    """F-A8: they are in no table that Nova reads; their hours stay, up to the last sight."""
    site.run("caso-extract")
    first = reached(site)
    with_them = truth(site, first)
    status = {record["VMUUID"]: record["Status"] for record in site.records()}
    living = {key for key, last in status.items() if last == "started"}
    site.testbed.clear_bulk()
    without_them = truth(site, first)
    shown = site.run("caso-extract")
    second = reached(site)
    wanted: ByMonth = {}
    for key, usage in with_them.items():
        grown = truth(site, second).get(key, Usage(0, 0)).seconds
        seconds = usage.seconds - without_them.get(key, Usage(0, 0)).seconds + grown
        wanted[key] = Usage(usage.servers, seconds)
    assert repository(site) == wanted
    ends = [record for record in site.records() if record["VMUUID"] in living]
    closed = {record["VMUUID"] for record in ends if record["Status"] == "completed"}
    assert len(closed) >= 10
    assert shown.stderr.count("is in no listing any more: closed at ") == len(closed)
    flags = ("--root", str(site.root), "--config-file", str(site.configuration))
    command = [str(PROGRAMS / "caso"), "gaps", *flags]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert listed.returncode == 1
    assert {line.split(": ")[2] for line in listed.stdout.splitlines()} == closed
    assert "no listing any more" not in site.run("caso-extract").stderr
