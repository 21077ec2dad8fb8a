"""B14: a resized server is charged for the cores that it had, over several runs with a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.core.cloud.compute import Servers
from appliance.core.run.errors import AccessDenied
from caso.kinds import cloud
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import ExtractionWindow
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin
from caso.seen import LedgerHistory
from caso.sources.resizes import KIND, ServerCores
from caso.sources.server import records
from caso.sources.source import Names, ProjectContext
from caso.vanished import KindLook

VM = "2baa2a7e-22d7-4273-93ef-e5c65a6e9d5c"
HOUR = 3600
NAMES = Names("SITE", "CLOUD")


def at(day: int, hour: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def server(cores: int, *, launched: datetime, ended: datetime | None = None) -> dict[str, Any]:
    return {
        "id": VM,
        "name": "vm",
        "status": "DELETED" if ended else "ACTIVE",
        "tenant_id": "p",
        "user_id": "u",
        "created": "2026-10-20T00:00:00Z",
        "updated": "2026-10-20T00:00:00Z",
        "OS-SRV-USG:launched_at": f"{launched:%FT%T}.000000",
        "OS-SRV-USG:terminated_at": f"{ended:%FT%T}.000000" if ended else None,
        "flavor": {"vcpus": cores, "ram": 1, "disk": 1, "ephemeral": 0, "extra_specs": {}},
        "image": "",
        "addresses": {},
    }


BORN = at(20, month=10)


class ResizingSite:
    """A site whose runs look at one server."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.is_forbidden = False
        self.warned: list[str] = []
        self.reached = at(25, month=10)
        self.region = "R"

    def actions(self, server_id: str) -> Iterator[dict[str, Any]]:
        assert server_id == VM
        self.asked += 1
        if self.is_forbidden:
            raise AccessDenied("Nova", "does not show the actions", "check the policy")
        return iter(self.taken)

    def run(self, end: datetime, shown: dict[str, Any], *, is_kept: bool = True) -> CloudRecord:
        """Return the last record of a run up to a moment."""
        found = self.all(ExtractionWindow(self.reached, end), shown, is_kept=is_kept)
        if is_kept:
            self.reached = end + timedelta(seconds=1)
        return found[-1]

    def all(
        self, window: ExtractionWindow, shown: dict[str, Any], *, is_kept: bool = False
    ) -> list[CloudRecord]:
        origin = Origin("https://k/v3", self.region, "p")
        context = ProjectContext(
            vo="vo.x",
            names=NAMES,
            user_name=lambda _user: None,
            image=lambda image: image,
            warn=self.warned.append,
            history=LedgerHistory(self.ledger, origin, is_kept=is_kept),
        )
        cores = ServerCores(cast("Servers", self), window, context)
        found = list(records(shown, window, context, cores))
        if is_kept:
            look = KindLook(self.ledger, origin, cloud.KIND, ("ssm",), vo="vo.x")
            for record in found:
                look.see(record)
            assert not list(look.close(window.end, lambda _since: {}, NAMES))
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ResizingSite]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ResizingSite(ledger)


def action(name: str, moment: datetime, message: str | None = None) -> dict[str, Any]:
    return {"action": name, "start_time": f"{moment:%FT%T}.000000", "message": message}


def hours(record: CloudRecord) -> tuple[float, int]:
    """Return CPU hours and cores."""
    return record.cpu.total_seconds() / HOUR, int(record.cpu_count)


def test_each_part_counts_with_its_own_cores(site: ResizingSite) -> None:
    """Twelve days with 2 cores, two with 8, one with 4."""
    assert hours(site.run(at(31, month=10), server(2, launched=BORN))) == (11 * 24 * 2, 2)
    site.taken = [action("resize", at(1))]
    first = site.run(at(3), server(8, launched=at(1)))
    assert hours(first) == (12 * 24 * 2 + 2 * 24 * 8, 8)
    site.taken = [action("resize", at(3, 1)), *site.taken]
    second = site.run(at(4, 1), server(4, launched=at(3, 1)))
    assert hours(second) == (12 * 24 * 2 + (2 * 24 + 1) * 8 + 24 * 4, 4)
    asked = site.asked
    third = site.run(at(5, 1), server(4, launched=at(3, 1)))
    assert hours(third) == (12 * 24 * 2 + (2 * 24 + 1) * 8 + 48 * 4, 4)
    assert site.asked == asked == 2
    assert third.wall == at(5, 1) - BORN


