"""Nova's servers as plain dictionaries, a page at a time in memory.

Microversion 2.47 or later, so that each server carries the flavor it was booted with: its sizes and
extra specs are right when the flavor has been changed or deleted since. Pages follow
``servers_links`` until there is no next one: Nova may cap pages at any length
(``osapi_max_limit``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from appliance.core import hosts
from appliance.core.cloud import pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import AccessDenied, Unavailable

Server = dict[str, Any]
"""A server as Nova's API describes it."""

PREFERRED = (2, 69)
"""From here on a listing without filters shows servers of a cell that is down, with status UNKNOWN, instead of
leaving them out."""
NEEDED = (2, 47)
_MOST_PAGES = 10_000
"""Five million servers at our page size, and an end all the same."""


class Servers:
    """The servers of a scope's project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._version = PREFERRED

    def living(self) -> Iterator[Server]:
        """Yield the servers that exist now.

        Raises `Unavailable` when a cell of Nova is down: what runs there would be missing without a
        word.
        """
        # Only a listing without any parameter tells of such a cell; the pages after the first have
        # some anyway.
        for server in self._listing({}):
            _refuse_unknown(server)
            yield server

    def changed(self, since: datetime) -> Iterator[Server]:
        """Yield the servers that changed since a moment, deleted ones included."""
        moment = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        yield from self._listing({"changes-since": moment, "limit": pages.PAGE_SIZE})

    def check_cells(self) -> None:
        """Raise `Unavailable` when a cell of Nova is down: `changed` cannot tell."""
        for server in pages.read(self._fetch("/servers"), key="servers", service="Nova")[0]:
            _refuse_unknown(server)

    def _listing(self, query: Mapping[str, str]) -> Iterator[Server]:
        return pages.follow(
            self._fetch,
            "/servers/detail",
            key="servers",
            service="Nova",
            catalog=self._scope.catalog_hosts,
            query=query,
            added={"limit": pages.PAGE_SIZE},
            most=_MOST_PAGES,
        )

    def _fetch(self, url: str) -> Any:
        response = self._get(url)
        if response.status_code == 406:  # noqa: PLR2004  Not Acceptable: the microversion
            self._lower_version(response)
            response = self._get(url)
        if response.status_code in (401, 403):
            raise AccessDenied(
                hosts.of_url(response.url),
                "Nova does not let the account list the servers of project"
                f" {self._scope.project_id}",
                self._scope.access.grant(f"--project {self._scope.project_id}"),
            )
        if not response.ok:
            said = re.sub(r"\s+", " ", response.text)[:120]
            raise Unavailable(
                hosts.of_url(response.url),
                f"Nova answers {response.status_code} to a listing of servers: {said}",
            )
        return response

    def _get(self, url: str) -> Any:
        version = ".".join(map(str, self._version))
        return self._scope.nova.get(url, microversion=version, raise_exc=False)[0]

    def _lower_version(self, response: Any) -> None:
        limit = re.search(r"maximum is (\d+)\.(\d+)", response.text)
        newest = (int(limit[1]), int(limit[2])) if limit else (2, 1)
        if newest < NEEDED:
            raise Unavailable(
                hosts.of_url(response.url),
                f"this Nova speaks microversions up to {newest[0]}.{newest[1]} only",
                "2.47 (the release Pike) or later is needed",
            )
        self._version = min(newest, PREFERRED)


def _refuse_unknown(server: Server) -> None:
    if server.get("status") == "UNKNOWN" and not server.get("name"):
        raise Unavailable(
            f"server {server.get('id')}",
            "Nova knows it, but the cell that holds it does not answer",
            "bring the cell back; the next run goes on from here",
        )
