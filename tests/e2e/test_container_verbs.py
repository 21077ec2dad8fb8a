"""The verbs of `caso` in the shipped container, each against a count of another program.

Hours are those of Nova's database.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.dockerd import DockerDaemon
from tests.demo import counters
from tests.e2e.container_site import (
    ACCOUNT,
    ContainerSite,
    host_site,
    run_appliance,
    start_by_cron,
)
from tests.e2e.test_caso_report import launched
from tests.e2e.test_caso_shadow import hours
from tests.e2e.test_container_accounting import LEDGER, PORT, configure, extracted
from tests.testbed import Testbed

pytestmark = [pytest.mark.container, pytest.mark.cloud, pytest.mark.timeout(900)]

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
_LIVES = """
SELECT uuid, died - born FROM (
    SELECT uuid, CAST(strftime('%s', substr(created_at, 1, 19)) AS INTEGER) AS born,
        MIN(:end, COALESCE(CAST(strftime('%s',
            substr(COALESCE(terminated_at, deleted_at), 1, 19)) AS INTEGER), :end)) AS died
    FROM instances
    WHERE launched_at IS NOT NULL AND project_id IN (SELECT value FROM json_each(:projects)))
WHERE born <= :end AND died >= :begin
"""
"""Seconds since the creation, at the end of a time, of servers that lived in it."""
_REFUSED = """# refused: CpuCount is -2
# {"kind": "cloud", "key": "K", "month": "2026-10", "project": "P", "amount": 7200}
VMUUID: K
"""
"""A file of the quarantine, as docs/formats describes it."""
_OPEN_A_GAP = """
INSERT INTO windows SELECT stream, :end + 1, end, is_known FROM windows WHERE stream = :stream;
UPDATE windows SET end = :begin - 1 WHERE stream = :stream AND start < :begin;
"""


@pytest.fixture(scope="module")
def testbed(testbed: Testbed) -> Iterator[Testbed]:
    testbed.bulk(30, days=70, running=40)
    yield testbed
    testbed.clear_bulk()


@pytest.fixture
def site(engine: DockerDaemon, testbed: Testbed, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT + 2) as made:
        # As `appliance schedule --since` does; without it, servers of earlier months are left out.
        (made.root / "var/lib/fedcloud/since").write_text("2020-01-01T00:00:00+00:00\n")
        made.set(FEDCLOUD_NETWORK="host", FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        configure(made, testbed)
        yield made


def verb(site: ContainerSite, *words: str, expect: int = 0) -> str:
    """Run a verb as an administrator does; return what it prints."""
    done = run_appliance(site, "run", "caso", "--", *words)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "networks" not in done.stderr, "docker-compose's own words"
    return done.stdout


def table(site: ContainerSite, *words: str) -> Any:
    return json.loads(verb(site, *words, "--json"))


def lives(testbed: Testbed, projects: set[str], begin: datetime, end: datetime) -> dict[str, int]:
    """Return the seconds of servers since their creation, at the end of a time."""
    values = {
        "projects": json.dumps(sorted(projects)),
        "begin": int(begin.timestamp()),
        "end": int(end.timestamp()),
    }
    uri = f"{testbed.nova_database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return dict(connection.execute(_LIVES, values).fetchall())


def digest(path: Path) -> str:
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r", str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()[0]


def test_hours_of_all_verbs_are_those_of_novas_database(
    site: ContainerSite, testbed: Testbed
) -> None:
    tagged = {one.id: one for one in testbed.seed().projects.values() if "caso" in one.tags}
    checks = table(site, "check")
    assert [one for one in checks if one["state"] == "fault"] == []
    assert {one["subject"]: one["text"] for one in checks if one["check"] == "vo"} == {
        f"project {one.name} ({one.id})": f"VO {one.vo}" for one in tagged.values()
    }

    verb(site, "shadow")
    until = extracted(start_by_cron(site, "caso"))
    spool = site.root / "var/spool/apel/outgoing/openstack"
    messages = sorted(spool.glob("????????/" + "?" * 14))
    nova = {
        key: value
        for key, value in counters.nova_usage(testbed.nova_database, until).items()
        if key[0] in tagged
    }
    by_month: Counter[str] = Counter()
    for (_, month), used in nova.items():
        by_month[month] += used.seconds
    assert len(by_month) >= 3

    assert f", {len(messages)} of them as copies" in verb(site, "shadow", "--only-keep")
    compared = table(site, "compare")
    assert (compared["messages"]["caso"], compared["unexplained"]) == (len(messages), 0)
    assert hours(compared, "caso") == by_month

    rows = table(site, "report", "--by", "month,project")
    assert {
        (row["project"], row["month"]): (row["things"], row["hours"])
        for row in rows
        if row["kind"] == "servers"
    } == {key: (used.servers, round(used.seconds / 3600, 2)) for key, used in nova.items()}

    for row in table(site, "reconcile", "--tolerance", "99"):
        delivered = nova.get((row["project"], row["month"]), counters.Usage(0, 0)).seconds
        assert abs(row["delivered_hours"] - delivered / 3600) < 0.001
        first = datetime.fromisoformat(f"{row['month']}-01T00:00:00+00:00")
        last = min(until, (first + timedelta(days=32)).replace(day=1) - SECOND)
        since_launch = launched(testbed.nova_database, first - SECOND, last)
        assert abs(row["used_hours"] - since_launch.get(row["project"], 0) / 3600) < 0.02

    shown = verb(site, "checkpoints")
    following = until + SECOND
    for project in tagged:
        lastrun = (site.root / f"var/spool/caso/lastrun.{project}").read_text()
        assert datetime.fromisoformat(lastrun).replace(microsecond=0) == following
        for name in (f"project {project}, cloud to ssm", f"lastrun.{project}"):
            assert f"{name}: accounted up to {following}, " in shown

    this_month = until.replace(day=1, hour=0, minute=0, second=0)
    end = this_month - SECOND
    walls = lives(testbed, set(tagged), end.replace(day=1, hour=0, minute=0, second=0), end)
    shown = verb(site, "republish", "--month", f"{end:%Y-%m}")
    assert {
        found[1]: found[2]
        for found in re.finditer(r"(?m)^  (\S{36})  delivered (.* h), now \2: \+0\.0 h$", shown)
    } == {key: f"{seconds / 3600:.1f} h" for key, seconds in walls.items()}
    assert "nothing was written" in shown
    assert sorted(spool.glob("????????/" + "?" * 14)) == messages

    path, key = next(
        (path, record["VMUUID"])
        for path in messages
        for record in counters.records([path.read_text()])
        if walls.get(record["VMUUID"]) == int(record["WallDuration"])
    )
    shown = verb(site, "ledger", "show", key)
    row = next(line for line in shown.splitlines() if digest(path)[:16] in line)
    assert row.startswith(f"{end:%Y-%m}  cloud  ssm ")
    assert f" {walls[key] / 3600:.2f} h" in row


@pytest.mark.matrix
def test_gaps_are_filled_and_refused_records_listed(site: ContainerSite, testbed: Testbed) -> None:
    assert verb(site, "quarantine", "list") == "the quarantine is empty\n"
    until = extracted(start_by_cron(site, "caso"))
    directory = site.root / "var/spool/caso/quarantine"
    directory.mkdir(exist_ok=True)
    (directory / "one.txt").write_text(_REFUSED)
    shown = verb(site, "quarantine", "list", expect=1)
    assert "one: cloud: CpuCount is -2 (2026-10, project P, 2.0 h" in shown
    assert verb(site, "quarantine", "show", "one").endswith("\nVMUUID: K\n")

    assert verb(site, "gaps") == ""
    begin, end = until - 3 * HOUR, until - 2 * HOUR
    project = testbed.seed().projects["vo-fedcloud"].id
    with closing(sqlite3.connect(site.root / LEDGER)) as connection, connection:
        ((stream,),) = connection.execute(
            "SELECT id FROM named_streams WHERE project = ? AND kind = 'cloud'", (project,)
        ).fetchall()
        values = {
            "stream": stream,
            "begin": int(begin.timestamp()),
            "end": int(end.timestamp()),
        }
        for statement in _OPEN_A_GAP.strip().split("\n"):
            connection.execute(statement, values)
    for path in (site.root / LEDGER).parent.glob("ledger.sqlite*"):
        os.chown(path, ACCOUNT, ACCOUNT)
    named = f"project {project}, cloud to ssm: from {begin:%Y-%m-%d %H:%M:%S} to"
    assert verb(site, "gaps", expect=1) == f"{named} {end:%Y-%m-%d %H:%M:%S}: not delivered\n"
    # A record for each month that a server lived in, up to what was delivered.
    first = until.replace(day=1, hour=0, minute=0, second=0)
    spans = [(max(begin, first), until), *([(begin, first - SECOND)] if begin < first else [])]
    count = sum(len(lives(testbed, {project}, *span)) for span in spans)
    assert f": {count} records sent\n" in verb(site, "gaps", "--fill")
    assert verb(site, "gaps") == ""
