"""The time in which a server was suspended, paused, shelved or stopped, from Nova's actions of it.

Nova shows the present state alone. Each change of state is an action of the server, which Nova
keeps until the server is archived. Actions that failed have a message and do not count. A period
begins when the action is done, and ends when the one that ends it is begun.

The present state wins: if the actions do not explain it, the server has been in it since its last
change. Time before the moment that the site has set, ``suspended_since``, is not looked at: it was
delivered as wall time, and what was delivered never shrinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from appliance.core import clock
from appliance.core.cloud.compute import Action, Server, Servers
from caso.memory.servers import SUSPENDED

_BEGIN = frozenset({"pause", "shelve", "stop", "suspend"})
_END = frozenset({"reboot", "rescue", "resume", "start", "unpause", "unshelve"})
_STATES = frozenset({"PAUSED", "SHELVED", "SHELVED_OFFLOADED", "SHUTOFF", "SUSPENDED"})
_NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class SuspendedPeriod:
    """A time without use; ``end`` is None while it lasts."""

    start: datetime
    end: datetime | None

    def within(self, since: datetime, until: datetime) -> timedelta:
        """Return how much of it lies between two moments."""
        end = until if self.end is None else min(self.end, until)
        return max(end - max(self.start, since), _NONE)


class Suspensions:
    """The suspended time of a project's servers since a moment."""

    def __init__(self, nova: Servers, since: datetime) -> None:
        self._nova = nova
        self.since = since

    def add(self, server: Server) -> None:
        """Add its periods to a server's description; they are kept with what is remembered."""
        found = _periods(server, self._actions(server))
        server[SUSPENDED] = {
            "since": self.since.isoformat(),
            "periods": [[one.start.isoformat(), one.end and one.end.isoformat()] for one in found],
        }

    def holds(self, server: Server) -> bool:
        """Check whether a remembered description has the periods since this moment."""
        kept = server.get(SUSPENDED)
        return isinstance(kept, Mapping) and kept.get("since") == self.since.isoformat()

    def _actions(self, server: Server) -> list[Action]:
        """Return the actions of a server that may have been suspended since the moment."""
        updated = _moment(server.get("updated"))
        if updated is None or updated < self.since or not server.get("OS-SRV-USG:launched_at"):
            return []  # each change of state is an update
        return list(self._nova.actions(str(server["id"])))


def of(server: Server, until: datetime) -> timedelta | None:
    """Return the suspended time of a server up to a moment; None if the site does not ask for it.

    Raises:
        ValueError, LookupError, TypeError: what is remembered is malformed.

    """
    kept: Mapping[str, Any] | None = server.get(SUSPENDED)
    if kept is None:
        return None
    since = clock.parse(kept["since"])
    found = [
        SuspendedPeriod(clock.parse(start), end and clock.parse(end))
        for start, end in kept["periods"]
    ]
    total = sum((one.within(since, until) for one in found), _NONE)
    return timedelta(seconds=total // timedelta(seconds=1))


def _periods(server: Server, actions: Iterable[Action]) -> Sequence[SuspendedPeriod]:
    """Return the periods of a server, oldest first; ``actions`` come newest first."""
    found: list[SuspendedPeriod] = []
    begun: datetime | None = None
    for begins, moment in reversed(list(_changes(actions))):
        if begins and begun is None:
            begun = moment
        elif not begins and begun is not None:
            found.append(SuspendedPeriod(begun, max(begun, moment)))
            begun = None
    updated = _moment(server.get("updated"))
    is_suspended = server.get("status") in _STATES
    if begun is not None:
        # A deleted server's last period lasts until its end, which `of` is asked for.
        is_over = not is_suspended and server.get("status") != "DELETED"
        found.append(SuspendedPeriod(begun, max(begun, updated) if is_over and updated else None))
    elif is_suspended and updated is not None:
        found.append(SuspendedPeriod(updated, None))
    return found


def _changes(actions: Iterable[Action]) -> Iterator[tuple[bool, datetime]]:
    """Yield whether a period begins or ends, and when, in the order of the actions."""
    for action in actions:
        name, started = str(action.get("action")), _moment(action.get("start_time"))
        if action.get("message") or started is None:
            continue
        if name in _BEGIN:
            yield True, _moment(action.get("updated_at")) or started
        elif name in _END:
            yield False, started


def _moment(text: object) -> datetime | None:
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
