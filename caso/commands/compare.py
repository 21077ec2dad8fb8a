"""`caso compare`: explain the hours of a shadow and of cASO, for each thing and month."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from appliance.core.run import cli, output, place
from appliance.core.run.errors import ExitStatus
from caso.commands import compare_things, months
from caso.commands import shadow as shadow_verb
from caso.shadow import causes, rows
from caso.shadow.causes import EXPLANATIONS, UNEXPLAINED, Cause, Difference, Evidence
from caso.shadow.rows import UsageSide

_HOUR = 3600


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    shadow_verb.add_directory(parser)
    months.add_arguments(parser)
    parser.add_argument(
        "--all", action="store_true", help="print each server and month that differs"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


@dataclass(slots=True)
class _Total:
    """Sums of a month and VO, in seconds."""

    servers: int = 0
    equal: int = 0
    ours: int = 0
    theirs: int = 0
    cpu_ours: int = 0
    cpu_theirs: int = 0


@dataclass(slots=True)
class _Sums:
    """The sums of a comparison, and the differences to print."""

    totals: dict[tuple[str, str], _Total] = field(default_factory=lambda: defaultdict(_Total))
    """By month and VO."""
    wall: Counter[Cause] = field(default_factory=Counter)
    cpu: Counter[Cause] = field(default_factory=Counter)
    rows: Counter[Cause] = field(default_factory=Counter)
    """Servers and months by cause."""
    only_ours: int = 0
    only_theirs: int = 0
    shown: list[Difference] = field(default_factory=list)
    unexplained: int = 0

    def add(self, one: Difference, *, is_shown: bool) -> None:
        """Add the difference of a server and month."""
        total = self.totals[one.month, one.vo]
        total.servers += 1
        total.equal += not one.causes
        total.ours += one.ours[0]
        total.theirs += one.theirs[0]
        total.cpu_ours += one.ours[1]
        total.cpu_theirs += one.theirs[1]
        self.wall.update(one.wall)
        self.cpu.update(one.cpu)
        self.rows.update(one.causes)
        self.only_ours += one.until[1] is None
        self.only_theirs += one.until[0] is None
        self.unexplained += not one.is_explained
        if one.causes and (is_shown or not one.is_explained):
            self.shown.append(one)


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the comparison.

    The exit status is 1 if a difference has no known cause, or if no message of cASO was kept.
    """
    shadow = shadow_verb.chosen(arguments, cli.layout(arguments))
    begun = shadow.begun()
    ours = rows.read_ours(shadow.spool("cloud"))
    theirs = rows.read_theirs(shadow.theirs, ours)
    _, unlaunched = shadow.unlaunched()
    evidence = Evidence(
        int(begun.timestamp()) if begun else 0,
        shadow.set_aside(),
        frozenset(unlaunched),
        shadow.resized(),
    )
    sums = _Sums()
    for one in causes.differences(ours, theirs, evidence):
        if months.is_chosen(arguments, one.month):
            sums.add(one, is_shown=arguments.all or arguments.json)
    things = compare_things.compared(
        shadow,
        begun=evidence.begun,
        lead=max(ours.runs(), default=0) - max(theirs.runs(), default=0),
        is_chosen=lambda month: months.is_chosen(arguments, month),
    )
    if arguments.json:
        shown = _as_json(sums, ours, theirs)
        output.document({**shown, "other_kinds": compare_things.as_json(things)})
    else:
        for line in (*_lines(sums, ours, theirs), *compare_things.lines(things)):
            output.line(line)
    faults = (
        sums.unexplained,
        things.unexplained,
        ours.unread,
        theirs.unread,
        not (theirs.messages or things.has_theirs),
    )
    return ExitStatus.PARTLY if any(faults) else ExitStatus.DONE


