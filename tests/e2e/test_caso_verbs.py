"""The verbs of `caso` that read the ledger, and those that send again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.e2e.ledger_site import (
    LAST_MONTH,
    NOW,
    THIS_MONTH,
    CasoPrograms,
    LedgerSite,
    server,
    shrunk,
)
from tests.simulators.openstack import Cloud, serving

MONTH = f"{LAST_MONTH:%Y-%m}"
HALF = THIS_MONTH - timedelta(days=10)


@pytest.fixture
def site(tmp_path: Path, caso_programs: CasoPrograms) -> Iterator[LedgerSite]:
    cloud = Cloud(projects=("one",), servers=0, deleted=0)
    cloud.more["one"] = [server(number, created=NOW - timedelta(days=50)) for number in range(3)]
    with serving(cloud) as served:
        yield LedgerSite(served, tmp_path, caso_programs)


def make_younger(site: LedgerSite) -> tuple[str, float]:
    """Have Nova report a later creation of a server; return its id and the hours that it loses."""
    changed = site.cloud.more["one"][0]
    changed |= server(0, created=NOW - timedelta(days=45))
    return changed["id"], 5 * 24.0


def test_republish_shows_each_server_and_writes_nothing(site: LedgerSite) -> None:
    site.run()
    key, lost = make_younger(site)
    before, content = site.records(), site.ledger.read_bytes()
    lines = site.verb("republish", "--month", MONTH)
    assert lines[0] == f"project one (one): {MONTH}, cloud to ssm"
    wall = {one[0]: seconds for one, seconds in site.repository().items() if one[1] == MONTH}
    shown = {line.split()[0]: line for line in lines[1:4]}
    assert shown.keys() == wall.keys()
    for server_id, line in shown.items():
        delivered = wall[server_id] / 3600
        now = delivered - lost * (server_id == key)
        difference = f"-{lost:.1f}" if server_id == key else "+0.0"
        assert (
            line == f"  {server_id}  delivered {delivered:.1f} h, now {now:.1f} h: {difference} h"
        )
    total = sum(wall.values()) / 3600
    assert (
        lines[4] == f"  sum of 3: delivered {total:.1f} h, now {total - lost:.1f} h: -{lost:.1f} h"
    )
    assert lines[5].startswith(
        "nothing was written; to send these amounts: caso republish --month "
    )
    assert lines[5].endswith("--allow-decrease --reason TEXT")
    assert site.records() == before
    assert site.ledger.read_bytes() == content


def test_republish_takes_hours_back_when_a_person_allows_it(site: LedgerSite) -> None:
    """F-A1: nothing else does; the ledger keeps when and why, and the guard holds from then on."""
    site.run()
    key, lost = make_younger(site)
    before, lastrun = site.repository(), site.lastrun().read_text()
    flags = ("--month", MONTH, "--project", "one", "--allow-decrease", "--reason", "a wrong clock")
    lines = site.verb("republish", *flags)
    assert lines[-1] == f"project one (one): {MONTH} sent again: 3 records, 1 messages"
    after = site.repository()
    assert shrunk(before, after) == {
        (key, MONTH): (before[key, MONTH], before[key, MONTH] - int(lost * 3600))
    }
    assert site.lastrun().read_text() == lastrun
    [decrease] = [line for line in site.verb("gaps") if "taken back" in line]
    assert f"{MONTH}: {key}: {lost:.1f} h taken back on " in decrease
    assert decrease.endswith(": a wrong clock")
    # Once more changes nothing, and needs nothing.
    lines = site.verb("republish", "--month", MONTH)
    assert lines[4].endswith(": +0.0 h")


@pytest.mark.parametrize("is_sent", [False, True])
def test_hours_that_were_taken_back_are_not_read_again_from_earlier_messages(
    site: LedgerSite, *, is_sent: bool
) -> None:
    """Until a sender has sent the later message, spool or journal has the greater amount."""
    site.run()
    if is_sent:
        site.send()
    make_younger(site)
    this_month = f"{NOW:%Y-%m}"
    site.verb("republish", "--month", this_month, "--allow-decrease")
    site.verb("republish", "--month", MONTH, "--allow-decrease")
    for month in (this_month, MONTH):
        lines = site.verb("republish", "--month", month)
        assert [line for line in lines if ": -" in line] == []
    before = site.repository()
    site.run()  # withholds nothing
    assert shrunk(before, site.repository()) == {}


def test_republish_keeps_what_the_cloud_no_longer_shows(site: LedgerSite) -> None:
    site.run()
    gone = site.cloud.more["one"][0]
    gone["_archived"] = True
    before = site.repository()
    lines = site.verb("republish", "--month", MONTH, "--allow-decrease")
    [line] = [line for line in lines if gone["id"] in line]
    assert line.endswith(" h, no longer in the cloud: stays")
    assert shrunk(before, site.repository()) == {}


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--month", "2026-13"), 2, "'2026-13' is not a month; write it like 2026-10"),
        (("--month", "2099-01"), 3, "month 2099-01: has not begun; choose another month"),
        ((), 2, "the following arguments are required: --month"),
        (
            ("--month", MONTH, "--project", "nine"),
            3,
            "project nine: is not among the projects that are accounted; see caso projects",
        ),
    ],
)
def test_republish_of_what_there_is_not(
    site: LedgerSite, flags: tuple[str, ...], status: int, words: str
) -> None:
    site.run()
    shown = site.run("republish", *flags, "--allow-decrease", expect=status, program="caso")
    assert words in shown.stderr


@pytest.mark.parametrize("verb", [("republish", "--month", MONTH), ("gaps", "--fill")])
def test_a_project_that_cannot_be_accounted_is_reported(
    site: LedgerSite, verb: tuple[str, ...]
) -> None:
    site.run()
    site.options["projects"] = "one, nine"
    shown = site.run(*verb, expect=1, program="caso")
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"caso {verb[0]}: project nine: the account 'u' sees no such project")
    written = (site.root / "caso.conf").read_text().splitlines()
    place = f"{site.root}/caso.conf:{written.index('projects = one, nine') + 1}"
    assert f"; correct its name at {place}, or: openstack role add" in line


def test_gaps_are_listed_and_filled(site: LedgerSite) -> None:
    site.run("--extract-to", (HALF - timedelta(days=5)).isoformat())
    short = server(8, created=HALF - timedelta(days=4))
    ended = HALF - timedelta(days=3)
    short |= {
        "status": "DELETED",
        "updated": f"{ended:%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:terminated_at": f"{ended:%Y-%m-%dT%H:%M:%S}.000000",
    }
    site.cloud.more["one"].append(short)
    site.run("--extract-from", HALF.isoformat())
    assert short["id"] not in {server_id for server_id, _ in site.repository()}
    begin = HALF - timedelta(days=5) + timedelta(seconds=1)
    end = HALF - timedelta(seconds=1)
    [line] = site.verb("gaps", expect=1)
    assert line == (
        "project one, cloud to ssm:"
        f" from {begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S}: not delivered"
    )
    before, lastrun = site.repository(), site.lastrun().read_text()
    filled = site.verb("gaps", "--fill")
    assert len(filled) == 1
    assert filled[0].endswith(" records sent")
    after = site.repository()
    assert shrunk(before, after) == {}
    assert after[short["id"], MONTH] == 24 * 3600
    assert site.lastrun().read_text() == lastrun
    assert site.verb("gaps") == []


def test_what_another_program_delivered_is_listed_and_no_gap(site: LedgerSite) -> None:
    site.lastrun().parent.mkdir(parents=True)
    site.lastrun().write_text(str(NOW - timedelta(days=1)))
    site.run()
    [line] = site.verb("gaps")
    assert line.startswith("project one, cloud to ssm: from the beginning to ")
    assert line.endswith(": delivered without this ledger")
    site.verb("gaps", "--fill", "--unknown")
    assert site.verb("gaps") == []


def test_estimates_are_listed(site: LedgerSite) -> None:
    """F-A8."""
    site.run()
    gone = site.cloud.more["one"][0]
    gone["_archived"] = True
    site.run()
    [line] = site.verb("gaps", expect=1)
    assert f": {gone['id']}: estimated, because it vanished; closed when it was seen last" in line


def test_show_prints_what_was_delivered(site: LedgerSite) -> None:
    site.run()
    key = site.cloud.more["one"][0]["id"]
    header, *rows = site.verb("ledger", "show", key)
    assert header.split() == [
        "month",
        "kind",
        "destination",
        "amount",
        "VO",
        "user",
        "sent",
        "message",
    ]
    delivered = {
        month: seconds
        for (server_id, month), seconds in site.repository().items()
        if server_id == key
    }
    shown = {row.split()[0]: float(row.split()[3]) for row in rows if not row.startswith("seen ")}
    assert shown == {month: round(seconds / 3600, 2) for month, seconds in delivered.items()}
    assert rows[-1].startswith("seen from ")
    assert " vo.one " in rows[0]
    assert "cpu_count 2" in rows[-1]
    assert site.verb("ledger", "show", "nothing", expect=1) == ["nothing: not in the ledger"]


def test_a_user_is_forgotten_and_old_months_are_purged(site: LedgerSite) -> None:
    site.run()
    user = site.cloud.more["one"][0]["user_id"]
    assert user.encode() in site.ledger.read_bytes()
    assert user.encode() in site.ledger.with_name("memory.sqlite").read_bytes()
    [line] = site.verb("ledger", "forget", user, "--dry-run")
    rows = int(line.split()[0])
    assert rows > 0
    assert site.verb("ledger", "forget", user) == [
        f"{rows} rows no longer have this user; their hours stay"
    ]
    memory = site.ledger.with_name("memory.sqlite")
    for path in (site.ledger, memory):
        assert f"{user}".encode() not in path.read_bytes()
    [line] = site.verb("ledger", "purge", "--dry-run")
    assert line.startswith("months before ")
    [line] = site.verb("ledger", "purge")
    assert line.startswith("0 rows of months before ")


def test_checkpoints_of_ledger_and_files(site: LedgerSite) -> None:
    site.run()
    ledger, file = site.verb("checkpoints")
    assert ledger.startswith("project one, cloud to ssm: accounted up to ")
    assert file.startswith("lastrun.one: accounted up to ")
    assert (
        ledger.rpartition("accounted")[2].split(",")[0]
        == file.rpartition("accounted")[2].split(",")[0]
    )


@pytest.mark.parametrize("verb", [("gaps",), ("ledger", "show", "x"), ("checkpoints",)])
def test_verbs_that_read_make_no_ledger(site: LedgerSite, verb: tuple[str, ...]) -> None:
    """They work on a site that still runs cASO."""
    site.verb(*verb, expect=1 if "show" in verb else 0)
    assert not site.ledger.exists()


@pytest.mark.parametrize("verb", [("gaps",), ("ledger", "show", "x"), ("checkpoints",)])
def test_verbs_name_a_damaged_ledger(site: LedgerSite, verb: tuple[str, ...]) -> None:
    site.run()
    site.ledger.write_text("no database" * 1000)
    shown = site.run(*verb, expect=3, program="caso")
    assert f"{site.ledger}: is damaged (file is not a database); mv " in shown.stderr
