from datetime import UTC, datetime

import pytest

from caso.kinds.months import Cut, ExtractionWindow, cuts


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def cut(month: str, until: str, ended: bool = False) -> Cut:
    return Cut(at(f"{month}-01"), at(until), has_ended=ended)


@pytest.mark.parametrize(
    ("born", "died", "start", "end", "wanted"),
    [
        # an outage over two ends of months
        (
            "2026-08-20T10:00:00",
            None,
            "2026-09-20T00:00:00",
            "2026-11-22T06:00:00.5",
            [
                cut("2026-09", "2026-09-30T23:59:59"),
                cut("2026-10", "2026-10-31T23:59:59"),
                cut("2026-11", "2026-11-22T06:00:00"),
            ],
        ),
        # died in the window, and after it
        (
            "2026-10-20T10:00:00",
            "2026-11-02T01:02:03.9",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-02T01:02:03", ended=True)],
        ),
        (
            "2026-10-20T10:00:00",
            "2026-11-04T00:00:00",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-03T00:00:00")],
        ),
        # outside
        ("2026-11-04T00:00:00", None, "2026-11-01T00:00:00", "2026-11-03T00:00:00", []),
        (
            "2026-10-04T00:00:00",
            "2026-10-31T23:59:59",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [],
        ),
        # died at the very begin or end of the window, and created and died at its end
        (
            "2026-10-31T00:00:00",
            "2026-11-01T00:00:00",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-01T00:00:00", ended=True)],
        ),
        (
            "2026-11-02T00:00:00",
            "2026-11-03T00:00:00",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-03T00:00:00", ended=True)],
        ),
        (
            "2026-11-03T00:00:00",
            "2026-11-03T00:00:00",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-03T00:00:00", ended=True)],
        ),
        # December, a leap February
        (
            "2027-12-31T23:59:00",
            None,
            "1970-01-01T00:00:00",
            "2028-03-01T00:00:00",
            [
                cut("2027-12", "2027-12-31T23:59:59"),
                cut("2028-01", "2028-01-31T23:59:59"),
                cut("2028-02", "2028-02-29T23:59:59"),
                cut("2028-03", "2028-03-01T00:00:00"),
            ],
        ),
        # no second lived in January: no record that would count for February
        (
            "2026-01-31T23:59:59",
            None,
            "2026-01-01T00:00:00",
            "2026-02-01T00:00:10",
            [cut("2026-02", "2026-02-01T00:00:10")],
        ),
        # born and dead in the same second, and "dead" before it was born
        (
            "2026-11-02T00:00:00",
            "2026-11-02T00:00:00.4",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-02T00:00:00", ended=True)],
        ),
        (
            "2026-11-02T00:00:05",
            "2026-11-02T00:00:03",
            "2026-11-01T00:00:00",
            "2026-11-03T00:00:00",
            [cut("2026-11", "2026-11-02T00:00:05", ended=True)],
        ),
    ],
)
def test_cuts(born: str, died: str | None, start: str, end: str, wanted: list[Cut]) -> None:
    assert (
        list(cuts(at(born), at(died) if died else None, ExtractionWindow(at(start), at(end))))
        == wanted
    )
