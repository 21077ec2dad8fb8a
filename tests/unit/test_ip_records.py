"""Addresses: both versions (B10), by owner, a record for each month of the window."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from caso.kinds.ip import KIND, PublicAddress, check, counts
from caso.kinds.kind import Checked
from caso.kinds.months import ExtractionWindow
from tests.wire.records import ADDRESSES, UNOWNED

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
# What APEL's proposal (pull request 226) requires of a record, by type.
REQUIRED = {
    int: ("MeasurementTime", "IPVersion", "IPCount"),
    str: ("SiteName", "CloudType", "LocalUser", "LocalGroup", "GlobalUserName", "FQAN"),
}


def day(month: int, number: int) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


def test_the_definition_is_satisfied() -> None:
    message = json.loads(KIND.compose([KIND.render(ADDRESSES), KIND.render(UNOWNED)]))
    assert message["Type"] == "APEL Public IP message"
    owned, unowned = message["UsageRecords"]
    for record in (owned, unowned):
        for kind, names in REQUIRED.items():
            assert [name for name in names if type(record[name]) is not kind] == []
        assert record["IPVersion"] in (4, 6)
        assert record["IPCount"] >= 0
        assert record["CloudComputeService"] is None or record["CloudComputeService"]
    assert owned["GlobalUserName"] == '78e5 "x"@egi.eu'
    # The repository keeps one record for each name: no name is shared by two projects.
    assert unowned["GlobalUserName"] == unowned["LocalUser"] == unowned["LocalGroup"]


def test_both_versions_and_each_owner_b10() -> None:
    addresses = [
        PublicAddress(4, day(11, 1), "u"),
        PublicAddress(4, day(11, 1), "u"),
        PublicAddress(4, day(11, 1), None),
        PublicAddress(6, day(11, 1), "u"),
        PublicAddress(4, day(11, 30), "u"),  # later than the window
    ]
    window = ExtractionWindow(day(11, 20), day(11, 22))
    assert set(counts(addresses, window)) == {
        (day(11, 22), "u", 4, 2),
        (day(11, 22), None, 4, 1),
        (day(11, 22), "u", 6, 1),
    }


def test_each_month_has_the_addresses_that_existed_at_its_end() -> None:
    addresses = [
        PublicAddress(4, day(9, 2), "u"),
        PublicAddress(4, day(10, 5), "u"),
    ]
    window = ExtractionWindow(day(9, 20), day(11, 22))
    second = timedelta(seconds=1)
    assert list(counts(addresses, window)) == [
        (day(10, 1) - second, "u", 4, 1),
        (day(11, 1) - second, "u", 4, 2),
        (day(11, 22), "u", 4, 2),
    ]


def test_the_id_is_the_same_in_a_month() -> None:
    later = replace(ADDRESSES, count=9, measured=ADDRESSES.measured + timedelta(days=3))
    assert later.uuid == ADDRESSES.uuid
    others = [
        replace(ADDRESSES, measured=day(12, 1)),
        replace(ADDRESSES, version=6),
        replace(ADDRESSES, user_id="other"),
        replace(ADDRESSES, project_id="other"),
        replace(ADDRESSES, service="other"),
        replace(ADDRESSES, site="other"),
    ]
    assert len({one.uuid for one in [ADDRESSES, *others]}) == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"site": ""},
        {"vo": "null"},
        {"project_id": ""},
        {"user_id": "none"},
        {"cloud_type": ""},
        {"service": "\u4e2d"},
        {"version": 5},
        {"count": -1},
        {"count": 2**31},
        {"measured": NOW + timedelta(days=3)},
    ],
)
def test_refused(changes: dict[str, Any]) -> None:
    assert check(replace(ADDRESSES, **changes), NOW).faults


@pytest.mark.parametrize("name", ["none", "x" * 256, "\n"])
def test_an_unusable_name_gives_way_to_the_id(name: str) -> None:
    found = check(replace(ADDRESSES, user_name=name), NOW)
    assert len(found.dropped) == 1
    assert not found.faults
    assert KIND.fields(found.record)["GlobalUserName"] == ADDRESSES.user_id


def test_good_records_are_as_they_were() -> None:
    for record in (ADDRESSES, UNOWNED):
        assert check(record, NOW) == Checked(record)


def test_fewer_addresses_are_no_step_back_but_an_earlier_count_is_f_a1() -> None:
    later = replace(ADDRESSES, count=1, measured=ADDRESSES.measured + timedelta(hours=1))
    assert later.amount < ADDRESSES.amount
    assert later.progress > ADDRESSES.progress
