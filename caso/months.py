"""Cuts a server's life into the months that a window touches.

The repository keeps one row for each VM and calendar month, the last record wins, and a month's use
is the growth since the row of the month before. So a window that touches several months needs a
record for each, cumulative since the server's creation, cut at 23:59:59 UTC of the month's last
day: a cut at 00:00:00 would belong to the next month.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ExtractionWindow:
    """The time that a run accounts for: from ``start`` to ``end``, both inclusive."""

    start: datetime
    end: datetime
    is_first: bool = False
    """Whether it is a project's first. The repository takes a month's use for the growth since the row of the month
    before: a server that lives in a first window is accounted from its creation, else the whole of
    its life before the window would count for the window's first month."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a server's life is cut for one month's record. ``month`` is that month's first moment."""

    month: datetime
    until: datetime
    has_ended: bool


def cuts(born: datetime, died: datetime | None, window: ExtractionWindow) -> Iterator[Cut]:
    """Yield the cuts of a server's life, oldest month first; none when it lies outside the window.

    A server that died in the window ends there; one that dies after it is cut at the window's end,
    as if it went on. A month in which a living server has less than a second is left out. All
    results are whole seconds.
    """
    born = born.replace(microsecond=0)
    if born > window.end or (died is not None and died < window.start):
        return
    has_ended = died is not None and died <= window.end
    last = max(
        born, (died if died is not None and has_ended else window.end).replace(microsecond=0)
    )
    month = _first_moment(min(max(born, window.start), last))
    while month <= last:
        following = _next_month(month)
        goes_on = last >= following
        cut = Cut(
            month, following - SECOND if goes_on else last, has_ended=has_ended and not goes_on
        )
        if cut.has_ended or cut.until > born:
            yield cut
        month = following


def _first_moment(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next_month(month: datetime) -> datetime:
    return _first_moment(month + timedelta(days=32))
