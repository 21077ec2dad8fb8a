"""Accelerators over several runs, with the ledger as history (R15), and what flavors may say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.core.cloud.compute import Servers
from caso.kinds.accelerator import AcceleratorRecord
from caso.kinds.months import ExtractionWindow
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin
from caso.seen import LedgerHistory
from caso.sources.accelerators import ServerAccelerators, read
from caso.sources.server import life_of
from caso.sources.source import AcceleratorKeys, Names, ProjectContext

HOUR = timedelta(hours=1)
VM = "2baa2a7e-22d7-4273-93ef-e5c65a6e9d5c"
A100 = {
    "Accelerator:Type": "GPU",
    "Accelerator:Vendor": "NVIDIA",
    "Accelerator:Model": "A100",
    "Accelerator:Number": "4",
}


def at(number: int, hour: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


class Site:
    """A site whose runs look at servers, and a repository that keeps the last records."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.kept: dict[tuple[str, datetime], AcceleratorRecord] = {}
        self.estimated: set[str] = set()
        self.taken: list[dict[str, Any]] = []
        self.warned: list[str] = []
        self.asked = 0
        self.reached = at(1, month=10)

    def actions(self, server_id: str) -> Iterator[dict[str, Any]]:
        assert server_id == VM
        self.asked += 1
        return iter(self.taken)

    def context(self) -> ProjectContext:
        return ProjectContext(
            vo="vo.x",
            names=Names("SITE", "CLOUD"),
            user_name=lambda user: f"name of {user}",
            image=lambda image: image,
            warn=self.warned.append,
            kinds=frozenset({"accelerator"}),
            history=LedgerHistory(self.ledger, Origin("https://k/v3", "R", "p")),
        )

    def run(self, end: datetime, *servers: dict[str, Any]) -> None:
        window = ExtractionWindow(self.reached, end)
        found = ServerAccelerators(cast("Servers", self), window, self.context())
        usages = [
            usage for server in servers for usage in found.records(server, life_of(server), window)
        ]
        for usage in [*usages, *found.close()]:
            record = usage.record
            assert isinstance(record, AcceleratorRecord)
            self.kept[record.key, record.month] = record
            if usage.is_estimated:
                self.estimated.add(record.key)
        self.reached = end + timedelta(seconds=1)

    def shown(self) -> list[tuple[int, Decimal, timedelta]]:
        """Return month, number and time of each record."""
        found = sorted(self.kept.items(), key=lambda item: (item[0][1], item[0][0]))
        return [(one.month.month, one.accelerator.count, one.active) for _, one in found]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Site(ledger)


