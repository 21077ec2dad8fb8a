"""Nova's servers, their usage and their actions as dictionaries, a page in memory at a time.

From microversion 2.47 on a server holds the flavor that it was booted with, so sizes and extra
specs are right even if the flavor was changed or deleted later. Pages are read until there is no
link to a next one; their length proves nothing, because Nova caps it (``[api] max_limit``).

A row of usage takes Nova a tenth of the time of a row of servers, and usage shows what a listing
of living servers hides: those that are soft-deleted, until Nova reclaims them. It has neither the
creation of a server nor its user and image. Below microversion 2.40 it silently ends at the first
page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from appliance.core import hosts
from appliance.core.cloud import answers, pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import CHECK_LOGS, Unavailable

Server = dict[str, Any]
"""A server as Nova's API describes it."""
Used = dict[str, Any]
"""The usage of a server: ``instance_id``, ``started_at``, ``ended_at``, ``state``, sizes."""
Action = dict[str, Any]
"""What was done to a server: ``action``, ``start_time``, ``message`` (null unless it failed)."""

PREFERRED = (2, 69)
"""From here on a listing without filters has the servers of a cell that is down, with status
UNKNOWN; earlier versions leave them out."""
NEEDED = (2, 47)
_MOST_PAGES = 10_000
"""Pages of a listing: five million servers, more than any cloud has."""
_PAGE = "600"
"""Rows of a page of details: some five seconds of Nova's time, and a megabyte."""
_USAGE_PAGE = "1000"
"""Rows of a page of usage: as many as Nova gives by default; a row has a third of a kilobyte."""
_MOST_ACTION_PAGES = 20
"""Pages of the actions of one server; Nova keeps them until the server is archived."""


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
        yield from self._listing({"changes-since": moment, "limit": _PAGE})

    def check_cells(self) -> None:
        """Raise `Unavailable` if a cell of Nova is down, which `changed` does not show."""
        for server in pages.read(self._fetch("/servers"), key="servers", service="Nova")[0]:
            _refuse_unknown(server)

    def used(self, since: datetime, until: datetime) -> Iterator[Used]:
        """Yield the usage of the servers that lived in a period, deleted ones included.

        These are the ones that were launched before ``until`` and did not end before ``since``.
        Nova answers with an error if one of its cells is down, so no server is silently missing.
        """
        return pages.follow(
            lambda url: self._fetch(url, "usage"),
            f"/os-simple-tenant-usage/{self._scope.project_id}",
            key="tenant_usage",
            within="server_usages",
            identifier="instance_id",
            service="Nova",
            catalog=self._scope.catalog_hosts,
            query={"start": _naive(since), "end": _naive(until), "limit": _USAGE_PAGE},
            added={"limit": _USAGE_PAGE},
            most=_MOST_PAGES,
        )

    def used_by_all(self, since: datetime, until: datetime) -> Iterator[tuple[str, Used]]:
        """Yield the usage of the servers of all projects, each with its project's id.

        Raises:
            AccessDenied: the account is no administrator.
            Unavailable: Nova does not answer, or with rows that contradict each other.

        """
        listed = pages.follow(
            lambda url: self._fetch(url, "usage"),
            "/os-simple-tenant-usage",
            key="tenant_usages",
            identifier="tenant_id",
            service="Nova",
            catalog=self._scope.catalog_hosts,
            query={
                "start": _naive(since),
                "end": _naive(until),
                "detailed": "1",
                "limit": _USAGE_PAGE,
            },
            added={"limit": _USAGE_PAGE},
            most=_MOST_PAGES,
        )
        for project in listed:
            for row in project["server_usages"]:
                if row["tenant_id"] != project["tenant_id"] or not row["instance_id"]:
                    raise Unavailable(
                        f"project {project['tenant_id']}",
                        "Nova's usage of all projects has a row of another one here",
                        CHECK_LOGS,
                    )
                yield project["tenant_id"], row

    def one(self, server_id: str) -> Server | None:
        """Return a server; None if it was deleted, or is one of another project."""
        response = self._get(f"/servers/{server_id}")
        if response.status_code == answers.NOT_FOUND:
            return None
        answers.accepted(response, service="Nova", what="servers", scope=self._scope)
        purpose = f"a request for server {server_id}"
        server = answers.body(response, "server", service="Nova", purpose=purpose)
        if server.get("id") != server_id:
            raise answers.unexpected(response, service="Nova", purpose=purpose)
        _refuse_unknown(server)
        return server if server.get("tenant_id") == self._scope.project_id else None

    def actions(self, server_id: str) -> Iterator[Action]:
        """Yield the actions of a server, deleted ones included, the newest first.

        A server that Nova has archived has none.
        """

        def fetch(url: str) -> Any:
            response = self._get(url)
            if response.status_code == answers.NOT_FOUND:
                raise _Archived
            return answers.accepted(response, service="Nova", what="actions", scope=self._scope)

        try:
            yield from pages.follow(
                fetch,
                f"/servers/{server_id}/os-instance-actions",
                key="instanceActions",
                identifier="request_id",
                service="Nova",
                catalog=self._scope.catalog_hosts,
                query={"limit": _USAGE_PAGE},
                most=_MOST_ACTION_PAGES,
            )
        except _Archived:
            return

    def _listing(self, query: Mapping[str, str]) -> Iterator[Server]:
        return pages.follow(
            self._fetch,
            "/servers/detail",
            key="servers",
            service="Nova",
            catalog=self._scope.catalog_hosts,
            query=query,
            added={"limit": _PAGE},
            most=_MOST_PAGES,
        )

    def _fetch(self, url: str, what: str = "servers") -> Any:
        return answers.accepted(self._get(url), service="Nova", what=what, scope=self._scope)

    def _get(self, url: str) -> Any:
        response = self._request(url)
        if response.status_code == 406:  # noqa: PLR2004  Not Acceptable: the microversion
            self._lower_version(response)
            response = self._request(url)
        return response

    def _request(self, url: str) -> Any:
        version = ".".join(map(str, self._version))
        # Importing novaclient costs more CPU than all of an hourly run with a few hundred servers.
        return self._scope.compute.request(url, "GET", raise_exc=False, microversion=version)

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


class _Archived(Exception):
    """Nova no longer has a server, nor its actions."""


def _naive(moment: datetime) -> str:
    """Return a time as Nova's usage takes it: UTC, without a zone."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _refuse_unknown(server: Server) -> None:
    if server.get("status") == "UNKNOWN" and not server.get("name"):
        raise Unavailable(
            f"server {server.get('id')}",
            "Nova lists it, but the cell that holds it does not answer",
            "repair the cell; the next run continues from here",
        )
