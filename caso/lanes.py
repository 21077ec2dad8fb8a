"""The way of a project's records: past the guard of the ledger, into the outboxes of messengers.

A lane is the way of one kind to one messenger. Lanes are independent: one that fails is dropped,
and its checkpoint stays, while the others go on.

    step       outbox                               ledger
    add        messages are written                 their rows are intended
    seal       all of it is durable                 rows, window and checkpoint are intended
    commit     the records are delivered            confirmed: all of these count
    finish     handed over, checkpoint files        -

A kill before the commit leaves nothing that counts. After it, the next start confirms and finishes:
see `caso.messengers.messenger` and `caso.ledger.deliveries`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from appliance.core.run.errors import ApplianceError, LocalFailure
from caso.forecast import Forecast
from caso.kinds.kind import RecordKind, UsageRecord
from caso.ledger.deliveries import PAGE, Intent
from caso.ledger.ledger import Ledger
from caso.ledger.model import (
    Charged,
    LedgerRow,
    Month,
    Origin,
    Shrinkage,
    Span,
    Stream,
    month_of,
)
from caso.messengers.messenger import OpenMessenger, Outbox

logger = logging.getLogger(__name__)

TOLERANCE = timedelta(minutes=1)
"""Differences that clocks explain. A server ends by Nova's clock, and its last record before that
went up to Keystone's."""


class Withheld(NamedTuple):
    """A record that is not sent, because more was delivered before."""

    kind: str
    key: str
    month: Month
    lost: int | None
    """The amount that it would take back; None for a count, which may fall."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What a kind has when its lanes are committed."""

    window: Span | None = None
    """The time that was delivered."""
    checkpoint: datetime | None = None
    """The start of the next window; None if it does not move."""


class RecordSink(Protocol):
    """What takes the records of a project."""

    def add(self, kind: str, record: UsageRecord, *, is_estimated: bool = False) -> None:
        """Take a record."""

    def drop(self, kinds: Iterable[str], error: ApplianceError) -> None:
        """Take note that the records of some kinds are not complete, and why."""


@dataclass(frozen=True, slots=True)
class OneMonth:
    """Passes the records of one month on, and leaves out the others."""

    sink: RecordSink
    month: Month

    def add(self, kind: str, record: UsageRecord, *, is_estimated: bool = False) -> None:
        """Pass a record of the month on."""
        if month_of(record.measured) == self.month:
            self.sink.add(kind, record, is_estimated=is_estimated)

    def drop(self, kinds: Iterable[str], error: ApplianceError) -> None:
        """Pass it on."""
        self.sink.drop(kinds, error)


