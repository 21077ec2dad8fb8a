"""The last good data of each source: what stays published while a source fails, and its marks.

    (last good, answer) ──advance──> last good, without marks ──publishable──> tree with marks
    last good of all sources ──release──> without the entries that are proven to be gone

A source can fail as a whole, or in parts: for some VOs, or with records that cannot be read. The
affected entries then stay published, marked as stale with the time when they were last read.
Entries older than their expiry time are left out of the published tree but not forgotten; the next
good answer replaces them all. Marks are added only on the way to slapd, so that stored data never
contain any of ours. The rules by which entries belong to VOs are in docs/adr/0010, those by which
an entry is gone in docs/adr/0054.

All waits are sums of the time between two cycles of this process. So neither a clock that is set,
nor a stop of the service, nor a source that is silent brings a removal nearer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from appliance.core import ldif, shrink
from appliance.core.ldif import Entry
from bdii.entry import (
    CREATION_TIME,
    OTHER_INFO,
    STALE,
    VO_MARKS,
    LazyEntry,
    StoredEntry,
    Traits,
    block_digest,
    content_digest,
    traits,
)
from bdii.messages import few, printable, shortened
from bdii.tree import (
    BASE,
    NO_TREE,
    Dn,
    Tree,
    ancestors,
    complete,
    is_same,
    sorted_by_depth,
    time_text,
    with_values,
)

_HEALTH = "GLUE2EndpointHealthState"
_HEALTH_INFO = "GLUE2EndpointHealthStateInfo"
# Complete answers without an entry that prove its removal.
_PROOF = 2
# What a creation time may differ from the present one.
_OLD, _MARGIN = timedelta(days=365), timedelta(minutes=2)
_NO_TIME = timedelta()


@dataclass(frozen=True, slots=True)
class StaleAge:
    """The age of stale data: when they were last read, and how long answers have lacked them.

    The date is for people; only ``waited`` decides.
    """

    collected: datetime
    waited: timedelta = _NO_TIME


@dataclass(frozen=True, slots=True)
class Absence:
    """What is known of an entry that the latest answer lacks.

    Attributes:
        collected: when it was last read.
        answers: number of complete answers that lacked it.
        waited: how long complete answers have lacked it.
        doubtful: how long answers with malformed records have lacked it; None if none has. Such an
            answer proves nothing: its malformed record may be this entry.

    """

    collected: datetime
    answers: int = 0
    waited: timedelta = _NO_TIME
    doubtful: timedelta | None = None

    def again(self, elapsed: timedelta, *, is_complete: bool) -> Absence:
        """Return the knowledge after another answer that lacks the entry."""
        if not is_complete:
            return replace(self, doubtful=(self.doubtful or _NO_TIME) + elapsed)
        waited = self.waited + elapsed if self.answers else self.waited
        return replace(self, answers=self.answers + 1, waited=waited)

    def is_due(self, wait: timedelta, expiry: timedelta) -> bool:
        """Check whether the entry is gone: proven for ``wait``, or in doubt for ``expiry``."""
        is_proven = self.answers >= _PROOF and self.waited >= wait
        return is_proven or (self.doubtful is not None and self.doubtful > expiry)


@dataclass(frozen=True, slots=True)
class LastGood:
    """The last good data of a source.

    Attributes:
        tree: its entries, without marks.
        collected: when the latest usable answer was read.
        failed: the VOs that this answer lacks: the age of the entries that belong to no other VO.
        absent: entries of the tree that this answer lacks for no stated reason.
        silence: for how long answers have been unusable; None if the latest was usable.
        is_terminated: whether an answer has ever ended with a line end.

    """

    tree: dict[Dn, Entry]
    collected: datetime
    failed: Mapping[str, StaleAge] = field(default_factory=dict)
    absent: Mapping[Dn, Absence] = field(default_factory=dict)
    silence: timedelta | None = None
    is_terminated: bool = False


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long stale data stay published.

    Attributes:
        parts: those that the answers of their source lack.
        silent: those of a source that does not answer; None: for ever.

    """

    parts: timedelta
    silent: timedelta | None


