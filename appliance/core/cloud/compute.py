"""Nova's servers as dictionaries, with one page in memory at a time.

From microversion 2.47 on a server holds the flavor that it was booted with, so sizes and extra
specs are right even if the flavor was changed or deleted later. Pages are read until there is no
link to a next one; their length proves nothing, because Nova caps it (``osapi_max_limit``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from appliance.core import hosts
from appliance.core.cloud import pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import CHECK_LOGS, AccessDenied, Unavailable

Server = dict[str, Any]
"""A server as Nova's API describes it."""

PREFERRED = (2, 69)
"""From here on a listing without filters has the servers of a cell that is down, with status
UNKNOWN; earlier versions leave them out."""
NEEDED = (2, 47)
_MOST_PAGES = 10_000
"""Pages of a listing: five million servers, more than any cloud has."""


class Servers:
    """The servers of a scope's project."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._version = PREFERRED

    def living(self) -> Iterator[Server]:
        """Yield the servers that exist now.

        Raises:
            Unavailable: a cell of Nova is down; its servers would silently be missing.

        """
        # Only a listing without parameters shows such a cell. The pages after the first one have
        # parameters, but their servers are UNKNOWN all the same.
        for server in self._listing({}):
            _refuse_unknown(server)
            yield server

    def changed(self, since: datetime) -> Iterator[Server]:
        """Yield the servers that changed since a time, deleted ones included."""
        moment = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        yield from self._listing({"changes-since": moment, "limit": pages.PAGE_SIZE})

    def check_cells(self) -> None:
        """Raise `Unavailable` if a cell of Nova is down, which `changed` does not show."""
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
                CHECK_LOGS,
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
                f"this Nova supports microversions up to {newest[0]}.{newest[1]} only",
                "2.47 (the release Pike) or later is needed",
            )
        self._version = min(newest, PREFERRED)


def _refuse_unknown(server: Server) -> None:
    if server.get("status") == "UNKNOWN" and not server.get("name"):
        raise Unavailable(
            f"server {server.get('id')}",
            "Nova lists it, but the cell that holds it does not answer",
            "repair the cell; the next run continues from here",
        )
