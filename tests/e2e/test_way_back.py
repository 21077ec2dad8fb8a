"""From our accounting to cASO 5.2.2 and back, for servers and volumes.

The truth is in the databases of Nova and Cinder. The repository is played by its rules: of a server
and month the last record counts, of volumes the last record of each id.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from caso.kinds.storage import NAMESPACE
from tests.demo import counters
from tests.e2e.caso_site import CasoSite
from tests.testbed import Testbed

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]

SR = "{" + NAMESPACE + "}"
SECOND = timedelta(seconds=1)
OURS_FIRST, PEER_FIRST = ("ours", "peer", "ours"), ("peer", "ours", "peer")
NOW = datetime.now(UTC).replace(microsecond=0)
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0)
BORN = (MONTH - timedelta(days=1)).replace(day=1) - timedelta(days=9)
"""Volumes were created two months ago, so that months matter."""
GIB = 2**30


@pytest.fixture(scope="module")
def testbed(testbed: Testbed) -> Iterator[Testbed]:
    """Return the test bed with servers of the last ten weeks and volumes of two months ago."""
    testbed.bulk(30, days=70)
    database = testbed.layout.database("cinder")
    before = ask(database, "SELECT id, created_at FROM volumes")
    ask(database, "UPDATE volumes SET created_at = ?", f"{BORN:%Y-%m-%d %H:%M:%S}")
    yield testbed
    for volume, created in before:
        ask(database, "UPDATE volumes SET created_at = ? WHERE id = ?", created, volume)
    testbed.clear_bulk()


def ask(database: Path, statement: str, *values: object) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database, timeout=60)) as opened, opened:
        return opened.execute(statement, values).fetchall()


@pytest.fixture
def site(testbed: Testbed, tmp_path: Path) -> CasoSite:
    made = CasoSite(tmp_path / "site", testbed, default={"extractor": "nova,cinder"})
    made.ssm["output_path_storage"] = f"{made.spool}-storage"
    made.write()
    return made


class Star(NamedTuple):
    """A record of a volume at the repository."""

    project: str
    start: datetime
    end: datetime
    size: int
    """GiB."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Programs that follow one another, each up to its own time."""

    site: CasoSite
    until: datetime

    def part(self, number: int) -> datetime:
        """Return the end of a third of this month up to now: the third one is now."""
        past = (self.until - MONTH) * number / 3
        return self.until if number == 3 else (MONTH + past).replace(microsecond=0)

    def step(self, program: str, end: datetime, *flags: str) -> str:
        start = self.site.run if program == "ours" else self.site.run_peer
        listed = self.site.default.get("projects")
        if listed and program == "peer":
            # cASO 5.2.2 asks Keystone for each project by its id, so names are unknown to it.
            self.site.default["projects"] = ",".join(sorted(self.ids))
        self.site.write()
        self.site.default["projects"] = listed
        return start("caso-extract", *flags, "--extract-to", end.isoformat()).stdout

    def servers(self) -> dict[str, int]:
        """Return the seconds of each project at the repository, over all months."""
        counted, _ = counters.accounted(self.site.records())
        return totals(counted)

    def true_servers(self) -> dict[str, int]:
        counted = totals(counters.nova_usage(self.site.testbed.nova_database, self.until))
        return {project: seconds for project, seconds in counted.items() if project in self.ids}

    @property
    def ids(self) -> dict[str, str]:
        """Return the names of the accounted projects, by id."""
        listed = str(self.site.default.get("projects") or "")
        return {
            project.id: project.name
            for project in self.site.testbed.seed().projects.values()
            if project.vo
            if not listed or {project.id, project.name} & set(listed.split(","))
        }

    def stars(self) -> dict[str, Star]:
        """Return the records of volumes that the repository holds, by id."""
        kept = {}
        for path in sorted(self.site.spool.parent.glob("openstack*/????????/" + "?" * 14)):
            text = path.read_text()
            if not text.startswith("<sr:StorageUsageRecords"):
                continue
            for record in ET.fromstring(text):  # noqa: S314  our own
                identity = record.find(f"{SR}RecordIdentity")
                assert identity is not None
                moments = [record.findtext(f"{SR}{name}Time", "") for name in ("Start", "End")]
                # cASO writes times without a zone: those of its host, which are UTC here.
                start, end = (
                    datetime.fromisoformat(moment).replace(microsecond=0, tzinfo=UTC)
                    for moment in moments
                )
                size = int(record.findtext(f"{SR}ResourceCapacityUsed", "")) // GIB
                group = record.findtext(f"{SR}SubjectIdentity/{SR}LocalGroup", "")
                kept[identity.attrib[f"{SR}recordId"]] = Star(group, start, end, size)
        return kept

    def true_volumes(self) -> list[tuple[str, str, int]]:
        """Return id, project and GiB of the volumes in Cinder's database."""
        rows = ask(
            self.site.testbed.layout.database("cinder"),
            "SELECT id, project_id, size FROM volumes WHERE NOT deleted",
        )
        found = [(key, project, int(size)) for key, project, size in rows if project in self.ids]
        assert found
        return found

    def whole(self, end: datetime) -> dict[str, Star]:
        """Return our records of this month by Cinder's database."""
        return {
            f"{key}-{MONTH:%Y%m}": Star(project, MONTH, end, size)
            for key, project, size in self.true_volumes()
        }

    def ours(self) -> dict[str, Star]:
        """Return what the repository holds of ours of this month."""
        return {key: star for key, star in self.stars().items() if key.endswith(f"-{MONTH:%Y%m}")}

    def peers(self) -> dict[str, Star]:
        """Return what the repository holds of cASO: one record for each volume."""
        ids = {key for key, *_ in self.true_volumes()}
        return {key: star for key, star in self.stars().items() if key in ids}


