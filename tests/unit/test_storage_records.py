"""Volumes: whole months, segments by size and owner, ids that do not collide (B17, R14)."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from caso.kinds.kind import Checked
from caso.kinds.months import ExtractionWindow
from caso.kinds.storage import (
    NAMESPACE,
    Segment,
    VolumeState,
    check,
    compose,
    render,
    segments,
)
from tests.wire.records import PLAIN_VOLUME, VOLUME

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


def day(month: int, number: int, hour: int = 0) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


def last_second(month: int) -> datetime:
    return day(month + 1, 1) - timedelta(seconds=1)


def states(*parts: tuple[datetime, int], until: datetime | None = None) -> list[VolumeState]:
    """Return states that follow each other, each with its size."""
    ends = [*[since for since, _ in parts[1:]], until]
    return [
        VolumeState(since, end, size, "user")
        for (since, size), end in zip(parts, ends, strict=True)
    ]


def made(parts: list[VolumeState], window: ExtractionWindow) -> list[Segment]:
    return list(segments(parts, parts[0].since, window))


def shown(found: Segment) -> tuple[str, datetime, datetime, int]:
    return found.name, found.start, found.end, found.state.size


def test_a_month_is_whole_whatever_the_window() -> None:
    # An hour in November: cASO's record would have that hour alone, and replace the one before.
    hour = ExtractionWindow(day(11, 22, 8), day(11, 22, 9))
    found = made(states((day(3, 1), 20)), hour)
    assert [shown(one) for one in found] == [("202611", day(11, 1), day(11, 22, 9), 20)]


def test_a_window_over_three_months() -> None:
    window = ExtractionWindow(day(9, 10), day(11, 22))
    found = made(states((day(9, 3, 7), 20)), window)
    assert [shown(one) for one in found] == [
        ("202609", day(9, 3, 7), last_second(9), 20),
        ("202610", day(10, 1), last_second(10), 20),
        ("202611", day(11, 1), day(11, 22), 20),
    ]


def test_resized_transferred_and_deleted_r14() -> None:
    window = ExtractionWindow(day(11, 22), day(11, 22, 1))
    before = states((day(10, 3), 20), (day(11, 15, 9), 50), until=day(11, 20, 11))
    after = states((day(11, 20, 11), 50))
    found = [shown(one) for one in made(before, replace(window, start=day(11, 20)))]
    # The other project has the volume from the 20th on: it was born before that.
    found += [shown(one) for one in segments(after, day(10, 3), window)]
    assert found == [
        ("202611", day(11, 1), day(11, 15, 9), 20),
        ("20261115T090000Z", day(11, 15, 9), day(11, 20, 11), 50),
        ("20261120T110000Z", day(11, 20, 11), day(11, 22, 1), 50),
    ]


def test_a_state_of_an_earlier_month_is_the_first_segment_of_the_next() -> None:
    parts = states((day(9, 1), 20), (day(10, 30), 50))
    window = ExtractionWindow(day(10, 31), day(11, 2))
    assert [shown(one)[::3] for one in made(parts, window)] == [
        ("202610", 20),
        ("20261030T000000Z", 50),
        ("202611", 50),
    ]


def test_a_volume_that_ended_before_the_window_has_none() -> None:
    window = ExtractionWindow(day(11, 22), day(11, 23))
    assert not made(states((day(9, 1), 20), until=day(11, 21)), window)


def test_a_change_in_the_second_of_creation_leaves_no_empty_segment() -> None:
    born = day(11, 2)
    parts = states((born, 20), (born + timedelta(milliseconds=300), 50))
    window = ExtractionWindow(day(11, 1), day(11, 3))
    assert [shown(one)[::3] for one in made(parts, window)] == [("202611", 50)]


@example([0], [7775513, 7775512])
@given(
    st.lists(st.integers(0, 90 * 24 * 3600), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(1, 100 * 24 * 3600), min_size=1, max_size=8, unique=True),
)
def test_hourly_runs_and_one_run_leave_the_same_time(changes: list[int], ends: list[int]) -> None:
    """Whatever the runs were, the last record of each id covers the life, and none overlap."""
    start = day(8, 1)
    moments = [start + timedelta(seconds=at) for at in sorted(changes)]
    kept: dict[str, Segment] = {}
    reached = last = start
    for end in sorted(ends):
        window = ExtractionWindow(reached, start + timedelta(seconds=end))
        known = [(moment, size) for size, moment in enumerate(moments) if moment <= window.end]
        if window.start >= window.end:  # a run within a second of the last one has nothing to do
            continue
        last = window.end
        if known:
            kept |= {one.name: one for one in made(states(*known), window)}
        reached = window.end + timedelta(seconds=1)
    covered = sorted((one.start, one.end) for one in kept.values())
    born = moments[0]
    months = (last.year - born.year) * 12 + last.month - born.month if last > born else 0
    assert sum(((b - a) for a, b in covered), timedelta(0)) in (
        [max(last - born, timedelta(0)) - timedelta(seconds=lost) for lost in range(months + 1)]
    )  # the last second of each month is not in it
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(covered))


MANDATORY = ("StorageSystem", "Site", "StartTime", "EndTime", "ResourceCapacityUsed")


def loaded(message: bytes) -> list[dict[str, str | None]]:
    """Read a message as APEL's parser does: elements of the namespace, wherever they are."""
    root = ET.fromstring(message)  # noqa: S314  our own
    assert root.tag == "{" + NAMESPACE + "}StorageUsageRecords"
    records = []
    for element in root.iter("{" + NAMESPACE + "}StorageUsageRecord"):
        values = {one.tag.partition("}")[2]: one.text for one in element.iter()}
        identity = element.find("{" + NAMESPACE + "}RecordIdentity")
        assert identity is not None
        for name in ("recordId", "createTime"):
            values[name] = identity.get("{" + NAMESPACE + "}" + name)
        records.append(values)
    return records


