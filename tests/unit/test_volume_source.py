"""Volumes over several runs, with the ledger as history (R14): nothing twice, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.kinds.storage import StorageRecord
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Stream
from caso.seen import LedgerHistory
from caso.sources.cinder import ProjectVolumes
from caso.sources.source import Names, ProjectContext, Unaccountable

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
VOLUME = "3e783dab-3632-4589-ac30-3a06466b4133"


def at(number: int, hour: int = 0, minute: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, number, hour, minute, tzinfo=UTC)


class Site:
    """A site whose runs look at Cinder's listings, and a repository that keeps the last records."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.volumes: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        self.kept: dict[str, StorageRecord] = {}
        self.warned: list[str] = []
        self.refused: list[Unaccountable] = []
        self.estimated: set[str] = set()
        self.reached = at(1, month=10)

    def context(self, project: str) -> ProjectContext:
        history = LedgerHistory(self.ledger, Origin("https://k/v3", "R", project))
        return ProjectContext(
            vo=f"vo.{project}",
            names=Names("SITE", "CLOUD"),
            user_name=lambda user: f"name of {user}",
            image=lambda image: image,
            warn=self.warned.append,
            history=history,
        )

    def run(self, end: datetime, *, projects: str = "ab", is_first: bool = False) -> None:
        window = ExtractionWindow(BEGINNING if is_first else self.reached, end, is_first=is_first)
        for project in projects:
            found = ProjectVolumes(window, self.context(project), project)
            for usage in found.records(self.volumes[project]):
                if isinstance(usage, Unaccountable):
                    self.refused.append(usage)
                else:
                    record = usage.record
                    assert isinstance(record, StorageRecord)
                    if usage.is_estimated:
                        self.estimated.add(record.record_id)
                    self.kept[record.record_id] = record
        self.reached = end + SECOND

    def shown(self) -> list[tuple[str, datetime, datetime, int]]:
        found = sorted(self.kept.values(), key=lambda one: one.start)
        return [(one.project_id, one.start, one.end, one.size) for one in found]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Site(ledger)


def volume(**changes: Any) -> dict[str, Any]:
    return {
        "id": VOLUME,
        "size": 20,
        "status": "available",
        "created_at": "2026-10-03T00:00:00.609584",
        "updated_at": "2026-10-03T00:00:00.760964",
        "name": "data",
        "user_id": "u",
        "attachments": [],
        **changes,
    }


def updated(moment: datetime) -> dict[str, str]:
    return {"updated_at": f"{moment:%Y-%m-%dT%H:%M:%S.000000}"}


def test_a_first_run_accounts_the_present_month(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(10, 12), is_first=True)
    assert site.shown() == [("a", at(1), at(10, 12), 20)]
    (record,) = site.kept.values()
    assert (record.record_id, record.key) == (f"{VOLUME}-202611", VOLUME)
    assert (record.user_name, record.name, record.status) == ("name of u", "data", "available")


def test_resized_transferred_and_deleted_between_runs_r14(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(14))
    site.volumes["a"] = [volume(size=50, **updated(at(15, 9)))]
    site.run(at(16))
    assert site.shown()[1:] == [("a", at(1), at(15, 9), 20), ("a", at(15, 9), at(16), 50)]
    site.run(at(20, 11))
    # Transferred at 11:30; the first project is read before the second one, or after it.
    site.volumes = {
        "a": [],
        "b": [volume(size=50, user_id="v", **updated(at(20, 11, 30)))],
    }
    site.run(at(20, 12), projects="ab")
    site.run(at(20, 13), projects="ba")
    wanted = [
        ("a", at(3, month=10), at(1) - SECOND, 20),
        ("a", at(1), at(15, 9), 20),
        ("a", at(15, 9), at(20, 11, 30), 50),
    ]
    assert site.shown() == [*wanted, ("b", at(20, 11, 30), at(20, 13), 50)]
    # Deleted; Cinder never says when.
    site.volumes["b"] = []
    site.run(at(20, 14))
    site.run(at(20, 15))
    site.run(at(21))
    assert site.shown() == [*wanted, ("b", at(20, 11, 30), at(20, 13), 50)]
    last = max(site.kept.values(), key=lambda one: one.end)
    assert site.estimated == {last.record_id}
    assert len({record.record_id for record in site.kept.values()}) == len(wanted) + 1


def test_a_lost_history_of_a_month_in_parts(site: Site, tmp_path: Path) -> None:
    """What was delivered is read again, with no sizes: as one part, the month would count twice."""
    site.volumes["a"] = [volume()]
    site.run(at(14))
    site.volumes["a"] = [volume(size=50, **updated(at(15, 9)))]
    site.run(at(16))
    before = site.shown()[1:]
    assert before == [("a", at(1), at(15, 9), 20), ("a", at(15, 9), at(16), 50)]
    with Ledger(tmp_path / "again.sqlite") as site.ledger:
        stream = Stream(Origin("https://k/v3", "R", "a"), "storage", "ssm")
        intent = site.ledger.deliveries.intent("rebuilt", stream)
        month = Month(202611)
        rows = [LedgerRow(one.key, month, one.amount, one.end, "") for one in site.kept.values()]
        intent.add(b"", rows)
        intent.seal(None, checkpoint=None)
        site.ledger.deliveries.confirm("rebuilt")
        site.run(at(17))
        wanted = [before[0], ("a", at(15, 9), at(17), 50)]
        assert site.shown()[1:] == wanted
        # By the next month it is whole again.
        site.run(at(2, month=12))
        last_second = at(1, month=12) - SECOND
        assert site.shown()[2:] == [
            ("a", at(15, 9), last_second, 50),
            ("a", at(1, month=12), at(2, month=12), 50),
        ]
    with Ledger(tmp_path / "later.sqlite") as site.ledger:  # nothing is known at all
        site.run(at(3, month=12))
        assert site.shown()[-1] == ("a", at(1, month=12), at(3, month=12), 50)


