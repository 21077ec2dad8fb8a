"""One cycle: ask all sources, decide what to publish, change the directory, remember.

    sources ──ask──> answers ──advance, release──> last good data
    last good data ──save──> disk, before anything is published
    last good data ──merge──> tree ──modify──> wanted tree, as the plugins change it
    published and wanted tree ──make──> plan ──apply──> slapd
    published tree ──write──> disk, after slapd has it

Everything from the answers to the plan is a function of values. The order of the two writes to disk
matters: last good data are on disk before LDAP clients see them, and the published tree after slapd
has it, so that a start after a crash never serves less than its predecessor did.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from appliance.core.directory import Refused
from appliance.core.run.errors import LocalFailure
from bdii import plan, tree
from bdii.messages import few, printable, shortened
from bdii.service.collect import Collected, collect, modify
from bdii.service.plugin_memory import PluginMemory
from bdii.service.state import StateDirectory
from bdii.settings import BdiiSettings
from bdii.slapd.infosys import Statistics
from bdii.slapd.process import Slapd
from bdii.slapd.publish import Applied, Publisher
from bdii.sources.last_good import merge, source_of
from bdii.sources.model import SourceAnswer
from bdii.tree import BASE, Tree


@dataclass(slots=True)
class Cycle:
    """The result of a cycle.

    Attributes:
        statistics: figures of the entry below o=infosys.
        sources: number of sources with last good data.
        stale: number of published entries that are stale.
        unheard: number of sources that have never given a usable answer.
        waiting: number of entries whose deletion waits for more answers without them.
        problems: what the cycle left undone, a line each.

    """

    statistics: Statistics = field(default_factory=Statistics)
    sources: int = 0
    stale: int = 0
    unheard: int = 0
    waiting: int = 0
    problems: list[str] = field(default_factory=list)


class Updater:
    """The state between cycles.

    ``planned`` is the number of changes that the current cycle has to make; None until it is known.
    ``is_as_stored`` says whether the file of the published tree held all of it.
    """

    def __init__(self, settings: BdiiSettings, state: StateDirectory, slapd: Slapd) -> None:
        self.settings = settings
        self._state = state
        self._last = state.load()
        self._asked = time.monotonic()
        stored = state.published()
        published = stored or merge(self._last, settings.expiry)[0]
        whole, _ = tree.complete({**BASE, **published})
        self.is_as_stored = stored.keys() == whole.keys()
        self._publisher = Publisher(slapd, whole)
        self._answers: Mapping[str, SourceAnswer] = {}
        self._plugins = PluginMemory(state.directory)
        self.planned: int | None = None
        # Set while slapd runs, or ran; a cycle waits for it before it makes changes.
        self.started = threading.Event()
        self.started.set()
        # What the first cycle wants, if nothing is known from before.
        self.first: queue.SimpleQueue[Tree] | None = (
            queue.SimpleQueue() if self.published.keys() == BASE.keys() else None
        )

    @property
    def published(self) -> Tree:
        """The tree that slapd serves or served, as known at the end of the last cycle."""
        return self._publisher.published

    def reload(self, settings: BdiiSettings) -> None:
        """Use other settings from the next cycle on, and parse all answers again."""
        self.settings = settings
        self._answers = {}

    def cycle(self, stop: threading.Event) -> Cycle:
        """Do one cycle.

        Raises `Unavailable` if slapd does not answer; the next cycle makes the remaining changes.
        """
        started, self.planned = time.monotonic(), None
        collected = collect(
            self.settings,
            self._last,
            size=len(self.published),
            # of the monotonic clock: it stands still while the machine is suspended
            elapsed=timedelta(seconds=started - self._asked),
            before=self._answers,
            scratch=self._state.directory,
            stop=stop,
        )
        done = self._result(collected)
        if stop.is_set():
            return done
        all_answered = time.monotonic()
        self._last, self._answers, self._asked = collected.last, collected.answers, started
        _store(done, lambda: self._state.save(self._last))
        merged = self._merge(done)
        wanted = self._modify(merged, done, stop)
        if self.first is not None and not self.started.is_set():
            self.first.put(wanted)
        self.started.wait()
        modified = time.monotonic()
        # slapd may have been restarted meanwhile: the plan is for the tree that it serves now
        self._publisher.synchronise()
        applied = self._publish(wanted, merged, done, stop)
        _store(done, lambda: self._state.write_published(self.published))
        done.problems += applied.problems(lambda dn: source_of(self._last, dn))
        done.statistics = replace(
            applied.statistics(len(self.published)),
            collecting=all_answered - started,
            reading=collected.reading,
            editing=modified - all_answered,
            applying=time.monotonic() - modified,
        )
        try:
            self._publisher.publish_statistics(self.settings.hostname, done.statistics)
        except Refused as error:
            done.problems.append(str(error))
        return done

    def _publish(self, wanted: Tree, merged: Tree, done: Cycle, stop: threading.Event) -> Applied:
        """Publish the wanted tree; an entry that slapd refuses as plugins changed it, as merged."""
        changes = plan.make(self.published, wanted)
        self.planned = len(changes)
        applied = self._publisher.apply(changes, stop)
        reasons = {
            change.dn: reason
            for change, reason in applied.failed
            if change.dn in merged and merged[change.dn] is not wanted.get(change.dn)
        }
        if not reasons or stop.is_set():
            return applied
        self._publisher.synchronise()
        plain = {**wanted, **{dn: merged[dn] for dn in reasons}}
        again = self._publisher.apply(plan.make(self.published, plain), stop)
        words = "published without the changes of plugins"
        done.problems += few(
            [printable(f"{shortened(dn)}: {words}: {reasons[dn]}") for dn in reasons]
        )
        return Applied([*applied.made, *again.made], again.failed)

    def _merge(self, done: Cycle) -> Tree:
        """Return the wanted tree."""
        wanted, done.stale, problems = merge(self._last, self.settings.expiry)
        done.problems += problems
        return wanted

    def _modify(self, wanted: Tree, done: Cycle, stop: threading.Event) -> Tree:
        """Return the wanted tree as the plugins change it."""
        before, scratch = self._plugins.edits, self._state.directory
        edited = modify(self.settings, wanted, before=before, scratch=scratch, stop=stop)
        _store(done, lambda: self._plugins.keep(edited.printed))
        done.problems += edited.problems
        return edited.wanted

    def _result(self, collected: Collected) -> Cycle:
        """Return the result of a cycle as far as it is known before anything is published."""
        done = Cycle(
            sources=len(collected.last),
            unheard=collected.unheard,
            waiting=collected.waiting.count,
            problems=[*collected.problems],
        )
        if collected.waiting.is_held:
            minutes = self.settings.shrink_hold.total_seconds() / 60
            done.problems.append(
                f"{done.waiting} of {len(self.published)} entries would be deleted at once: kept "
                f"until they have been missing for {minutes:g} minutes (BDII_SHRINK_HOLD)"
            )
        return done


def _store(done: Cycle, write: Callable[[], None]) -> None:
    """Write to the state directory; a failure does not stop publishing, the next cycle retries."""
    try:
        write()
    except LocalFailure as error:
        done.problems.append(str(error))
    except OSError as error:
        done.problems.append(str(LocalFailure.from_os(error)))
