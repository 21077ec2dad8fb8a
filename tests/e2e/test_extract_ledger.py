"""`caso-extract` with its ledger: no delivered VM-month shrinks, nothing that vanished is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Stream, month_of, month_text
from tests.e2e.ledger_site import (
    LAST_MONTH,
    NOW,
    THIS_MONTH,
    CasoPrograms,
    LedgerSite,
    Repository,
    server,
    shrunk,
)
from tests.simulators.openstack import Cloud, serving


@pytest.fixture
def site(tmp_path: Path, caso_programs: CasoPrograms) -> Iterator[LedgerSite]:
    cloud = Cloud(projects=("one",), servers=0, deleted=0)
    cloud.more["one"] = [server(number, created=NOW - timedelta(days=50)) for number in range(3)]
    with serving(cloud) as served:
        yield LedgerSite(served, tmp_path, caso_programs)


def test_a_window_in_the_middle_of_a_delivered_month_takes_nothing_back(site: LedgerSite) -> None:
    """F-A1: 14 477 hours were lost so, and no later run restored them."""
    site.run()
    before = site.repository()
    assert len(before) >= 6
    end = (THIS_MONTH - timedelta(days=1)).replace(hour=0)  # midnight, as people write it
    shown = site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", f"{end:%Y-%m-%d}")
    after = site.repository()
    assert shrunk(before, after) == {}
    last_second = (THIS_MONTH - timedelta(seconds=1)).isoformat()
    assert (
        f"extracted up to {last_second}, not {end.isoformat()}: more of this month" in shown.stderr
    )
    assert len(site.records()) > len(before)  # the month was sent again, whole


def test_a_window_in_the_current_month_reaches_what_was_delivered(site: LedgerSite) -> None:
    """F-A1: there is no end of the month yet."""
    site.run()
    before = site.repository()
    earlier = (NOW - timedelta(hours=6)).isoformat()
    site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", earlier)
    assert shrunk(before, site.repository()) == {}


@pytest.mark.parametrize("what", ["ledger", "lastrun", "both"])
def test_a_window_in_a_delivered_month_after_a_loss(site: LedgerSite, what: str) -> None:
    """F-A1: either of the two remembers up to when was delivered; without both the cloud does."""
    site.run()
    before = site.repository()
    if what in ("ledger", "both"):
        site.ledger.unlink()
    if what in ("lastrun", "both"):
        site.lastrun().unlink()
    if what == "both":  # as after a new installation: a first run
        site.run()
    else:
        end = THIS_MONTH - timedelta(days=3)
        site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", end.isoformat())
    assert shrunk(before, site.repository()) == {}
    site.run()
    assert shrunk(before, site.repository()) == {}


def test_records_that_would_take_hours_back_are_withheld_and_reported(site: LedgerSite) -> None:
    """A server that Nova says to be younger than it was: only a person may lower its hours."""
    site.run()
    before = site.repository()
    cloud_server = site.cloud.more["one"][0]
    cloud_server |= server(0, created=NOW - timedelta(days=1))
    shown = site.run(expect=1)
    after = site.repository()
    assert shrunk(before, after) == {}
    lines = [line for line in shown.stderr.splitlines() if "records not sent" in line]
    [line] = lines
    assert f"project one (one): {NOW:%Y-%m}: 1 records not sent, of servers such as" in line
    assert cloud_server["id"] in line
    assert " h more were delivered before; if that was wrong: " in line
    assert line.endswith(f"republish --month {NOW:%Y-%m} --allow-decrease")
    # The others went on.
    others = {one["id"] for one in site.cloud.more["one"][1:]}
    assert {record["VMUUID"] for record in site.records()[-2:]} == others


def test_an_end_a_little_before_the_last_record_is_sent(site: LedgerSite) -> None:
    """Nova's clock may differ from Keystone's by seconds: the server must not stay `started`."""
    site.run()
    before = site.repository()
    ended = site.cloud.more["one"][0]
    last = max(
        record["WallDuration"] for record in site.records() if record["VMUUID"] == ended["id"]
    )
    died = NOW - timedelta(days=50) + timedelta(seconds=int(last) - 20)
    ended |= {
        "status": "DELETED",
        "updated": f"{NOW:%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:terminated_at": f"{died:%Y-%m-%dT%H:%M:%S}.000000",
    }
    site.run()
    assert shrunk(before, site.repository()) == {}
    found = [record for record in site.records() if record["VMUUID"] == ended["id"]][-1]
    assert (found["Status"], found["WallDuration"]) == ("completed", last)


def test_a_server_that_vanished_is_closed_when_it_was_seen_last(site: LedgerSite) -> None:
    """F-A8: deleted and archived between two runs, it is in no answer of Nova."""
    site.run()
    seen_until = datetime.fromisoformat(site.lastrun().read_text()) - timedelta(seconds=1)
    gone = site.cloud.more["one"][0]
    gone["_archived"] = True
    shown = site.run()
    assert f"servers {gone['id']} is in no listing any more: closed at " in shown.stderr
    [*_, last] = [record for record in site.records() if record["VMUUID"] == gone["id"]]
    assert last["Status"] == "completed"
    assert int(last["EndTime"]) == int(seen_until.timestamp())
    born = datetime.fromisoformat(gone["created"])
    assert int(last["WallDuration"]) == int((seen_until - born).total_seconds())
    assert (last["CpuCount"], last["Memory"], last["Disk"]) == ("2", "512", "1")
    assert "MachineName" not in last  # the ledger keeps no names
    with Ledger(site.ledger, read_only=True) as ledger:
        [estimated] = ledger.deliveries.estimated()
        assert estimated.row.key == gone["id"]
    # Once: the next run has nothing to say of it.
    count = len([record for record in site.records() if record["VMUUID"] == gone["id"]])
    assert "no listing any more" not in site.run().stderr
    assert len([one for one in site.records() if one["VMUUID"] == gone["id"]]) == count


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_server_that_vanished_is_closed_for_each_destination(
    site: LedgerSite, *, is_listed: bool
) -> None:
    """One of two destinations fails in the run that closes it, or that lists its end."""
    site.options["messengers"] = "ssm, logstash"
    site.run(expect=1)  # no Logstash answers, so records wait
    gone = site.cloud.more["one"][0]
    if is_listed:
        died = datetime.now(UTC)
        gone |= {
            "status": "DELETED",
            "updated": f"{died:%Y-%m-%dT%H:%M:%SZ}",
            "OS-SRV-USG:terminated_at": f"{died:%Y-%m-%dT%H:%M:%S}.000000",
        }
    gone["_archived"] = not is_listed
    obstacle = site.root / "var/spool/caso/waiting/logstash/one.cloud.new"
    obstacle.mkdir()
    site.run(expect=1)
    obstacle.rmdir()
    gone["_archived"] = True
    site.run(expect=1)
    site.run(expect=1)
    with Ledger(site.ledger, read_only=True) as ledger:
        rows = [one for one in ledger.deliveries.of(gone["id"]) if one.row.has_ended]
        [seen] = ledger.sightings.of(gone["id"])
    assert {one.stream.destination for one in rows} == {"ssm", "logstash"}
    assert {one.row.is_estimated for one in rows} == {not is_listed}
    assert len({(one.row.amount, one.row.measured) for one in rows}) == 1
    assert seen.until == rows[0].row.measured


def test_a_server_that_only_usage_shows_has_not_vanished(site: LedgerSite) -> None:
    """F-A8, F-A3: a soft-deleted server accrues; it must not be closed."""
    site.run()
    hidden = site.cloud.more["one"][0]
    hidden |= {"_hidden": True, "status": "SOFT_DELETED"}
    assert "no listing any more" not in site.run().stderr
    last = [record for record in site.records() if record["VMUUID"] == hidden["id"]][-1]
    assert last["Status"] != "completed"


def test_a_run_over_an_explicit_window_closes_nothing(site: LedgerSite) -> None:
    """Servers that were created after its end are not in its records."""
    young = server(7, created=NOW - timedelta(hours=1))
    site.cloud.more["one"].append(young)
    site.run()
    site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", f"{THIS_MONTH:%Y-%m-%d}")
    site.run()
    last = [record for record in site.records() if record["VMUUID"] == young["id"]][-1]
    assert last["Status"] == "started"


def test_an_empty_lastrun_file_does_not_stop_its_project(site: LedgerSite) -> None:
    """F-A11: cASO leaves one on a full disk; the ledger says how far it was."""
    site.run("--extract-to", (NOW - timedelta(hours=1)).isoformat())
    site.lastrun().write_text("")
    shown = site.run()
    assert f"{site.lastrun()}: has no time from which to go on" in shown.stderr
    assert "; going on from " in shown.stderr
    assert datetime.fromisoformat(site.lastrun().read_text())


def test_a_lastrun_file_that_was_set_back_is_followed(site: LedgerSite) -> None:
    site.run()
    count = len(site.records())
    site.lastrun().write_text(str(LAST_MONTH))
    site.run()
    months = {
        month_of(datetime.fromisoformat(record_end(record))) for record in site.records()[count:]
    }
    assert {month_of(LAST_MONTH), month_of(NOW)} <= months


def record_end(record: dict[str, str]) -> str:
    stamp = int(record["StartTime"]) + int(record["WallDuration"])
    return datetime.fromtimestamp(stamp, UTC).isoformat()


def test_a_ledger_restored_from_a_copy_is_noticed(site: LedgerSite) -> None:
    """Its checkpoint is older than the lastrun file: what was delivered since is not known."""
    site.run("--extract-to", (NOW - timedelta(days=3)).isoformat())
    copy = site.root / "copy"
    shutil.copy(site.ledger, copy)
    site.run()
    before = site.repository()
    shutil.copy(copy, site.ledger)
    shown = site.run()
    assert "project one (one): accounted up to " in shown.stderr
    assert (
        f"or {site.ledger} is an older copy; what is still there is extracted again" in shown.stderr
    )
    assert shrunk(before, site.repository()) == {}
    assert "is an older copy" not in site.run().stderr


def known(site: LedgerSite) -> Repository:
    """Return what the ledger has, by server and month."""
    with Ledger(site.ledger, read_only=True) as ledger:
        return {
            (one.row.key, month_text(month)): one.row.amount
            for month in ledger.deliveries.months()
            for one in ledger.deliveries.rows(month, "ssm")
        }


@pytest.mark.parametrize("sent", ["all", "none", "some"])
def test_a_lost_ledger_is_read_again_from_spool_and_journal(site: LedgerSite, sent: str) -> None:
    """Then the guard holds for months that the next run does not extract."""
    site.run("--extract-to", (NOW - timedelta(hours=2)).isoformat())
    if sent != "none":
        site.send()
    site.run("--extract-to", (NOW - timedelta(hours=1)).isoformat())
    if sent == "all":
        site.send()
    if sent == "none":
        site.journal.parent.mkdir(parents=True, exist_ok=True)
        site.journal.touch()  # what a kill of the first sender leaves
    before = site.repository()
    site.ledger.unlink()
    shown = site.run()
    assert f"{site.ledger}: read again what was delivered: " in shown.stderr
    assert "cannot be read" not in shown.stderr
    assert known(site) == site.repository()
    assert shrunk(before, site.repository()) == {}
    assert "read again" not in site.run().stderr
    # A month that was not extracted since: the cloud now shows less of it.
    site.cloud.more["one"][0] |= server(0, created=NOW - timedelta(days=45))
    flags = ("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", THIS_MONTH.isoformat())
    shown = site.run(*flags, expect=1)
    assert f"{LAST_MONTH:%Y-%m}: 1 records not sent" in shown.stderr
    assert shrunk(before, site.repository()) == {}


def test_a_journal_that_cannot_be_read_is_read_later(site: LedgerSite) -> None:
    site.run()
    site.send()
    content = site.journal.read_bytes()
    site.ledger.unlink()
    site.journal.write_text("no database " * 500)
    for _ in range(2):
        shown = site.run()
        assert f"{site.journal}: the journal of sent messages cannot be read (file is not" in (
            shown.stderr
        )
        assert (LAST_MONTH.strftime("%Y-%m")) not in {month for _, month in known(site)}
    site.journal.write_bytes(content)
    # Those of this month are known from the runs since.
    count = sum(month < f"{NOW:%Y-%m}" for _, month in site.repository())
    assert f", {count} of the journal of sent messages" in site.run().stderr
    assert known(site) == site.repository()
    assert "journal" not in site.run().stderr


def test_a_ledger_of_an_older_copy_learns_what_was_sent_since(site: LedgerSite) -> None:
    site.run("--extract-to", (NOW - timedelta(days=40)).isoformat())
    copy = site.ledger.read_bytes()
    site.run()
    site.send()
    site.ledger.write_bytes(copy)
    shown = site.run("--extract-to", (NOW - timedelta(days=39)).isoformat())
    assert "read again what was delivered" in shown.stderr
    assert shrunk(site.repository(), known(site)) == {}


def test_a_ledger_of_an_older_copy_learns_from_the_last_of_several_messages(
    site: LedgerSite,
) -> None:
    site.run("--extract-to", (NOW - timedelta(hours=3)).isoformat())
    copy = site.ledger.read_bytes()
    site.run("--extract-to", (NOW - timedelta(hours=1)).isoformat())
    before = site.repository()
    site.ledger.write_bytes(copy)
    site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", f"{LAST_MONTH:%Y-%m-02}")
    assert shrunk(before, known(site)) == {}


def test_an_older_copy_of_the_whole_state_takes_nothing_back(site: LedgerSite) -> None:
    """A snapshot of the host was restored: only the journal is of today."""
    site.run("--extract-to", (NOW - timedelta(days=45)).isoformat())
    saved = {path: path.read_bytes() for path in (site.ledger, site.lastrun())}
    site.run()
    site.send()
    before = site.repository()
    for path, content in saved.items():
        path.write_bytes(content)
    end = NOW - timedelta(days=40)
    shown = site.run("--extract-to", end.isoformat(), expect=1)
    assert "read again what was delivered" in shown.stderr
    assert f"{end:%Y-%m}: 3 records not sent" in shown.stderr
    assert shrunk(before, site.repository()) == {}
    site.run()
    assert shrunk(before, site.repository()) == {}


def test_a_period_in_the_past_keeps_what_the_ledger_knows(site: LedgerSite) -> None:
    """Journal and spool have neither the VO nor the user of a record."""
    site.run()
    site.send()
    key = site.cloud.more["one"][0]["id"]
    earlier = (NOW - timedelta(days=1)).isoformat()
    site.run("--extract-from", f"{LAST_MONTH:%Y-%m-%d}", "--extract-to", earlier)
    with Ledger(site.ledger, read_only=True) as ledger:
        assert {one.row.vo for one in ledger.deliveries.of(key)} == {"vo.one"}
        assert None not in {one.row.user for one in ledger.deliveries.of(key)}


def test_a_site_that_comes_from_caso_goes_on_and_knows_what_is_unknown(site: LedgerSite) -> None:
    site.lastrun().parent.mkdir(parents=True)
    site.lastrun().write_text(str(NOW - timedelta(days=1)))
    site.run()
    origin = Origin(f"{site.cloud.url}/v3", "", "one")
    with Ledger(site.ledger, read_only=True) as ledger:
        reached = ledger.windows.reached(Stream(origin, "cloud", "ssm"))
    assert [span.is_known for span in reached.spans] == [False, True]
    assert reached.gaps() == []


def test_the_later_run_is_sent_later_whatever_the_clock_does(
    site: LedgerSite, tmp_path: Path
) -> None:
    """F-A4: two hours ahead for one run, then corrected, with an unsent spool."""
    site.run("--extract-to", (NOW - timedelta(hours=3)).isoformat())
    spool = site.root / "var/spool/apel/outgoing/openstack"
    [directory] = spool.glob("????????")
    for path in list(directory.iterdir()):  # as a clock two hours ahead names them
        stamp = int(path.name[:8], 16) + 7200
        later = spool / f"{stamp - stamp % 60:08x}"
        later.mkdir(exist_ok=True)
        path.rename(later / f"{stamp:08x}{path.name[8:]}")
    directory.rmdir()
    before = site.repository()
    site.run()
    after = site.repository()
    assert shrunk(before, after) == {}
    assert sum(after.values()) > sum(before.values())


def test_a_dry_run_leaves_no_ledger_and_knows_it(site: LedgerSite) -> None:
    site.run("--dry-run")
    assert not site.ledger.exists()
    site.run()
    content = site.ledger.read_bytes()
    site.run("--dry-run", "--extract-from", f"{LAST_MONTH:%Y-%m-%d}")
    assert site.ledger.read_bytes() == content


def _tear(path: Path) -> None:
    os.truncate(path, 5000)


def _replace(path: Path) -> None:
    path.write_text("not a database at all, but long enough to be one\n" * 200)


@pytest.mark.parametrize("damage", [_tear, _replace])
def test_a_damaged_ledger_is_one_line_and_sends_nothing(
    site: LedgerSite, damage: Callable[[Path], None]
) -> None:
    site.run()
    count = len(site.records())
    damage(site.ledger)
    shown = site.run(expect=3)
    [line] = [line for line in shown.stderr.splitlines() if line.startswith("caso-extract: ")]
    assert f"{site.ledger}: is damaged (" in line
    assert f"mv {site.ledger} {site.ledger}.damaged; " in line
    assert len(site.records()) == count
    site.ledger.rename(site.ledger.with_name("ledger.sqlite.damaged"))
    before = site.repository()
    site.run()
    assert shrunk(before, site.repository()) == {}


def test_months_are_purged_by_a_time_that_the_cloud_confirms(site: LedgerSite) -> None:
    """A clock that is ahead by years must not remove what protects the months of today."""

    def floor() -> int | None:
        with Ledger(site.ledger, read_only=True) as ledger:
            return ledger.retention.floor()

    def two_years_before(moment: datetime) -> int:
        return month_of(moment) - 200

    site.cloud.more["one"].append(server(9, created=NOW - timedelta(days=900)))
    site.run()
    site.cloud.clock_offset = -timedelta(days=800)
    site.run(expect=3)
    assert floor() is None
    site.cloud.clock_offset = timedelta(0)
    last = NOW - timedelta(days=70)
    with closing(sqlite3.connect(site.ledger)) as connection, connection:
        connection.execute("UPDATE streams SET checkpoint = ?", (int(last.timestamp()),))
    site.run()
    assert floor() == two_years_before(last + timedelta(days=31))
    site.run()
    assert floor() == two_years_before(NOW)


@pytest.mark.parametrize("is_sent", [False, True])
def test_an_older_copy_of_the_state_closes_no_server_too_early(
    site: LedgerSite, *, is_sent: bool
) -> None:
    """Ledger and lastrun are of yesterday; today's messages are in the journal or the spool."""
    site.run()
    if is_sent:
        site.send()
    before = site.repository()
    age = int(min(timedelta(hours=20), (NOW - THIS_MONTH) / 2).total_seconds())
    with closing(sqlite3.connect(site.ledger)) as connection, connection:
        amounts = "amount = amount - :age, measured = measured - :age"
        for change in (
            f"deliveries SET {amounts} WHERE month = {NOW:%Y%m}",
            "streams SET checkpoint = checkpoint - :age",
            "windows SET end = end - :age",
            "looks SET at = at - :age",
            "sightings SET since = since - :age",
        ):
            connection.execute(f"UPDATE {change}", {"age": age})
    last = datetime.fromisoformat(site.lastrun().read_text())
    site.lastrun().write_text(str(last - timedelta(seconds=age)))
    gone = site.cloud.more["one"][0]
    gone["_archived"] = True
    site.run()
    assert shrunk(before, site.repository()) == {}
    with Ledger(site.ledger, read_only=True) as ledger:
        [estimate] = ledger.deliveries.estimated()
    assert estimate.row.key == gone["id"]
    assert estimate.row.amount == before[gone["id"], f"{NOW:%Y-%m}"]


def test_what_another_ledger_sends_from_the_same_spool_is_not_read_each_time(
    site: LedgerSite,
) -> None:
    """Two configurations may share a spool: the records of the other one go further than ours."""
    site.run()
    site.send()
    other = server(77, created=NOW - timedelta(days=3))
    with closing(sqlite3.connect(site.journal)) as connection, connection:
        [row] = connection.execute("SELECT * FROM record ORDER BY measured DESC LIMIT 1").fetchall()
        later = int(row[5]) + 30 * 86400
        changed = (*row[:2], other["id"], *row[3:5], later, other["id"], *row[7:])
        places = ", ".join("?" * len(changed))
        connection.execute(f"INSERT INTO record VALUES ({places})", changed)  # noqa: S608
    assert "read again" not in site.run().stderr
    with closing(sqlite3.connect(site.journal)) as connection, connection:
        connection.execute("UPDATE record SET measured = ? WHERE key = ?", (later, row[2]))
    with Ledger(site.ledger, read_only=True) as ledger:
        assert ledger.deliveries.of(other["id"]) == []
    assert "read again" in site.run().stderr
    with Ledger(site.ledger, read_only=True) as ledger:
        assert [one.row.vo for one in ledger.deliveries.of(other["id"])] == [""]
