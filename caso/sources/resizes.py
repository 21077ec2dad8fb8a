"""The cores of a server over time: a resized one is charged for what it had, part by part.

Nova shows the present flavor alone. Which cores a server had before comes from what earlier runs
saw of it; when they changed, from Nova's actions of the server. A resize is a launch, so only a
server that was launched since the last run is looked up.

    seen before this run          accounted as
    nothing                       with the present cores from its creation, as by cASO
    other cores than now          with the earlier ones up to the start of the resize; without an
                                  action of it, up to the start of the window
    several resizes in between    the last one counts, because Nova keeps no flavor with an action

The steps of each resized server are kept in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from appliance.core import clock
from appliance.core.cloud.compute import Server, Servers
from appliance.core.run.errors import AccessDenied
from caso.kinds.months import ExtractionWindow
from caso.sources.history import SeenThing
from caso.sources.listing import OVERLAP
from caso.sources.source import ProjectContext

KIND = "cores"
"""The kind of sighting under which the ledger has the steps."""
_SEEN_AS = "cloud"
_CHANGES = ("resize", "revertResize")
"""Actions that change the flavor of a server."""
_NONE = timedelta(0)


class CoreStep(NamedTuple):
    """The cores that a server had from a moment on."""

    since: datetime
    cores: int


class ServerCores:
    """The steps of one project's servers, up to the end of a window."""

    def __init__(self, servers: Servers, window: ExtractionWindow, context: ProjectContext) -> None:
        history = context.history
        self._servers = servers
        self._window = window
        self._history = history
        self._warn = context.warn
        self._kept = {key: _steps(one.facts) for key, one in history.kept(KIND).items()}

    def of(self, server: Server, born: datetime, launched: datetime) -> Sequence[CoreStep]:
        """Return the steps of a server, oldest first; the first one begins with the server."""
        number, cores = str(server["id"]), int(server["flavor"]["vcpus"])
        known = self._kept.get(number)
        is_due = not self._window.is_first and launched >= self._window.start - OVERLAP
        if known is None and is_due and (before := self._before(number)) is not None:
            known = (CoreStep(born, before),)
        if known is None:
            return (CoreStep(born, cores),)
        if known[-1].cores != cores:
            since = self._changed(number, known[-1].since)
            known = (*known, CoreStep(since, cores))
            self._keep(number, known)
        return known

    def end(self, number: str, moment: datetime) -> None:
        """Note the end of a server, after which its steps may be purged one day."""
        if number in self._kept:
            self._history.end(KIND, [(number, moment)])

    def _changed(self, number: str, after: datetime) -> datetime:
        try:
            return changed_at(self._servers, number, after, self._window)
        except AccessDenied as error:  # the time is less exact then; the hours count all the same
            self._warn(f"{error}; a resize counts from the start of the run's window")
            return started_at_latest(after, self._window)

    def _before(self, number: str) -> int | None:
        seen = self._history.last(_SEEN_AS, number)
        cores = seen.facts.get("cpu_count") if seen else None
        return cores if isinstance(cores, int) else None

    def _keep(self, number: str, steps: Sequence[CoreStep]) -> None:
        self._kept[number] = tuple(steps)
        facts = {one.since.isoformat(): one.cores for one in steps}
        self._history.keep(KIND, SeenThing(number, facts, since=steps[0].since))


def _steps(facts: Mapping[str, object]) -> Sequence[CoreStep]:
    return tuple(CoreStep(clock.parse(since), int(str(facts[since]))) for since in sorted(facts))


def changed_at(
    servers: Servers, server_id: str, after: datetime, window: ExtractionWindow
) -> datetime:
    """Return when the flavor of a server changed last, in a window."""
    for action in servers.actions(server_id):
        try:
            started = clock.parse(action["start_time"])
            is_change = action["action"] in _CHANGES and not action.get("message")
        except (LookupError, TypeError, ValueError, AttributeError):
            continue
        if is_change and after < started <= window.end:
            return started
    return started_at_latest(after, window)


def started_at_latest(after: datetime, window: ExtractionWindow) -> datetime:
    """Return when a change counts of which Nova keeps no action: the last run saw none."""
    return max(window.start, after + timedelta(seconds=1))


def cores_at(steps: Sequence[CoreStep], moment: datetime) -> int:
    """Return the cores that a server had at a moment."""
    for one in reversed(steps):
        if one.since <= moment:
            return one.cores
    return steps[0].cores


def charged(
    steps: Sequence[CoreStep], until: datetime, used: Callable[[datetime], timedelta]
) -> timedelta:
    """Return the CPU time up to a moment; ``used`` returns the wall time up to one."""
    total = _NONE
    for one, after in zip(steps, [*steps[1:], None], strict=True):
        end = until if after is None else min(until, after.since)
        if one.since < end:
            total += (used(end) - used(one.since)) * one.cores
    return timedelta(seconds=total // timedelta(seconds=1))
