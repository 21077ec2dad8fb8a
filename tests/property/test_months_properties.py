"""Whatever way time is cut into runs, the repository's rule gives each month its true hours."""

from calendar import monthrange
from collections import defaultdict
from datetime import UTC, datetime, timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from caso.kinds.months import SECOND, ExtractionWindow, cuts
from caso.sources.listing import OVERLAP

BEGIN = datetime(2025, 11, 1, tzinfo=UTC)
LAST = datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC)
moments = st.integers(0, int((LAST - BEGIN).total_seconds())).map(
    lambda seconds: BEGIN + timedelta(seconds=seconds)
)
fractions = st.integers(0, 999_999).map(lambda micro: timedelta(microseconds=micro))


def true_seconds(
    born: datetime, died: datetime | None, until: datetime
) -> dict[tuple[int, int], int]:
    """Count a life's seconds by month, with the calendar module: a month ends at 23:59:59."""
    end = min(died or until, until).replace(microsecond=0)
    found: dict[tuple[int, int], int] = {}
    begun, year, month = born, born.year, born.month
    while begun < end or (begun == end and not found):
        border = datetime(year, month, monthrange(year, month)[1], 23, 59, 59, tzinfo=UTC)
        found[year, month] = max(0, int((min(end, border) - begun).total_seconds()))
        begun = max(begun, border)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return {key: seconds for key, seconds in found.items() if seconds}


def repository(
    born: datetime, died: datetime | None, windows: list[ExtractionWindow]
) -> dict[tuple[int, int], int]:
    """Return the use by month: the last row of a month, less the row of the month before."""
    rows: dict[tuple[int, int], int] = {}
    for window in windows:
        for cut in cuts(born, died, window):
            rows[cut.until.year, cut.until.month] = int((cut.until - born).total_seconds())
    used: dict[tuple[int, int], int] = defaultdict(int)
    before = 0
    for key in sorted(rows):
        used[key] = rows[key] - before
        before = rows[key]
    return {key: seconds for key, seconds in used.items() if seconds}


def windows_of(borders: list[datetime]) -> list[ExtractionWindow]:
    """Return the windows of runs: each from a second after the end of the last one."""
    found, start = [], datetime(1970, 1, 1, tzinfo=UTC)
    for border in sorted(set(borders)):
        if start < border:
            found.append(ExtractionWindow(start - OVERLAP, border))
            start = border + SECOND
    return found


@given(
    moments,
    st.none() | moments,
    st.lists(st.builds(lambda a, b: a + b, moments, fractions), min_size=1, max_size=6),
)
@example(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), None, [datetime(2026, 2, 1, tzinfo=UTC)])
@example(BEGIN, BEGIN + SECOND, [BEGIN + timedelta(microseconds=1), BEGIN + 2 * SECOND])
@example(
    datetime(2025, 12, 31, 12, tzinfo=UTC),
    datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC),
    [datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)],
)
def test_any_split_of_time_gives_each_month_its_seconds(
    born: datetime, died: datetime | None, borders: list[datetime]
) -> None:
    if died is not None and died < born:
        born, died = died, born
    windows = windows_of(borders)
    if not windows or windows[-1].end < born:
        return
    truth = true_seconds(born, died, windows[-1].end)
    counted = repository(born, died, windows)
    assert sum(counted.values()) == sum(truth.values())
    # A border that falls into the last second of a month leaves that second to the next window: one
    # second, no more.
    assert all(
        abs(counted.get(key, 0) - truth.get(key, 0)) <= 1 for key in truth.keys() | counted.keys()
    )


@given(moments, st.none() | moments, moments, moments)
def test_cuts_stay_inside_life_and_window(
    born: datetime, died: datetime | None, one: datetime, other: datetime
) -> None:
    window = ExtractionWindow(min(one, other), max(one, other))
    found = list(cuts(born, died, window))
    assert [cut.month for cut in found] == sorted({cut.month for cut in found})
    for cut in found:
        assert born <= cut.until <= max(window.end, born)
        assert (cut.until.year, cut.until.month) == (cut.month.year, cut.month.month)
        assert cut.until.microsecond == 0
    assert not any(cut.has_ended for cut in found[:-1])
