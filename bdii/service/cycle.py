"""One cycle: ask all sources, decide what is to be published, change the directory accordingly, remember.

    sources ──ask──> answers ──advance──> last good ──publishable, merge──> wanted
    wanted ──store──> disk, before anything is published
    wanted ──plan, guard──> changes ──> slapd

Everything between the answers and the changes is a function of values. The order of effects: last
good data are on disk before they are published; the published tree is on disk after it was.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from appliance.core import clock
from appliance.core.directory import Refused
from appliance.core.run.errors import LocalFailure
from bdii import plan, tree
from bdii.plan import TreePlan
from bdii.service.collect import gather, merge
from bdii.service.state import StateDirectory
from bdii.settings import BdiiSettings
from bdii.slapd.infosys import Statistics
from bdii.slapd.process import Slapd
from bdii.slapd.publish import Publisher
from bdii.sources.answers import SourceAnswer
from bdii.sources.last_good import LastGood
from bdii.tree import BASE, Tree

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Cycle:
    """What a cycle did; ``problems`` are what it left undone, a line each."""

    statistics: Statistics = field(default_factory=Statistics)
    sources: int = 0
    stale: int = 0
    unheard: int = 0
    """Sources that have never said anything of use."""
    waiting: int = 0
    """Deletions that a guard holds back."""
    problems: list[str] = field(default_factory=list)


class Updater:
    """The state between cycles."""

    def __init__(self, settings: BdiiSettings, store: StateDirectory, server: Slapd) -> None:
        self.settings = settings
        self._store = store
        self._last: Mapping[str, LastGood]
        self._last, self._vanished = store.load()
        published = (
            store.published() or merge(self._last, now=clock.now(), expiry=settings.expiry)[0]
        )
        self._publisher = Publisher(server, tree.complete({**BASE, **published})[0])
        self._answers: Mapping[str, SourceAnswer] = {}
        self.planned: int | None = None
        """Changes that the current cycle found to make; None until it knows."""

    @property
    def published(self) -> Tree:
        """The tree that is or was served, as known at the end of the last cycle."""
        return self._publisher.published

    def reload(self, settings: BdiiSettings) -> None:
        """Go on with other settings; what the sources say is read anew."""
        self.settings = settings
        self._answers = {}

    def cycle(self, stop: threading.Event) -> Cycle:
        """Do one cycle. Raises `Unavailable` when slapd is away; what was not done is done by the next one."""
        started, self.planned = time.monotonic(), None
        scratch = self._store.directory
        gathered = gather(
            self.settings, self._last, before=self._answers, scratch=scratch, stop=stop
        )
        done = Cycle(
            sources=len(gathered.last),
            stale=gathered.stale,
            unheard=gathered.unheard,
            problems=[*gathered.problems],
        )
        if stop.is_set():
            return done
        collected = time.monotonic()
        self._publisher.synchronise()
        changes = self._planned(gathered.wanted, done)
        self.planned = len(changes)
        self._last, self._answers = gathered.last, gathered.answers
        _keep(done, lambda: self._store.save(self._last, self._vanished))
        applied = self._publisher.apply(changes, stop)
        _keep(done, lambda: self._store.write_published(self.published))
        done.problems += applied.problems()
        done.statistics = replace(
            applied.statistics(len(self.published)),
            collecting=collected - started,
            applying=time.monotonic() - collected,
        )
        try:
            self._publisher.tell(self.settings.hostname, done.statistics)
        except Refused as error:
            done.problems.append(str(error))
        return done

    def _planned(self, wanted: Tree, done: Cycle) -> TreePlan:
        """Return the plan after the guards."""
        size = len(self.published)
        changes, self._vanished = plan.guard(
            plan.make(self.published, wanted),
            size=size,
            remembered=self._vanished,
            now=clock.now(),
            delay=self.settings.delete_delay,
            hold=self.settings.shrink_hold,
        )
        done.waiting = len(changes.waiting)
        if self._vanished.held_since is not None and changes.waiting:
            end = self._vanished.held_since + self.settings.shrink_hold
            done.problems.append(
                f"{done.waiting} of {size} entries would go at once: held until {end:%H:%M} UTC"
            )
        return changes


def _keep(done: Cycle, write: Callable[[], None]) -> None:
    """Write to the state directory; a full disk does not stop publishing, and the next cycle tries again."""
    try:
        write()
    except OSError as error:
        done.problems.append(str(LocalFailure.from_os(error)))