def server(specs: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    return {
        "id": VM,
        "status": "ACTIVE",
        "created": "2026-11-02T00:00:00Z",
        "updated": "2026-11-02T00:00:00Z",
        "OS-SRV-USG:launched_at": "2026-11-02T00:00:00.000000",
        "OS-SRV-USG:terminated_at": None,
        "user_id": "u",
        "flavor": {"original_name": "g1", "extra_specs": specs},
        **changes,
    }


def action(name: str, moment: datetime, message: str | None = None) -> dict[str, Any]:
    started = f"{moment:%Y-%m-%dT%H:%M:%S.000000}"
    return {"action": name, "start_time": started, "message": message}


def test_the_whole_month_at_each_run(site: Site) -> None:
    site.run(at(3), server(A100))
    site.run(at(4), server(A100))
    assert site.shown() == [(11, Decimal(4), timedelta(days=2))]
    (record,) = site.kept.values()
    assert (record.accelerator.type, record.accelerator.model) == ("GPU", "NVIDIA A100")
    assert record.user_name == "name of u"
    assert site.asked == 0


def test_resized_between_two_runs_r15(site: Site) -> None:
    site.run(at(3), server(A100))
    site.taken = [
        action("resize", at(5), "it failed"),  # the newest first
        action("confirmResize", at(3, 14)),
        action("resize", at(3, 12)),
        action("resize", at(2, 1)),  # before the run that saw four
    ]
    site.run(at(4), server({**A100, "Accelerator:Number": "1"}))
    site.run(at(5), server({**A100, "Accelerator:Number": "1"}))
    assert site.shown() == [(11, Decimal(1), 36 * HOUR), (11, Decimal(4), 36 * HOUR)]
    assert site.asked == 1


def test_a_resize_that_was_reverted_in_time_changes_nothing(site: Site) -> None:
    site.run(at(3), server(A100))
    site.taken = [action("revertResize", at(3, 2)), action("resize", at(3, 1))]
    site.run(at(4), server(A100))
    assert site.shown() == [(11, Decimal(4), timedelta(days=2))]


def test_resized_to_a_flavor_without(site: Site) -> None:
    site.run(at(3), server(A100))
    site.taken = [action("resize", at(3, 12))]
    site.run(at(4), server({}))
    site.run(at(5), server({}))
    assert site.shown() == [(11, Decimal(4), 36 * HOUR)]
    site.taken = [action("resize", at(5, 6))]
    site.run(at(6), server(A100))
    assert site.shown() == [(11, Decimal(4), 36 * HOUR + 18 * HOUR)]


def test_without_an_action_a_change_counts_from_the_window(site: Site) -> None:
    site.run(at(3), server(A100))
    site.run(at(4), server({**A100, "Accelerator:Number": "1"}))
    one, four = site.shown()
    assert one[1:] == (Decimal(1), timedelta(days=1) - timedelta(seconds=1))
    assert four[1:] == (Decimal(4), timedelta(days=1, seconds=1))


def test_deleted(site: Site) -> None:
    site.run(at(3), server(A100))
    ended = {"OS-SRV-USG:terminated_at": "2026-11-03T06:00:00.000000", "status": "DELETED"}
    site.run(at(4), server(A100, **ended))
    site.run(at(5))
    assert site.shown() == [(11, Decimal(4), timedelta(days=1, hours=6))]
    assert not site.estimated


def test_gone_without_a_trace_is_an_estimate(site: Site) -> None:
    site.run(at(3), server(A100))
    site.run(at(4))
    site.run(at(5))
    assert site.shown() == [(11, Decimal(4), timedelta(days=1))]
    assert len(site.estimated) == 1


def test_gone_while_nothing_could_be_delivered(site: Site) -> None:
    """The run that notes the end, and the one before, fail after they have read the listings."""
    site.run(at(3), server(A100))
    begin, kept = site.reached, dict(site.kept)
    for end, servers in ((at(4), [server(A100)]), (at(5), [])):
        site.run(end, *servers)
        site.reached, site.kept = begin, dict(kept)
    site.run(at(6))
    assert site.shown() == [(11, Decimal(4), timedelta(days=2))]
    site.kept.clear()
    site.run(at(7))
    assert site.shown() == []


def test_a_month_later(site: Site) -> None:
    site.run(at(29), server(A100))
    site.run(at(3, month=12), server(A100))
    assert site.shown() == [
        (11, Decimal(4), timedelta(days=29)),
        (12, Decimal(4), timedelta(days=2)),
    ]


@pytest.mark.parametrize(
    ("specs", "wanted", "warned"),
    [
        ({}, None, ""),
        (A100, Decimal(4), ""),
        ({**A100, "Accelerator:Number": "0.5"}, Decimal("0.5"), ""),
        ({**A100, "Accelerator:Number": "4.0"}, Decimal(4), ""),
        ({**A100, "Accelerator:Number": "100"}, Decimal(100), ""),
        ({**A100, "Accelerator:Number": "0"}, None, "is no number above 0"),
        ({**A100, "Accelerator:Number": "-1"}, None, "is no number above 0"),
        ({**A100, "Accelerator:Number": "nan"}, None, "is no number above 0"),
        ({**A100, "Accelerator:Number": "many"}, None, "is no number above 0"),
        ({**A100, "Accelerator:Model": ""}, None, "flavor g1: lacks Accelerator:Model"),
        ({"Accelerator:Number": "1"}, None, "lacks Accelerator:Type, Accelerator:Vendor, "),
        ({"pci_passthrough:alias": "a100:2"}, None, "flavor g1: has pci_passthrough:alias, but"),
        ({"resources:VGPU": "1"}, None, "flavor g1: has resources:VGPU, but not Accelerator:"),
        ({**A100, "resources:VGPU": "1"}, Decimal(4), ""),
        (None, None, ""),
        ([], None, ""),
    ],
)
def test_flavors(specs: Any, wanted: Decimal | None, warned: str, site: Site) -> None:
    found = read({"original_name": "g1", "extra_specs": specs}, site.context())
    assert (found and found.count) == wanted
    assert bool(site.warned) == bool(warned)
    assert all(warned in line for line in site.warned)


def test_properties_of_other_names(site: Site) -> None:
    keys = AcceleratorKeys("t", "v", "m", "n")
    context = site.context()
    names = Names("S", "C", accelerator=keys)
    other = ProjectContext(
        **{**{f: getattr(context, f) for f in context.__slots__}, "names": names}
    )
    specs = {"t": "FPGA", "v": "Xilinx", "m": "U250", "n": "2"}
    found = read({"extra_specs": specs}, other)
    assert found is not None
    assert (found.type, found.model, found.count) == ("FPGA", "Xilinx U250", Decimal(2))
