"""The servers that lived in a window, in as few requests as possible.

A row of Nova's usage costs a tenth of a row of ``servers/detail``, and usage shows all servers that
accrue: running, soft-deleted and ended ones. So a run reads the usage of its window, and describes
each server by what an earlier run has remembered of it (`caso.memory.servers`). Only if the usage
shows something else does the run ask for details:

    1. usage        all that lived; those that are remembered as the usage shows them are done
    2. changed      if anything is left: the servers that changed in the window
    3. living       if many are still left, as when nothing is remembered
    4. one by one   the rest, such as soft-deleted ones, which a listing of living ones hides
    5. wider        if a server ended in the window and nothing has described it: 2 of a day more

The first window of a project, since 1970, is read from 2 alone: that has everything.

Usage comes before the changes. A server that is launched between the two is in the second; one that
is deleted is in the first, as it was at the end of the window. If a cell of Nova is down, usage
fails, while a listing silently lacks the servers of the cell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta

from appliance.core import clock
from appliance.core.cloud.compute import Server, Servers, Used
from appliance.core.run.errors import Unavailable
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.memory.servers import ServerMemory
from caso.sources.shared_usage import SharedUsage
from caso.sources.suspension import Suspensions

logger = logging.getLogger(__name__)

OVERLAP = timedelta(minutes=5)
"""How far before its window a run looks for changes.