def test_the_repository_reads_what_the_definition_requires() -> None:
    full, plain = loaded(compose([render(VOLUME), render(PLAIN_VOLUME)]))
    for found in (full, plain):
        assert all(found[name] for name in (*MANDATORY, "recordId", "createTime"))
        for name in ("StartTime", "EndTime", "createTime"):
            moment = found[name]
            assert moment is not None
            assert datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ")  # noqa: DTZ007
    assert full["UserIdentity"] == 'a <b> & "c"@egi.eu'
    assert full["Group"] == "/biomed/Role=NULL/Capability=NULL"
    assert full["ResourceCapacityUsed"] == str(20 * 1024**3)
    assert full["recordId"] == "3e783dab-3632-4589-ac30-3a06466b4133-202611"
    assert "UserIdentity" not in plain


@pytest.mark.parametrize(
    "changes",
    [
        {"volume_id": "x" * 249},
        {"site": "none"},
        {"service": ""},
        {"vo": ""},
        {"size": -1},
        {"size": 2**33},
        {"start": day(11, 23)},
        {"end": NOW + timedelta(days=3)},
        {"start": datetime(1970, 1, 1, tzinfo=UTC)},
    ],
)
def test_refused(changes: dict[str, Any]) -> None:
    assert check(replace(VOLUME, **changes), NOW).faults


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("user_id", "x" * 256, "LocalUser is longer than 255 characters"),
        ("project_id", "\n", "LocalGroup has %% or other than printable ASCII"),
        ("user_name", "\u4e2d", "UserIdentity has %% or other than printable ASCII"),
        ("name", "x" * 256, "RecordName is longer than 255 characters"),
        ("status", "\x00", "Status has %% or other than printable ASCII"),
        ("attached_to", "x" * 256, "AttachedTo is longer than 255 characters"),
    ],
)
def test_an_optional_field_is_left_out(field: str, value: str, said: str) -> None:
    found = check(replace(VOLUME, **{field: value}), NOW)  # type: ignore[arg-type]
    assert (found.dropped, found.faults) == ((said,), ())
    assert loaded(compose([render(found.record)]))
    assert value not in render(found.record)


def test_good_records_are_as_they_were() -> None:
    for record in (VOLUME, PLAIN_VOLUME):
        assert check(record, NOW) == Checked(record)
