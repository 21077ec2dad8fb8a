"""Volumes, accelerators and addresses in `caso compare`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from caso.commands import amounts
from caso.kinds.registry import KINDS
from caso.shadow import others, rows
from caso.shadow.directory import Shadow
from caso.shadow.others import MEANINGS, ThingCause, ThingDifference


@dataclass(slots=True)
class _ThingTotal:
    """Sums of a month and kind, in seconds or addresses."""

    things: int = 0
    equal: int = 0
    ours: int = 0
    theirs: int = 0


@dataclass(slots=True)
class ThingSums:
    """The sums of a comparison of the other kinds."""

    totals: dict[tuple[str, str], _ThingTotal] = field(
        default_factory=lambda: defaultdict(_ThingTotal)
    )
    """By month and kind."""
    amounts: Counter[tuple[str, ThingCause]] = field(default_factory=Counter)
    """By kind and cause."""
    things: Counter[tuple[str, ThingCause]] = field(default_factory=Counter)
    unexplained: list[ThingDifference] = field(default_factory=list)

    @property
    def has_theirs(self) -> bool:
        """Check whether cASO has records of these kinds."""
        return any(total.theirs for total in self.totals.values())

    def add(self, one: ThingDifference) -> None:
        """Add the difference of a thing and month."""
        total = self.totals[one.month, one.kind]
        total.things += 1
        total.equal += not one.causes
        total.ours += one.ours
        total.theirs += one.theirs
        for cause, amount in one.causes.items():
            self.amounts[one.kind, cause] += amount
            self.things[one.kind, cause] += 1
        if not one.is_explained:
            self.unexplained.append(one)


def compared(
    shadow: Shadow, *, begun: int, lead: int, is_chosen: Callable[[str], bool]
) -> ThingSums:
    """Return the comparison; `caso.shadow.others.differences` has the arguments."""
    ours = rows.read_things(shadow.spool(kind) for kind in others.OTHER_KINDS)
    theirs = rows.read_things([shadow.theirs])
    sums = ThingSums()
    for kind in others.OTHER_KINDS:
        for one in others.differences(kind, ours[kind], theirs[kind], begun=begun, lead=lead):
            if is_chosen(one.month):
                sums.add(one)
    return sums


def lines(sums: ThingSums) -> Iterator[str]:
    """Yield the lines of the text."""
    for (month, kind), total in sorted(sums.totals.items()):
        yield (
            f"{month} {KINDS[kind].things}: {total.things} {_NOUNS[kind]}, {total.equal} equal;"
            f" ours {_amount(kind, total.ours)}, cASO {_amount(kind, total.theirs)}"
        )
    for (kind, cause), amount in sorted(sums.amounts.items()):
        word = "NOT EXPLAINED: " if cause in others.UNEXPLAINED_THINGS else ""
        sign = "+" if amount > 0 else ""
        yield (
            f"{word}{KINDS[kind].things}: {cause}, {sums.things[kind, cause]} {_NOUNS[kind]} and"
            f" months, {sign}{_amount(kind, amount)}: {MEANINGS[cause]}"
        )
    for one in sums.unexplained:
        both = f"ours {_amount(one.kind, one.ours)}, cASO's {_amount(one.kind, one.theirs)}"
        yield f"  {one.month} {KINDS[one.kind].things} {one.key}: {both}"


_NOUNS = {"storage": "volumes", "accelerator": "servers", "ip": "projects and versions"}


def _amount(kind: str, amount: int) -> str:
    return amounts.text(kind, amount, places=2)


def as_json(sums: ThingSums) -> dict[str, Any]:
    """Return the object for ``--json``; amounts are seconds, or addresses."""
    return {
        "months": [
            {
                "month": month,
                "kind": kind,
                "things": total.things,
                "equal": total.equal,
                "amount": {"ours": total.ours, "caso": total.theirs},
            }
            for (month, kind), total in sorted(sums.totals.items())
        ],
        "causes": [
            {
                "kind": kind,
                "cause": cause,
                "is_explained": cause not in others.UNEXPLAINED_THINGS,
                "meaning": MEANINGS[cause],
                "things_and_months": sums.things[kind, cause],
                "amount": amount,
            }
            for (kind, cause), amount in sorted(sums.amounts.items())
        ],
        "unexplained": [
            {
                "kind": one.kind,
                "key": one.key,
                "month": one.month,
                "amount": {"ours": one.ours, "caso": one.theirs},
                "causes": dict(one.causes),
            }
            for one in sums.unexplained
        ],
    }
