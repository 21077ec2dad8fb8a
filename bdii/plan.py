"""The difference between the published and the wanted tree, as changes to apply one by one.

After each change, in this order, the directory holds a valid tree (each entry has its parent) that
contains at least the entries common to both: additions come first, parents before children, then
modifications, then deletions, children before parents. Which entries are wanted, and for how long
a missing one is, `bdii.sources.last_good` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from appliance.core.ldif import Entry
from bdii.tree import Dn, Tree, is_same, sorted_by_depth


@dataclass(frozen=True, slots=True)
class Add:
    """A new entry."""

    dn: Dn
    entry: Entry


@dataclass(frozen=True, slots=True)
class Modify:
    """A changed entry: ``changes`` has the new values of each attribute, none to remove it."""

    dn: Dn
    entry: Entry
    changes: Mapping[str, tuple[str, ...]]

    @property
    def changes_class(self) -> bool:
        """Check whether the object class changes, for which slapd wants a control."""
        return any(name.lower() == "objectclass" for name in self.changes)


@dataclass(frozen=True, slots=True)
class Delete:
    """An entry to remove; ``entry`` is the published one."""

    dn: Dn
    entry: Entry


Change = Add | Modify | Delete


@dataclass(frozen=True, slots=True)
class TreePlan:
    """The changes from one tree to another."""

    adds: tuple[Add, ...]
    modifies: tuple[Modify, ...]
    deletes: tuple[Delete, ...]

    def __iter__(self) -> Iterator[Change]:
        yield from self.adds
        yield from self.modifies
        yield from self.deletes

    def __len__(self) -> int:
        return len(self.adds) + len(self.modifies) + len(self.deletes)


def make(published: Tree, wanted: Tree) -> TreePlan:
    """Return the plan that turns one tree into another."""
    new = {dn: entry for dn, entry in wanted.items() if dn not in published}
    removed = {dn: entry for dn, entry in published.items() if dn not in wanted}
    modifies = (
        Modify(dn, entry, changes)
        for dn, entry in wanted.items()
        # an unchanged source gives the same objects again: most comparisons end here
        if (old := published.get(dn)) is not None
        and old is not entry
        and (changes := difference(old, entry))
    )
    return TreePlan(
        tuple(Add(dn, new[dn]) for dn in sorted_by_depth(new)),
        tuple(modifies),
        tuple(Delete(dn, removed[dn]) for dn in reversed(sorted_by_depth(removed))),
    )


def difference(old: Entry, new: Entry) -> dict[str, tuple[str, ...]]:
    """Return the attributes that differ with their new values; a removed attribute has none."""
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
    """Yield a line for each change, and a last one with the totals."""
    for change in plan:
        match change:
            case Add(_, entry):
                yield f"add     {entry.dn}"
            case Modify(_, entry, changes):
                yield f"modify  {entry.dn}: {', '.join(sorted(changes))}"
            case Delete(_, entry):
                yield f"delete  {entry.dn}"
    yield f"{len(plan.adds)} to add, {len(plan.modifies)} to modify, {len(plan.deletes)} to delete"
