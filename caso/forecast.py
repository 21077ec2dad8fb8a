"""What a dry run would send: the records of each month, and what they add to what was delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from caso.kinds.kind import RecordKind, UsageRecord
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Stream, month_of


@dataclass(slots=True)
class Expected:
    """The records of one month that would be sent. Amounts are in the unit of the kind."""

    records: int = 0
    amount: int = 0
    cpu: int = 0
    """Seconds."""
    more: int = 0
    """The growth of the amount since the last delivery."""
    more_cpu: int = 0
    """The growth of the CPU time, in seconds."""


@dataclass(slots=True)
class Forecast:
    """Counts the records of a project and kind in place of a messenger, in pages."""

    ledger: Ledger
    stream: Stream
    kind: RecordKind[Any]
    max_size: int | None
    """Records in one message; None if the messenger makes no messages."""
    months: dict[Month, Expected] = field(default_factory=dict)
    withheld: Counter[Month] = field(default_factory=Counter)
    """Records that would not be sent, because more was delivered before."""
    _last: tuple[str, int, int] | None = None
    """Key, amount and CPU seconds of the last record: those of a thing come together."""

    def add(self, page: Sequence[UsageRecord]) -> None:
        """Count records that would be sent; those of a thing are in the order of months."""
        asked = [(record.key, month_of(record.measured)) for record in page]
        delivered = self.ledger.deliveries.reached(
            self.stream, asked, is_cumulative=self.kind.is_cumulative
        )
        for record, place in zip(page, asked, strict=True):
            self._count(record, place[1], *delivered.get(place, (0, 0)))

    def messages(self, month: Month) -> int:
        """Return the number of messages with the records of a month."""
        records = self.months[month].records if month in self.months else 0
        return -(-records // self.max_size) if self.max_size else 0

    def _count(self, record: UsageRecord, month: Month, amount: int, cpu: int) -> None:
        own = self.kind.cpu(record) or 0
        if self.kind.is_cumulative:
            # What an earlier month would deliver is not delivered again by this one.
            if self._last is not None and self._last[0] == record.key:
                amount, cpu = max(amount, self._last[1]), max(cpu, self._last[2])
            self._last = record.key, record.amount, own
        of_month = self.months.setdefault(month, Expected())
        of_month.records += 1
        of_month.amount += record.amount
        of_month.cpu += own
        of_month.more += record.amount - amount
        of_month.more_cpu += own - cpu
