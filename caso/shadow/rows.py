"""The rows that messages leave at the repository: of each server and month, the last record.

Two sides are read, ours and cASO's. Beside the rows, a side has what the comparison needs as
evidence: the moments at which its runs ended ("cuts"), and how far its records reached.

cASO on a host that is not in UTC writes start and end in local time; its durations are right. So
the real moment of its record is the start that our record shows, plus its wall time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.core import cloud_message, files, usage_messages
from appliance.core.cloud_message import CloudUsage
from appliance.core.run.errors import LocalFailure
from appliance.core.spool import Spool
from caso.shadow.others import OTHER_KINDS, ThingRecords

_LONGEST_MESSAGE = 2**26
_LONGEST_RUN = 3600
"""Seconds from the end of a run's window to its message, of a run that no other record shows."""
_QUARTER = 900
_LARGEST_SHIFT = 14 * 3600
"""Time zones differ from UTC by quarters of an hour, by fourteen hours at most."""


@dataclass(frozen=True, slots=True)
class SpooledRecord:
    """A record, and when its message was made, in seconds since the epoch."""

    usage: CloudUsage
    made: int


@dataclass(slots=True)
class UsageSide:
    """What one of the two programs reports."""

    rows: dict[str, dict[str, CloudUsage]] = field(default_factory=dict)
    """The last record of each server and month."""
    reach: dict[str, dict[str, int]] = field(default_factory=dict)
    """The latest moment that records of a server cover, by the month of that moment."""
    cuts: Counter[int] = field(default_factory=Counter)
    """How many records of living servers end at a moment."""
    proven: set[int] = field(default_factory=set)
    """Cuts soon after which a message was made."""
    of_projects: dict[str, set[int]] = field(default_factory=dict)
    """The cuts of each project."""
    messages: int = 0
    unread: int = 0
    """Records, or whole messages, that could not be read."""

    def add(self, record: SpooledRecord, *, begin: int) -> None:
        """Count a record of a server that began at a moment."""
        usage = record.usage
        until = begin + usage.age
        self.rows.setdefault(usage.uuid, {})[usage.month] = usage
        reached = self.reach.setdefault(usage.uuid, {})
        month = cloud_message.month_of(until)
        reached[month] = max(until, reached.get(month, 0))
        cuts = self.of_projects.setdefault(usage.project, set())
        if not usage.end:
            cuts.add(until)
            self.cuts[until] += 1
            if 0 <= record.made - until <= _LONGEST_RUN:
                self.proven.add(until)

    def reached(self, uuid: str, month: str) -> int:
        """Return the latest moment that records of a server cover, up to the end of a month."""
        reached = self.reach.get(uuid, {})
        return max((moment for when, moment in reached.items() if when <= month), default=0)

    def is_cut(self, moment: int) -> bool:
        """Check whether a run ended at a moment: several records show it, or its message does."""
        return self.cuts[moment] > 1 or moment in self.proven

    def runs(self) -> list[int]:
        """Return the moments at which runs ended, the earliest first."""
        return sorted(moment for moment in self.cuts if self.is_cut(moment))


def read_ours(path: Path) -> UsageSide:
    """Return our side, from the messages of a spool."""
    side = UsageSide()
    for record in _records(path, side):
        side.add(record, begin=record.usage.start)
    return side


def read_theirs(path: Path, ours: UsageSide) -> UsageSide:
    """Return cASO's side; ``ours`` shows when servers began."""
    side = UsageSide()
    starts = {uuid: next(iter(rows.values())).start for uuid, rows in ours.rows.items()}
    for record in _records(path, side):
        usage = record.usage
        side.add(record, begin=begin_of(usage, starts.get(usage.uuid)))
    return side


def begin_of(usage: CloudUsage, known: int | None) -> int:
    """Return the moment from which a record of cASO counts; ``known`` is the server's creation."""
    return known if known is not None and is_shift(usage.start - known) else usage.start


def is_shift(seconds: int) -> bool:
    """Check whether two moments can differ by a time zone alone."""
    return seconds % _QUARTER == 0 and abs(seconds) <= _LARGEST_SHIFT


def _records(path: Path, side: UsageSide) -> Iterator[SpooledRecord]:
    """Yield the cloud records of a spool in the order in which a sender sends them."""
    for text, made in _messages(path):
        found = cloud_message.read(text)
        if found is None:  # storage, addresses: cASO writes them into the same spool
            continue
        side.messages += 1
        side.unread += found.unread
        for usage in found.records:
            yield SpooledRecord(usage, made)


def _messages(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the messages of a spool, and when each was made, in the order of sending."""
    spool = Spool(path)
    for name in spool.names():
        try:
            text = files.read_regular(path / name, limit=_LONGEST_MESSAGE)
        except OSError as error:
            raise LocalFailure.from_os(error) from error
        yield text, int(spool.made_at(name).timestamp())
    for failure in spool.skipped.values():
        raise failure


def read_things(paths: Iterable[Path]) -> dict[str, ThingRecords]:
    """Return the records of volumes, accelerators and addresses in some spools, by kind."""
    found: dict[str, ThingRecords] = {kind: ThingRecords() for kind in OTHER_KINDS}
    for path in paths:
        for text, _ in _messages(path):
            for record in usage_messages.read(text).records:
                if record.kind in found:
                    found[record.kind].add(record)
    return found


def first_months(sides: Iterable[UsageSide]) -> Mapping[str, str]:
    """Return the earliest month with a row of each server, on any side."""
    found: dict[str, str] = {}
    for side in sides:
        for uuid, rows in side.rows.items():
            first = min(rows)
            found[uuid] = min(first, found.get(uuid, first))
    return found
