"""The usage of many projects in one listing, where Nova gives it to the account.

Nova lets administrators list the usage of all projects at once, which spares a request for each
project. It refuses all others with 403, so an account with the role ``reader`` costs a site one
refused request a day. A project that the listing does not name is asked for itself: one that is
empty and one that is left out look alike. So a service that shows only a part of its projects, for
whatever reason, costs requests and loses nothing. Rows of other projects are dropped.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, MutableMapping
from datetime import datetime, timedelta

from appliance.core import clock
from appliance.core.cloud.compute import Servers, Used
from appliance.core.run.errors import AccessDenied, Unavailable

logger = logging.getLogger(__name__)

_LEAST_PROJECTS = 8
"""With fewer projects, a listing of the whole cloud may cost more than it saves."""
_ROWS_A_PROJECT = 250
"""Rows of all projects that may be read for each project: a quarter of a page of its own."""
_MOST_ROWS = 5000
"""Rows that are held at most, some five megabytes."""
_EARLIER = timedelta(hours=1)
"""How far before the window of the first project the listing begins: others begin earlier."""
_REFUSED, _LARGE = "refused", "large"


class SharedUsage:
    """The usage of the projects of a run in one region; several threads may ask.

    ``known`` keeps for some time, under ``key``, why there is no such listing.
    """

    def __init__(self, known: MutableMapping[str, str | None], key: str) -> None:
        self._known = known
        self._key = key
        self._projects: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._rows: dict[str, list[Used]] | None = None
        """The rows of projects that have not been asked for; None before the listing is read."""
        self._since = self._until = clock.now()

    def expect(self, projects: Collection[str]) -> None:
        """Note which projects a run accounts; few of them are asked for one by one."""
        if len(projects) >= _LEAST_PROJECTS:
            self._projects = frozenset(projects)

    def of(
        self, nova: Servers, project_id: str, since: datetime, until: datetime
    ) -> list[Used] | None:
        """Return the rows of a project in a period, once; None if it must be asked for itself.

        ``nova`` is in the scope of the project.
        """
        if project_id not in self._projects or self._known.get(self._key):
            return None
        with self._lock:
            if self._rows is None:
                self._since, self._until = since - _EARLIER, until
                self._rows = self._read(nova)
            if since < self._since or until > self._until:
                return None
            found = self._rows.pop(project_id, None)
        if found is None:
            return None
        return [row for row in found if _is_within(row, since, until)]

    def _read(self, nova: Servers) -> dict[str, list[Used]]:
        """Read the listing; it is empty if any of it cannot be used."""
        rows: dict[str, list[Used]] = {}
        most = min(_MOST_ROWS, _ROWS_A_PROJECT * len(self._projects))
        try:
            for number, (project_id, row) in enumerate(
                nova.used_by_all(self._since, self._until), start=1
            ):
                if number > most:
                    self._known[self._key] = _LARGE
                    return {}
                if project_id in self._projects:
                    _is_within(row, self._since, self._until)  # or it is malformed
                    rows.setdefault(project_id, []).append(row)
        except AccessDenied:
            self._known[self._key] = _REFUSED
            return {}
        except (Unavailable, LookupError, TypeError, ValueError) as error:
            logger.info("the usage of all projects cannot be read at once: %s", error)
            return {}
        return rows


def _is_within(row: Used, since: datetime, until: datetime) -> bool:
    """Check whether a server lived in a period, as Nova does."""
    ended = row["ended_at"]
    return clock.parse(row["started_at"]) < until and (ended is None or clock.parse(ended) > since)
