"""The causes of `caso compare` add up to the difference, whatever the two sides report."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.cloud_message import CloudUsage, month_of
from caso.shadow.causes import Cause, Evidence, differences
from caso.shadow.rows import SpooledRecord, UsageSide

_FIRST = 1_793_000_000
_MOMENTS = st.integers(0, 90 * 24).map(lambda hour: _FIRST + 3600 * hour)


@st.composite
def _usages(draw: st.DrawFn) -> CloudUsage:
    start, until = draw(_MOMENTS), draw(_MOMENTS)
    wall = abs(until - start) or 1
    has_ended = draw(st.booleans())
    start = min(start, until) + draw(st.sampled_from([0, 0, 0, 3600, -7200, 77]))
    cores = draw(st.sampled_from([1, 2, 4, 1.5]))
    cpu = draw(st.sampled_from([int(wall * cores), int(wall * cores), 1]))
    return CloudUsage(
        *(draw(st.sampled_from("abc")), draw(st.sampled_from("pq")), "ops"),
        status="completed" if has_ended else "started",
        start=start,
        end=start + wall if has_ended else 0,
        wall=wall,
        cpu=cpu,
        cores=cores,
        measured=start + wall,
    )


def _side(usages: list[CloudUsage]) -> UsageSide:
    side = UsageSide()
    for usage in usages:
        side.add(SpooledRecord(usage, made=usage.measured + 5), begin=usage.start)
    return side


@given(st.lists(_usages(), max_size=12), st.lists(_usages(), max_size=12))
def test_causes_add_up(ours: list[CloudUsage], theirs: list[CloudUsage]) -> None:
    found = list(differences(_side(ours), _side(theirs), Evidence()))
    for one in found:
        assert sum(one.wall.values()) == one.ours[0] - one.theirs[0]
        assert sum(one.cpu.values()) == one.ours[1] - one.theirs[1]
    months = {(usage.uuid, month_of(usage.measured)) for usage in [*ours, *theirs]}
    assert {(one.uuid, one.month) for one in found} == months


@given(st.lists(_usages(), max_size=12))
def test_a_side_equals_itself(usages: list[CloudUsage]) -> None:
    found = differences(_side(usages), _side(usages), Evidence())
    assert not {cause for one in found for cause in one.causes} - {Cause.START}
