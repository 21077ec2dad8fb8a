"""Servers as a source: from Nova's pages to the records of each server.

Memory holds one page of servers, and the ids of those already seen.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from appliance.core.cloud.compute import Server, Servers
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import Unavailable
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.kinds.text import fit
from caso.sources.server import NotUnderstood, public_ips, records
from caso.sources.source import ProjectContext, Unaccountable, Usage

OVERLAP = timedelta(minutes=5)
"""How far before its window a run looks for changes.

Nova stamps a change before it commits it, and the clocks of its hosts differ from Keystone's.
Without an overlap, such a change would be in no window. A change that two runs see gives equal
records.
"""


class NovaSource:
    """The servers of a project."""

    name = "nova"
    kinds = ("cloud",)

    def records(
        self, scope: Scope, window: ExtractionWindow, context: ProjectContext
    ) -> Iterator[Usage | Unaccountable]:
        """Yield the records of the servers that lived in the window."""
        # 1970 stays 1970: Nova's filter takes no earlier time.
        start = window.start - OVERLAP if window.start > BEGINNING else BEGINNING
        reach = replace(window, start=start)
        for server in servers(Servers(scope), reach.start):
            _note_owner(server, context)
            try:
                for record in records(server, reach, context):
                    yield Usage("cloud", record)
            except NotUnderstood as error:
                yield Unaccountable(str(server.get("id")), str(error), json.dumps(server))


SOURCE = NovaSource()


def _note_owner(server: Server, context: ProjectContext) -> None:
    """Leave the user of a server with public addresses behind, for the records of addresses."""
    if "ip" in context.kinds:
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            if public_ips(server["addresses"]):
                context.owners[server["id"]] = fit(server["user_id"])


def servers(listing: Servers, since: datetime) -> Iterator[Server]:
    """Yield each server that lived since a moment, once.

    The living ones are listed first. A server that is deleted between the two listings is then in
    the second one; in the other order it could be in neither. It does not matter which of two
    descriptions counts: changes during the run are after the window's end.

    Raises:
        Unavailable: the second listing lacks a server that the first one shows as changed. Nova
            omits the servers of a cell that does not answer in time, so deleted ones are missing
            as well, and nothing else would show it.

    """
    seen: set[str] = set()
    awaited: set[str] = set()
    if since <= BEGINNING:  # then the listing of changed servers has all of them
        listing.check_cells()
        yield from listing.changed(since)
        return
    for server in listing.living():
        seen.add(server["id"])
        if _has_changed(server, since):
            awaited.add(server["id"])
        yield server
    for server in listing.changed(since):
        awaited.discard(server["id"])
        if server["id"] not in seen:
            yield server
    if awaited:
        raise Unavailable(
            f"server {min(awaited)}",
            "has changed, but Nova's listing of changed servers lacks it: a cell did not answer in"
            " time",
            "look into Nova's logs; the next run continues from here",
        )


def _has_changed(server: Server, since: datetime) -> bool:
    """Check whether a server must be in the listing of changed servers."""
    # Nova shows the current time for a server that was never updated; one that was launched has
    # been. It shows seconds without a fraction, and so does the text to compare with.
    updated = server.get("updated")
    is_launched = bool(server.get("OS-SRV-USG:launched_at"))
    return is_launched and isinstance(updated, str) and updated >= f"{since:%Y-%m-%dT%H:%M:%SZ}"
