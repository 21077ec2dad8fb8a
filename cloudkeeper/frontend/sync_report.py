"""The results of a run of ``sync``: what was planned, what was done, what failed and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloudkeeper.frontend.remedies import command
from cloudkeeper.model import (
    FORMAT_KEY,
    Appliance,
    Change,
    Create,
    Hide,
    Plan,
    Remove,
    Update,
    UpdateMetadata,
)

logger = logging.getLogger(__name__)

# Images that one line names.
_SHOWN = 5
BUG = "bug in cloudkeeper"
"""Begin of the reason of a failure that is a fault of this program."""


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """A change and the reason of its failure; empty if it succeeded or was only planned."""

    change: Change
    vo: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ComparedList:
    """The plan for a list of a source, and the appliances in the cloud it was compared with."""

    source: str
    vo: str
    plan: Plan
    held: Sequence[Appliance]


@dataclass(slots=True)
class SyncReport:
    """The results of a run, and its failures."""

    outcomes: list[ChangeOutcome] = field(default_factory=list)
    compared: list[ComparedList] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the administrator should know, and what is no failure."""
    lists: int = 0
    """Lists that were accepted."""
    refused_lists: int = 0
    lists_left: int = 0
    """Configured lists whose changes have not all been attempted."""
    unchanged: int = 0
    held_by_others: int = 0
    """Images that another manager of the cloud keeps, and that are not uploaded again."""
    outdated: list[Appliance] = field(default_factory=list)
    """Images in the cloud that stay in a format that the configuration no longer accepts."""
    kept_of_ended: int = 0
    """Images of lists that have ended, which the policy keeps."""
    ignored: list[Appliance] = field(default_factory=list)
    """Images in the cloud that the configuration ignores, and that the policy keeps."""
    chosen: int = 0
    """Images of the run: all of the sources, or those that match the run's filter."""
    withheld: int = 0
    transferred_bytes: int = 0
    """Bytes of image files that the backend has accepted."""
    is_logged: bool = True
    """Whether each line is logged, too."""

    def fail(self, line: str) -> None:
        """Record and log something that was not done."""
        self.failures.append(line)
        if self.is_logged:
            logger.error("%s", line)

    def note(self, line: str) -> None:
        """Record and log what the administrator should know."""
        self.notes.append(line)
        if self.is_logged:
            logger.info("%s", line)

    def note_formats(self) -> None:
        """Note how many images are in a format that the configuration no longer accepts."""
        if self.outdated:
            words = ", ".join(sorted({one.attributes[FORMAT_KEY] for one in self.outdated}))
            number = counted(len(self.outdated))
            again = command("sync", "--reconvert")
            self.note(
                f"kept in a format that formats no longer accepts ({words}): {number}; to convert "
                f"them, run: {again}"
            )

    def note_ignored(self) -> None:
        """Note the images in the cloud that the configuration ignores."""
        if self.ignored:
            names = [one.identifier for one in self.ignored]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            words = f"kept in the cloud, though the configuration ignores them: {len(names)}"
            self.note(f"{words}: {', '.join(names[:_SHOWN])}{more} (policy: ended-lists)")

    def refuse_list(self, line: str, *, fate: str = "its images stay as they are") -> None:
        """Record that a list is not accepted, and the fate of its images."""
        self.fail(f"{line}; {fate}")
        self.refused_lists += 1

    def done(self, kind: type[Change]) -> int:
        """Return the number of changes of a kind that succeeded."""
        return sum(
            isinstance(outcome.change, kind) and not outcome.failure for outcome in self.outcomes
        )


def describe(change: Change) -> str:
    """Return a short description of a change, for messages."""
    name = f'{change.appliance.identifier} "{change.appliance.title[:60]}"'
    match change:
        case Create():
            return f"add {name}"
        case Update(_, reason):
            return f"update {name} ({reason})"
        case UpdateMetadata(_, reason):
            return f"update metadata of {name} ({reason})"
        case Remove(_, reason):
            return f"remove {name} ({reason})"
        case Hide(_, reason):
            return f"hide {name} ({reason})"


def counted(number: int) -> str:
    """Return a number of images, for messages."""
    return f"{number} image" if number == 1 else f"{number} images"
