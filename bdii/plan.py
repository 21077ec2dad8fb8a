"""The difference between what is published and what is wanted, as changes that can be applied one by one.

Applied in their order, every state in between is a valid tree (each entry below one that is there)
and holds at least what both trees have in common: entries come parents first, then are modified,
then go, children first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.core.ldif import Entry
from bdii.tree import Dn, Tree, is_same, sorted_by_depth


@dataclass(frozen=True, slots=True)
class Add:
    """An entry that is new."""

    dn: Dn
    entry: Entry


@dataclass(frozen=True, slots=True)
class Modify:
    """An entry that is another one now: ``changes`` are attributes with all their new values, none to remove them."""

    dn: Dn
    entry: Entry
    changes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Delete:
    """An entry that has gone; ``entry`` is the old one."""

    dn: Dn
    entry: Entry


Change = Add | Modify | Delete


@dataclass(frozen=True, slots=True)
class TreePlan:
    """What is to be done. ``waiting`` are deletions that a guard holds back."""

    adds: tuple[Add, ...]
    modifies: tuple[Modify, ...]
    deletes: tuple[Delete, ...]
    waiting: tuple[Delete, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        yield from self.adds
        yield from self.modifies
        yield from self.deletes

    def __len__(self) -> int:
        return len(self.adds) + len(self.modifies) + len(self.deletes)

    @property
    def changes_class(self) -> bool:
        """Tell whether an entry becomes one of another class, which a directory does not let happen in place."""
        return any(
            name.lower() == "objectclass" for change in self.modifies for name in change.changes
        )


def make(published: Tree, wanted: Tree) -> TreePlan:
    """Return the plan that turns one tree into another."""
    come = {dn: entry for dn, entry in wanted.items() if dn not in published}
    gone = {dn: entry for dn, entry in published.items() if dn not in wanted}
    modifies = (
        Modify(dn, entry, changes)
        for dn, entry in wanted.items()
        if (old := published.get(dn)) is not None
        and old is not entry
        and (changes := difference(old, entry))
    )
    return TreePlan(
        tuple(Add(dn, come[dn]) for dn in sorted_by_depth(come)),
        tuple(modifies),
        tuple(Delete(dn, gone[dn]) for dn in reversed(sorted_by_depth(gone))),
    )


def difference(old: Entry, new: Entry) -> dict[str, tuple[str, ...]]:
    """Return the attributes whose values differ, with the new ones; an attribute that has gone has none."""
    if is_same(old, new):
        return {}
    before = {name.lower(): frozenset(values) for name, values in old.attributes.items()}
    after = {name.lower() for name in new.attributes}
    changes = {
        name: values
        for name, values in new.attributes.items()
        if before.get(name.lower()) != frozenset(values)
    }
    return changes | {name: () for name in old.attributes if name.lower() not in after}


def describe(plan: TreePlan) -> Iterator[str]:
    """Yield a line for each change, and a last one that counts them."""
    for change in plan:
        match change:
            case Add(_, entry):
                yield f"add     {entry.dn}"
            case Modify(_, entry, changes):
                yield f"modify  {entry.dn}: {', '.join(sorted(changes))}"
            case Delete(_, entry):
                yield f"delete  {entry.dn}"
    yield f"{len(plan.adds)} to add, {len(plan.modifies)} to modify, {len(plan.deletes)} to delete"


# ------------------------------------------------------------------------------------------------------------
# guards


@dataclass(frozen=True, slots=True)
class Vanished:
    """What the guards remember from cycle to cycle: since when entries have been missing, and deletions been held."""

    since: Mapping[Dn, datetime]
    held_since: datetime | None = None


NOTHING_VANISHED = Vanished({})


def guard(
    plan: TreePlan,
    *,
    size: int,
    remembered: Vanished,
    now: datetime,
    delay: timedelta,
    hold: timedelta,
) -> tuple[TreePlan, Vanished]:
    """Return the plan without the deletions whose time has not come, and what to remember.

    A vanished entry stays for ``delay``. Deletions of more than half of the ``size`` entries
    published are held, all of them, for ``hold``: what looks like that is more often a broken
    source than a site that closed.
    """
    since = {change.dn: min(remembered.since.get(change.dn, now), now) for change in plan.deletes}
    shrinks = 2 * len(plan.deletes) > size
    # the clock may have been set back
    held_since = min(remembered.held_since or now, now) if shrinks else None
    if held_since is not None and now - held_since < hold:
        due: tuple[Delete, ...] = ()
    else:
        due = tuple(change for change in plan.deletes if now - since[change.dn] >= delay)
    going = {change.dn for change in due}
    waiting = tuple(change for change in plan.deletes if change.dn not in going)
    return TreePlan(plan.adds, plan.modifies, due, waiting), Vanished(since, held_since)