Nova stamps a change before it commits it, and the clocks of its hosts differ from Keystone's.
Without an overlap, such a change would be in no window. A change that two runs see gives equal
records.
"""
_AHEAD = timedelta(days=1)
"""How far beyond the window usage is asked for; Nova ends it at its own present time."""
_WIDER = timedelta(days=1)
_FEW = 20
"""Servers that are asked for one by one; a listing costs less for more of them."""
_BLOCK = 500
"""Rows of usage that are looked up together."""
_SLOW_CELL = (
    "has changed, but Nova's listing of changed servers lacks it: a cell did not answer in time"
)
_CHECK_NOVA = "look into Nova's logs; the next run continues from here"


class LivedServers:
    """The servers of a project that lived in a window, each once, described as Nova does.

    With ``suspensions``, each description has the time in which its server was suspended, and the
    servers that changed are always asked for, first. What is remembered is used only if no change
    before the window was missed.

    ``window`` begins by `OVERLAP` before the time that is accounted. ``addresses`` returns the
    number of floating IP addresses of each server that has any, None if it is not known.
    ``shared`` may have the usage of the project already.

    Raises:
        Unavailable: while it is read: Nova does not answer, or its answers contradict each other.

    """

    def __init__(
        self,
        nova: Servers,
        project_id: str,
        window: ExtractionWindow,
        memory: ServerMemory,
        *,
        addresses: Callable[[], Mapping[str, int] | None],
        suspensions: Suspensions | None = None,
        shared: SharedUsage | None = None,
    ) -> None:
        self._nova = nova
        self._project_id = project_id
        self._since = window.start
        self._until = window.end
        self._memory = memory
        self._addresses = addresses
        self._suspensions = suspensions
        self._shared = shared
        until = memory.suspended_until
        self._has_suspended = until is not None and self._since <= until
        self._seen: set[str] = set()
        self._left: dict[str, Used] = {}
        """Rows of usage of servers that nothing has described yet."""

    def __iter__(self) -> Iterator[Server]:
        if self._since <= BEGINNING:
            self._nova.check_cells()
            # Nothing is compared with this listing, so its ids need not stay in memory.
            for server in self._nova.changed(self._since):
                yield self._learned(server)
        else:
            if self._suspensions is not None:  # usage does not show what came and went
                yield from self._changed()
            yield from self._remembered()
            if self._left and self._suspensions is None:
                yield from self._changed()
            if self._left:
                yield from self._others()
            yield from self._missing()
        is_asked = self._suspensions is not None
        self._memory.finish(suspended_until=self._until if is_asked else None)

    def _remembered(self) -> Iterator[Server]:
        """Yield the servers whose usage is as they are remembered; note the others."""
        block: list[Used] = []
        for row in self._used():
            block.append(row)
            if len(block) == _BLOCK:
                yield from self._described(block)
                block = []
        yield from self._described(block)

    def _used(self) -> Iterable[Used]:
        """Return the usage of the window, from the listing of many projects if that has it."""
        period = self._since, self._until + _AHEAD
        rows = None
        if self._shared is not None:
            rows = self._shared.of(self._nova, self._project_id, *period)
        return self._nova.used(*period) if rows is None else rows

    def _described(self, rows: list[Used]) -> Iterator[Server]:
        known = self._memory.known([row["instance_id"] for row in rows])
        shown_again = self._until - OVERLAP
        addresses = self._addresses() if known else None
        for row in rows:
            number = row["instance_id"]
            if number in self._seen:
                continue
            self._seen.add(number)
            found = known.get(number)
            if found is not None and found.fits(row):
                # Otherwise the next run would ask for it, because no usage shows it.
                if row["ended_at"] and clock.parse(row["ended_at"]) < shown_again:
                    self._memory.leave(number)
                count = None if addresses is None else addresses.get(number, 0)
                server = found.server(row, self._project_id, count)
                if self._suspensions is None or (
                    self._has_suspended and self._suspensions.holds(server)
                ):
                    yield server
                    continue
            self._left[number] = row

    def _changed(self) -> Iterator[Server]:
        for server in self._nova.changed(self._since):
            number = server["id"]
            if self._left.pop(number, None) is not None or number not in self._seen:
                yield self._noted(server)

    def _others(self) -> Iterator[Server]:
        """Yield the servers that usage shows and that did not change in the window."""
        if len(self._left) > _FEW:
            for server in self._nova.living():
                if self._left.pop(server["id"], None) is not None:
                    yield self._noted(self._unchanged(server))
        ended: dict[str, Used] = {}
        for number, row in [*self._left.items()]:
            if (one := self._nova.one(number)) is not None:
                yield self._noted(self._unchanged(one))
            elif row["ended_at"] is not None:
                ended[number] = row
            else:
                # Its row in Nova's table has no end, so usage will show it for ever.
                logger.info("server %s: is in Nova's usage alone; not accounted", number)
        if ended:
            yield from self._ended(ended)

    def _ended(self, ended: dict[str, Used]) -> Iterator[Server]:
        """Yield servers that ended in the window, and whose change Nova stamped before it."""
        for server in self._nova.changed(self._since - _WIDER):
            if ended.pop(server["id"], None) is not None:
                yield self._noted(server)
        # What ended before the time that is accounted has been reported by an earlier run.
        begin = self._since + OVERLAP
        for number, row in ended.items():
            if clock.parse(row["ended_at"]) >= begin:
                raise Unavailable(f"server {number}", _SLOW_CELL, _CHECK_NOVA)

    def _unchanged(self, server: Server) -> Server:
        """Return a server that the listing of changed ones lacks, if that is right."""
        # Nova shows the current time for a server that was never updated; one that was launched has
        # been. What changes while the run asks is after the window.
        updated = server.get("updated")
        if server.get("OS-SRV-USG:launched_at") and isinstance(updated, str):
            first, last = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (self._since, self._until))
            if first <= updated < last:
                raise Unavailable(f"server {server['id']}", _SLOW_CELL, _CHECK_NOVA)
        return server

    def _missing(self) -> Iterator[Server]:
        """Yield servers that are remembered, exist, and are not in the usage: there are none.

        Those that ended before the window, or were archived, are forgotten.
        """
        others = self._memory.others(self._seen)
        living = [number for number, end in others.items() if end is None]
        asked = filter(None, map(self._nova.one, living[:_FEW]))
        found = [server for server in asked if self._is_due(server)]
        if len(found) > _FEW // 2:
            words = "exists, but Nova's usage lacks it, and others"
            raise Unavailable(f"server {found[0]['id']}", words, _CHECK_NOVA)
        kept = {server["id"] for server in found}
        self._memory.forget(number for number in others if number not in kept)
        for server in found:
            yield self._noted(server)

    def _is_due(self, server: Server) -> bool:
        """Check whether usage must show a server: it was launched before the end of the usage.

        A window that ends in the past sees younger servers among the changed ones.
        """
        launched = server.get("OS-SRV-USG:launched_at")
        return bool(launched) and clock.parse(str(launched)) < self._until + _AHEAD

    def _noted(self, server: Server) -> Server:
        self._seen.add(server["id"])
        return self._learned(server)

    def _learned(self, server: Server) -> Server:
        if self._suspensions is not None:
            self._suspensions.add(server)
        self._memory.learn(server, since=self._until - OVERLAP)
        return server
