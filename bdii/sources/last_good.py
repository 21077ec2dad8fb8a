"""The last good data of each source: what stays published while a source fails, and its marks.

    (last good, answer) ──advance──> last good, without marks ──publishable──> tree with marks

A source can fail as a whole, or for some VOs. The affected entries then stay published, marked as
stale with the time when they were last read. Entries older than the expiry time are left out of the
published tree but not forgotten; the next good answer replaces them all. Marks are added only on
the way to slapd, so that stored data never contain any of ours. The rules by which entries belong
to VOs are in docs/adr/0010.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from appliance.core import ldif
from appliance.core.ldif import Entry
from bdii.messages import few, printable, shortened
from bdii.tree import (
    BASE,
    CREATION_TIME,
    NO_TREE,
    OTHER_INFO,
    Dn,
    Tree,
    ancestors,
    complete,
    is_same,
    sorted_by_depth,
    time_text,
    with_values,
)

# The two attributes that name the VOs of an entry, with the prefix of such a value.
_MARKS = {OTHER_INFO: "VO=", "GLUE2PolicyRule": "VO:"}
_HEALTH = "GLUE2EndpointHealthState"
_HEALTH_INFO = "GLUE2EndpointHealthStateInfo"
# Classes of GLUE 2.0 that do not derive from Entity, so that they cannot be marked.
_NOT_ENTITIES = frozenset({"glue2group", "glue2extension"})


@dataclass(frozen=True, slots=True)
class LastGood:
    """The last good data of a source.

    Attributes:
        tree: its entries, without marks.
        collected: when the latest usable answer was read.
        failed: the VOs that this answer lacks, with the time when each was last read: the age of
            the entries that belong to no other VO.
        is_silent: whether the latest answer was unusable.

    """

    tree: Tree
    collected: datetime
    failed: Mapping[str, datetime] = field(default_factory=dict)
    is_silent: bool = False


def advance(
    last: LastGood | None, new: Tree, *, failed: Collection[str], now: datetime
) -> LastGood:
    """Return the last good data after an answer that lacks the ``failed`` VOs.

    If only the creation time of an entry changed, the old entry is kept: creation times of each
    cycle would modify every entry. New entries without one get ``now``.
    """
    before = last.tree if last is not None else NO_TREE
    tree = {
        dn: _older_if_same(before.get(dn), entry) or _dated(entry, now) for dn, entry in new.items()
    }
    if last is None:  # VOs that were never read have nothing to keep; their age begins now
        return LastGood(tree, now, dict.fromkeys(failed, now))
    if failed:
        tree = _kept(last.tree, tree, frozenset(failed))
    return LastGood(tree, now, {vo: last.failed.get(vo, last.collected) for vo in failed})


def publishable(last: LastGood, *, now: datetime, expiry: timedelta) -> Tree:
    """Return the tree to publish, stale entries marked and those older than ``expiry`` left out.

    If nothing is stale, it is ``last.tree`` itself: identical objects make comparisons cheap.
    """
    if not last.failed and not last.is_silent:
        return last.tree
    owners = _owners(last.tree)
    tree = {}
    for dn in sorted_by_depth(last.tree):
        collected = _stale_since(owners[dn], last)
        entry = last.tree[dn]
        if collected is None:
            tree[dn] = entry
        elif now - collected <= expiry:
            tree[dn] = _marked(entry, collected)
    return tree


def merge(
    last: Mapping[str, LastGood], *, now: datetime, expiry: timedelta
) -> tuple[Tree, int, list[str]]:
    """Return the common tree of all sources, the number of stale entries, and problems.

    Of entries with the same name the first source's is published.
    """
    merged: dict[Dn, Entry] = dict(BASE)
    stale = 0
    for source in last.values():
        part = publishable(source, now=now, expiry=expiry)
        stale += sum(1 for dn, entry in part.items() if entry is not source.tree[dn])
        merged = merged | {dn: entry for dn, entry in part.items() if dn not in merged}
    whole, orphans = complete(merged)
    words = "left out, because no source has the entry above it"
    return (
        whole,
        stale,
        few([printable(f"{shortened(merged[dn].dn)}: {words}") for dn in orphans]),
    )


def _stale_since(owners: frozenset[str], last: LastGood) -> datetime | None:
    """Return when an entry of these VOs was last read; None if the latest answer had it."""
    if owners and owners <= last.failed.keys():
        return max(last.failed[vo] for vo in owners)
    return last.collected if last.is_silent else None


def _older_if_same(old: Entry | None, new: Entry) -> Entry | None:
    return old if old is not None and is_same(old, new, ignoring=CREATION_TIME) else None


def _dated(entry: Entry, now: datetime) -> Entry:
    if entry.get(CREATION_TIME) or not _is_entity(entry):
        return entry
    return with_values(entry, CREATION_TIME, [time_text(now)])


def _is_entity(entry: Entry) -> bool:
    """Check whether an entry's class derives from GLUE 2.0's Entity and has its attributes."""
    classes = {name.lower() for name in entry.get("objectClass")}
    return any(name.startswith("glue2") and name not in _NOT_ENTITIES for name in classes)


# --------------------------------------------------------------------------------------------------
# owners


def _own_marks(entry: Entry) -> frozenset[str]:
    return frozenset(
        value.removeprefix(mark)
        for name, mark in _MARKS.items()
        for value in entry.get(name)
        if value.startswith(mark)
    )


def _owners(tree: Tree) -> dict[Dn, frozenset[str]]:
    """Return the VOs of each entry: those of its own marks, else those of its parent."""
    owners: dict[Dn, frozenset[str]] = {}
    for dn in sorted_by_depth(tree):  # parents first
        owners[dn] = _own_marks(tree[dn]) or owners.get(Dn(ldif.parent(dn)), frozenset())
    return owners


def _kept(old: Tree, new: dict[Dn, Entry], failed: frozenset[str]) -> dict[Dn, Entry]:
    """Return the new tree with the old tree's entries of the failed VOs."""
    owners = _owners(old)
    tree = dict(new)
    missing = []
    for dn, entry in old.items():
        if not owners[dn] & failed:
            continue
        if dn in new:
            tree[dn] = _with_marks_of(new[dn], entry, failed)
        else:
            # VOs that answered no longer list this entry: only the failed VOs' marks stay
            tree[dn] = _with_marks_of(_without_marks(entry), entry, failed)
            missing.append(dn)
    _add_dependencies(tree, old, missing)
    return tree