def advance(
    last: LastGood | None,
    new: Tree,
    *,
    now: datetime,
    failed: Collection[str] = (),
    is_complete: bool = True,
    elapsed: timedelta = _NO_TIME,
) -> LastGood:
    """Return the last good data after an answer that lacks the ``failed`` VOs.

    An answer is not complete if it has malformed records. If only the creation time of an entry
    changed, the old entry is kept: creation times of each cycle would modify every entry. New
    entries without one get ``now``.
    """
    before = last.tree if last is not None else NO_TREE
    usual = (time_text(now - _OLD), time_text(now + _MARGIN))
    tree = {
        dn: _older_if_same(before.get(dn), entry, usual) or dated(entry, now)
        for dn, entry in new.items()
    }
    if last is None:  # VOs that were never read have nothing to keep; their age begins now
        return LastGood(tree, now, {vo: StaleAge(now) for vo in failed})
    if failed:
        tree = _kept(last.tree, tree, frozenset(failed))
    absent = {dn: seen for dn, seen in last.absent.items() if dn in tree and dn not in new}
    lacking = [dn for dn in last.tree if dn not in tree]
    tree |= {dn: last.tree[dn] for dn in lacking}
    first = Absence(last.collected)
    absent |= {dn: last.absent.get(dn, first) for dn in lacking}
    changed = replace(last, tree=tree, failed=_failing(last, failed), absent=absent)
    return _counted(changed, set(lacking), now, elapsed, is_complete=is_complete)


def repeat(
    last: LastGood, *, now: datetime, elapsed: timedelta, is_complete: bool = True
) -> LastGood:
    """Return the last good data after the same answer as the latest usable one."""
    return _counted(last, set(last.absent), now, elapsed, is_complete=is_complete)


def silent(last: LastGood, elapsed: timedelta) -> LastGood:
    """Return the last good data after an unusable answer: no wait but that of silence goes on."""
    return replace(last, silence=(last.silence or _NO_TIME) + elapsed)


def _failing(last: LastGood, failed: Collection[str]) -> dict[str, StaleAge]:
    return {vo: last.failed.get(vo, StaleAge(last.collected)) for vo in failed}


def _counted(
    last: LastGood, lacking: Collection[Dn], now: datetime, elapsed: timedelta, *, is_complete: bool
) -> LastGood:
    """Return the data after an answer without the ``lacking`` entries, their waits prolonged."""
    if last.silence is not None:  # the time until this answer was one of silence
        elapsed = _NO_TIME
    again: dict[Absence, Absence] = {}  # most entries share one of a few
    absent = dict(last.absent)
    for dn in lacking:
        seen = absent[dn]
        if seen not in again:
            again[seen] = seen.again(elapsed, is_complete=is_complete)
        absent[dn] = again[seen]
    failed = {vo: replace(age, waited=age.waited + elapsed) for vo, age in last.failed.items()}
    return replace(last, collected=now, failed=failed, absent=absent, silence=None)


def publishable(last: LastGood, expiry: Expiry) -> Tree:
    """Return the tree to publish, stale entries marked and those past their expiry left out.

    If nothing is stale, it is ``last.tree`` itself: identical objects make comparisons cheap.
    """
    is_doubtful = any(seen.doubtful is not None for seen in last.absent.values())
    if not last.failed and last.silence is None and not is_doubtful:
        return last.tree
    if expiry.silent is not None and (last.silence or _NO_TIME) > expiry.silent:
        return NO_TREE
    owners = _owners(last.tree) if last.failed else {}
    tree = {}
    for dn in sorted_by_depth(last.tree):
        age = _age(dn, owners.get(dn, frozenset()), last)
        entry = last.tree[dn]
        if age is None:
            tree[dn] = entry
        elif age.waited <= expiry.parts:
            tree[dn] = _marked(entry, age.collected)
    return tree


