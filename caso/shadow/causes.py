"""Why hours of a server and month differ between cASO and us: every second has a cause.

The repository takes a month's hours to be the growth of a server's cumulative record since its row
of the month before. So the difference of a month is the change of our *lead* over cASO from one
month to the next. A lead is split by where the rows end, and by what the runs of both prove:

    cASO's row ends                      and                               cause
    before ours                          no run of cASO in between         the time of the cut
                                         a run of cASO in between, with    cASO left it out
                                         other records of the project
                                         an earlier record went further    a later run lowered it
    in another month, by the shift of                                      cASO's time zone
    its start against the creation
    after ours                           no run of ours in between         the time of the cut
    anywhere else                                                          not explained

What this table does not prove stays as not explained, so that causes always add up to the
difference. Pure: `caso.shadow.rows` reads the messages.
"""

from __future__ import annotations

import bisect
import enum
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.core import cloud_message
from appliance.core.cloud_message import CloudUsage
from caso.shadow.rows import UsageSide, begin_of, first_months


class Cause(enum.StrEnum):
    """A cause of a difference; `EXPLANATIONS` has the words."""

    CUT = "cut"
    MISSING = "missing"
    LOST_RUN = "lost-run"
    TAKEN_BACK = "taken-back"
    TIME_ZONE = "time-zone"
    START = "start"
    NEVER_LAUNCHED = "never-launched"
    SUSPENDED = "suspended"
    BEFORE = "before"
    FLAVOR = "flavor"
    DELETED_FLAVOR = "deleted-flavor"
    SET_ASIDE = "set-aside"
    OURS_MISSING = "ours-missing"
    PROJECT = "project"
    THEIR_PROJECT = "their-project"
    END = "end"
    NO_RUN = "no-run"
    VO = "vo"
    FIGURES = "figures"


EXPLANATIONS: Mapping[Cause, str] = {
    Cause.CUT: "the two were cut at different times; the hours are in the next record, and cASO"
    " counts those up to a month's end in the next month",
    Cause.MISSING: "cASO's run has no record of the server, although it has others of the project"
    " (long-running servers above Nova's limit of 1000, or a server that ended)",
    Cause.LOST_RUN: "cASO's run has no record of the whole project (a failed request, after which"
    " it goes on all the same)",
    Cause.TAKEN_BACK: "a later run of cASO, with an earlier extract_to, replaced its own record",
    Cause.TIME_ZONE: "cASO's host is not in UTC, which shifts its records into another month",
    Cause.START: "cASO counts from another moment than the server's creation (before 1.3.0)",
    Cause.NEVER_LAUNCHED: "cASO counts a server that was never launched: a second, or its whole"
    " life when it has been deleted",
    Cause.SUSPENDED: "the site counts the suspended time of servers apart; cASO does not",
    Cause.BEFORE: "the server ended before the shadow began; cASO has reported it before",
    Cause.FLAVOR: "the flavor was changed: cASO counts the cores that it saw last for the whole"
    " life; we count each part with its own cores, as far as the shadow has seen it",
    Cause.DELETED_FLAVOR: "cASO counts a second of CPU time for a server whose flavor was deleted",
    Cause.SET_ASIDE: "our record is in the quarantine of the shadow, with the reason",
    Cause.OURS_MISSING: "our run has no record of the server",
    Cause.PROJECT: "our runs have no record of the project; see what `caso shadow` reports of it",
    Cause.THEIR_PROJECT: "cASO has no record of the project at all; compare the projects and VOs of"
    " both: caso projects",
    Cause.END: "the two saw different ends of the server",
    Cause.NO_RUN: "the record ends at a moment at which no run is known to have ended",
    Cause.VO: "the two report the hours for different VOs",
    Cause.FIGURES: "CPU time is not wall time by cores",
}
UNEXPLAINED = frozenset(
    {
        *(Cause.OURS_MISSING, Cause.PROJECT, Cause.THEIR_PROJECT, Cause.END, Cause.NO_RUN),
        *(Cause.VO, Cause.FIGURES),
    }
)
"""Causes that an administrator has to look into before the site switches."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The hours of a server in a month on both sides, in seconds; ``wall`` and ``cpu`` by cause.

    The causes add up to our figure less cASO's.
    """

    uuid: str
    month: str
    project: str
    vo: str
    ours: tuple[int, int]
    """Wall and CPU seconds; so is ``theirs``."""
    theirs: tuple[int, int]
    wall: Mapping[Cause, int]
    cpu: Mapping[Cause, int]
    until: tuple[int | None, int | None]
    """The moments up to which the rows of the month count, ours and cASO's; None without a row."""

    @property
    def causes(self) -> frozenset[Cause]:
        """Return the causes of this difference; none when the two are equal."""
        return frozenset(self.wall) | frozenset(self.cpu)

    @property
    def is_explained(self) -> bool:
        """Check whether nobody has to look into it."""
        return not self.causes & UNEXPLAINED