class Lane:
    """The way of a project's records of one kind to one messenger.

    A dry run has a forecast in place of the outbox.
    """

    def __init__(
        self, ledger: Ledger, stream: Stream, kind: RecordKind[Any], *, may_decrease: bool = False
    ) -> None:
        self.stream = stream
        self.kind = kind
        self.withheld: list[Withheld] = []
        self.is_committed = False
        self.forecast: Forecast | None = None
        self._ledger = ledger
        self._may_decrease = may_decrease
        self._messenger: OpenMessenger | None = None
        self._outbox: Outbox | None = None
        self._intent: Intent | None = None
        self._page: list[UsageRecord] = []
        self._estimated: set[tuple[str, Month]] = set()
        self._recharged: tuple[str, Charged] | None = None
        """The last record, if it goes on from the delivered CPU time."""

    def open(self, messenger: OpenMessenger, *, reason: str | None) -> None:
        """Begin the outbox; a batch with a reason may lower amounts."""
        self._ledger.deliveries.settle(self.stream, messenger.is_held)
        outbox = messenger.begin(self.stream.origin.label, self.kind, self._written)
        self._messenger, self._outbox = messenger, outbox
        self._intent = self._ledger.deliveries.intent(outbox.name, self.stream, reason=reason)

    def foresee(self, messenger: OpenMessenger) -> None:
        """Count what the messenger would get."""
        self.forecast = Forecast(self._ledger, self.stream, self.kind, messenger.max_size)

    @property
    def messages(self) -> int:
        """Return the number of messages so far."""
        return self._outbox.messages if self._outbox else 0

    def add(self, record: UsageRecord, *, is_estimated: bool = False) -> None:
        """Add a record."""
        if is_estimated:
            self._estimated.add((record.key, month_of(record.measured)))
        self._page.append(record)
        if len(self._page) >= PAGE:
            self.flush()

    def flush(self) -> None:
        """Send the records of the page that take nothing back."""
        page, self._page = self._page, []
        sent = page if self._may_decrease else [*self._guarded(page)]
        if self.forecast is not None:
            self.forecast.add(sent)
        if self._outbox is not None:
            for record in sent:
                self._outbox.add(record)

    def commit(self, advance: Advance, checkpoints: Mapping[str, str]) -> None:
        """Commit the outbox and count its records as delivered."""
        if self._outbox is None or self._intent is None:
            return
        self._outbox.seal(checkpoints)
        self._intent.seal(advance.window, checkpoint=advance.checkpoint)
        self._outbox.commit()
        self.is_committed = True
        # If this fails, the messages stay where the next start finds them, and confirms them.
        self._ledger.deliveries.confirm(self._intent.name)

    def finish(self) -> None:
        """Hand the records over."""
        if self._outbox is not None:
            self._outbox.finish()

    def discard(self) -> None:
        """Drop records that are not committed."""
        if self._outbox is None or self._intent is None or self.is_committed:
            return
        self._outbox.discard()
        # If any of this fails, the next start settles the batch. A commit that failed after its
        # effect, when the disk refused to make it durable, leaves one that the next start confirms.
        with contextlib.suppress(ApplianceError, OSError):
            if self._messenger is None or self._messenger.is_held(self._outbox.name) is not True:
                self._ledger.deliveries.withdraw(self._intent.name)

    def _guarded(self, page: Sequence[UsageRecord]) -> Iterator[UsageRecord]:
        asked = [
            (
                *(record.key, month_of(record.measured), record.progress, record.amount),
                self.kind.cpu(record),
            )
            for record in page
        ]
        known = self._ledger.deliveries.compared(self.stream, asked)
        shrinking = {(one.key, one.month): one for one in known.shrinking}
        for record, (key, month, *_) in zip(page, asked, strict=True):
            shrinkage = shrinking.get((key, month))
            sent = [record] if shrinkage is None else self._raised(record, shrinkage)
            for one in sent:
                yield self._charged(one, known.charged.get((key, month)))

    def _charged(self, record: UsageRecord, known: Charged | None) -> UsageRecord:
        """Return the record with no less CPU time than was delivered.

        There is less if a server was resized to fewer cores, and the ledger that had seen the
        earlier ones is lost. Then it goes on from what was delivered.
        """
        if self._recharged is not None and self._recharged[0] == record.key:
            known = known or self._recharged[1]  # of the month before, in this window
        self._recharged = None
        life = self.kind.life
        one = record if known is None or life is None else life.charged(record, *known)
        if one is not record:
            self._recharged = one.key, Charged(one.amount, self.kind.cpu(one) or 0)
        return one

    def _raised(self, record: UsageRecord, shrinkage: Shrinkage) -> Iterator[UsageRecord]:
        """Yield a record that goes as far as the delivered one, if that says something new."""
        is_small = (shrinkage.delivered - shrinkage.progress) <= TOLERANCE.total_seconds()
        life = self.kind.life
        if is_small and life is not None and life.has_ended(record):
            raised = life.raised(record, shrinkage.delivered)
            if month_of(raised.measured) == shrinkage.month:
                yield raised
                return
        if is_small:
            logger.debug("%s: more was delivered of %s", self.stream.kind, record.key)
        else:
            lost = shrinkage.delivered - shrinkage.progress
            is_amount = record.progress == record.amount
            self.withheld.append(
                Withheld(self.kind.name, record.key, shrinkage.month, lost if is_amount else None)
            )
            if self.forecast is not None:
                self.forecast.withheld[shrinkage.month] += 1

    def _written(self, sha256: bytes, records: Sequence[UsageRecord]) -> None:
        if self._intent is not None:
            self._intent.add(sha256, [self._row(record) for record in records])

    def _row(self, record: UsageRecord) -> LedgerRow:
        month, amount, life = month_of(record.measured), record.amount, self.kind.life
        return LedgerRow(
            record.key,
            month,
            amount,
            record.measured,
            record.vo,
            self.kind.user(record),
            self.kind.cpu(record),
            None if record.progress == amount else record.progress,
            is_estimated=(record.key, month) in self._estimated,
            has_ended=life is not None and life.has_ended(record),
        )


