"""A plan carried out in the running slapd, change by change.

Only slapd's answers decide which entries count as published. All changes are made in place, however
many there are: a switch to another database would refuse connections, or cut running searches
(docs/adr/0055). Many changes go through a pipeline first (`bdii.slapd.bulk`); what it leaves undone
is done one by one.

If the connection breaks at a change, either the change or slapd itself is the cause. So the other
changes are made first, over a new connection, and the suspect last and alone. If the connection
breaks again, the change is set aside with its reason for an hour, or until its entry changes. While
slapd makes no change at all no entry is blamed: a change without effect tests that first. Suspects
are remembered while slapd is down: an entry that crashes slapd is the last to be tried after the
restart, and is set aside when it crashes slapd again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from appliance.core.directory import NO_SUCH_OBJECT, Directory, NoAnswer, Refused
from appliance.core.ldif import Entry, parent
from appliance.core.run.errors import Unavailable
from bdii import tree
from bdii.messages import MOST_LINES, few, printable, shortened
from bdii.plan import Add, Change, Delete, Modify, TreePlan, difference
from bdii.slapd import bulk, configuration, database, infosys, served
from bdii.slapd.infosys import Statistics
from bdii.slapd.process import Slapd
from bdii.tree import SUFFIX, Dn, Tree

logger = logging.getLogger(__name__)

# Result codes (RFC 4511, appendix A) for a wrong entry: a retry with the same entry is useless.
_LASTING = frozenset({17, 18, 19, 20, 21, 34, 64, 65, 69})

# What slapd answers while its database cannot be written. After so many such answers in a row it is
# full: further entries are not tried in this cycle, only removals, which make room.
_OTHER = 80
_MOST_UNWRITABLE = 20
# From so many changes on, a pipeline is worth its own connection.
_BULK_LEAST = 100
_QUERY_TIME = timedelta(seconds=30)
# Connections that may break at a change before it is set aside; the last attempt is made alone.
_ATTEMPTS = 2
_SET_ASIDE_SECONDS = 3600
_COMPARE_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class _KnownFailure:
    """An entry that is not tried again, and the reason.

    ``until`` is a time of the monotonic clock; None: until the entry changes.
    """

    entry: Entry
    reason: str
    until: float | None = None


@dataclass(slots=True)
class Applied:
    """The changes of a plan that were made, and those that failed, with the reason."""

    made: list[Change] = field(default_factory=list)
    failed: list[tuple[Change, str]] = field(default_factory=list)

    def statistics(self, total: int) -> Statistics:
        """Return the figures; ``total`` is the number of entries published now."""
        made = [type(change) for change in self.made]
        failed = [type(change) for change, _ in self.failed]
        return Statistics(
            total=total,
            new=made.count(Add),
            modified=made.count(Modify),
            deleted=made.count(Delete),
            failed_adds=failed.count(Add),
            failed_modifies=failed.count(Modify),
            failed_deletes=failed.count(Delete),
        )

    def problems(self, source_of: Callable[[Dn], str]) -> list[str]:
        """Return a line for each failure; of many with the same reason, for the first one.

        ``source_of`` returns the name of an entry's source, or nothing.
        """
        reasons: dict[str, list[Change]] = {}
        for change, reason in self.failed:
            words = "not removed" if isinstance(change, Delete) else "not published"
            reasons.setdefault(f"{words}: {reason}", []).append(change)
        lines = []
        for reason, changes in reasons.items():
            shown = changes[:1] if len(changes) > MOST_LINES else changes
            for change in shown:
                source = source_of(change.dn)
                line = f"{shortened(change.entry.dn)}: {reason}"
                lines.append(printable(f"{source}: {line}" if source else line))
            if len(changes) > len(shown):
                lines[-1] += f"; {len(changes) - 1} more entries for the same reason"
        return few(lines)


class Publisher:
    """The only writer of slapd's tree.

    ``published`` is replaced, never changed in place: any thread may read it.
    """

    def __init__(self, slapd: Slapd, published: Tree) -> None:
        self.published = published
        self._slapd = slapd
        self._failures: dict[Dn, _KnownFailure] = {}
        # Changes at which the connection broke: the entry, and how often.
        self._suspects: dict[Dn, tuple[Entry, int]] = {}
        self._generation = 0
        self._is_unsure = False
        # Answers in a row that the database cannot be written.
        self._unwritable = 0
        # Whether there was such an answer to this plan, and to the plan before.
        self._has_failed = self._was_unwritable = False
        self._doubted = -float(_SET_ASIDE_SECONDS)
        # The name under which the figures are published.
        self._host = ""
        # The version of the tree below o=infosys; empty: none; None: unknown.
        self._version: str | None = None
        self._compared = time.monotonic()

    def synchronise(self) -> None:
        """Update ``published`` after a restart of slapd or a change without an answer.

        Once a day slapd is asked in any case, so that the next plan corrects what it serves
        differently for whatever reason.
        """
        generation, served = self._slapd.content()
        if generation != self._generation:
            self._generation, self._is_unsure, self._version = generation, served is None, None
            if served is not None:
                self.published = served
        if self._is_unsure:
            self._read_back()
        elif time.monotonic() - self._compared > _COMPARE_SECONDS:
            before = self.published
            self._read_back()
            if count := _count_different(before, self.published):
                logger.warning(
                    "slapd served %d entries that differ from those published; they are corrected",
                    count,
                )

    def _read_back(self) -> None:
        started = time.monotonic()
        self.published = _known(served.entries(self._slapd.settings.socket), self.published)
        self._is_unsure, self._compared = False, time.monotonic()
        words = "read back %d entries from slapd in %.1f s"
        logger.info(words, len(self.published), self._compared - started)

    def apply(self, plan: TreePlan, stop: threading.Event) -> Applied:
        """Carry out a plan.

        Raises `Unavailable` if slapd does not answer; call `synchronise` before the next plan.
        """
        applied = Applied()
        left = [change for change in plan if not self._is_known_to_fail(change, applied)]
        if not left:
            return applied
        self._withdraw_version()
        self._unwritable, self._has_failed = 0, False
        now = dict(self.published)
        # true until the end: an exception on the way leaves the result of some changes unknown
        self._is_unsure = True
        is_lost = False
        if len(left) >= _BULK_LEAST:
            left, is_lost = self._change_many(left, applied, now, stop)
        is_lost |= self._change_each(left, applied, now, stop)
        self.published, self._is_unsure = now, is_lost or self._is_in_doubt()
        return applied

    def _withdraw_version(self) -> None:
        """Remove the version of the tree, which is about to change.

        Raises `Unavailable` if slapd does not answer.
        """
        if self._version == "":
            return
        with self._slapd.connect() as directory, contextlib.suppress(Refused):  # no entry yet
            self._version = None  # the answer may be lost
            directory.modify(infosys.SUFFIX, {infosys.VERSION: ()})
        self._version = ""

    def publish_statistics(self, host: str, statistics: Statistics) -> None:
        """Query slapd, then modify the entries of o=infosys, or add them to a new database."""
        querying = self._slapd.answer_time(patience=_QUERY_TIME)
        if querying is None:
            querying = _QUERY_TIME.total_seconds()
        entry = infosys.entry(host, replace(statistics, querying=querying))
        with self._slapd.connect() as directory:
            try:
                directory.modify(entry.dn, entry.attributes)
            except Refused as error:
                if error.code != NO_SUCH_OBJECT:
                    raise
                with contextlib.suppress(Refused):  # the entry of another host name is there
                    directory.add(infosys.BASE_ENTRY)
                directory.add(entry)
            if self._host not in ("", host):  # it was changed by a reload
                with contextlib.suppress(Refused):
                    directory.delete(infosys.name(self._host))
            self._host = host
            if not self._version and not self._is_unsure:
                version = uuid.uuid4().hex
                self._version = None  # the answer may be lost
                directory.modify(infosys.SUFFIX, {infosys.VERSION: (version,)})
                self._version = version

    def _is_known_to_fail(self, change: Change, applied: Applied) -> bool:
        known = self._failures.get(change.dn)
        if known is None or not tree.is_same(known.entry, change.entry):
            return False
        # a rejected entry can be deleted; one at which the connection breaks is retried later
        is_over = (
            isinstance(change, Delete) if known.until is None else time.monotonic() >= known.until
        )
        if is_over:
            return False
        applied.failed.append((change, known.reason))
        return True

    def _change_many(
        self,
        changes: list[Change],
        applied: Applied,
        now: dict[Dn, Entry],
        stop: threading.Event,
    ) -> tuple[list[Change], bool]:
        """Make changes in a pipeline; return those left undone, and whether the connection broke.

        Suspects are left out: at one of them the connection may break.
        """
        kept = [change for change in changes if not self._is_suspect(change)]
        with bulk.Pipeline(self._slapd.settings.socket) as pipeline:
            self._check_generation()
            done = pipeline.change(kept, stop)
        for change in done.made:
            _change_tree(now, change)
            self._failures.pop(change.dn, None)
        applied.made += done.made
        made = {id(change) for change in done.made}
        return [change for change in changes if id(change) not in made], done.is_lost

    def _check_generation(self) -> None:
        if self._slapd.generation != self._generation:
            words = "was restarted; the plan is for the tree served before"
            raise Unavailable("slapd", words)

    def _change_each(
        self,
        changes: Sequence[Change],
        applied: Applied,
        now: dict[Dn, Entry],
        stop: threading.Event,
    ) -> bool:
        """Make changes over as many connections as needed; return whether one broke.

        Raises `Unavailable` if there is no connection to slapd: no single change is the cause then.
        """
        is_lost = False
        left = deque(self._suspects_last(changes))
        while left and not stop.is_set():
            with self._slapd.connect() as directory:
                self._check_generation()
                is_lost |= self._change_until_lost(directory, left, applied, now, stop)
        return is_lost

    def _suspects_last(self, changes: Sequence[Change]) -> list[Change]:
        """Return changes with the suspects, and the entries below them, at the end."""
        return sorted(changes, key=self._is_suspect) if self._suspects else list(changes)

    def _is_suspect(self, change: Change) -> bool:
        """Check whether the connection broke at a change, or at one of an entry above it."""
        if not self._suspects:
            return False
        names = (change.dn, *tree.ancestors(change.dn))
        return any(name in self._suspects for name in names)

    def _change_until_lost(
        self,
        directory: Directory,
        left: deque[Change],
        applied: Applied,
        now: dict[Dn, Entry],
        stop: threading.Event,
    ) -> bool:
        """Make changes, taken from ``left``, until the connection breaks; return whether it did."""
        while left and not stop.is_set():
            change = left.popleft()
            if self._unwritable >= _MOST_UNWRITABLE and not isinstance(change, Delete):
                applied.failed.append((change, applied.failed[-1][1]))
                continue
            try:
                reason = self._change_one(directory, change, now)
            except NoAnswer as error:
                if not self._is_set_aside(change, error, applied):
                    # sorting is stable: the plan's order still has entries before those below them
                    others = self._suspects_last([change, *left])
                    left.clear()
                    left.extend(others)
                return True
            if reason:
                applied.failed.append((change, reason))
            else:
                applied.made.append(change)
        return False

    def _is_set_aside(self, change: Change, error: NoAnswer, applied: Applied) -> bool:
        """Note a change at which the connection broke; set it aside after `_ATTEMPTS`."""
        entry, count = self._suspects.get(change.dn, (change.entry, 0))
        count = count + 1 if tree.is_same(entry, change.entry) else 1
        self._suspects[change.dn] = (change.entry, count)
        # A change without effect: if slapd does not answer it either, this raises, and the change
        # is not blamed; after `_ATTEMPTS` of such failures it is: it crashes slapd each time.
        if count <= _ATTEMPTS:
            with self._slapd.connect() as directory, contextlib.suppress(Refused):
                directory.modify(SUFFIX, {"o": (SUFFIX.removeprefix("o="),)})
        if count < _ATTEMPTS:
            words = "the connection broke at this entry, which is retried after all others"
            logger.warning("%s: %s", printable(shortened(change.dn)), words)
            return False
        cause = f"slapd closes the connection or does not answer ({error.cause})"
        reason = f"{cause}; set aside for an hour"
        until = time.monotonic() + _SET_ASIDE_SECONDS
        self._failures[change.dn] = _KnownFailure(change.entry, reason, until)
        del self._suspects[change.dn]
        applied.failed.append((change, reason))
        return True

    def _change_one(self, directory: Directory, change: Change, now: dict[Dn, Entry]) -> str:
        """Make one change; return why it was not made, empty if it was."""
        if isinstance(change, Add) and parent(change.dn) not in now:
            return "the entry above it is not published"
        try:
            _change_directory(directory, change)
        except Refused as error:
            # an entry that is not there needs no deletion
            if not (isinstance(change, Delete) and error.code == NO_SUCH_OBJECT):
                if error.code in _LASTING:
                    self._failures[change.dn] = _KnownFailure(change.entry, error.cause)
                if error.code == _OTHER:
                    self._unwritable += 1
                    self._has_failed = True
                    return self._no_room(error.cause)
                return error.cause
        self._unwritable = 0
        self._failures.pop(change.dn, None)
        self._suspects.pop(change.dn, None)
        _change_tree(now, change)
        return ""

    def _is_in_doubt(self) -> bool:
        """Check whether the tree has to be read back, because slapd could not write to its disk.

        That may have damaged the database. Then reading fails as well, and in the end a new one is
        made. Read once slapd can write again, and each hour that it cannot although there is room.
        """
        now = time.monotonic()
        is_over = self._was_unwritable and not self._has_failed
        goes_on = (
            self._has_failed
            and now - self._doubted > _SET_ASIDE_SECONDS
            and database.has_room(self._slapd.settings.state / "db")
        )
        if goes_on:
            self._doubted = now
        self._was_unwritable = self._has_failed
        return is_over or goes_on

    def _no_room(self, cause: str) -> str:
        return f"{cause}; {configuration.room_remedy(self._slapd.settings)}"


def _known(entries: Iterable[Entry], before: Tree) -> Tree:
    """Return entries as a tree, with those known ``before`` where nothing differs.

    So most entries stay on disk, and comparisons with them end at once.
    """
    found: dict[Dn, Entry] = {}
    for entry in entries:
        dn = tree.normal(entry.dn)
        old = before.get(dn)
        found[dn] = old if old is not None and not difference(old, entry) else entry
    return found


def _count_different(one: Tree, other: Tree) -> int:
    """Return how many entries only one of two trees has, or both have as different objects."""
    return sum(one.get(dn) is not other.get(dn) for dn in one.keys() | other.keys())


def _change_directory(directory: Directory, change: Change) -> None:
    match change:
        case Add(_, entry):
            directory.add(entry)
        case Modify(_, entry, changes):
            directory.modify(entry.dn, changes)
        case Delete(_, entry):
            directory.delete(entry.dn)


def _change_tree(changed: dict[Dn, Entry], change: Change) -> None:
    if isinstance(change, Delete):
        changed.pop(change.dn, None)
    else:
        changed[change.dn] = change.entry
