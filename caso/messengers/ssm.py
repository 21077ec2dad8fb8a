"""The messenger for the repository: messages in a spool, from which SSM sends them.

A spool holds the messages of one kind, because a sender's configuration has one destination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from caso.checkpoint import Checkpoints
from caso.kinds import cloud, months
from caso.kinds.kind import RecordKind, UsageRecord
from caso.messengers.batch import Batch, Staging
from caso.messengers.messenger import Recovered

NAMES: Mapping[str, str] = {
    "ssm": "0.4",
    "ssmv4": "0.4",
    "ssmv2": "0.2",
    # Before 1.4.2, messengers were configured by the names of their classes.
    "caso.messenger.ssm.SSMMessenger": "0.4",
    "caso.messenger.ssm.SSMMessengerV04": "0.4",
    "caso.messenger.ssm.SSMMessengerV02": "0.2",
    "caso.messenger.ssm.SsmMessager": "0.2",
}
"""The version of the cloud records that each name stands for."""

_OUTPUT = "/var/spool/apel/outgoing/openstack"
_OTHER_RECORDS = ("ip", "accelerator", "storage", "energy")
_NOTHING = "not in this version, ignored"


def read(settings: Settings, layout: Layout, name: str) -> SSM:
    """Read the section [ssm]."""
    version = NAMES[name]
    if name != "ssm" and version == NAMES["ssm"]:
        settings.deprecate("DEFAULT", "messengers", f"{name}: write ssm")
    if name in ("ssm", "ssmv4"):
        _record_types(settings, f"messenger_{name}")
    output = settings.path("ssm", "output_path", default=layout.path(_OUTPUT), is_directory=True)
    return SSM(
        kinds=(cloud.kind(version),),
        outputs={"cloud": output},
        max_size=settings.integer("ssm", "max_size", default=100, minimum=1),
    )


def _record_types(settings: Settings, section: str) -> None:
    """Check that cloud records are sent: a run that sends none would still move checkpoints."""
    chosen = settings.words(section, "record_types", default=("cloud",))
    for word in chosen:
        if word in _OTHER_RECORDS:
            settings.warn(section, "record_types", f"{word}: {_NOTHING}")
        elif word != "cloud":
            settings.error(section, "record_types", f"{word!r} is not a record type; write cloud")
    if chosen and "cloud" not in chosen:
        settings.error(section, "record_types", "none of these is in this version; add cloud")


@dataclass(frozen=True, slots=True)
class SSM:
    """The messenger ``ssm``."""

    kinds: tuple[RecordKind[Any], ...]
    outputs: Mapping[str, Path]
    """The spool of each kind."""
    max_size: int
    """Records in one message."""
    name: str = "ssm"

    def open(self, checkpoints: Checkpoints) -> OpenSpools:
        """Return the messenger for a run."""
        return OpenSpools(self, checkpoints)

    def describe(self) -> str:
        """Return what becomes of records."""
        return "; ".join(
            f"{kind.title}, {self.max_size} a message, to {self.outputs[kind.name]}"
            for kind in self.kinds
        )


class OpenSpools:
    """The spools in a run."""

    def __init__(self, messenger: SSM, checkpoints: Checkpoints) -> None:
        self.kinds = messenger.kinds
        self._max_size = messenger.max_size
        self._staging = {
            kind.name: Staging(messenger.outputs[kind.name], checkpoints) for kind in self.kinds
        }

    def begin(self, project_id: str, kind: RecordKind[Any]) -> SpoolOutbox:
        """Begin a batch."""
        staging = self._staging[kind.name]
        batch = staging.begin(project_id, compose=kind.compose, size=self._max_size)
        return SpoolOutbox(kind, staging, batch)

    def recover(self) -> Recovered:
        """Finish every committed batch and delete every other one; a failure stops no other."""
        recovered = Recovered()
        for staging in self._staging.values():
            recovered.add(staging.recover())
        return recovered

    def pending(self) -> list[str]:
        """Return the projects with a committed batch that waits to be handed over."""
        return [project for staging in self._staging.values() for project in staging.pending()]

    def unusable(self) -> Sequence[ApplianceError]:
        """Return a failure for each path in the staging areas that the next run will report."""
        return [line for staging in self._staging.values() for line in staging.unusable()]


@dataclass(frozen=True, slots=True)
class SpoolOutbox:
    """The batch of a project and a kind."""

    kind: RecordKind[Any]
    staging: Staging
    batch: Batch

    @property
    def messages(self) -> int:
        """Return the number of messages so far."""
        return self.batch.messages

    def add(self, record: UsageRecord) -> None:
        """Add a record to the messages of its month."""
        self.batch.add(self.kind.render(record), month=months.first_moment(record.measured))

    def commit(self, checkpoints: Mapping[str, str]) -> None:
        """Commit the batch and move its messages into the spool, then write the checkpoints."""
        self.batch.commit(checkpoints)
        self.staging.hand_over(self.batch.directory)

    def discard(self) -> None:
        """Delete the batch if it is not committed."""
        self.batch.discard()
