"""A kind of usage record: what a run, the messengers and the ledger need to know of it.

Each kind is one file of this folder, with the fields, the form on the wire, the faults and the
month rule of its records. `caso.kinds.registry` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar


class UsageRecord(Protocol):
    """One record of any kind: the use of one thing, such as a server or a volume."""

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


@dataclass(frozen=True, slots=True)
class Checked(Generic[R]):
    """A record as it may be sent, and what is wrong with the record that was checked."""

    record: R
    """The record without the optional fields that the repository would refuse."""
    dropped: tuple[str, ...] = ()
    """The optional fields that were left out, a few words each."""
    faults: tuple[str, ...] = ()
    """Faults for which the repository would refuse the record, a few words each."""


@dataclass(frozen=True, slots=True)
class RecordKind(Generic[R]):
    """A kind of record."""

    name: str
    """Its name in the option ``record_types``, as in cASO."""
    title: str
    """Its name and version, for people."""
    things: str
    """What it counts, in the plural: servers."""
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