def _lines(sums: _Sums, ours: UsageSide, theirs: UsageSide) -> Iterator[str]:
    yield (
        f"{ours.messages} messages of ours, {theirs.messages} of cASO;"
        f" the last runs ended at {_last(ours)} and {_last(theirs)}"
    )
    if not theirs.messages:
        command = place.command("caso", "caso", "shadow", "--only-keep")
        yield f"no message of cASO was kept: after its next run, and before the sender's: {command}"
    for side, name in ((ours, "ours"), (theirs, "cASO's")):
        if side.unread:
            yield f"{side.unread} records of {name} cannot be read and are not compared"
    for (month, vo), total in sorted(sums.totals.items()):
        yield (
            f"{month} {vo}: {total.servers} servers, {total.equal} equal; wall hours"
            f" {_hours(total.ours)}, cASO {_hours(total.theirs)}"
            f" ({_signed(total.ours - total.theirs)}); CPU hours {_hours(total.cpu_ours)},"
            f" cASO {_hours(total.cpu_theirs)} ({_signed(total.cpu_ours - total.cpu_theirs)})"
        )
    if sums.only_ours or sums.only_theirs:
        yield (
            f"a record of ours alone: {sums.only_ours} servers and months; of cASO alone:"
            f" {sums.only_theirs}"
        )
    for cause in sorted(sums.rows, key=lambda one: (one in UNEXPLAINED, -sums.rows[one])):
        yield (
            f"{'NOT EXPLAINED: ' if cause in UNEXPLAINED else ''}{cause}, {sums.rows[cause]}"
            f" servers and months, {_signed(sums.wall[cause])} wall hours,"
            f" {_signed(sums.cpu[cause])} CPU hours: {EXPLANATIONS[cause]}"
        )
    yield from map(_line, sums.shown)
    if theirs.messages:  # otherwise all is explained by runs of cASO that have yet to come
        yield _verdict(sums)


def _verdict(sums: _Sums) -> str:
    count = sum(total.servers for total in sums.totals.values())
    if not count:
        return "neither side has records in this period"
    if sums.unexplained:
        return f"{sums.unexplained} of {count} servers and months have an unexplained difference"
    return f"all {count} servers and months are equal or explained"


def _line(one: Difference) -> str:
    parts = [
        f"{cause} {_minutes(one.wall.get(cause, 0))} wall, {_minutes(one.cpu.get(cause, 0))} CPU"
        for cause in sorted(one.causes)
    ]
    ours, theirs = (_moment(moment) if moment else "nothing" for moment in one.until)
    return (
        f"  {one.month} {one.uuid} of project {one.project}: ours up to {ours}, cASO's up to"
        f" {theirs}: {'; '.join(parts)}"
    )


def _as_json(sums: _Sums, ours: UsageSide, theirs: UsageSide) -> dict[str, Any]:
    return {
        "messages": {"ours": ours.messages, "caso": theirs.messages},
        "unread": {"ours": ours.unread, "caso": theirs.unread},
        "months": [
            {
                "month": month,
                "vo": vo,
                "servers": total.servers,
                "equal": total.equal,
                "wall_seconds": {"ours": total.ours, "caso": total.theirs},
                "cpu_seconds": {"ours": total.cpu_ours, "caso": total.cpu_theirs},
            }
            for (month, vo), total in sorted(sums.totals.items())
        ],
        "causes": [_cause_as_json(sums, cause) for cause in sorted(sums.rows)],
        "only_ours": sums.only_ours,
        "only_caso": sums.only_theirs,
        "unexplained": sums.unexplained,
        "differences": [*map(_difference_as_json, sums.shown)],
    }


def _cause_as_json(sums: _Sums, cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause,
        "is_explained": cause not in UNEXPLAINED,
        "meaning": EXPLANATIONS[cause],
        "servers_and_months": sums.rows[cause],
        "wall_seconds": sums.wall[cause],
        "cpu_seconds": sums.cpu[cause],
    }


def _difference_as_json(one: Difference) -> dict[str, Any]:
    return {
        "server": one.uuid,
        "project": one.project,
        "vo": one.vo,
        "month": one.month,
        "wall_seconds": {"ours": one.ours[0], "caso": one.theirs[0]},
        "cpu_seconds": {"ours": one.ours[1], "caso": one.theirs[1]},
        "wall_causes": dict(sorted(one.wall.items())),
        "cpu_causes": dict(sorted(one.cpu.items())),
        "until": {"ours": _iso(one.until[0]), "caso": _iso(one.until[1])},
        "is_explained": one.is_explained,
    }


def _last(side: UsageSide) -> str:
    runs: Sequence[int] = side.runs()
    return _moment(runs[-1]) if runs else "no known time"


def _iso(moment: int | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _moment(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}"


def _hours(seconds: int) -> str:
    return f"{seconds / _HOUR:.1f}"


def _signed(seconds: int) -> str:
    return f"{seconds / _HOUR:+.2f}"


def _minutes(seconds: int) -> str:
    return f"{seconds / 60:+.1f} min"


VERB = cli.Program(
    "compare",
    "Explain the hours that a shadow and cASO report, for each server, volume and month.",
    _add_arguments,
    _run,
)
