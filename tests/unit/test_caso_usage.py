"""Hours of months and days, rates, and saved tables of the portal."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from appliance.core.run.errors import ConfigurationError
from caso.ledger.model import LedgerRow, Month
from caso.usage import hours, portal, rates
from caso.usage.hours import Owned, Spent
from caso.usage.nova import ProjectHours, add_delivered, add_used

BORN = datetime(2026, 10, 30, 22, 30, tzinfo=UTC)
DIED = datetime(2026, 11, 2, 0, 0, tzinfo=UTC)
BORDER = datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)


def owned(month: int, until: datetime, *, cores: int = 2, kind: str = "cloud") -> Owned:
    wall = int((until - BORN).total_seconds())
    return Owned(
        kind, "", "p1", LedgerRow("vm", Month(month), wall, until, "ops", "u1", wall * cores)
    )


def seconds_of_days(begin: datetime, end: datetime) -> Counter[str]:
    """Count each minute by the day of its last second, apart from the code under test."""
    found: Counter[str] = Counter()
    moment = begin
    while moment < end:
        moment += timedelta(seconds=1)
        found[moment.date().isoformat()] += 1
    return found


def test_hours_of_a_month_are_the_growth_since_the_month_before() -> None:
    first, second = hours.spent([owned(202610, BORDER), owned(202611, DIED)])
    assert (first.amount, first.cpu) == (25.5 * 3600 - 1, 2 * (25.5 * 3600 - 1))
    assert (second.amount, second.cpu) == (24 * 3600 + 1, 2 * (24 * 3600 + 1))
    whole = int((DIED - BORN).total_seconds())
    assert first.amount + second.amount == whole


def test_a_server_older_than_the_ledger_counts_from_the_begin_of_the_month() -> None:
    (only,) = hours.spent([owned(202611, DIED)])
    assert (only.amount, only.cpu) == (24 * 3600 + 1, 2 * (24 * 3600 + 1))


@pytest.mark.parametrize("until", [DIED, DIED - timedelta(seconds=1), DIED + timedelta(hours=5)])
def test_days_add_up_to_the_month(until: datetime) -> None:
    parts = hours.spent([owned(202610, BORDER), owned(202611, until)])
    found: Counter[str] = Counter()
    cpu = 0
    for spent in parts:
        for day, share in hours.by_day(spent):
            found[day] += share.amount
            cpu += share.cpu
    assert found == seconds_of_days(BORN, until)
    assert cpu == 2 * found.total()


def test_time_that_does_not_count_is_spread_over_the_days() -> None:
    """A suspended server uses less than the time that it exists; no second is lost by rounding."""
    spent = Spent(
        "cloud", "", "p", "v", "u", "k", Month(202611), 1_793_500_000, 1_793_800_000, 1000, 7
    )
    shares = [share for _, share in hours.by_day(spent)]
    assert len(shares) > 3
    assert sum(share.amount for share in shares) == 1000
    assert sum(share.cpu for share in shares) == 7


def test_other_kinds_have_the_use_of_their_month() -> None:
    rows = [owned(202610, BORDER, kind="storage"), owned(202611, DIED, kind="storage")]
    assert [one.amount for one in hours.spent(rows)] == [row.row.amount for row in rows]


def days(*rows: Owned) -> dict[str, dict[str, int]]:
    """Return the amounts of each kind by day."""
    found: dict[str, dict[str, int]] = {}
    for spent in hours.spent(rows):
        for day, share in hours.by_day(spent):
            of_kind = found.setdefault(spent.kind, {})
            of_kind[day] = of_kind.get(day, 0) + share.amount
    return found


def test_a_volume_counts_on_the_days_of_its_segment() -> None:
    until = datetime(2026, 11, 4, 6, tzinfo=UTC)
    amount = 2 * 86_400 + 6 * 3600
    row = LedgerRow("volume", Month(202611), amount, until, "ops")
    assert days(Owned("storage", "", "p1", row)) == {
        "storage": {
            "2026-11-02": 86_400 - 1,  # the second of midnight belongs to the day before
            "2026-11-03": 86_400,
            "2026-11-04": 6 * 3600 + 1,
        }
    }


def test_accelerators_count_on_the_days_of_their_server() -> None:
    """The record comes before that of its server, and names no day."""
    month = datetime(2026, 11, 1, tzinfo=UTC)
    accelerators = LedgerRow("vm/GPU/A100/2", Month(202611), 24 * 3600 + 1, month, "ops")
    found = days(
        owned(202610, BORDER),
        Owned("accelerator", "", "p1", accelerators),
        owned(202611, DIED),
    )
    wanted = seconds_of_days(BORDER, DIED)
    assert found["accelerator"] == wanted
    assert {day: found["cloud"][day] for day in wanted} == wanted
    alone = days(Owned("accelerator", "", "p1", accelerators))
    assert alone == {"accelerator": {"2026-11-01": 86_400, "2026-11-02": 1}}


def test_addresses_count_on_the_day_when_they_were_counted() -> None:
    row = LedgerRow("one", Month(202611), 7, datetime(2026, 11, 9, 5, tzinfo=UTC), "ops")
    assert days(Owned("ip", "", "p1", row)) == {"ip": {"2026-11-09": 7}}


def test_a_server_that_ends_where_it_begins() -> None:
    (only,) = hours.spent([owned(202610, BORN)])
    assert only.amount == 0
    assert [day for day, _ in hours.by_day(only)] == ["2026-10-30"]


# -- rates

_RATES = """\
[rates]
unit = EUR
cpu_hour = 0.5
server_hour = 0.1
volume_hour = 0.01
address = 3
[biomed]
cpu_hour = 0
"""


def test_rates(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    path.write_text(_RATES)
    found = rates.read(path)
    assert found.unit == "EUR"
    assert found.cost("cloud", "ops", 7200, 14400) == Decimal("2.2")
    assert found.cost("cloud", "biomed", 7200, 14400) == Decimal("0.2")
    assert found.cost("storage", "ops", 36000, 0) == Decimal("0.1")
    assert found.cost("ip", "ops", 4, 0) == 12
    assert found.cost("energy", "ops", 4, 0) == 0


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("[rates]\ncpu_hour = much\n", ":2: [rates] cpu_hour: 'much' is not a rate"),
        ("[rates]\ncpu_hour = -1\n", ":2: [rates] cpu_hour: '-1' is not a rate"),
        ("[rates]\ncpu_hour = nan\n", ":2: [rates] cpu_hour: 'nan' is not a rate"),
        ("", "no rate is set; write one of cpu_hour, server_hour"),
    ],
)
def test_faults_of_rates(text: str, reported: str, tmp_path: Path) -> None:
    path = tmp_path / "rates"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        rates.read(path)
    assert reported in str(raised.value)


# -- the portal

_LONG = "VO,Month,VMs,Wall hours\nops,2026-10,3,12.5\nbiomed,10/2026,4,7\nTotal,2026-10,7,19.5\n"
_WIDE = 'VO;2026-09;2026-10;Total\nops;1;"12,500";2\nbiomed;;7;7\nTotal;1;12507;12508\n'


def test_a_table_with_a_line_for_each_month(tmp_path: Path) -> None:
    path = tmp_path / "portal.csv"
    path.write_text(f"\ufeff{_LONG}")
    assert portal.read(path, "wall_hours") == {
        ("ops", "2026-10"): {"vms": 3, "wall_hours": 12.5},
        ("biomed", "2026-10"): {"vms": 4, "wall_hours": 7},
    }


def test_a_table_with_a_column_for_each_month(tmp_path: Path) -> None:
    path = tmp_path / "portal.csv"
    path.write_text(_WIDE)
    assert portal.read(path, "cpu_hours") == {
        ("ops", "2026-09"): {"cpu_hours": 1},
        ("ops", "2026-10"): {"cpu_hours": 12500},
        ("biomed", "2026-10"): {"cpu_hours": 7},
    }


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_json(is_wrapped: bool, tmp_path: Path) -> None:
    rows = [
        {"vo": "ops", "date": "2026-10-01T00:00:00Z", "elapsed": 5, "count": 2},
        {"vo": "ops", "date": "2026-10-15T00:00:00Z", "elapsed": 1, "count": 1},
    ]
    path = tmp_path / "portal.json"
    path.write_text(json.dumps({"data": rows} if is_wrapped else rows))
    assert portal.read(path, "vms") == {("ops", "2026-10"): {"vms": 3, "wall_hours": 6}}


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", "is empty"),
        ("VO,Month,VMs\nops,October,3\n", "portal:2: has no month; write it like 2026-10"),
        ("VO,Month,VMs\nops,2026-10,many\n", "portal:2: 'many' is not a number"),
        ("VO,Month,VMs\nops,2026-10,-3\n", "portal:2: '-3' is not a number"),
        ("a,b\nc,d\n", "has no VO, month and number"),
        ("[{", "portal:1: is not JSON"),
        ("{}", "has no list of objects"),
        ('[{"vo": "ops", "vms": 2}]', "entry 1: has no month"),
    ],
)
def test_faults_of_a_table(text: str, reported: str, tmp_path: Path) -> None:
    path = tmp_path / "portal"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        portal.read(path, "vms")
    assert reported in str(raised.value)


# -- Nova's usage


def test_what_was_delivered_too_much_is_named() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    until = start + timedelta(hours=100)
    found = ProjectHours("", "p", "2026-11", "ops", until)
    usual = Spent("cloud", "", "p", "ops", "", "a", Month(202611), 0, 0, 360_000, 0)
    add_delivered(found, [usual, usual._replace(key="b", amount=36_000)])
    early, late = "2026-11-01T00:00:30", "2026-11-01T05:00:00"
    rows: list[dict[str, str | None]] = [
        {"instance_id": "a", "started_at": "2026-10-01T00:00:30.000000", "ended_at": None},
        {"instance_id": "b", "started_at": early, "ended_at": late},
        {"instance_id": "c", "started_at": "2026-11-09T00:00:00", "ended_at": None},
    ]
    add_used(found, rows, start)
    assert found.used == 360_000 + 5 * 3600 - 30
    assert [(key, one.surplus) for key, one in found.differing(1)] == [("b", 5 * 3600 + 30)]
    assert round(found.difference, 2) == 4.77