@pytest.fixture
def steps(site: CasoSite) -> Steps:
    return Steps(site, datetime.now(UTC).replace(microsecond=0) - 2 * SECOND)


def totals(counted: Mapping[tuple[str, str], counters.Usage]) -> dict[str, int]:
    projects = {project for project, _ in counted}
    return {
        project: sum(item.seconds for key, item in counted.items() if key[0] == project)
        for project in projects
    }


def select(steps: Steps, how: str) -> None:
    """Choose projects by their tag, or two of one domain by name or by id."""
    if how == "tag":
        return
    chosen = {key: name for key, name in steps.ids.items() if name != "vo-biomed"}
    listed = chosen.values() if how == "name" else chosen
    steps.site.default |= {"projects": ",".join(sorted(listed)), "caso_tag": "none-has-it"}
    steps.site.login["project_domain_name"] = "Default"
    steps.site.write()


@pytest.mark.parametrize(
    ("how", "order"),
    [
        ("tag", OURS_FIRST),
        ("id", PEER_FIRST),
        pytest.param("name", OURS_FIRST, marks=pytest.mark.matrix),
        pytest.param("tag", PEER_FIRST, marks=pytest.mark.matrix),
        pytest.param("name", PEER_FIRST, marks=pytest.mark.matrix),
        pytest.param("id", OURS_FIRST, marks=pytest.mark.matrix),
    ],
)
def test_no_hour_of_servers_is_lost_or_doubled(
    how: str, order: tuple[str, ...], steps: Steps
) -> None:
    select(steps, how)
    for number, program in enumerate(order, start=1):
        steps.step(program, steps.part(number))
    assert steps.true_servers()
    assert steps.servers() == steps.true_servers()


def test_the_state_of_caso_1_goes_there_and_back(steps: Steps) -> None:
    """Its only file says how far all projects are."""
    end = steps.until - timedelta(days=20)
    steps.step("peer", end)
    for path in steps.site.state.glob("lastrun*"):
        path.unlink()
    (steps.site.state / "lastrun").write_text(str(end + SECOND))
    shown = steps.step("ours", steps.until - timedelta(days=1))
    assert shown.count(f"from {(end + SECOND).isoformat()}") == len(steps.ids)
    steps.step("peer", steps.until - timedelta(hours=1))
    steps.step("ours", steps.until)
    assert steps.servers() == steps.true_servers()