def test_a_smaller_flavor_takes_no_hour_back(site: ResizingSite) -> None:
    """With the present cores for the whole life, the CPU hours of the month would be negative."""
    before = site.run(at(10), server(16, launched=BORN))
    site.taken = [action("resize", at(10))]
    after = site.run(at(11), server(1, launched=at(10)))
    assert (after.cpu - before.cpu).total_seconds() / HOUR == 24


def test_a_month_that_is_extracted_again_has_its_own_cores(site: ResizingSite) -> None:
    site.run(at(31, month=10), server(2, launched=BORN))
    site.taken = [action("resize", at(5))]
    site.run(at(6), server(8, launched=at(5)))
    october, november = site.all(
        ExtractionWindow(at(25, month=10), at(6)), server(8, launched=at(5))
    )
    assert hours(october) == ((12 * 24 - 1 / HOUR) * 2, 2)
    assert hours(november) == (16 * 24 * 2 + 24 * 8, 8)


def test_a_run_that_keeps_nothing_sees_the_resize_too(site: ResizingSite) -> None:
    site.run(at(31, month=10), server(2, launched=BORN))
    site.taken = [action("resize", at(1))]
    shown = server(8, launched=at(1))
    dry = site.run(at(2), shown, is_kept=False)
    assert dry == site.run(at(2), shown)
    assert hours(dry) == (12 * 24 * 2 + 24 * 8, 8)


@pytest.mark.parametrize("is_forbidden", [False, True])
def test_without_an_action_the_change_is_at_the_start_of_the_window(
    site: ResizingSite, is_forbidden: bool
) -> None:
    site.run(at(1), server(2, launched=BORN))
    site.is_forbidden = is_forbidden
    site.taken = [action("resize", at(1, 6), "it failed"), action("stop", at(1, 7))]
    found = site.run(at(2), server(8, launched=at(1, 9)))
    start = 12 * 24 * HOUR + 1
    assert found.cpu.total_seconds() == start * 2 + (24 * HOUR - 1) * 8
    assert bool(site.warned) is is_forbidden


def test_a_region_with_another_name_keeps_the_parts(site: ResizingSite) -> None:
    site.run(at(1), server(2, launched=BORN))
    site.taken = [action("resize", at(1, 12))]
    site.run(at(2), server(8, launched=at(1, 12)))
    site.region = "renamed"
    assert hours(site.run(at(3), server(8, launched=at(1, 12)))) == (12.5 * 24 * 2 + 36 * 8, 8)


def test_the_end_lets_the_parts_be_purged_later(site: ResizingSite) -> None:
    site.run(at(1), server(2, launched=BORN))
    site.taken = [action("resize", at(1, 12))]
    site.run(at(2), server(8, launched=at(1, 12)))
    ended = server(8, launched=at(1, 12), ended=at(2, 6))
    last = site.run(at(3), ended)
    assert hours(last) == (12.5 * 24 * 2 + 18 * 8, 8)
    (kept,) = site.ledger.sightings.of_kind(KIND)
    assert kept.until == at(2, 6)
    assert site.all(ExtractionWindow(at(2), at(3)), ended) == [last]  # seen again in the overlap


def test_what_was_never_seen_counts_with_its_present_cores(site: ResizingSite) -> None:
    """As by cASO: nobody knows what the server had before."""
    site.taken = [action("resize", at(1))]
    assert hours(site.run(at(2), server(8, launched=at(1)))) == (13 * 24 * 8, 8)
    assert site.asked == 0