@dataclass(frozen=True, slots=True)
class Evidence:
    """What else the shadow knows."""

    begun: int = 0
    """The latest of the checkpoints from which the shadow began."""
    set_aside: frozenset[tuple[str, str]] = frozenset()
    """Server and month of our records in the quarantine."""
    unlaunched: frozenset[str] = frozenset()
    """Servers that were never launched."""
    resized: frozenset[str] = frozenset()
    """Servers of which our runs have seen several numbers of cores."""


def differences(ours: UsageSide, theirs: UsageSide, evidence: Evidence) -> Iterator[Difference]:
    """Yield each server and month that a side has hours of, sorted by server and month."""
    comparison = _Comparison(ours, theirs, evidence)
    for uuid, first in sorted(first_months((ours, theirs)).items()):
        yield from comparison.of(uuid, first)


_FOREVER = 2**63


@dataclass(frozen=True, slots=True)
class _ComparedServer:
    """A server as both sides know it; times are seconds since the epoch."""

    uuid: str
    project: str
    begin: int
    """The creation, as far as it is known."""
    begin_theirs: int
    """The moment from which cASO counts."""
    is_shifted: bool
    """Whether cASO's host is in another time zone than UTC."""
    base: int
    """Wall seconds before the first month: neither side is compared there."""
    cores: float


@dataclass(frozen=True, slots=True)
class _Lead:
    """Our lead at the end of a month: cumulative wall and CPU seconds, and their causes."""

    ours: tuple[int, int]
    theirs: tuple[int, int]
    wall: Counter[Cause]
    cpu: Counter[Cause]


class _Comparison:
    def __init__(self, ours: UsageSide, theirs: UsageSide, evidence: Evidence) -> None:
        self.ours, self.theirs, self.evidence = ours, theirs, evidence
        self.our_runs, self.their_runs = ours.runs(), theirs.runs()

    def of(self, uuid: str, first: str) -> Iterator[Difference]:
        """Yield the differences of a server whose earliest row is of the month ``first``."""
        mine, others = self.ours.rows.get(uuid, {}), self.theirs.rows.get(uuid, {})
        one = next(iter([*mine.values(), *others.values()]))
        begin_theirs = begin_of(next(iter(others.values()), one), one.start)
        server = _ComparedServer(
            uuid,
            one.project,
            begin=one.start,
            begin_theirs=begin_theirs,
            is_shifted=any(row.start != begin_theirs for row in others.values()),
            base=max(0, _first_moment(first) - one.start),
            cores=one.cores,
        )
        floor = server.base, int(server.base * server.cores)
        before = _Lead(floor, floor, Counter(), Counter())
        ours: CloudUsage | None = None
        theirs: CloudUsage | None = None
        for month in sorted({*mine, *others}):
            # A side without a row of this month still has the one of the month before.
            ours, theirs = mine.get(month, ours), others.get(month, theirs)
            lead = _lead(_Gap(self, server, month, ours, theirs))
            yield _difference(server, month, (mine.get(month), others.get(month)), before, lead)
            before = lead


