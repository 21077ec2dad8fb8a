"""Why volumes, accelerators and addresses differ between cASO and us: every unit has a cause.

cASO's records of these kinds are about one run, and replace each other at the repository:

    kind          cASO's row at the repository            ours
    storage       of a volume, its last run alone         of each month, all of it
    accelerator   of a server and month, its last run     of each month, all of it
    ip            of a project, version and month,        of each user, version and month,
                  the last count                          the last count

So the difference of a volume is split by time: what lies in earlier records of cASO was replaced,
what lies after its last run is still to come. Differences that nothing here proves stay as not
explained. Pure: `caso.shadow.rows` reads the messages.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.core.usage_messages import SentRecord

Times = list[tuple[int, int]]
"""Times that do not overlap, from and to, in seconds since the epoch."""


class ThingCause(enum.StrEnum):
    """A cause of a difference; `MEANINGS` has the words."""

    REPLACED = "replaced"
    CUT = "cut"
    BEFORE = "before"
    DELETED = "deleted"
    LAST_SEEN = "last-seen"
    VERSION = "version"
    ALL_PROJECTS = "all-projects"
    COUNTED = "counted"
    NOT_SENT = "not-sent"
    MISSING = "missing"
    OURS_MISSING = "ours-missing"


MEANINGS: Mapping[ThingCause, str] = {
    ThingCause.REPLACED: "cASO's record of a run replaces the one of the run before",
    ThingCause.CUT: "the two ran at different times; the rest is in the next record",
    ThingCause.BEFORE: "before the shadow began; cASO has reported it, and replaced it since",
    ThingCause.DELETED: "cASO has no record of a volume that was deleted",
    ThingCause.LAST_SEEN: "deleted between two runs; each counts it up to when it saw it last",
    ThingCause.VERSION: "cASO loses the count of IPv4 where a project has IPv6",
    ThingCause.ALL_PROJECTS: "cASO counts the addresses of all projects for each",
    ThingCause.COUNTED: "the number of addresses changed between the two counts",
    ThingCause.NOT_SENT: "the configuration has no destination of the kind here, so only cASO"
    " sends it; each run of the shadow names the setting",
    ThingCause.MISSING: "cASO's runs have no record of it",
    ThingCause.OURS_MISSING: "our runs have no record of it",
}
UNEXPLAINED_THINGS = frozenset({ThingCause.MISSING, ThingCause.OURS_MISSING})


@dataclass(frozen=True, slots=True)
class ThingDifference:
    """What both sides have of a thing in a month, in seconds or addresses."""

    kind: str
    key: str
    month: str
    ours: int
    theirs: int
    causes: Mapping[ThingCause, int]
    """They add up to our amount less cASO's."""

    @property
    def is_explained(self) -> bool:
        """Check whether nobody has to look into it."""
        return not UNEXPLAINED_THINGS & self.causes.keys()


@dataclass(slots=True)
class ThingRecords:
    """The records of one kind that a side has, in the order in which they were sent."""

    last: dict[tuple[str, str], SentRecord] = field(default_factory=dict)
    """By key and month."""
    all: dict[str, list[SentRecord]] = field(default_factory=lambda: defaultdict(list))
    """By thing."""
    latest: dict[str, int] = field(default_factory=dict)
    """The latest moment that a record of a project covers; a run takes its projects in turn."""

    def add(self, record: SentRecord) -> None:
        """Take a record."""
        self.last[record.key, record.month] = record
        self.all[thing_of(record)].append(record)
        latest = self.latest.get(record.project, 0)
        self.latest[record.project] = max(latest, record.measured)

    def reached(self, project: str) -> int:
        """Return up to when a side has accounted a project, as far as its records show."""
        return self.latest.get(project, max(self.latest.values(), default=0))

    def of_month(self, thing: str, month: str) -> list[SentRecord]:
        """Return the rows that the repository keeps of a thing and month."""
        keys = dict.fromkeys(one.key for one in self.all.get(thing, ()))
        return [self.last[key, month] for key in keys if (key, month) in self.last]

    def months(self) -> Iterator[tuple[str, str]]:
        """Yield thing and month of each record."""
        return ((thing_of(one), one.month) for one in self.last.values())


def thing_of(record: SentRecord) -> str:
    """Return what a record is about: a volume, a server, or a project with an IP version."""
    if record.kind == "ip":
        return f"{record.project}/{record.key.rpartition('/')[2]}"
    return record.uuid or record.key


def differences(
    kind: str, ours: ThingRecords, theirs: ThingRecords, *, begun: int, lead: int
) -> Iterator[ThingDifference]:
    """Yield each thing and month that a side has, sorted.

    ``begun`` is when the shadow began. Our last run ended ``lead`` seconds after cASO's.
    """
    for thing, month in sorted({*ours.months(), *theirs.months()}):
        mine = sum(one.amount for one in ours.of_month(thing, month))
        rows = _kept_by_repository(kind, theirs, thing, month)
        other = sum(one.amount for one in rows)
        causes: Counter[ThingCause] = Counter()
        if not ours.last:
            causes[ThingCause.NOT_SENT] = mine - other
        elif mine != other or kind == "storage":
            causes = _RULES[kind](
                _ThingInMonth(ours, theirs, thing, month, begun, lead), mine, other
            )
        found = {cause: amount for cause, amount in sorted(causes.items()) if amount}
        yield ThingDifference(kind, thing, month, mine, other, found)


