"""`caso shadow` and `caso compare` beside cASO 5.2.2, which really runs, and a sender.

The hours of both sides are counted apart from the code under test: ours by Nova's database, cASO's
by APEL's rule on what it has spooled.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from caso.shadow.causes import Cause
from tests import documents
from tests.demo import counters
from tests.e2e.caso_site import PEER, CasoSite, lines
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]

_SEND = """
import sys
from dirq.QueueSimple import QueueSimple
queue = QueueSimple(sys.argv[1])
name = queue.first()
while name:
    if queue.lock(name):
        queue.remove(name)
    name = queue.next()
queue.purge()
"""
"""Takes messages away as SSM does once the broker has them."""


@pytest.fixture(scope="module")
def testbed(testbed: Testbed) -> Iterator[Testbed]:
    """Return the test bed with servers of the last ten weeks, so that months matter."""
    testbed.bulk(60, days=70, running=40)
    yield testbed
    testbed.clear_bulk()


class ShadowedSite(CasoSite):
    """A site on which cASO runs, and a sender after it."""

    kept: list[str]

    @property
    def shadow(self) -> Path:
        return self.root / "var/lib/fedcloud/caso/shadow"

    def account(self, until: datetime, *, zone: str = "UTC") -> None:
        """Run cASO up to a moment, on a host in a time zone."""
        environment = {**os.environ, "TZ": zone}
        command = self.peer_command("caso-extract", "--extract-to", until.isoformat())
        subprocess.run(
            command, check=True, capture_output=True, timeout=300, cwd=self.root, env=environment
        )

    def send(self) -> list[str]:
        """Take all messages away and return them."""
        sent = self.messages()
        command = [str(PEER / "python"), "-P", "-c", _SEND, str(self.spool)]
        subprocess.run(command, check=True, timeout=60)
        assert self.messages() == []
        return sent

    def compared(self, *flags: str, expect: int = 0) -> Any:
        shown = self.verb("compare", "--json", *flags, expect=expect)
        return json.loads(shown.stdout)

    def verb(
        self, name: str, *flags: str, expect: int = 0, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a verb of caso."""
        configuration = () if name == "compare" else ("--config-file", str(self.configuration))
        command = [
            *(*prefix, self.command("caso")[0], name, "--root", str(self.root)),
            *(*configuration, *flags),
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert shown.returncode == expect, f"{shown.returncode}\n{shown.stdout}{shown.stderr}"
        assert "Traceback" not in shown.stderr
        return shown


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> ShadowedSite:
    made = ShadowedSite(tmp_path / "site", testbed)
    tagged = [item.id for item in testbed.seed().projects.values() if "caso" in item.tags]
    made.default["projects"] = ", ".join(tagged)
    made.write()
    return made


def moment() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=2)


def hours(compared: Any, side: str) -> dict[str, int]:
    """Return the wall seconds of a side by month."""
    found: dict[str, int] = {}
    for row in compared["months"]:
        found[row["month"]] = found.get(row["month"], 0) + row["wall_seconds"][side]
    return found


def causes(compared: Any) -> set[str]:
    return {row["cause"] for row in compared["causes"]}


def foreign(site: ShadowedSite) -> dict[str, bytes]:
    """Return everything of the site that is not the shadow's."""
    return {name: text for name, text in site.files().items() if "fedcloud/caso/shadow" not in name}


@pytest.mark.matrix
def test_every_hour_of_a_shadow_is_explained(site: ShadowedSite) -> None:
    """CASO and a sender run as they do; the shadow sees each message, and changes nothing."""
    now = moment()
    start = now - timedelta(days=40)
    site.account(start)
    site.send()
    site.verb("shadow", "--only-keep")  # what is there already belongs to earlier runs
    sent: list[str] = []
    ends = [now - timedelta(days=days) for days in (33, 20, 6, 1, 0)]
    for number, end in enumerate(ends):
        if number != 2:  # cASO was stopped for two weeks
            site.account(end - timedelta(minutes=7))
        before = foreign(site)
        site.verb("shadow", "--extract-to", end.isoformat())
        assert foreign(site) == before
        sent += site.send()
    compared = site.compared()
    assert compared["unexplained"] == 0
    assert compared["unread"] == {"ours": 0, "caso": 0}
    of_servers = [text for text in sent if text.startswith("APEL-cloud-message")]
    assert compared["messages"]["caso"] == len(of_servers)
    assert causes(compared) <= {"cut", "never-launched"}
    first = min(hours(compared, "ours"))
    wanted = dict.fromkeys(hours(compared, "ours"), 0)
    for (project, month), usage in counters.nova_usage(site.testbed.nova_database, now).items():
        if project in str(site.default["projects"]) and month > first:
            wanted[month] += usage.seconds
    ours = hours(compared, "ours")
    assert {month: ours[month] for month in ours if month > first} == {
        month: wanted[month] for month in ours if month > first
    }
    for row in compared["differences"]:
        for figure in ("wall", "cpu"):
            both = row[f"{figure}_seconds"]
            assert sum(row[f"{figure}_causes"].values()) == both["ours"] - both["caso"]
    text = site.verb("compare").stdout
    assert "servers and months are equal or explained" in text