@pytest.mark.parametrize("projects", ["ab", "ba"])
def test_a_transfer_in_any_order_of_projects(projects: str, site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(20, 11), is_first=True)
    site.volumes = {"a": [], "b": [volume(**updated(at(20, 11, 30)))]}
    for hour in (12, 13, 14):
        site.run(at(20, hour), projects=projects)
    assert site.shown() == [
        ("a", at(1), at(20, 11, 30), 20),
        ("b", at(20, 11, 30), at(20, 14), 20),
    ]


def test_back_and_forth(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(2), is_first=True)
    for day, here, there in ((3, "b", "a"), (4, "a", "b"), (5, "b", "a")):
        site.volumes = {there: [], here: [volume(**updated(at(day)))]}
        for hour in (1, 2, 3):
            site.run(at(day, hour))
    assert site.shown() == [
        ("a", at(1), at(3), 20),
        ("b", at(3), at(4), 20),
        ("a", at(4), at(5), 20),
        ("b", at(5), at(5, 3), 20),
    ]


def test_a_listing_that_fails_ends_nothing(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(2), is_first=True)

    def broken() -> Iterator[dict[str, Any]]:
        yield from ()
        raise OSError("cut")

    window = ExtractionWindow(site.reached, at(2, 1))
    with pytest.raises(OSError, match="cut"):
        list(ProjectVolumes(window, site.context("a"), "a").records(broken()))
    site.run(at(2, 2))
    site.run(at(2, 3))
    assert site.shown() == [("a", at(1), at(2, 3), 20)]


def test_seen_again_after_a_listing_without_it(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(2), is_first=True)
    site.volumes["a"] = []
    site.run(at(2, 1))
    site.volumes["a"] = [volume()]
    site.run(at(2, 2))
    assert site.shown() == [("a", at(1), at(2, 2), 20)]


def test_killed_after_a_listing_and_before_the_checkpoint(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(14), is_first=True)
    reached = site.reached
    site.volumes["a"] = [volume(size=50, **updated(at(15)))]
    before = dict(site.kept)
    site.run(at(16))
    site.kept, site.reached = before, reached  # nothing was sent
    site.run(at(16, 1))
    assert site.shown() == [("a", at(1), at(15), 20), ("a", at(15), at(16, 1), 50)]


def test_a_change_without_a_time_counts_from_the_window(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(14), is_first=True)
    site.volumes["a"] = [volume(size=50, updated_at=None)]
    site.run(at(16))
    assert site.shown()[-1] == ("a", at(1), at(16), 20)
    site.run(at(17))
    assert site.shown()[-1] == ("a", at(16), at(17), 50)


def test_attached_for_a_part_of_the_time(site: Site) -> None:
    attached = {"server_id": "vm", "attached_at": f"{at(10):%Y-%m-%dT%H:%M:%S.342512}"}
    site.volumes["a"] = [volume(status="in-use", attachments=[attached])]
    site.run(at(11), is_first=True)
    (record,) = site.kept.values()
    assert record.attached_to == "vm"
    assert record.attached is not None
    assert 0 <= (timedelta(days=1) - record.attached).total_seconds() < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"size": None},
        {"size": "20"},
        {"size": -1},
        {"size": True},
        {"created_at": None},
        {"created_at": "1970-01-01T00:00:00"},
        {"created_at": "soon"},
    ],
)
def test_a_volume_that_cannot_be_accounted_is_reported(changes: dict[str, Any], site: Site) -> None:
    other = {**volume(), "id": "1a537761-d805-45a8-bd4f-b30ad2137cec"}
    site.volumes["a"] = [volume(**changes), other]
    site.run(at(2), is_first=True)
    assert [one.key for one in site.refused] == [VOLUME]
    assert "Cinder's description of the volume is incomplete or wrong" in site.refused[0].reason
    assert len(site.kept) == 1


def test_a_known_volume_that_makes_no_sense_for_once_is_not_gone(site: Site) -> None:
    site.volumes["a"] = [volume()]
    site.run(at(2), is_first=True)
    for hour in (1, 2, 3):
        site.volumes["a"] = [volume(size=None)]
        site.run(at(2, hour))
    site.volumes["a"] = [volume()]
    site.run(at(2, 4))
    assert site.shown() == [("a", at(1), at(2, 4), 20)]
    assert not site.estimated


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None, "status": 7, "user_id": None},
        {"attachments": None},
        {"attachments": [None]},
        {"attachments": [{"server_id": "vm", "attached_at": "soon"}]},
        {"name": "\u4e2d\n" * 300, "updated_at": "soon"},
    ],
)
def test_decoration_never_costs_the_volume_f_a2(changes: dict[str, Any], site: Site) -> None:
    site.volumes["a"] = [volume(**changes)]
    site.run(at(2), is_first=True)
    assert site.shown() == [("a", at(1), at(2), 20)]
