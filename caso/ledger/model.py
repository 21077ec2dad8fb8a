"""What the ledger is asked and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, NewType

Month = NewType("Month", int)
"""A calendar month of UTC, as 202611."""

MONTHS = 24
"""Months that the ledger keeps, besides the current one."""


def month_of(moment: datetime) -> Month:
    """Return the month of an aware moment in UTC."""
    return Month(moment.year * 100 + moment.month)


def month_text(month: Month) -> str:
    """Return a month as ``2026-11``."""
    return f"{month // 100}-{month % 100:02d}"


def month_named(text: str) -> Month:
    """Return the month that is written as ``2026-11``."""
    return Month(int(text.replace("-", "")))


def month_before(month: Month) -> Month:
    """Return the month before another one."""
    return Month(month - 1 if month % 100 > 1 else month - 100 + 11)


def first_second(month: Month) -> datetime:
    """Return the first moment of a month, in UTC."""
    return datetime(month // 100, month % 100, 1, tzinfo=UTC)


def months_between(first: Month, last: Month) -> list[Month]:
    """Return the months from the first to the last, both included."""
    numbers = range(first // 100 * 12 + first % 100 - 1, last // 100 * 12 + last % 100)
    return [Month(number // 12 * 100 + number % 12 + 1) for number in numbers]


def seconds(moment: datetime) -> int:
    """Return a moment as whole seconds since 1970."""
    return int(moment.timestamp())


def moment_of(stamp: int) -> datetime:
    """Return the moment of whole seconds since 1970."""
    return datetime.fromtimestamp(stamp, UTC)


@dataclass(frozen=True, slots=True)
class Origin:
    """The project in which things are used, and where it is."""

    keystone: str
    """The URL of Keystone."""
    region: str
    project: str
    """The project's id."""

    @property
    def label(self) -> str:
        """Return the name of the project's batches, which differs in each region."""
        return f"{self.project}@{self.region}" if self.region else self.project


@dataclass(frozen=True, slots=True)
class Stream:
    """The records of one kind from one project to one destination."""

    origin: Origin
    kind: str
    destination: str
    """The messenger's name."""


class LedgerRow(NamedTuple):
    """What one record delivers. Of the same key, month and destination, the last one counts."""

    key: str
    month: Month
    amount: int
    """In the unit of the kind: for servers, seconds since the creation."""
    measured: datetime
    """The moment by which the repository chooses the month."""
    vo: str
    user: str | None = None
    """The id in Keystone, never a name."""
    cpu: int | None = None
    """Seconds of CPU, of the kinds that have them."""
    progress: int | None = None
    """How far the record goes, if that is not the amount; see `UsageRecord.progress`."""
    is_estimated: bool = False
    has_ended: bool = False
    """Whether the thing has ended within the month."""


class Shrinkage(NamedTuple):
    """A record that goes less far than the delivered one, and would take back a part of it."""

    key: str
    month: Month
    delivered: int
    """The progress of the delivered record; that is the amount where use only grows."""
    progress: int
    """The progress of the new record."""


class Charged(NamedTuple):
    """What was delivered of a thing that is charged for CPU time."""

    amount: int
    cpu: int
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time for which everything was delivered, both ends included."""

    start: datetime
    end: datetime
    is_known: bool = True
    """Whether the ledger has the amounts. It has not, if another program delivered them."""


@dataclass(frozen=True, slots=True)
class DeliveredRow:
    """What was delivered last for a thing in a month, with its message."""

    stream: Stream
    row: LedgerRow
    sha256: str | None
    """The digest of the message; None if there was none, or it is not known."""
    at: datetime
    """When the batch of the message was begun."""


@dataclass(frozen=True, slots=True)
class Decrease:
    """An amount that a person has lowered."""

    stream: Stream
    key: str
    month: Month
    before: int
    after: int
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A batch that was begun, and not confirmed."""

    name: str
    stream: Stream
    at: datetime


_NO_FACTS: Mapping[str, object] = {}


class Sight(NamedTuple):
    """A thing that a listing shows."""

    key: str
    user: str | None = None
    facts: Mapping[str, object] = _NO_FACTS
    """What a record of it needs, and no names of people or machines."""
    since: datetime | None = None
    """Since when the facts hold, if the service says so; otherwise since this look."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A time in which a thing was seen with the same owner and facts."""

    key: str
    origin: Origin
    user: str | None
    facts: Mapping[str, object]
    since: datetime
    until: datetime | None
    """None while the thing is there."""
