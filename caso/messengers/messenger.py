"""A messenger: where the records of a run go, and when they have arrived.

Each messenger is one file of this folder; `caso.messengers.registry` lists them. Its options are
read once, and `open` makes what a run uses. The records of a project and a kind go through an
outbox, in these steps; between them the run writes its ledger:

    add       any number of records
    seal      everything is durable; nothing has been accepted yet
              (the ledger holds all rows as intended)
    commit    from here on, the records are delivered: now, or by the next run
              (the ledger counts them)
    finish    the records are handed over, then the checkpoint files are written

A start asks `OpenMessenger.is_held` about each outbox that the ledger holds as intended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from appliance.core.run.errors import ApplianceError
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind, UsageRecord

Written = Callable[[bytes, Sequence[UsageRecord]], None]
"""Takes the SHA-256 digest of a message and its records, in its order; b"" without messages."""


class Outbox(Protocol):
    """The records of one project and one kind until the messenger has accepted them.

    Raises:
        ApplianceError, OSError: by each method: the records are not accepted, or only by the next
            run.

    """

    @property
    def name(self) -> str:
        """Return the name by which `OpenMessenger.is_held` knows it, the same in each run."""

    @property
    def messages(self) -> int:
        """Return the number of messages so far."""

    def add(self, record: UsageRecord) -> None:
        """Add a record; within a month, records are sent in the order in which they are added."""

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        """Write everything that `commit` needs, durably.

        ``checkpoints`` has the contents of the checkpoint files by name.
        """

    def commit(self) -> None:
        """Accept the records."""

    def finish(self) -> None:
        """Hand the records over, then write the checkpoint files."""

    def discard(self) -> None:
        """Drop records that are not committed."""


@dataclass(slots=True)
class Recovered:
    """The result of finishing what earlier runs have committed."""

    messages: int = 0
    """Messages that were handed over."""
    stuck: dict[str, ApplianceError] = field(default_factory=dict)
    """Failures by project: it cannot be accounted until an administrator has helped."""
    foreign: list[ApplianceError] = field(default_factory=list)
    """What other programs have left in the place of unsent records."""

    def add(self, other: Recovered) -> None:
        """Add another result to this one."""
        self.messages += other.messages
        self.stuck |= other.stuck
        self.foreign += other.foreign


class OpenMessenger(Protocol):
    """A messenger in a run."""

    @property
    def name(self) -> str:
        """Return the messenger's name."""

    @property
    def kinds(self) -> tuple[RecordKind[Any], ...]:
        """Return the kinds that it sends."""

    @property
    def spools(self) -> Mapping[str, Path]:
        """Return the spools in which messages wait for a sender, by kind."""

    @property
    def max_size(self) -> int | None:
        """Return how many records a message has at most; None if there are no messages."""

    def begin(self, project_id: str, kind: RecordKind[Any], written: Written) -> Outbox:
        """Begin an outbox that calls ``written`` for each message, at the latest when sealed."""

    def is_held(self, name: str) -> bool | None:
        """Check whether the outbox of a run that was killed was committed; None: unknown."""

    def recover(self) -> Recovered:
        """Finish what earlier runs have committed; a failure stops no other project."""

    def deliver(self) -> Sequence[ApplianceError]:
        """Send what waits, at the end of a run; return what failed, which the next run sends."""

    def pending(self) -> list[str]:
        """Return the projects of which something waits."""

    def unusable(self) -> Sequence[ApplianceError]:
        """Return a failure for each thing that `recover` would report."""


class Messenger(Protocol):
    """A messenger as it is configured."""

    @property
    def name(self) -> str:
        """Return its name in the option ``messengers``."""

    @property
    def kinds(self) -> tuple[RecordKind[Any], ...]:
        """Return the kinds that it sends."""

    def open(self, checkpoints: Checkpoints) -> OpenMessenger:
        """Return the messenger for a run that writes these checkpoints."""

    def describe(self) -> str:
        """Return what becomes of records, for the report of a configuration without faults."""