@dataclass(slots=True)
class Lanes:
    """The lanes of a project."""

    lanes: list[Lane] = field(default_factory=list)
    failures: list[ApplianceError] = field(default_factory=list)
    """Why lanes were dropped."""

    @classmethod
    def open(
        cls,
        ledger: Ledger,
        origin: Origin,
        messengers: Iterable[OpenMessenger],
        kinds: Iterable[str],
        *,
        reason: str | None = None,
        is_dry_run: bool = False,
    ) -> Lanes:
        """Begin the lanes of some kinds."""
        lanes, wanted = cls(), frozenset(kinds)
        for messenger in messengers:
            for kind in messenger.kinds:
                if kind.name in wanted:
                    stream = Stream(origin, kind.name, messenger.name)
                    lane = Lane(ledger, stream, kind, may_decrease=reason is not None)
                    if is_dry_run:
                        lane.foresee(messenger)
                    elif not lanes._try(lane, lane.open, messenger, reason=reason):
                        continue
                    lanes.lanes.append(lane)
        return lanes

    def add(self, kind: str, record: UsageRecord, *, is_estimated: bool = False) -> None:
        """Add a record to each lane of its kind."""
        for lane in self._of([kind]):
            self._try(lane, lane.add, record, is_estimated=is_estimated)

    def drop(self, kinds: Iterable[str], error: ApplianceError) -> None:
        """Give the records of some kinds up, because there are not all of them."""
        self.failures.append(error)
        for lane in self._of(kinds):
            self._drop(lane)

    def flush(self) -> None:
        """Send what has been added."""
        for lane in list(self.lanes):
            self._try(lane, lane.flush)

    def commit(
        self, advances: Mapping[str, Advance], checkpoints: Callable[[], Mapping[str, str]]
    ) -> int:
        """Deliver all records, and return the number of messages.

        ``checkpoints`` returns the checkpoint files to write after the last lane; they are written
        only if no lane was dropped.
        """
        self.flush()
        for lane in list(self.lanes):
            is_last = lane is self.lanes[-1] and not self.failures
            reached = checkpoints() if is_last else {}
            self._try(lane, lane.commit, advances[lane.stream.kind], reached)
        for lane in list(self.lanes):
            self._try(lane, lane.finish)
        return sum(lane.messages for lane in self.lanes if lane.is_committed)

    def discard(self) -> None:
        """Drop what is not committed."""
        for lane in self.lanes:
            lane.discard()

    @property
    def kinds(self) -> frozenset[str]:
        """Return the kinds of which a lane is left."""
        return frozenset(lane.stream.kind for lane in self.lanes)

    def withheld(self) -> list[Withheld]:
        """Return the records that were not sent."""
        return [one for lane in self.lanes for one in lane.withheld]

    def forecasts(self) -> list[Forecast]:
        """Return what a dry run would have sent."""
        return [lane.forecast for lane in self.lanes if lane.forecast is not None]

    @property
    def foreseen(self) -> int:
        """Return the number of messages that a dry run would have sent."""
        return sum(one.messages(month) for one in self.forecasts() for month in one.months)

    def _of(self, kinds: Iterable[str]) -> list[Lane]:
        return [lane for lane in self.lanes if lane.stream.kind in kinds]

    def _try(self, lane: Lane, call: Callable[..., None], *values: object, **more: object) -> bool:
        """Call a method of a lane; if it fails, drop the lane and keep the failure."""
        try:
            call(*values, **more)
        except (ApplianceError, OSError) as error:
            failure = LocalFailure.from_os(error) if isinstance(error, OSError) else error
            self.failures.append(failure)
            self._drop(lane)
            return False
        return True

    def _drop(self, lane: Lane) -> None:
        lane.discard()
        if lane in self.lanes:
            self.lanes.remove(lane)