def _lead(gap: _Gap) -> _Lead:
    floor = gap.server.base, int(gap.server.base * gap.server.cores)
    ours = (gap.mine.wall, gap.mine.cpu) if gap.mine else floor
    theirs = (gap.other.wall, gap.other.cpu) if gap.other else floor
    wall = gap.explained()
    if rest := ours[0] - theirs[0] - wall.total():
        wall[Cause.FIGURES] += rest
    return _Lead(ours, theirs, wall, _cpu(gap, wall, ours[1] - theirs[1]))


def _difference(
    server: _ComparedServer,
    month: str,
    rows: tuple[CloudUsage | None, CloudUsage | None],
    before: _Lead,
    lead: _Lead,
) -> Difference:
    wall, cpu = _change(before.wall, lead.wall), _change(before.cpu, lead.cpu)
    mine, other = rows
    if mine and other and mine.vo != other.vo:
        wall.setdefault(Cause.VO, 0)
    vo = next(row.vo for row in rows if row)
    return Difference(
        *(server.uuid, month, server.project, vo),
        ours=_growth(before.ours, lead.ours),
        theirs=_growth(before.theirs, lead.theirs),
        wall=wall,
        cpu=cpu,
        until=(
            server.begin + mine.age if mine else None,
            server.begin_theirs + other.age if other else None,
        ),
    )


class _Gap:
    """The time between the moments up to which the two sides count a server, in a month."""

    def __init__(
        self,
        comparison: _Comparison,
        server: _ComparedServer,
        month: str,
        mine: CloudUsage | None,
        other: CloudUsage | None,
    ) -> None:
        self.comparison, self.server, self.month = comparison, server, month
        self.mine, self.other = mine, other
        self._end = _last_moment(month)
        self._found: Counter[Cause] = Counter()

    def explained(self) -> Counter[Cause]:
        """Return the causes of our lead in wall seconds."""
        server, found = self.server, self._found
        here = server.begin + (self.mine.age if self.mine else server.base)
        there = server.begin_theirs + (self.other.age if self.other else server.base)
        found[Cause.START] = server.begin_theirs - server.begin
        found[Cause.SUSPENDED] = _suspended(self.other) - _suspended(self.mine)
        if self.other and self._is_never_launched():
            # cASO ends a server that is not launched at its creation; a second is the least.
            found[Cause.NEVER_LAUNCHED] = server.base - self.other.wall
            there = server.begin_theirs + server.base
        if here > there:
            self._behind(here, there)
        elif here < there:
            self._ahead(here, there)
        return found

    def _is_never_launched(self) -> bool:
        other = self.other
        if other is None or (self.mine and self.mine.has_ended):
            return False
        return other.end == other.start and other.wall <= 1

    def _behind(self, here: int, there: int) -> None:
        """Explain why cASO's row ends before ours."""
        theirs, found = self.comparison.theirs, self._found
        reached = min(here, theirs.reached(self.server.uuid, self.month))
        if reached > there:
            found[Cause.TIME_ZONE if self.server.is_shifted else Cause.TAKEN_BACK] += (
                reached - there
            )
            there = reached
        cause = self._doubt_behind(here, there)
        if cause is not None:
            found[cause] += here - there
            return
        run = _last(self.comparison.their_runs, after=there, until=self._horizon(self.mine))
        left_out = 0 if run is None else min(run, here) - there
        found[self._left_out(there)] += left_out
        found[Cause.CUT] += here - there - left_out

    def _horizon(self, row: CloudUsage | None) -> int:
        """Return up to when a run of the other side would have a row of this month.

        The record of an ended server belongs to the month of its end, whenever the run is.
        """
        return _FOREVER if row and row.has_ended else self._end

    def _left_out(self, there: int) -> Cause:
        """Return why a run of cASO has no record of the server."""
        cuts = self.comparison.theirs.of_projects.get(self.server.project)
        if cuts is None:
            return Cause.THEIR_PROJECT
        has_others = any(there < cut <= self._horizon(self.mine) for cut in cuts)
        return Cause.MISSING if has_others else Cause.LOST_RUN

    def _doubt_behind(self, here: int, there: int) -> Cause | None:
        """Return the cause of the whole gap, if the times of runs do not explain it."""
        ours, theirs = self.comparison.ours, self.comparison.theirs
        if self.other is None:
            if self.mine and self.mine.has_ended and here < self.comparison.evidence.begun:
                return Cause.BEFORE
        elif not self._is_never_launched() and here > there:
            if self.other.has_ended:
                return Cause.END
            if not theirs.is_cut(there):
                return Cause.NO_RUN
        if self.mine and not self.mine.has_ended and not _is_month_end(here):
            return None if ours.is_cut(here) else Cause.NO_RUN
        return None

    def _ahead(self, here: int, there: int) -> None:
        """Explain why cASO's row ends after ours."""
        found = self._found
        if self.server.is_shifted and there > self._end:
            limit = max(here, self._end)
            found[Cause.TIME_ZONE] -= there - limit
            there = limit
        cause = self._doubt_ahead(there)
        if cause is not None:
            found[cause] -= there - here
            return
        run = _last(self.comparison.our_runs, after=here, until=self._horizon(self.other))
        left_out = 0 if run is None else min(run, there) - here
        is_known = self.server.project in self.comparison.ours.of_projects
        found[Cause.OURS_MISSING if is_known else Cause.PROJECT] -= left_out
        found[Cause.CUT] -= there - here - left_out

    def _doubt_ahead(self, there: int) -> Cause | None:
        if self.mine and self.mine.has_ended:
            return Cause.END
        if not self.mine and self.server.uuid in self.comparison.evidence.unlaunched:
            return Cause.NEVER_LAUNCHED
        if (self.server.uuid, self.month) in self.comparison.evidence.set_aside:
            return Cause.SET_ASIDE
        if self.other and not self.other.has_ended and not self.comparison.theirs.is_cut(there):
            return Cause.NO_RUN
        return None


