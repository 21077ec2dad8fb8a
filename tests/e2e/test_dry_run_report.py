"""The report of a dry run: what it foresees is what the next run writes, counted in its messages.

The right numbers come from the spool, and from a repository that has taken the messages before.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from appliance.core import retry
from caso.cmds import extract
from tests.demo import counters
from tests.e2e.test_simulated_year import Year, year
from tests.simulators.openstack import Cloud, serving

BEGIN = datetime(2026, 10, 20, tzinfo=UTC)
FIRST = datetime(2026, 10, 29, 22, tzinfo=UTC)
SECOND = datetime(2026, 11, 2, 10, tzinfo=UTC)
SIZE = 3
Place = tuple[str, str]
"""Project and month."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Year]:
    monkeypatch.setattr(retry, "_sleep", lambda _seconds: None)  # time is not that of the test
    with serving(Cloud(("alpha", "beta"), servers=0, deleted=0)) as cloud:
        made = year(cloud, tmp_path, servers=30, begin=BEGIN, end=SECOND)
        words = made.configuration.read_text()
        made.configuration.write_text(f"{words}[ssm]\nmax_size = {SIZE}\n")
        yield made


def shown(site: Year, at: datetime, *flags: str, expect: int = 0) -> tuple[str, str]:
    """Run up to a moment, and return standard output and standard error."""
    site.world.advance(at)
    out, err = io.StringIO(), io.StringIO()
    words = ["--root", str(site.root), "--config-file", str(site.configuration)]
    with (
        time_machine.travel(at, tick=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        # A fixed end, so that a dry run and the run after it have the same window.
        until = f"{at - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}"
        assert extract.main([*words, "--extract-to", until, *flags]) == expect, err.getvalue()
    return out.getvalue(), err.getvalue()


def files(root: Path) -> dict[str, bytes]:
    """Return the files, without those in which SQLite's readers of a database meet."""
    found = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path): content
        for path in found
        if (content := path.read_bytes()) and not path.name.endswith("-shm")
    }


def month_of(record: dict[str, str]) -> str:
    """Return the month by APEL's rule."""
    ended = record["Status"] == "completed"
    at = int(record["EndTime"] if ended else record["StartTime"])
    at += 0 if ended else int(record["WallDuration"])
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m}"


def spooled(site: Year) -> tuple[dict[Place, Counter[str]], Counter[Place]]:
    """Return the sums of the records in the spool, and the number of messages."""
    sums: dict[Place, Counter[str]] = defaultdict(Counter)
    messages: Counter[Place] = Counter()
    for path in sorted(site.spool.glob("????????/" + "?" * 14)):
        places = set()
        for record in counters.records([path.read_text()]):
            place = record["LocalGroupId"], month_of(record)
            places.add(place)
            sums[place].update(
                records=1, wall=int(record["WallDuration"]), cpu=int(record["CpuDuration"])
            )
        messages.update(places)
    return sums, messages


def rows(site: Year, at: datetime, *, expect: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        shown(site, at, "--dry-run", "--json", expect=expect)[0]
    )
    return found


def test_what_is_foreseen_is_what_is_written(site: Year) -> None:
    """Two projects, before anything was delivered, and over the end of a month after that."""
    for at in (FIRST, SECOND):
        before = files(site.root)
        foreseen = rows(site, at)
        printed = shown(site, at, "--dry-run", "--csv")[0]
        assert files(site.root) == before
        delivered = site.repository.seconds()
        assert list(csv.DictReader(io.StringIO(printed, newline=""))) == [
            {name: str(value) for name, value in row.items()} for row in foreseen
        ]

        shown(site, at)
        sums, messages = spooled(site)
        site.send()
        assert {(row["project_id"], row["month"]) for row in foreseen} == sums.keys()
        for row in foreseen:
            place = row["project_id"], row["month"]
            assert (row["things"], row["records"]) == (sums[place]["records"],) * 2
            assert row["hours"] == pytest.approx(sums[place]["wall"] / 3600, abs=0.01)
            assert row["cpu_hours"] == pytest.approx(sums[place]["cpu"] / 3600, abs=0.01)
            assert row["messages"] == messages[place] > 0
            assert (row["withheld"], row["quarantined"], row["kind"]) == (0, 0, "servers")
        more = sum(site.repository.seconds().values()) - sum(delivered.values())
        assert sum(row["more_hours"] for row in foreseen) == pytest.approx(more / 3600, abs=0.05)
    assert {row["month"] for row in foreseen} == {"2026-10", "2026-11"}
    # Nothing of what October and November have in common is counted twice.
    assert sum(row["more_hours"] for row in foreseen) < sum(row["hours"] for row in foreseen) / 2


def test_cpu_hours_that_are_new(site: Year) -> None:
    """The growth of CPU time, by the cores of each server and the repository's hours."""
    shown(site, FIRST)
    site.send()
    before = site.repository.seconds()
    foreseen = rows(site, SECOND)
    shown(site, SECOND)
    site.send()
    cores = {life.id: life.cores for life in site.world.all}
    growth = site.repository.seconds()
    new = sum((spent - before.get(key, 0)) * cores[key[0]] for key, spent in growth.items())
    assert sum(row["more_cpu_hours"] for row in foreseen) == pytest.approx(new / 3600, abs=0.05)


def test_what_would_not_be_sent(site: Year) -> None:
    """A record that the repository would refuse with its message."""
    site.world.advance(FIRST)
    bad = next(one for one in site.cloud.more["alpha"] if one["created"] >= "2026-10")
    bad["flavor"] = bad["flavor"] | {"vcpus": 10**7}
    out, err = shown(site, FIRST, "--dry-run", "--json", expect=1)
    (held,) = [row for row in json.loads(out) if row["quarantined"]]
    assert (held["project"], held["quarantined"], held["records"]) == ("alpha", 1, 0)
    assert (held["month"], held["kind"], held["destination"]) == ("2026-10", "servers", "")
    assert f"{bad['id']}" in err
    assert "1 record would go to the quarantine" in shown(site, FIRST, "--dry-run", expect=1)[0]
    shown(site, FIRST, expect=1)
    places = site.root.rglob("quarantine/*")
    assert any(bad["id"] in path.name for path in places)


@pytest.mark.parametrize("flag", ["--json", "--csv"])
def test_a_form_without_a_dry_run(site: Year, flag: str) -> None:
    before = files(site.root)
    _, err = shown(site, FIRST, flag, expect=2)
    assert f"{flag}: prints what a dry run would send; add --dry-run" in err
    assert files(site.root) == before


def test_the_text_of_a_dry_run(site: Year) -> None:
    shown(site, FIRST)
    foreseen = {(row["project"], row["month"]): row for row in rows(site, SECOND)}
    text = shown(site, SECOND, "--dry-run")[0]
    row = foreseen["alpha", "2026-11"]
    (line,) = [one for one in text.split("project")[1].splitlines() if "2026-11, to ssm: " in one]
    assert f"{row['records']} records" in line
    assert f"{row['more_hours']:+.1f} h since the last delivery" in line
    assert f"{row['cpu_hours']:.1f} h of CPU time" in line
    assert f"{row['messages']} message" in line