def merge(last: Mapping[str, LastGood], expiry: Expiry) -> tuple[Tree, int, list[str]]:
    """Return the common tree of all sources, the number of stale entries, and problems.

    Of entries with the same name the first one is published that its source's latest answer has;
    if no answer has any, the first one.
    """
    merged: dict[Dn, Entry] = dict(BASE)
    old: dict[Dn, Entry] = {}
    stale: set[Dn] = set()
    problems: list[str] = []
    parts: dict[str, Tree] = {}
    for name, source in last.items():
        part = publishable(source, expiry)
        latest = part
        if part is not source.tree or source.absent:
            latest, older = _divided(part, source)
            stale |= {dn for dn, entry in older.items() if entry is not source.tree[dn]}
            old = older | old
        repeated = [dn for dn in latest.keys() & merged.keys() if dn not in BASE]
        merged = {**latest, **merged}
        problems += _contradictions(name, part, repeated, merged, parts)
        parts[name] = part
    found = old | merged
    whole, orphans = complete(found)
    words = "left out, because no source has the entry above it"
    problems += few(
        [printable(f"{source_of(last, dn)}: {shortened(found[dn].dn)}: {words}") for dn in orphans]
    )
    return whole, len(stale - merged.keys()), problems


def _divided(part: Tree, source: LastGood) -> tuple[Tree, dict[Dn, Entry]]:
    """Return the entries that the latest answer of a source has, and those that it lacks."""
    latest: dict[Dn, Entry] = {}
    older: dict[Dn, Entry] = {}
    for dn, entry in part.items():
        is_latest = entry is source.tree[dn] and dn not in source.absent
        (latest if is_latest else older)[dn] = entry
    return latest, older


def source_of(last: Mapping[str, LastGood], dn: Dn) -> str:
    """Return the name of the source whose entry is published; empty if it is our own."""
    having = [name for name, source in last.items() if dn in source.tree]
    latest = [name for name in having if dn not in last[name].absent]
    return next(iter(latest or having), "")


def _contradictions(
    name: str,
    part: Tree,
    repeated: Collection[Dn],
    merged: Tree,
    parts: Mapping[str, Tree],
) -> list[str]:
    """Return a line for each earlier source that is published where this one says otherwise."""
    differing: dict[str, list[Dn]] = {}
    for dn in repeated:
        if not is_same(merged[dn], part[dn], ignoring=CREATION_TIME):
            other = next(one for one, theirs in parts.items() if theirs.get(dn) is merged[dn])
            differing.setdefault(other, []).append(dn)
    return [
        printable(
            f"{name}: entries that differ from those of {other}, which are published: "
            f"{len(names)}, such as {shortened(part[min(names)].dn)}"
        )
        for other, names in sorted(differing.items())
    ]


def _age(dn: Dn, owners: frozenset[str], last: LastGood) -> StaleAge | None:
    """Return the age of an entry of these VOs; None if the latest answer had it."""
    if owners and owners <= last.failed.keys():
        return min((last.failed[vo] for vo in owners), key=lambda age: age.waited)
    seen = last.absent.get(dn)
    if seen is not None and (seen.doubtful is not None or last.silence is not None):
        return StaleAge(seen.collected)
    return StaleAge(last.collected) if last.silence is not None else None


# --------------------------------------------------------------------------------------------------
# removal


@dataclass(frozen=True, slots=True)
class Waiting:
    """The removals that wait.

    Attributes:
        count: number of entries that a complete answer lacks.
        is_held: whether they wait longer, because there are too many at once.

    """

    count: int
    is_held: bool


def release(
    last: Mapping[str, LastGood],
    *,
    size: int,
    delay: timedelta,
    hold: timedelta,
    expiry: Expiry,
) -> tuple[Mapping[str, LastGood], Waiting]:
    """Return the data without the entries that are gone, and how many may follow.

    An entry is gone after two complete answers without it, ``delay`` apart. If more than half of
    the ``size`` published entries are missing, ``hold`` apart: a broken source is a more likely
    cause than a site that closed. An entry stays while another one below it does.
    """

    def is_living(dn: Dn) -> bool:
        return any(dn in source.tree and dn not in source.absent for source in last.values())

    missing = {
        dn
        for source in last.values()
        for dn, seen in source.absent.items()
        if seen.answers and not is_living(dn)
    }
    is_held = hold > delay and shrink.is_held(removed=len(missing), size=size)
    wait = hold if is_held else delay
    due = {
        name: {dn for dn, seen in source.absent.items() if seen.is_due(wait, expiry.parts)}
        for name, source in last.items()
    }
    if not any(due.values()):
        return last, Waiting(len(missing), is_held)
    needed: set[Dn] = set()
    for name, source in last.items():
        for dn in source.tree.keys() - due[name]:
            _add_ancestors(needed, dn)
    kept = {name: _without(source, due[name] - needed) for name, source in last.items()}
    left = sum(1 for dn in missing if any(dn in source.tree for source in kept.values()))
    return kept, Waiting(left, is_held and left > 0)


