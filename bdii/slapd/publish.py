"""Changes carried out in slapd, one by one; only its answers tell what is published.

A change at which the connection breaks may be to blame, or slapd may. So the other changes are made
first, over a new connection, and the suspect last and alone. If the connection breaks again, the
change is set aside with its reason, and tried again only when its entry has changed or an hour has
passed. Nobody is blamed while slapd makes no change at all: a change without effect shows that
first. Suspects are remembered while slapd is down: one that makes slapd end is the last to be tried
once slapd is back, and set aside when it did so once more than others may.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.core.directory import NO_SUCH_OBJECT, Directory, NoAnswer, Refused
from appliance.core.ldif import Entry, parent
from appliance.core.run.errors import Unavailable
from bdii import tree
from bdii.messages import printable, shown
from bdii.plan import Add, Change, Delete, Modify, TreePlan
from bdii.slapd import infosys
from bdii.slapd.infosys import Statistics
from bdii.slapd.process import Slapd
from bdii.tree import SUFFIX, Dn, Tree

logger = logging.getLogger(__name__)

_LASTING = frozenset({17, 18, 19, 20, 21, 34, 64, 65, 69})
"""Results (RFC 4511, appendix A) that say that the entry is wrong: the same entry need not be tried again."""

_BULK_FACTOR = 10
_BULK_LEAST = 200
_TOLD = 5
_ATTEMPTS = 2
"""How often a connection may break at a change before it is set aside; the last time alone."""
_SET_ASIDE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class _KnownFailure:
    """An entry that need not be tried again, why, and until when.

    ``until`` is of the monotonic clock; None: until the entry changes.
    """

    entry: Entry
    reason: str
    until: float | None = None


@dataclass(slots=True)
class Applied:
    """What became of the changes of a plan."""

    added: int = 0
    modified: int = 0
    deleted: int = 0
    failed: list[tuple[Change, str]] = field(default_factory=list)

    def count(self, change: Change) -> None:
        """Count a change that was made."""
        match change:
            case Add():
                self.added += 1
            case Modify():
                self.modified += 1
            case Delete():
                self.deleted += 1

    def statistics(self, total: int) -> Statistics:
        """Return the figures."""
        kinds = [type(change) for change, _ in self.failed]
        return Statistics(
            total=total,
            new=self.added,
            modified=self.modified,
            deleted=self.deleted,
            failed_adds=kinds.count(Add),
            failed_modifies=kinds.count(Modify),
            failed_deletes=kinds.count(Delete),
        )

    def problems(self) -> list[str]:
        """Return a line for each of the first failures, and how many more there are."""
        first = self.failed[:_TOLD]
        lines = [
            printable(f"{shown(change.entry.dn)}: not published: {reason}")
            for change, reason in first
        ]
        more = len(self.failed) - _TOLD
        return [*lines, f"{more} more entries not published"] if more > 0 else lines


class Publisher:
    """The one writer of a server's tree. ``published`` is replaced, never changed: any thread may read it."""

    def __init__(self, server: Slapd, published: Tree) -> None:
        self.published = published
        self._server = server
        self._refused: dict[Dn, _KnownFailure] = {}
        self._suspects: dict[Dn, tuple[Entry, int]] = {}
        """Changes at which the connection broke, with the entry and how often."""
        self._generation = 0
        self._is_unsure = False

    def synchronise(self) -> None:
        """Learn what is published, when slapd was started anew or its answer to a change was lost."""
        generation, served = self._server.content()
        if generation != self._generation:
            self.published, self._generation, self._is_unsure = served.tree, generation, False
        elif self._is_unsure:
            with self._server.connect() as directory:
                self.published = tree.of(directory.search(SUFFIX))[0]
            self._is_unsure = False

    def apply(self, plan: TreePlan, stop: threading.Event) -> Applied:
        """Carry out a plan. Raises `Unavailable` when slapd goes away; `synchronise` before the next one."""
        applied = Applied()
        left = [change for change in plan if not self._is_known_to_fail(change, applied)]
        if not left:
            return applied
        adds = sum(1 for change in left if isinstance(change, Add))
        if plan.changes_class or adds > max(_BULK_LEAST, _BULK_FACTOR * len(self.published)):
            self._replace_all(left, applied)
        else:
            self._change_each(left, applied, stop)
        return applied

    def tell(self, host: str, statistics: Statistics) -> None:
        """Modify the entry below o=infosys, which is made on first use."""
        entry = infosys.entry(host, statistics)
        with self._server.connect() as directory:
            try:
                directory.modify(entry.dn, entry.attributes)
            except Refused as error:
                if error.code != NO_SUCH_OBJECT:
                    raise
                directory.add(infosys.BASE)
                directory.add(entry)

    def _is_known_to_fail(self, change: Change, applied: Applied) -> bool:
        known = self._refused.get(change.dn)
        if known is None or not tree.is_same(known.entry, change.entry):
            return False
        if known.until is None and isinstance(change, Delete):
            return False
        if known.until is not None and time.monotonic() >= known.until:
            return False
        applied.failed.append((change, known.reason))
        return True

    def _replace_all(self, changes: list[Change], applied: Applied) -> None:
        """Serve the changed tree from a new database."""
        wanted = dict(self.published)
        for change in changes:
            _change_tree(wanted, change)
        served = self._server.serve(wanted, instead=self.published)
        self._generation, _ = self._server.content()
        self.published = served.tree
        for change in changes:
            reason = served.refused.get(change.dn)
            if reason is None or isinstance(change, Delete):
                applied.count(change)
                continue
            applied.failed.append((change, reason))
            if parent(change.dn) in served.tree:
                self._refused[change.dn] = _KnownFailure(change.entry, reason)

    def _change_each(
        self,
        changes: Sequence[Change],
        applied: Applied,
        stop: threading.Event,
    ) -> None:
        """Make changes over as many connections as it takes.

        Raises `Unavailable` when slapd cannot be connected to: then no single change is to blame.
        """
        now = dict(self.published)
        self._is_unsure = True
        is_lost = False
        left = deque(self._suspects_last(changes))
        while left and not stop.is_set():
            with self._server.connect() as directory:
                if self._server.content()[0] != self._generation:
                    words = "was started anew meanwhile, the plan is for the one before"
                    raise Unavailable("slapd", words)
                is_lost |= self._change_until_lost(directory, left, applied, now, stop)
        self.published, self._is_unsure = now, is_lost

    def _suspects_last(self, changes: Sequence[Change]) -> list[Change]:
        """Return changes with the suspects, and what is below them, at the end."""

        def is_suspect(change: Change) -> bool:
            names = (change.dn, *tree.ancestors(change.dn))
            return any(name in self._suspects for name in names)

        return sorted(changes, key=is_suspect) if self._suspects else list(changes)

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
            try:
                reason = self._change_one(directory, change, now)
            except NoAnswer as error:
                if self._is_to_blame(change, error, applied):
                    return True
                others = [change, *left]  # a plan's order keeps entries before those below them
                left.clear()
                left.extend(self._suspects_last(others))
                return True
            if reason:
                applied.failed.append((change, reason))
            else:
                applied.count(change)
        return False

    def _is_to_blame(self, change: Change, error: NoAnswer, applied: Applied) -> bool:
        """Note a change at which the connection broke; set it aside when it was once too often."""
        entry, count = self._suspects.get(change.dn, (change.entry, 0))
        count = count + 1 if tree.is_same(entry, change.entry) else 1
        self._suspects[change.dn] = (change.entry, count)
        if count <= _ATTEMPTS:
            self._check_server()
        name = printable(shown(change.dn))
        if count < _ATTEMPTS:
            words = "the connection broke at this entry, which is tried again after all others"
            logger.warning("%s: %s", name, words)
            return False
        reason = f"slapd closes the connection or does not answer ({error.cause})"
        reason = f"{reason}; set aside for an hour"
        until = time.monotonic() + _SET_ASIDE_SECONDS
        self._refused[change.dn] = _KnownFailure(change.entry, reason, until)
        del self._suspects[change.dn]
        applied.failed.append((change, reason))
        return True

    def _check_server(self) -> None:
        """Make a change without effect; raises `Unavailable` when there is no answer to it."""
        with self._server.connect() as directory, contextlib.suppress(Refused):
            directory.modify(SUFFIX, {"o": (SUFFIX.removeprefix("o="),)})

    def _change_one(self, directory: Directory, change: Change, now: dict[Dn, Entry]) -> str:
        """Make one change; returns why not, empty when it is made."""
        if isinstance(change, Add) and parent(change.dn) not in now:
            return "the entry above it is not published"
        try:
            _change_directory(directory, change)
        except Refused as error:
            if not (isinstance(change, Delete) and error.code == NO_SUCH_OBJECT):
                if error.code in _LASTING:
                    self._refused[change.dn] = _KnownFailure(change.entry, error.cause)
                return error.cause
        self._refused.pop(change.dn, None)
        self._suspects.pop(change.dn, None)
        _change_tree(now, change)
        return ""


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
