"""Servers as a source: from Nova's pages to the records of each server.

Memory holds one page of servers, and the ids of those already seen.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.cloud import network
from appliance.core.cloud.compute import Server, Servers
from appliance.core.cloud.session import Scope
from appliance.core.run.errors import Unavailable
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.kinds.text import fit
from caso.sources.listing import OVERLAP, LivedServers
from caso.sources.resizes import ServerCores
from caso.sources.server import NotUnderstood, life_of, public_ips, reading, records
from caso.sources.source import ProjectContext, Source, Unaccountable, Usage
from caso.sources.suspension import Suspensions

if TYPE_CHECKING:  # few sites have accelerators, and start-up is a cost
    from caso.sources.accelerators import ServerAccelerators

_ACCELERATOR = "accelerator"


class NovaSource:
    """The servers of a project."""

    name = "nova"
    kinds: tuple[str, ...] = ("cloud", _ACCELERATOR)

    def records(
        self, scope: Scope, window: ExtractionWindow, context: ProjectContext
    ) -> Iterator[Usage | Unaccountable]:
        """Yield the records of the servers that lived in the window."""
        # 1970 stays 1970: Nova's filter takes no earlier time.
        start = window.start - OVERLAP if window.start > BEGINNING else BEGINNING
        reach = replace(window, start=start)
        since = context.suspended_since
        servers = LivedServers(
            Servers(scope),
            str(scope.project_id),
            reach,
            context.servers,
            addresses=_AddressCounts(scope, context.warn),
            suspensions=None if since is None else Suspensions(Servers(scope), since),
            shared=context.usage,
        )
        cores = ServerCores(Servers(scope), window, context) if "cloud" in context.kinds else None
        found = None
        if _ACCELERATOR in context.kinds:
            from caso.sources.accelerators import ServerAccelerators  # noqa: PLC0415

            found = ServerAccelerators(Servers(scope), window, context)
        try:
            for server in servers:
                _note_owner(server, context)
                try:
                    yield from _of_server(server, reach, context, cores, found)
                except NotUnderstood as error:
                    yield Unaccountable(
                        str(server.get("id")), str(error), json.dumps(server), "cloud"
                    )
        except BaseException:  # also when the records of this project are no longer wanted
            if found is not None:
                found.abandon()
            raise
        if found is not None:
            yield from found.close()


def _of_server(
    server: Server,
    window: ExtractionWindow,
    context: ProjectContext,
    cores: ServerCores | None,
    found: ServerAccelerators | None,
) -> Iterator[Usage]:
    """Yield the records of a server, kind by kind."""
    if cores is not None:
        for record in records(server, window, context, cores):
            yield Usage("cloud", record)
    if found is not None:
        with reading():
            life = life_of(server)
            made = list(found.records(server, life, life.reach(window))) if life.launched else []
        yield from made


class _AddressCounts:
    """The numbers of a project's floating IP addresses by server, requested once.

    A change of addresses does not count as a change of the server, so only Neutron knows them.
    """

    def __init__(self, scope: Scope, warn: Callable[[str], None]) -> None:
        self._scope = scope
        self._warn = warn
        self._is_asked = False
        self._counts: Mapping[str, int] | None = None

    def __call__(self) -> Mapping[str, int] | None:
        if not self._is_asked:
            self._is_asked = True
            self._counts = self._ask()
        return self._counts

    def _ask(self) -> Mapping[str, int] | None:
        if not self._scope.offers(network.SERVICE):
            return None
        try:
            used = [one for one in network.floating_ips(self._scope) if one.get("port_id")]
        except Unavailable as error:  # a number of addresses is no reason to lose the hours
            self._warn(f"{error}; PublicIPCount is as it was when a server last changed")
            return None
        ports = [one.get("port_details") for one in used]
        # Neutron leaves the details out if its extension fip-port-details is off.
        found = [port.get("device_id") for port in ports if isinstance(port, Mapping)]
        return Counter(map(str, found)) if len(found) == len(used) else None


SOURCE: Source = NovaSource()


def _note_owner(server: Server, context: ProjectContext) -> None:
    """Leave the user of a server with public addresses behind, for the records of addresses."""
    if "ip" in context.kinds:
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            if public_ips(server["addresses"]):
                context.owners[server["id"]] = fit(server["user_id"])


def traces(scope: Scope, since: datetime) -> dict[str, datetime | None]:
    """Return when each server that lived since a moment ended; None for those that live.

    Usage shows servers that no listing of living ones does, such as soft-deleted ones.
    """
    found = Servers(scope).used(since - OVERLAP, clock.now() + OVERLAP)
    return {
        row["instance_id"]: clock.parse(row["ended_at"]) if row["ended_at"] else None
        for row in found
    }