@pytest.mark.matrix
def test_equal_cuts_are_equal(site: ShadowedSite) -> None:
    now = moment()
    site.account(now - timedelta(days=2))
    site.send()
    site.verb("shadow", "--extract-to", (now - timedelta(days=1)).isoformat())
    site.account(now - timedelta(days=1))
    site.account(now)
    site.verb("shadow", "--extract-to", now.isoformat())
    compared = site.compared("--from", f"{now:%Y-%m}")
    assert compared["unexplained"] == 0
    assert causes(compared) <= {"never-launched"}
    assert hours(compared, "ours") == hours(compared, "caso")


@pytest.mark.matrix
@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Madrid"])
def test_a_host_in_another_time_zone_is_explained(zone: str, site: ShadowedSite) -> None:
    now = moment()
    border = now.replace(day=1, hour=0, minute=0, second=0)
    end = border - timedelta(minutes=30) if zone.startswith("America") else border
    if zone == "Europe/Madrid":
        end += timedelta(minutes=30)
    site.account(end - timedelta(days=3), zone=zone)
    site.send()
    site.verb("shadow", "--extract-to", (end - timedelta(days=1)).isoformat())
    site.account(end, zone=zone)
    site.verb("shadow", "--extract-to", end.isoformat())
    compared = site.compared()
    assert compared["unexplained"] == 0
    assert "time-zone" in causes(compared)


@pytest.mark.matrix
def test_a_lost_end_and_a_lost_project_are_shown(site: ShadowedSite) -> None:
    """CASO's message with ended servers is taken before the shadow sees it."""
    now = moment()
    site.account(now - timedelta(days=30))
    site.send()
    site.verb("shadow", "--extract-to", (now - timedelta(days=29)).isoformat())
    site.account(now - timedelta(days=3))
    site.send()  # nobody has kept these
    site.account(now)
    site.verb("shadow", "--extract-to", now.isoformat())
    compared = site.compared()
    assert {"missing"} <= causes(compared)
    missing = [row for row in compared["differences"] if "missing" in row["wall_causes"]]
    assert missing
    assert all(row["until"]["caso"] is None for row in missing)


def test_the_commands_of_the_how_to(site: ShadowedSite) -> None:
    """In the order of the page; `appliance run caso -- VERB` starts `caso VERB`."""
    site.account(moment() - timedelta(hours=1))
    for name in ("check", "shadow", "keep", "compare"):
        if name == "keep":
            site.account(moment())
        (line,) = documents.block("switch-from-caso.md", name).commands()
        (words,) = documents.words(line)
        assert words[:4] == ["appliance", "run", "caso", "--"]
        site.verb(*words[4:])
    page = (documents.HOW_TO / "switch-from-caso.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)`", page, re.MULTILINE)) >= set(Cause) - {
        *("end", "no-run", "figures")
    }


def test_a_dry_run_and_only_keep(site: ShadowedSite) -> None:
    before = site.files()
    shown = site.verb("shadow", "--dry-run")
    assert "VO ops: from 1970-01-01" in shown.stdout
    assert site.files() == before
    site.verb("shadow", "--only-keep")
    assert not list((site.shadow / "spool").glob("*/*/*"))
    site.run_peer("caso-extract")
    shown = site.verb("shadow", "--only-keep")
    count = len(site.messages())
    assert f"{count} messages of {site.spool} kept" in shown.stdout
    kept = sorted((site.shadow / "cASO").glob("????????/" + "?" * 14))
    assert len(kept) == count
    assert all(path.stat().st_nlink == 2 for path in kept)
    assert site.verb("shadow", "--only-keep").stdout.startswith("0 messages")


@pytest.mark.matrix
def test_messages_of_another_file_system_are_copied(site: ShadowedSite) -> None:
    site.verb("shadow", "--only-keep")
    site.run_peer("caso-extract")
    count = len(site.messages())
    shown = site.verb("shadow", "--only-keep", prefix=failing("EXDEV"))
    assert f"{count} of them as copies" in shown.stdout
    kept = sorted((site.shadow / "cASO").glob("????????/" + "?" * 14))
    assert [path.read_text() for path in kept] == site.messages()
    assert all(path.stat().st_nlink == 1 for path in kept)


def failing(error: str) -> tuple[str, ...]:
    """Return the beginning of a command in which no hard link can be made."""
    quiet = ("strace", "-f", "-qqq", "-o", "/dev/null", "-e", "signal=none")
    return (*quiet, "-e", f"inject=link,linkat:error={error}")


def test_a_full_disk_is_one_line_and_loses_nothing(site: ShadowedSite) -> None:
    site.verb("shadow", "--only-keep")
    site.run_peer("caso-extract")
    shown = site.verb("shadow", "--only-keep", expect=3, prefix=failing("ENOSPC"))
    (line,) = lines(shown)
    assert "No space left on device" in line
    count = len(site.messages())
    assert f"{count} messages" in site.verb("shadow", "--only-keep").stdout
    shutil.rmtree(site.shadow)
    (line,) = lines(site.verb("compare", expect=3))
    assert line.endswith("there is no shadow; begin one with: caso shadow")
