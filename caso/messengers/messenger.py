"""A messenger: where the records of a run go, and when they have arrived.

Each messenger is one file of this folder; `caso.messengers.registry` lists them. Its options are
read once, and `open` makes what a run uses. A project's checkpoint moves only after `Outbox.commit`
of its last outbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.core.run.errors import ApplianceError
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind, UsageRecord


class Outbox(Protocol):
    """The records of one project and one kind until the messenger has accepted them."""

    @property
    def messages(self) -> int:
        """Return the number of messages so far."""

    def add(self, record: UsageRecord) -> None:
        """Add a record; within a month, records are sent in the order in which they are added."""

    def commit(self, checkpoints: Mapping[str, str]) -> None:
        """Hand the records over, durably, then write the checkpoint files.

        ``checkpoints`` has their contents by name.

        Raises:
            ApplianceError, OSError: the records are not accepted, or only by the next run.

        """

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
    def kinds(self) -> tuple[RecordKind[Any], ...]:
        """Return the kinds that it sends."""

    def begin(self, project_id: str, kind: RecordKind[Any]) -> Outbox:
        """Begin an outbox."""

    def recover(self) -> Recovered:
        """Finish what earlier runs have committed; a failure stops no other project."""

    def pending(self) -> list[str]:
        """Return the projects for which `recover` would hand something over."""

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
