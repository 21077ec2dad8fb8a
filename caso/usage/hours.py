"""Hours of a month from records that are cumulative, and their share of each day.

A record of a server counts from its creation. Its hours in a month are the growth since its record
of an earlier month; without one (the ledger is younger than the server), the time from the month's
begin. A month ends at 23:59:59, because the record of that moment is its last one; so does a day.

Records of the other kinds hold the use of their month alone. One of accelerators does not say when
in the month that was: it is spread over the time of its server. A count of addresses belongs to the
day on which they were counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import NamedTuple

from caso.kinds.registry import KINDS
from caso.ledger.model import LedgerRow, Month, first_second, moment_of, seconds

SECOND = timedelta(seconds=1)
_DAY = 86_400
_OF_SERVERS = "accelerator"
"""A kind whose keys begin with the id of a server."""


class Owned(NamedTuple):
    """A record with its kind, and where it is from."""

    kind: str
    region: str
    project: str
    row: LedgerRow


class Spent(NamedTuple):
    """The use of one thing in a month, or in a part of it. Times are seconds since 1970."""

    kind: str
    region: str
    project: str
    vo: str
    user: str
    key: str
    month: Month
    begin: int
    """The use is from here, exclusive, to ``end``, inclusive."""
    end: int
    amount: int
    """Seconds; of addresses, their number."""
    cpu: int


class Growth:
    """The hours of months, from records in the order of months."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], tuple[int, int, int]] = {}
        """By kind and key, amount, CPU seconds and end of the latest record."""
        self._times: dict[str, tuple[int, int]] = {}
        """The times of servers in the month, from and to."""

    def begin_month(self) -> None:
        """Forget the times of servers in the month before."""
        self._times.clear()

    def of(self, owned: Owned) -> Spent:
        """Return the use that a record adds to the earlier ones of the same thing."""
        kind, region, project, row = owned
        end, cpu = seconds(row.measured), row.cpu or 0
        begin, amount, used = end - row.amount, row.amount, cpu
        if KINDS[kind].is_count:
            begin = end
        elif kind == _OF_SERVERS:
            first = seconds(first_second(row.month)) - 1
            server, _, _ = row.key.partition("/")
            begin, end = self._times.get(server, (first, first + row.amount))
        elif KINDS[kind].is_cumulative:
            before = self._before.get((kind, row.key))
            if before is not None:
                begin, amount, used = before[2], row.amount - before[0], cpu - before[1]
            else:
                begin = max(begin, seconds(first_second(row.month)) - 1)
                amount = min(row.amount, end - begin)
                used = cpu * amount // row.amount if row.amount else 0
            self._before[kind, row.key] = row.amount, cpu, end
            self._times[row.key] = begin, end
        return Spent(
            *(kind, region, project, row.vo, row.user or "", row.key),
            *(row.month, begin, end, amount, used),
        )


def by_day(spent: Spent) -> Iterator[tuple[str, Spent]]:
    """Yield the days of a use, like ``2026-11-03``, each with its share; shares add up exactly.

    Use that the record does not place within its time is spread evenly over it.
    """
    length = spent.end - spent.begin
    if length <= 0:
        yield _day(spent.end), spent
        return
    done = amount = cpu = 0
    while done < length:
        # The second that begins a day belongs to it: the day before ends at 23:59:59.
        moment = spent.begin + done + 1
        last = moment - moment % _DAY + _DAY - 1
        reached = min(last - spent.begin, length)
        shares = spent.amount * reached // length, spent.cpu * reached // length
        yield (
            _day(moment),
            spent._replace(
                begin=spent.begin + done,
                end=spent.begin + reached,
                amount=shares[0] - amount,
                cpu=shares[1] - cpu,
            ),
        )
        done, (amount, cpu) = reached, shares


def spent(rows: Iterable[Owned]) -> Iterator[Spent]:
    """Yield the use of each record; the records come in the order of months."""
    growth = Growth()
    for _, of_month in itertools.groupby(rows, key=lambda owned: owned.row.month):
        growth.begin_month()
        later: list[Owned] = []
        for owned in of_month:
            if owned.kind == _OF_SERVERS:
                later.append(owned)
            else:
                yield growth.of(owned)
        yield from map(growth.of, later)


def _day(moment: int) -> str:
    return f"{moment_of(moment):%Y-%m-%d}"