def _kept_by_repository(
    kind: str, theirs: ThingRecords, thing: str, month: str
) -> Sequence[SentRecord]:
    # A volume has one row in all: its record has the same id in each month.
    rows = theirs.all.get(thing, [])[-1:] if kind == "storage" else theirs.of_month(thing, month)
    return [one for one in rows if one.month == month]


@dataclass(frozen=True, slots=True)
class _ThingInMonth:
    ours: ThingRecords
    theirs: ThingRecords
    thing: str
    month: str
    begun: int
    lead: int


_Rule = Callable[[_ThingInMonth, int, int], "Counter[ThingCause]"]


def _volume(pair: _ThingInMonth, _mine: int, _other: int) -> Counter[ThingCause]:
    mine = _union(pair.ours.of_month(pair.thing, pair.month))
    all_theirs = pair.theirs.all.get(pair.thing, [])
    kept = _union(_kept_by_repository("storage", pair.theirs, pair.thing, pair.month))
    left, found = _minus(mine, kept), Counter[ThingCause]()
    ours_end = mine[-1][1] if mine else pair.begun
    theirs_end = max((one.measured for one in all_theirs), default=pair.begun)
    project = next(one.project for one in (*all_theirs, *pair.ours.all.get(pair.thing, ())))
    reached = pair.ours.reached(project), pair.theirs.reached(project)
    is_gone = max(ours_end, theirs_end) < min(reached)
    for cause, times in (
        (ThingCause.REPLACED, _union(all_theirs, gap=_GAP)),
        (ThingCause.BEFORE, [(0, pair.begun + _GAP)]),
        (ThingCause.CUT, [(reached[1], _FOREVER)]),
        (ThingCause.DELETED, [(theirs_end, _FOREVER)] if is_gone else []),
        (ThingCause.MISSING, [(0, _FOREVER)]),
    ):
        rest = _minus(left, times)
        found[cause] += _length(left) - _length(rest)
        left = rest
    ahead = _minus(kept, mine)
    for cause, times in (
        (ThingCause.CUT, [(reached[0], _FOREVER)]),
        (ThingCause.LAST_SEEN, [(ours_end, _FOREVER)] if is_gone else []),
        (ThingCause.OURS_MISSING, [(0, _FOREVER)]),
    ):
        rest = _minus(ahead, times)
        found[cause] -= _length(ahead) - _length(rest)
        ahead = rest
    return found


def _accelerators(pair: _ThingInMonth, mine: int, other: int) -> Counter[ThingCause]:
    if mine >= other > 0:
        cause = ThingCause.REPLACED
    elif mine > other:
        cause = ThingCause.CUT if mine <= pair.lead else ThingCause.MISSING
    else:
        cause = ThingCause.CUT if other - mine <= -pair.lead else ThingCause.OURS_MISSING
    return Counter({cause: mine - other})


def _addresses(pair: _ThingInMonth, mine: int, other: int) -> Counter[ThingCause]:
    project, _, version = pair.thing.rpartition("/")
    everywhere = sum(
        one.amount
        for (key, month), one in pair.ours.last.items()
        if month == pair.month and key.endswith(version)
    )
    counts = _counts(pair.ours, pair), _counts(pair.theirs, pair)
    if not other and version == "IPv4" and pair.theirs.of_month(f"{project}/IPv6", pair.month):
        cause = ThingCause.VERSION
    elif other == everywhere != mine:
        cause = ThingCause.ALL_PROJECTS
    elif other in counts[0] or mine in counts[1]:
        cause = ThingCause.COUNTED
    elif not (mine and other) and _is_outside(pair):
        cause = ThingCause.CUT
    else:
        cause = ThingCause.MISSING if mine > other else ThingCause.OURS_MISSING
    return Counter({cause: mine - other})


def _counts(side: ThingRecords, pair: _ThingInMonth) -> set[int]:
    """Return the numbers of a project's addresses at the counts of a month."""
    found: Counter[int] = Counter()
    for one in side.all.get(pair.thing, ()):
        if one.month == pair.month:
            found[one.measured] += one.amount
    return {*found.values()}


def _is_outside(pair: _ThingInMonth) -> bool:
    """Check whether one side alone has counted since the other side's last run."""
    one, other = pair.ours, pair.theirs
    project, _, _ = pair.thing.rpartition("/")
    if not one.of_month(pair.thing, pair.month):
        one, other = other, one
    return min(each.measured for each in one.all[pair.thing]) > other.reached(project)


_RULES: Mapping[str, _Rule] = {
    "storage": _volume,
    "accelerator": _accelerators,
    "ip": _addresses,
}
OTHER_KINDS = tuple(_RULES)
"""The kinds whose records are not cumulative."""
_FOREVER = 2**63
_GAP = 2
"""cASO begins a second after the end of its last run, and parts of seconds are cut off."""


def _union(records: Iterable[SentRecord], *, gap: int = 0) -> Times:
    found: Times = []
    for begin, end in sorted((one.measured - one.amount, one.measured) for one in records):
        if found and begin <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found


def _minus(times: Times, others: Times) -> Times:
    """Return the parts of times that are in none of the others."""
    for begin, end in others:
        times = [
            part
            for first, last in times
            for part in ((first, min(last, begin)), (max(first, end), last))
            if part[0] < part[1]
        ]
    return times


def _length(times: Times) -> int:
    return sum(end - begin for begin, end in times)
