"""The messenger for the repository: messages in a spool, from which SSM sends them.

A spool holds the messages of one kind, because a sender's configuration has one destination.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout
from caso.checkpoint import Checkpoints
from caso.kinds import cloud, months
from caso.kinds.kind import RecordKind, UsageRecord
from caso.kinds.registry import KINDS
from caso.messengers import record_types
from caso.messengers.batch import Batch, Staging
from caso.messengers.messenger import Messenger, Recovered, Written

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


def read(settings: Settings, layout: Layout, name: str) -> Messenger:
    """Read the section [ssm]."""
    version = NAMES[name]
    if name != "ssm" and version == NAMES["ssm"]:
        settings.deprecate("DEFAULT", "messengers", f"{name}: write ssm")
    sent: tuple[str, ...] = ("cloud",)  # the form v0.2 is older than all other kinds
    if version == NAMES["ssm"]:
        others = [kind for kind in record_types.KNOWN if kind != "cloud"]
        asked = [kind for kind in others if settings.where("ssm", _option(kind))]
        section = name if name in ("ssm", "ssmv4") else "ssm"
        sent = record_types.chosen(settings, section, asked=asked)
    return SSM(
        kinds=tuple(cloud.kind(version) if kind == "cloud" else KINDS[kind] for kind in sent),
        outputs=_outputs(settings, layout, sent),
        max_size=settings.integer("ssm", "max_size", default=100, minimum=1),
    )


def _option(kind: str) -> str:
    return "output_path" if kind == "cloud" else f"output_path_{kind}"


def _outputs(settings: Settings, layout: Layout, sent: Collection[str]) -> Mapping[str, Path]:
    """Return the spool of each kind that is sent."""
    outputs: dict[str, Path] = {}
    usual = settings.path("ssm", "output_path", default=layout.path(_OUTPUT), is_directory=True)
    # A site may run cASO once for each kind, each time with the spool of that kind as output_path.
    # A flag for one run does not make the spool of servers that of volumes.
    extractor = settings.where("DEFAULT", "extractor")
    is_of_file = extractor is None or extractor.line > 0
    is_single = is_of_file and len(sent) == 1 and settings.where("ssm", "output_path")
    for kind in record_types.KNOWN:
        default = layout.path(f"{_OUTPUT}-{kind}")
        path = usual
        if kind != "cloud":
            default = usual if is_single else default
            path = settings.path("ssm", _option(kind), default=default, is_directory=True)
        if kind in sent:
            if path in outputs.values():
                words = f"{path} is the spool of another kind as well; a sender has one destination"
                settings.error("ssm", _option(kind), words)
            outputs[kind] = path
    return outputs


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
        self.name = messenger.name
        self.kinds = messenger.kinds
        self.spools = messenger.outputs
        self.max_size = messenger.max_size
        self._staging = {
            kind.name: Staging(messenger.outputs[kind.name], checkpoints) for kind in self.kinds
        }

    def begin(self, project_id: str, kind: RecordKind[Any], written: Written) -> SpoolOutbox:
        """Begin a batch."""
        staging = self._staging[kind.name]
        batch = staging.begin(project_id, compose=kind.compose, size=self.max_size, written=written)
        return SpoolOutbox(kind, staging, batch)

    def is_held(self, name: str) -> bool | None:
        """Check whether a batch was committed and is not handed over completely."""
        # A batch is confirmed in the ledger before the first of its messages moves.
        path = Path(name)
        if not path.is_dir():
            return False
        # One in a spool of an earlier configuration stays there, so it is not delivered.
        is_ours = any(staging.path == path.parent for staging in self._staging.values())
        return True if is_ours else None

    def recover(self) -> Recovered:
        """Finish every committed batch and delete every other one; a failure stops no other."""
        recovered = Recovered()
        for staging in self._staging.values():
            recovered.add(staging.recover())
        return recovered

    def deliver(self) -> Sequence[ApplianceError]:
        """Do nothing: SSM sends what is in the spool."""
        return ()

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

    @property
    def name(self) -> str:
        """Return the path of the batch."""
        return str(self.batch.directory)

    def add(self, record: UsageRecord) -> None:
        """Add a record to the messages of its month."""
        text, month = self.kind.render(record), months.first_moment(record.measured)
        self.batch.add(text, month=month, record=record)

    def seal(self, checkpoints: Mapping[str, str]) -> None:
        """Write the batch."""
        self.batch.seal(checkpoints)

    def commit(self) -> None:
        """Commit the batch."""
        self.batch.commit()

    def finish(self) -> None:
        """Move the messages into the spool, then write the checkpoints."""
        self.staging.hand_over(self.batch.directory)

    def discard(self) -> None:
        """Delete the batch if it is not committed."""
        self.batch.discard()
