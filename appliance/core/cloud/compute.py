"""Nova's servers as plain dictionaries, a page at a time in memory.

Microversion 2.47 or later, so that each server carries the flavor it was booted with: its sizes and
extra specs are right when the flavor has been changed or deleted since. Pages follow
``servers_links`` until there is no next one: Nova may cap pages at any length
(``osapi_max_limit``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from appliance.core.cloud.pages import Pages
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import AccessDenied, Unavailable

Server = dict[str, Any]
"""A server as Nova's API describes it."""

PREFERRED = (2, 69)
"""From here on a listing without filters shows servers of a cell that is down, with status UNKNOWN, instead of
leaving them out."""
NEEDED = (2, 47)
_PAGE = "500"
"""Servers in a page: larger ones cost Nova more for each, and us memory."""


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
        for server in self._listing("/servers/detail", {}):
            _refuse_unknown(server)
            yield server

    def changed(self, since: datetime) -> Iterator[Server]:
        """Yield the servers that changed since a moment, deleted ones included."""
        moment = since.strftime("%Y-%m-%dT%H:%M:%SZ")
        yield from self._listing("/servers/detail", {"changes-since": moment, "limit": _PAGE})

    def check_cells(self) -> None:
        """Raise `Unavailable` when a cell of Nova is down: `changed` cannot tell."""
        for server in self._page("/servers", {})["servers"]:
            _refuse_unknown(server)

    def _listing(self, path: str, query: dict[str, str]) -> Iterator[Server]:
        pages = Pages("Nova")
        while True:
            body = self._page(path, query)
            servers: list[Server] = body["servers"]
            links = [
                link["href"] for link in body.get("servers_links", ()) if link.get("rel") == "next"
            ]
            is_last = not links or not servers
            servers.reverse()
            while servers:  # a page is gone from memory before the next one comes
                yield servers.pop()
            if is_last:
                return
            query = {**pages.follow(links[0]), "limit": _PAGE}

    def _page(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        url = f"{path}?{urlencode(query)}" if query else path
        response, body = self._get(url)
        if response.status_code == 406:  # noqa: PLR2004  Not Acceptable: the microversion
            self._lower_version(response)
            response, body = self._get(url)
        if response.status_code in (401, 403):
            raise AccessDenied(
                _host(response),
                f"Nova does not let the account list the servers of project {self._scope.project_id}",
                self._scope.access.grant(f"--project {self._scope.project_id}"),
            )
        if not response.ok or not isinstance(body, dict) or not _are_servers(body.get("servers")):
            said = re.sub(r"\s+", " ", response.text)[:120]
            raise Unavailable(
                _host(response),
                f"Nova answers {response.status_code} to a listing of servers: {said}",
            )
        return body

    def _get(self, url: str) -> Any:
        version = ".".join(map(str, self._version))
        return self._scope.nova.get(url, microversion=version, raise_exc=False)

    def _lower_version(self, response: Any) -> None:
        told = re.search(r"maximum is (\d+)\.(\d+)", response.text)
        newest = (int(told[1]), int(told[2])) if told else (2, 1)
        if newest < NEEDED:
            raise Unavailable(
                _host(response),
                f"this Nova speaks microversions up to {newest[0]}.{newest[1]} only",
                "2.47 (the release Pike) or later is needed",
            )
        self._version = min(newest, PREFERRED)


def _are_servers(listed: object) -> bool:
    return isinstance(listed, list) and all(
        isinstance(item, dict) and item.get("id") for item in listed
    )


def _refuse_unknown(server: Server) -> None:
    if server.get("status") == "UNKNOWN" and not server.get("name"):
        raise Unavailable(
            f"server {server.get('id')}",
            "Nova knows it, but the cell that holds it does not answer",
            "bring the cell back; the next run goes on from here",
        )


def _host(response: Any) -> str:
    return str(urlsplit(response.url).netloc)