def _add_ancestors(names: set[Dn], dn: Dn) -> None:
    for name in ancestors(dn):
        if name in names:
            return
        names.add(name)


def _without(source: LastGood, gone: Collection[Dn]) -> LastGood:
    if not gone:
        return source
    return replace(
        source,
        tree={dn: entry for dn, entry in source.tree.items() if dn not in gone},
        absent={dn: seen for dn, seen in source.absent.items() if dn not in gone},
    )


def _older_if_same(old: Entry | None, new: Entry, usual: tuple[str, str]) -> Entry | None:
    """Return the old entry if the new one has its content; None if the new one replaces it.

    A creation time that is not ``usual`` was given while the clock was wrong, or long ago. It is
    replaced: readers reject a time in the future, and take an entry of more than two years for
    abandoned.
    """
    if old is None or not is_same(old, new, ignoring=CREATION_TIME):
        return None
    created = traits(new).created
    is_better = not created or _is_usual(created, usual)
    return None if is_better and not _is_usual(traits(old).created, usual) else old


def _is_usual(created: Collection[str], usual: tuple[str, str]) -> bool:
    earliest, latest = usual
    return all(earliest <= time <= latest for time in created)


def dated(entry: Entry, now: datetime) -> Entry:
    """Return the entry with a creation time if its class has one."""
    found = traits(entry)
    if found.created or not found.is_entity:
        return entry
    return with_values(entry, CREATION_TIME, [time_text(now)])


# --------------------------------------------------------------------------------------------------
# owners


def _owners(tree: Tree) -> dict[Dn, frozenset[str]]:
    """Return the VOs of each entry: those of its own marks, else those of its parent."""
    owners: dict[Dn, frozenset[str]] = {}
    for dn in sorted_by_depth(tree):  # parents first
        owners[dn] = traits(tree[dn]).vos or owners.get(Dn(ldif.parent(dn)), frozenset())
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
        elif traits(entry).vos <= failed:
            tree[dn] = entry
            missing.append(dn)
        else:
            # VOs that answered no longer list this entry: only the failed VOs' marks stay
            tree[dn] = _with_marks_of(_without_marks(entry), entry, failed)
            missing.append(dn)
    _add_dependencies(tree, old, missing)
    return tree


def _with_marks_of(entry: Entry, old: Entry, failed: frozenset[str]) -> Entry:
    """Return the entry with the marks of failed VOs that the old entry has."""
    if traits(old).vos & failed <= traits(entry).vos:
        return entry
    for name, mark in VO_MARKS.items():
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
    for name, mark in VO_MARKS.items():
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


class MarkedEntry(LazyEntry):
    """A stored entry marked as stale."""

    __slots__ = ("_base", "_collected", "_digest")

    def __init__(self, base: StoredEntry, collected: datetime) -> None:
        self._base = base
        self._collected = collected
        self._digest = block_digest(content_digest(base) + time_text(collected).encode())

    @property
    def content_digest(self) -> bytes:
        """A digest of the stored entry's digest and the mark."""
        return self._digest

    @property
    def traits(self) -> Traits:
        """The traits of the stored entry."""
        return self._base.traits

    def load(self) -> Entry:
        """Return the whole entry with the mark."""
        return _with_mark(self._base.load(), self._collected)


def _marked(entry: Entry, collected: datetime) -> Entry:
    """Return the entry marked as stale; a mark from a lower BDII, which is older, is kept."""
    found = traits(entry)
    if found.is_stale or not found.is_entity:
        return entry
    if isinstance(entry, StoredEntry):
        return MarkedEntry(entry, collected)
    return _with_mark(entry, collected)


def _with_mark(entry: Entry, collected: datetime) -> Entry:
    time = time_text(collected)
    info = (*entry.get(OTHER_INFO), STALE, f"CollectedAt={time}")
    entry = with_values(entry, OTHER_INFO, info)
    if entry.get(_HEALTH):
        entry = with_values(entry, _HEALTH, ["unknown"])
        entry = with_values(
            entry, _HEALTH_INFO, [f"the source of this information has not answered since {time}"]
        )
    return entry
