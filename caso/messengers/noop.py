"""The messenger that discards records. Checkpoints move all the same, as in cASO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from caso.checkpoint import Checkpoints
from caso.kinds.kind import RecordKind, UsageRecord
from caso.messengers import record_types
from caso.messengers.messenger import Messenger, Recovered, Written

# Before 1.4.2, messengers were configured by the names of their classes.
NAMES = ("noop", "caso.messenger.noop.NoopMessenger")


def read(settings: Settings, _layout: Layout, _name: str) -> Messenger:
    """Return the messenger, with the kinds of which records are counted and discarded."""
    return Noop(record_types.kinds(settings, "noop"))


@dataclass(frozen=True, slots=True)
class Noop:
    """The messenger ``noop``."""

    kinds: tuple[RecordKind[Any], ...]
    name: str = "noop"

    def open(self, checkpoints: Checkpoints) -> _OpenNoop:
        """Return the messenger for a run."""
        return _OpenNoop(self.kinds, checkpoints)

    def describe(self) -> str:
        """Return what becomes of records."""
        return "discarded (noop)"


@dataclass(frozen=True, slots=True)
class _OpenNoop:
    kinds: tuple[RecordKind[Any], ...]
    checkpoints: Checkpoints
    name: str = "noop"
    max_size: int | None = None

    @property
    def spools(self) -> Mapping[str, Path]:
        return {}

    def begin(
        self,
        project_id: str,
        kind: RecordKind[Any],
        written: Written,  # noqa: ARG002
    ) -> _NoOutbox:
        return _NoOutbox(f"noop {kind.name} {project_id}", self.checkpoints)

    def is_held(self, name: str) -> bool | None:  # noqa: ARG002
        return None

    def recover(self) -> Recovered:
        return Recovered()

    def deliver(self) -> Sequence[ApplianceError]:
        return ()

    def pending(self) -> list[str]:
        return []

    def unusable(self) -> Sequence[ApplianceError]:
        return ()


@dataclass(slots=True)
class _NoOutbox:
    name: str
    checkpoints: Checkpoints
    messages: int = 0
    reached: Mapping[str, str] = field(default_factory=dict)

    def add(self, record: UsageRecord) -> None:
        pass

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        self.reached = checkpoints

    def commit(self) -> None:
        pass

    def finish(self) -> None:
        self.checkpoints.write(self.reached)

    def discard(self) -> None:
        pass
