"""The last run of each program, from the records in the directory of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from appliance.admin import inventory
from appliance.admin.settings import Host
from appliance.admin.status import services
from appliance.admin.status.one_each import Tree
from appliance.core import clock, files
from appliance.core.run import record
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout

NEWEST = 200
"""Records of a directory that are read; a program has one, so there are a dozen."""
_WORDS = {
    ExitStatus.DONE: "done",
    ExitStatus.PARTLY: "partly",
    ExitStatus.USAGE: "misconfigured",
    ExitStatus.NOTHING: "failed",
    ExitStatus.BUG: "broken",
}


@dataclass(frozen=True, slots=True)
class Last:
    """The last run of a program, from its record."""

    program: str
    ended: datetime | None
    status: ExitStatus | None
    last_success: datetime | None
    counts: Mapping[str, float]
    notes: Sequence[str]
    failures: Sequence[str]
    started: datetime | None = None
    parts: Mapping[str, object] = field(default_factory=dict)
    is_off: bool = False
    """Whether its flow is off, so that the result of its last run does not matter."""

    @property
    def is_well(self) -> bool:
        """Return whether it was complete, or its flow is off."""
        return self.is_off or self.status is ExitStatus.DONE

    def figure(self, name: str) -> float | None:
        """Return a figure of the run; None if its record has none, or something else."""
        value = self.counts.get(name)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        return value if is_number else None

    @property
    def word(self) -> str:
        """Return the word for it in the table."""
        if self.is_off:
            return services.OFF
        return _WORDS[self.status] if self.status is not None else "unknown"


def is_off(path: Path, host: Host) -> bool:
    """Return whether a record belongs to a program whose flow is off."""
    flow = inventory.flow_of_record(path.stem, path.parent.name)
    return flow is not None and not host.flows[flow]


def last_records(layout: Layout) -> tuple[dict[Path, Mapping[str, object]], list[str]]:
    """Return the last record of each program, and a line for each unusable file.

    Each container writes into a directory of its own. A program may have run in two of them, as
    cloudkeeper-os does when cloudkeeper works in direct mode: its later run counts. The records of
    jobs, which root writes, come last, and no other record replaces them.
    """
    if not layout.runs.exists():
        return {}, []
    kinds = (".json", ".prom", ".tmp")
    below = files.listed(layout.runs, lambda name: not name.endswith(kinds), directories=True)
    own = inventory.records(layout)
    found: dict[str, tuple[Path, Mapping[str, object]]] = {}
    unusable = [str(line) for line in below.skipped.values()]
    # False sorts before True: root's own directory is the last.
    for directory in (layout.runs, *sorted(below.paths, key=own.__eq__)):
        records, broken = record.load_all(directory, newest=NEWEST)
        for path, tree in records.items():
            known = found.get(path.stem)
            if directory == own or not known or _age_of(tree) <= _age_of(known[1]):
                found[path.stem] = path, tree
        unusable += broken
    return dict(found.values()), unusable


def _age_of(tree: Mapping[str, object]) -> timedelta:
    """Return the time since the end of a run; a time that cannot be right counts as the oldest."""
    ended, now = moment(tree.get("ended")), clock.now()
    return now - ended if ended and ended <= now else timedelta.max


def last_run(program: str, tree: Tree, *, is_off: bool) -> Last:
    """Return the last run of a program, from its record."""
    counts, failures, status = tree.get("counts"), tree.get("failures"), tree.get("status")
    notes, parts = tree.get("notes"), tree.get("parts")
    return Last(
        program=program,
        ended=moment(tree.get("ended")),
        status=ExitStatus(status)
        if isinstance(status, int) and status in set(ExitStatus)
        else None,
        last_success=moment(tree.get("last_success")),
        counts=counts if isinstance(counts, dict) else {},
        failures=[str(line) for line in failures] if isinstance(failures, list) else [],
        notes=list(_notes(notes)) if isinstance(notes, dict) else [],
        started=moment(tree.get("started")),
        parts=parts if isinstance(parts, dict) else {},
        is_off=is_off,
    )


def _notes(notes: Mapping[object, object]) -> Iterator[str]:
    for name, lines in notes.items():
        for line in lines if isinstance(lines, list) else []:
            yield f"{str(name).replace('_', ' ')}: {line}"


def moment(text: object) -> datetime | None:
    """Return the time in a record; None for what is none."""
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
