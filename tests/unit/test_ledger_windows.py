"""Windows and checkpoints of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Origin, Span, Stream, first_second, month_before, month_named
from caso.ledger.windows import Reached, with_span

STREAM = Stream(Origin("https://keystone.example.org/v3", "RegionOne", "p1"), "cloud", "ssm")
START = datetime(2026, 11, 1, tzinfo=UTC)


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def span(start: int, end: int, *, known: bool = True) -> Span:
    return Span(at(start), at(end), is_known=known)


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        ([], span(0, 9), [span(0, 9)]),
        ([span(0, 9)], span(10, 19), [span(0, 19)]),  # windows include both ends
        ([span(0, 9)], span(11, 19), [span(0, 9), span(11, 19)]),
        ([span(0, 9)], span(5, 7), [span(0, 9)]),
        ([span(5, 7)], span(0, 9), [span(0, 9)]),
        ([span(0, 9), span(20, 29)], span(9, 21), [span(0, 29)]),
        ([span(20, 29)], span(0, 9), [span(0, 9), span(20, 29)]),
        (
            [span(0, 99, known=False)],
            span(40, 59),
            [span(0, 39, known=False), span(40, 59), span(60, 99, known=False)],
        ),
        ([span(0, 99, known=False)], span(0, 99), [span(0, 99)]),
        (
            [span(40, 59)],
            span(0, 99, known=False),
            [span(0, 39, known=False), span(40, 59), span(60, 99, known=False)],
        ),
        ([span(0, 99)], span(40, 59, known=False), [span(0, 99)]),
        ([span(0, 9, known=False)], span(10, 19, known=False), [span(0, 19, known=False)]),
    ],
)
def test_windows_that_touch_are_one(before: list[Span], new: Span, after: list[Span]) -> None:
    assert with_span(before, new) == after


def test_gaps_are_between_windows() -> None:
    spans = (span(0, 9), span(10, 19, known=False), span(30, 39))
    reached = Reached(at(40), spans)
    assert reached.gaps() == [span(20, 29)]
    assert reached.unknown() == [span(10, 19, known=False)]
    assert reached.end == at(39)
    assert Reached(None).end is None
    assert Reached(None).gaps() == []


def test_a_checkpoint_never_moves_back(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for number, (end, checkpoint) in enumerate([(9, 10), (19, 20), (15, 16), (5, None)]):
            intent = ledger.deliveries.intent(str(number), STREAM)
            moment = None if checkpoint is None else at(checkpoint)
            intent.seal(span(0, end), checkpoint=moment)
            ledger.deliveries.confirm(str(number))
        reached = ledger.windows.reached(STREAM)
        assert reached == Reached(at(20), (span(0, 19),))
        assert ledger.windows.all() == {STREAM: reached}


def test_what_another_program_delivered_is_noted_as_unknown(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.windows.assume(STREAM, span(0, 9))
        assert ledger.windows.reached(STREAM) == Reached(None, (span(0, 9, known=False),))


def test_a_stream_of_which_nothing_is_known(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.windows.reached(STREAM) == Reached(None)


def test_windows_of_moments_within_seconds_touch(tmp_path: Path) -> None:
    """The end of a window is a moment of the clock, and the next one begins a second later."""
    end = START + timedelta(seconds=9, microseconds=999_999)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for number, window in enumerate(
            [Span(START, end), Span(end + timedelta(seconds=1), at(30))]
        ):
            intent = ledger.deliveries.intent(str(number), STREAM)
            intent.seal(window, checkpoint=None)
            ledger.deliveries.confirm(str(number))
        assert ledger.windows.reached(STREAM).spans == (span(0, 30),)


def test_months() -> None:
    assert [month_before(Month(month)) for month in (202611, 202612, 202701, 202702)] == [
        202610,
        202611,
        202612,
        202701,
    ]
    assert month_named("2026-01") == 202601
    assert first_second(Month(202612)) == datetime(2026, 12, 1, tzinfo=UTC)
