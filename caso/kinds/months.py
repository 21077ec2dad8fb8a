"""The cuts of a server's life at the ends of the months that a window touches.

The repository keeps one row for each VM and calendar month: of several records the last one counts.
It takes a month's use to be the growth since the row of the month before. So a window that touches
several months needs a record for each of them, cumulative since the server's creation. A cut is at
23:59:59 UTC on the last day of the month, because 00:00:00 would belong to the next month.

    window               10 Sep                                  22 Nov
                           |---------------------------------------|
    server    born 1 Aug   |        30 Sep        31 Oct           |
              |------------------------|-------------|-------------|---->  still alive
    records                            1             2             3
    wall from 1 Aug to               30 Sep        31 Oct        22 Nov
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

SECOND = timedelta(seconds=1)
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""The start of the first window of a project, unless ``--since`` sets a later one."""
_KEPT = 256
"""Months whose following one is kept."""


@dataclass(frozen=True, slots=True)
class ExtractionWindow:
    """The time that a run accounts, from ``start`` to ``end``, both inclusive."""

    start: datetime
    end: datetime
    is_first: bool = False
    """Whether it is the project's first one.

    Then a server is accounted from its creation. Otherwise its whole life before the window would
    count as growth in the first month of the window.
    """
    resumes: datetime | None = None
    """Where a messenger goes on whose first window it is not."""

    def of_present(self) -> ExtractionWindow:
        """Return the window for a service that shows only what is there now.

        Of a first window that is the present month, because nothing is known of earlier ones, and
        what a messenger that is not new still lacks.
        """
        if not self.is_first or self.start > BEGINNING:
            return self
        month = first_moment(self.end)
        return replace(self, start=min(month, self.resumes or month))


class Cut(NamedTuple):
    """The end of one month's record. ``month`` is the first moment of that month."""

    month: datetime
    until: datetime
    has_ended: bool


def cuts(born: datetime, died: datetime | None, window: ExtractionWindow) -> Iterator[Cut]:
    """Yield the cuts of a server's life, oldest month first; none when it is outside the window.

    A server that died in the window ends at its death. One that died later is cut at the end of the
    window, like a living one: the next run reports its end. A month in which a living server has
    less than a second is left out. All results are whole seconds.
    """
    born = _whole(born)
    if born > window.end or (died is not None and died < window.start):
        return
    # A death after the window is not reported yet: cASO's `extract_to` may be in the past, and the
    # record must not show what happened later.
    has_ended = died is not None and died <= window.end
    last = max(born, _whole(died if died is not None and has_ended else window.end))
    month = first_moment(min(max(born, window.start), last))
    while month <= last:
        following = next_month(month)
        # The end of a month is in it up to 23:59:59, so a life that ends at 00:00:00 goes on.
        goes_on = last >= following
        cut = Cut(
            month, following - SECOND if goes_on else last, has_ended=has_ended and not goes_on
        )
        if cut.has_ended or cut.until > born:
            yield cut
        month = following


def first_moment(moment: datetime) -> datetime:
    """Return the first moment of a month."""
    # `replace` takes three times as long, and a run does this several times for each record.
    return datetime(moment.year, moment.month, 1, tzinfo=moment.tzinfo)


@functools.lru_cache(_KEPT)
def next_month(month: datetime) -> datetime:
    """Return the first moment of the month after."""
    # 32 days after the first of a month is always in the next one.
    return first_moment(month + timedelta(days=32))


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0) if moment.microsecond else moment