# -- volumes: cASO has one record for each volume, from its last run to the clock of this run


def test_volumes_on_the_way_to_caso(steps: Steps) -> None:
    """The windows of cASO begin where our records end.

    docs/how-to/upstream-tools.md has one configuration for servers and one for volumes.
    """
    site, spool = steps.site, steps.site.spool
    steps.step("ours", steps.part(2))
    second = site.state.with_name("caso-cinder")
    shutil.copytree(site.state, second)
    site.default["extractor"] = "nova"
    site.write()
    steps.step("peer", steps.until)
    assert steps.servers() == steps.true_servers()
    site.default |= {"extractor": "cinder", "spooldir": second}
    site.ssm["output_path"] = f"{spool}-storage"
    site.write()
    steps.step("peer", steps.until)
    assert steps.ours() == steps.whole(steps.part(2))
    assert {star.start for star in steps.peers().values()} == {steps.part(2) + SECOND}
    assert len(steps.peers()) == len(steps.ours())


@pytest.mark.parametrize(
    "first", [("ours", "peer"), pytest.param(("peer",), marks=pytest.mark.matrix)]
)
def test_volumes_on_the_way_from_caso(first: tuple[str, ...], steps: Steps) -> None:
    """Our records are whole months; the last record of cASO stays beside them.

    F-W1: it has the id of the volume, and was taken for one of ours that is longer.
    """
    for number, program in enumerate(first, start=1):
        steps.step(program, steps.part(number))
    steps.step("ours", steps.until)
    assert steps.ours() == steps.whole(steps.until)
    assert steps.servers() == steps.true_servers()
    begins = steps.part(1) + SECOND if len(first) > 1 else BORN
    assert {star.start for star in steps.peers().values()} == {begins}
    # With two runs of cASO in a row, as the how-to has it, only the time between them stays.
    moment = datetime.now(UTC).replace(microsecond=0)
    for _ in range(2):
        steps.site.run_peer("caso-extract")
    assert all(star.start >= moment for star in steps.peers().values())
    # A ledger that is lost now learns the months of ours, and does not mistake those of cASO.
    steps.site.ledger.unlink()
    steps.site.run("caso-extract")
    ends = {star.end for star in steps.ours().values()}
    assert min(ends) > moment
    assert steps.ours() == steps.whole(max(ends))


# -- the ledger, and checkpoint files that others have moved


def test_a_checkpoint_that_caso_has_moved_on(steps: Steps) -> None:
    """The time is read again from where the ledger ends, so that it has no gap."""
    steps.step("ours", steps.part(1))
    steps.step("peer", steps.part(2))
    shown = steps.step("ours", steps.until)
    assert shown.count(f"from {(steps.part(1) + SECOND).isoformat()}") == len(steps.ids)
    assert steps.servers() == steps.true_servers()
    assert steps.site.run("caso", "gaps").stdout == ""


@pytest.mark.parametrize("days", [-12, 1])
def test_a_checkpoint_that_somebody_has_moved(days: int, steps: Steps) -> None:
    """Back: these days are sent again. Ahead: the ledger knows better. No hour changes."""
    reached = steps.until - timedelta(days=3)
    steps.step("ours", reached)
    moved = reached + timedelta(days=days)
    for path in steps.site.state.glob("lastrun.*"):
        path.write_text(str(moved))
    shown = steps.step("ours", steps.until)
    begins = min(moved, reached + SECOND)
    assert shown.count(f"from {begins.isoformat()}") == len(steps.ids)
    assert steps.servers() == steps.true_servers()
    assert steps.ours() == steps.whole(steps.until)
    for path in steps.site.state.glob("lastrun.*"):
        assert path.read_text() == str(steps.until + SECOND)