def _with_marks_of(entry: Entry, old: Entry, failed: frozenset[str]) -> Entry:
    """Return the entry with the marks of failed VOs that the old entry has."""
    for name, mark in _MARKS.items():
        values = entry.get(name)
        lost = [
            value
            for value in old.get(name)
            if value.startswith(mark) and value.removeprefix(mark) in failed and value not in values
        ]
        if lost:
            entry = with_values(entry, name, (*values, *lost))
    return entry


def _without_marks(entry: Entry) -> Entry:
    for name, mark in _MARKS.items():
        if any(value.startswith(mark) for value in entry.get(name)):
            entry = with_values(entry, name, [v for v in entry.get(name) if not v.startswith(mark)])
    return entry


def _add_dependencies(tree: dict[Dn, Entry], old: Tree, names: list[Dn]) -> None:
    """Add from the old tree the ancestors of the named entries and the targets of foreign keys."""
    by_id = {value: dn for dn in old for _, value in ldif.parse_dn(dn)[0]}
    pending = list(names)
    while pending:
        dn = pending.pop()
        keys = [
            value
            for name, values in tree[dn].attributes.items()
            if name.endswith("ForeignKey")
            for value in values
        ]
        for needed in (*ancestors(dn), *(by_id[key] for key in keys if key in by_id)):
            if needed in old and needed not in tree:
                tree[needed] = old[needed]
                pending.append(needed)


# --------------------------------------------------------------------------------------------------
# marks


def _marked(entry: Entry, collected: datetime) -> Entry:
    """Return the entry marked as stale; a mark from a lower BDII, which is older, is kept."""
    if not _is_entity(entry):
        return entry
    info = entry.get(OTHER_INFO)
    if "Stale=TRUE" in info:
        return entry
    time = time_text(collected)
    entry = with_values(entry, OTHER_INFO, (*info, "Stale=TRUE", f"CollectedAt={time}"))
    if entry.get(_HEALTH):
        entry = with_values(entry, _HEALTH, ["unknown"])
        entry = with_values(
            entry, _HEALTH_INFO, [f"the source of this information has not answered since {time}"]
        )
    return entry
