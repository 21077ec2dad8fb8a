"""A kind of usage record: what a run, the messengers and the ledger need to know of it.

Each kind is one file of this folder, with the fields, the form on the wire, the faults and the
month rule of its records. `caso.kinds.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar


class UsageRecord(Protocol):
    """One record of any kind: the use of one thing, such as a server or a volume."""

    @property
    def vo(self) -> str:
        """Return the VO."""

    @property
    def key(self) -> str:
        """Return the id of the thing: of several records in a month, the last one counts."""

    @property
    def measured(self) -> datetime:
        """Return the moment by which the repository chooses the month, aware, in UTC."""

    @property
    def amount(self) -> int:
        """Return the use in the unit of the kind."""

    @property
    def progress(self) -> int:
        """Return how far the record goes: of the same key and month, it never goes back.

        The repository keeps the last record. One with less progress than an earlier one would
        replace what is known by what was known before. It is the amount where use only grows.
        """


R = TypeVar("R", bound=UsageRecord)


class Checked(NamedTuple, Generic[R]):
    """A record as it may be sent, and what is wrong with the record that was checked."""

    record: R
    """The record without the optional fields that the repository would refuse."""
    dropped: tuple[str, ...] = ()
    """The optional fields that were left out, a few words each."""
    faults: tuple[str, ...] = ()
    """Faults for which the repository would refuse the record, a few words each."""


@dataclass(frozen=True, slots=True)
class LastSight:
    """A thing that no listing shows any more, as it was delivered and seen last."""

    key: str
    project_id: str
    user_id: str | None
    vo: str
    site: str
    service: str
    facts: Mapping[str, Any]
    """As `RecordLife.facts` returned them."""
    amount: int
    cpu: int | None
    """Seconds of CPU, of a kind that has them."""
    measured: datetime
    """The moment of ``amount``."""
    until: datetime
    """When a listing showed it last."""


@dataclass(frozen=True, slots=True)
class RecordLife(Generic[R]):
    """How records of things end."""

    has_ended: Callable[[R], bool]
    """Checks whether a record is the last one of its thing."""
    raised: Callable[[R, int], R]
    """Returns a record that goes as far as a progress that was delivered."""
    charged: Callable[[R, int, int], R]
    """Returns a record that takes back nothing of an amount and its CPU time."""
    facts: Callable[[R], Mapping[str, object]]
    """Returns what `closed` needs, without names of people and machines."""
    closed: Callable[[LastSight], Iterator[R]]
    """Yields the last records of a thing that vanished, oldest month first."""


@dataclass(frozen=True, slots=True)
class RecordKind(Generic[R]):
    """A kind of record."""

    name: str
    """Its name in the option ``record_types``, as in cASO."""
    title: str
    """Its name and version, for people."""
    things: str
    """What it counts, in the plural: servers."""
    record: type[R]
    """The class of its records."""
    describe: Callable[[int], str]
    """Returns the sum of records' amounts for people, with its unit."""
    check: Callable[[R, datetime], Checked[R]]
    """Takes a record and the present time."""
    fields: Callable[[R], Mapping[str, object]]
    """Returns the values of a record by their names on the wire."""
    render: Callable[[R], str]
    """Returns one record's piece of a message."""
    compose: Callable[[Sequence[str]], bytes]
    """Returns one message of rendered records."""
    user: Callable[[R], str | None] = lambda _: None
    """Returns the id of the user in Keystone."""
    cpu: Callable[[R], int | None] = lambda _: None
    """Returns the seconds of CPU, of a kind that has them."""
    is_count: bool = False
    """Whether an amount is a number of things at a moment, not seconds."""
    is_cumulative: bool = False
    """Whether records count from the beginning of a thing, not from that of the month."""
    life: RecordLife[R] | None = None
    """What a kind knows of things that are created and end; None for counts."""
