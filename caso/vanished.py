"""Things that a listing showed in the last run and shows no more.

A server that was deleted and archived between two runs is in no listing of Nova. Its record would
stay `started` for ever. So each run compares what it sees with what the run before saw. What is
missing is looked for where the cloud keeps traces; without a trace it is closed at the moment when
it was seen last, and its record is marked as estimated in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from caso.kinds.kind import LastSight, RecordKind, UsageRecord
from caso.ledger.deliveries import PAGE
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Origin, Sight
from caso.ledger.names import pack
from caso.ledger.sightings import Vanished
from caso.sources.source import Names

logger = logging.getLogger(__name__)

Traces = Callable[[datetime], Mapping[str, datetime | None]]
"""Returns the things that lived since a moment, and when they ended; None for those that live."""


class _Unfinished(NamedTuple):
    """How far a thing was delivered to destinations of which at least one lacks its end."""

    least: LedgerRow
    """The last row of the destination that is least far."""
    furthest: datetime
    """How far the thing was delivered to any destination that lacks its end."""
    end: LedgerRow | None
    """The end, if another destination has it."""


class KindLook:
    """What one listing of a project shows of a kind whose things last."""

    def __init__(
        self,
        ledger: Ledger,
        origin: Origin,
        kind: RecordKind[Any],
        destinations: Collection[str],
        *,
        vo: str,
    ) -> None:
        self._ledger = ledger
        self._origin = origin
        self._kind = kind
        self._destinations = destinations
        self._vo = vo
        self._look = ledger.sightings.look(origin, kind.name)
        self._latest: UsageRecord | None = None
        self._page: list[Sight] = []
        self._others: set[bytes | str] = set()
        """Things that have ended, or that could not be understood: they have not vanished."""

    def see(self, record: UsageRecord) -> None:
        """Take a record; those of one thing come one after another, oldest first."""
        if self._latest is not None and self._latest.key != record.key:
            self._note(self._latest)
        self._latest = record

    def pass_by(self, key: str) -> None:
        """Note that a thing is in the listing, though it has no record."""
        self._others.add(pack(key))

    def close(
        self, at: datetime, traces: Traces, names: Names
    ) -> Iterator[tuple[UsageRecord, bool]]:
        """Yield the last records of what has vanished, and whether they are estimates.

        ``at`` is the moment up to which the listing is accounted.
        """
        if self._latest is not None:
            self._note(self._latest)
        self._write()
        found = [one for one in self._look.close(at) if pack(one.sighting.key) not in self._others]
        left = self._unfinished(found)
        unended = [one.last_seen for one, delivered in left if delivered.end is None]
        ends = traces(min(unended)) if unended else {}
        for one, delivered in left:
            key = one.sighting.key
            if (end := delivered.end) is not None:
                until, is_estimated = end.measured, end.is_estimated
            elif key not in ends:
                until, is_estimated = one.last_seen, True
                logger.warning(
                    "%s %s is in no listing any more: closed at %s, when it was seen last",
                    *(self._kind.things, key, one.last_seen.isoformat()),
                )
            elif (traced := ends[key]) is not None:
                until, is_estimated = traced, False
            else:
                continue
            # A clock that was ahead may have delivered more.
            until = max(until, delivered.furthest)
            for record in self._closed(one, delivered.least, until, names):
                yield record, is_estimated

    def abandon(self) -> None:
        """Forget a listing that is not complete."""
        self._look.abandon()

    def _note(self, record: UsageRecord) -> None:
        life = self._kind.life
        if life is None or life.has_ended(record):
            self._others.add(pack(record.key))
            return
        self._page.append(Sight(record.key, self._kind.user(record), life.facts(record)))
        if len(self._page) >= PAGE:
            self._write()

    def _write(self) -> None:
        page, self._page = self._page, []
        if page:
            self._look.see(page)

    def _unfinished(self, found: Iterable[Vanished]) -> list[tuple[Vanished, _Unfinished]]:
        """Return what a destination lacks the end of; end the sightings of the others."""
        left: list[tuple[Vanished, _Unfinished]] = []
        ended: list[tuple[str, datetime]] = []
        for one in found:
            latest = self._latest_rows(one.sighting.key)
            ends = [row for row in latest if row.has_ended]
            end = max(ends, key=_measured, default=None)
            if unended := sorted((row for row in latest if not row.has_ended), key=_measured):
                left.append((one, _Unfinished(unended[0], unended[-1].measured, end)))
            else:  # of what was never delivered, there is nothing to correct
                ended.append((one.sighting.key, one.last_seen if end is None else end.measured))
        if ended:
            self._ledger.sightings.end(self._kind.name, ended)
        return left

    def _latest_rows(self, key: str) -> list[LedgerRow]:
        """Return the last row of each destination."""
        latest: dict[str, LedgerRow] = {}
        for one in self._ledger.deliveries.of(key):  # oldest month first
            is_wanted = one.stream.destination in self._destinations
            if is_wanted and one.stream.kind == self._kind.name:
                latest[one.stream.destination] = one.row
        return list(latest.values())

    def _closed(
        self, one: Vanished, last: LedgerRow, until: datetime, names: Names
    ) -> Iterator[UsageRecord]:
        if self._kind.life is None:
            return
        yield from self._kind.life.closed(
            LastSight(
                key=last.key,
                project_id=self._origin.project,
                user_id=one.sighting.user,
                vo=last.vo or self._vo,  # a row that was read again has none
                site=names.site,
                service=names.service,
                facts=one.sighting.facts,
                amount=last.amount,
                cpu=last.cpu,
                measured=last.measured,
                until=until,
            )
        )


def _measured(row: LedgerRow) -> datetime:
    return row.measured