def _suspended(row: CloudUsage | None) -> int:
    return row.suspended if row else 0


def _cpu(gap: _Gap, wall: Counter[Cause], difference: int) -> Counter[Cause]:
    """Return the causes of a lead in CPU time, from those of the wall time.

    The cores of our record weigh the wall time that differs; the rest is a difference of the cores.
    """
    mine, other = gap.mine, gap.other
    cores = mine.cores if mine else other.cores if other else gap.server.cores
    found = Counter({cause: int(seconds * cores) for cause, seconds in wall.items()})
    rest = difference - found.total()
    if not rest:
        return found
    is_resized = gap.server.uuid in gap.comparison.evidence.resized
    if mine and other and _is_product(other) and (is_resized or mine.cores != other.cores):
        cause = Cause.FLAVOR
    elif other and other.cpu <= 1 < other.wall:
        cause = Cause.DELETED_FLAVOR
    elif wall[Cause.NEVER_LAUNCHED] and abs(rest) <= cores:
        cause = Cause.NEVER_LAUNCHED  # of wall and CPU time, one second is the least
    elif cores % 1 and abs(rest) <= len(found):
        cause = Cause.CUT  # parts of a second, of half cores
    else:
        cause = Cause.FIGURES
    found[cause] += rest
    return found


def _is_product(row: CloudUsage) -> bool:
    return abs(row.cpu - row.wall * row.cores) < 1


def _change(before: Counter[Cause], after: Counter[Cause]) -> dict[Cause, int]:
    grown = {cause: after[cause] - before[cause] for cause in Cause}
    return {cause: seconds for cause, seconds in grown.items() if seconds}


def _growth(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    return after[0] - before[0], after[1] - before[1]


def _last(runs: Sequence[int], *, after: int, until: int) -> int | None:
    """Return the last of the runs that ended in a time; None if there was none."""
    at = bisect.bisect_right(runs, until) - 1
    return runs[at] if at >= 0 and runs[at] > after else None


def _first_moment(month: str) -> int:
    return int(datetime.strptime(f"{month} +0000", "%Y-%m %z").timestamp())


@functools.lru_cache
def _last_moment(month: str) -> int:
    year, number = map(int, month.split("-"))
    following = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return int(following.timestamp()) - 1


def _is_month_end(moment: int) -> bool:
    return moment == _last_moment(cloud_message.month_of(moment))
