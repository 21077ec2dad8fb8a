"""Accelerators: by month and not cumulative, in parts, by segments of the server's flavor (R15)."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from caso.kinds.accelerator import KIND, Accelerator, AcceleratorState, check, durations
from caso.kinds.kind import Checked
from caso.kinds.months import ExtractionWindow
from tests.wire.records import GPUS, HALF_A_GPU

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
DAY = timedelta(days=1)
FOUR = Accelerator("GPU", "NVIDIA A100", Decimal(4))
ONE = replace(FOUR, count=Decimal(1))


def day(month: int, number: int, hour: int = 0) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


def test_each_month_has_its_own_time() -> None:
    window = ExtractionWindow(day(9, 20), day(11, 22))
    found = list(durations([AcceleratorState(day(9, 10), FOUR)], None, window))
    assert found == [
        (day(9, 1), FOUR, 21 * DAY),
        (day(10, 1), FOUR, 31 * DAY),
        (day(11, 1), FOUR, 21 * DAY),
    ]


def test_an_hourly_run_sends_the_whole_month() -> None:
    window = ExtractionWindow(day(11, 22, 8), day(11, 22, 9))
    found = list(durations([AcceleratorState(day(9, 10), FOUR)], None, window))
    assert found == [(day(11, 1), FOUR, 21 * DAY + timedelta(hours=9))]


def test_a_server_that_ended_at_the_end_of_a_month() -> None:
    end = day(11, 1) - timedelta(seconds=1)
    window = ExtractionWindow(day(10, 20), day(11, 22))
    found = list(durations([AcceleratorState(day(10, 30), FOUR)], end, window))
    assert found == [(day(10, 1), FOUR, 2 * DAY - timedelta(seconds=1))]


def test_segments_of_a_resized_server_r15() -> None:
    states = [
        AcceleratorState(day(10, 30), FOUR),
        AcceleratorState(day(11, 3), ONE),
        AcceleratorState(day(11, 5), None),
        AcceleratorState(day(11, 7), FOUR),
    ]
    window = ExtractionWindow(day(11, 9), day(11, 10))
    found = list(durations(states, None, window))
    assert found == [(day(11, 1), FOUR, 5 * DAY), (day(11, 1), ONE, 2 * DAY)]


def test_a_part_of_an_accelerator() -> None:
    message = KIND.compose([KIND.render(GPUS), KIND.render(HALF_A_GPU)])
    whole, half = json.loads(message)["UsageRecords"]
    assert (whole["Count"], half["Count"]) == (2, 0.5)
    assert b'"Count": 2, ' in message
    assert "GlobalUserName" not in half


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_uuid": ""},
        {"site": "none"},
        {"vo": ""},
        {"service": "\u4e2d"},
        {"accelerator": Accelerator("", "m", Decimal(1))},
        {"accelerator": Accelerator("x" * 256, "m", Decimal(1))},
        {"accelerator": Accelerator("GPU", "m", Decimal("0.0001"))},
        {"accelerator": Accelerator("GPU", "m", Decimal(10**7))},
        {"accelerator": Accelerator("GPU", "m", Decimal(-1))},
        {"month": day(12, 1)},
        {"active": timedelta(seconds=-1)},
        {"active": timedelta(days=30, seconds=1)},  # longer than November
    ],
)
def test_refused(changes: dict[str, Any]) -> None:
    assert check(replace(GPUS, **changes), NOW).faults


def test_unusable_optional_fields_are_left_out() -> None:
    odd = replace(GPUS, user_name="\x85", accelerator=replace(FOUR, model="x" * 256))
    found = check(odd, NOW)
    assert found.dropped == (
        "GlobalUserName has %% or other than printable ASCII",
        "Model is longer than 255 characters",
    )
    assert not found.faults
    assert not {"GlobalUserName", "Model"} & set(KIND.fields(found.record))


def test_good_records_are_as_they_were() -> None:
    for record in (GPUS, HALF_A_GPU, replace(GPUS, active=30 * DAY)):
        assert check(record, NOW) == Checked(record)
