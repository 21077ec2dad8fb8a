"""Things that a listing showed in the last run and shows no more.

A server that was deleted and archived between two runs is in no listing of Nova. Its record would
stay `started` for ever. So each run compares what it sees with what the run before saw. What is
missing is looked for where the cloud keeps traces; without a trace it is closed at the moment when
it was seen last, and its record is marked as estimated in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from caso.kinds.kind import LastSight, RecordKind, UsageRecord
from caso.ledger.deliveries import PAGE
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Sight
from caso.ledger.names import pack
from caso.ledger.sightings import Vanished
from caso.sources.source import Names

logger = logging.getLogger(__name__)

Traces = Callable[[datetime], Mapping[str, datetime | None]]
"""Returns the things that lived since a moment, and when they ended; None for those that live."""


class KindLook:
    """What one listing of a project shows of a kind whose things last."""

    def __init__(self, ledger: Ledger, origin: Origin, kind: RecordKind[Any]) -> None:
        self._ledger = ledger
        self._origin = origin
        self._kind = kind
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
        if not found:
            return
        ends = traces(min(one.last_seen for one in found))
        for one in found:
            key = one.sighting.key
            if key not in ends:
                yield from ((record, True) for record in self._closed(one, one.last_seen, names))
                logger.warning(
                    "%s %s is in no listing any more: closed at %s, when it was seen last",
                    *(self._kind.things, key, one.last_seen.isoformat()),
                )
            elif (end := ends[key]) is not None:
                yield from ((record, False) for record in self._closed(one, end, names))

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

    def _closed(self, one: Vanished, until: datetime, names: Names) -> Iterator[UsageRecord]:
        delivered = [
            found
            for found in self._ledger.deliveries.of(one.sighting.key)
            if found.stream.kind == self._kind.name
        ]
        if not delivered or self._kind.life is None:  # nothing to correct
            return
        last = max((found.row for found in delivered), key=lambda row: row.measured)
        yield from self._kind.life.closed(
            LastSight(
                key=last.key,
                project_id=self._origin.project,
                user_id=one.sighting.user,
                vo=last.vo,
                site=names.site,
                service=names.service,
                facts=one.sighting.facts,
                amount=last.amount,
                measured=last.measured,
                until=until,
            )
        )
