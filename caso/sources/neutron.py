"""Public addresses as a source: the floating IP addresses of a project, by owner and version.

The owner of an address is the user of the server that it is attached to. Nova's source leaves the
users of servers with public addresses behind; only a server that it did not see is asked for.

The last count of a month stays. So an owner whose addresses have all passed to somebody else, or
were released, has a count of 0: the history has the owners whom the listing before showed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from appliance.core import causes, clock
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.network import SERVICE, FloatingIP, floating_ips, unowned
from appliance.core.cloud.session import Scope
from caso.kinds.ip import IPRecord, PublicAddress, counts
from caso.kinds.months import BEGINNING, ExtractionWindow
from caso.kinds.text import fit
from caso.sources.history import SeenThing
from caso.sources.source import ProjectContext, Source, Unaccountable, Usage

_KIND = "ip"
# As Nova makes them. Any user may write something else into a port, such as a path.
_SERVER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class NeutronSource:
    """The public addresses of a project."""

    name = "neutron"
    kinds: tuple[str, ...] = (_KIND,)

    def records(
        self, scope: Scope, window: ExtractionWindow, context: ProjectContext
    ) -> Iterator[Usage | Unaccountable]:
        """Yield the records of each owner, version and month."""
        if not scope.offers(SERVICE):
            context.warn("the cloud's catalog has no Neutron: there are no records of addresses")
            return
        owners = _Owners(scope, context)
        addresses: list[PublicAddress] = []
        is_whole = True
        for described in unowned(scope):
            context.warn(
                f"address {described['id']}: Neutron names no project of it, so it is in no record"
            )
        for described in floating_ips(scope):
            try:
                addresses.append(_address(described, owners))
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                is_whole = False
                words = causes.of_answer(error)
                reason = f"Neutron's description of the address is incomplete or wrong: {words}"
                yield Unaccountable(str(described["id"]), reason, json.dumps(described), _KIND)
        project_id, window = str(scope.project_id), window.of_present()
        records = [
            _record(project_id, context, moment, user_id, version, number)
            for moment, user_id, version, number in counts(addresses, window)
        ]
        yield from (Usage(_KIND, one) for one in records)
        if is_whole:
            yield from _emptied(records, project_id, window, context)


SOURCE: Source = NeutronSource()


def _record(
    project_id: str,
    context: ProjectContext,
    moment: datetime,
    user_id: str | None,
    version: int,
    number: int,
) -> IPRecord:
    return IPRecord(
        site=context.names.site,
        service=context.names.service,
        vo=context.vo,
        project_id=project_id,
        user_id=user_id or project_id,
        user_name=fit(context.user_name(user_id) or "") or None if user_id else None,
        version=version,
        count=number,
        measured=moment,
    )


def _emptied(
    records: Sequence[IPRecord], project_id: str, window: ExtractionWindow, context: ProjectContext
) -> Iterator[Usage]:
    """Yield counts of 0 for the owners who had addresses earlier this month and have none now."""
    end = window.end.replace(microsecond=0)
    listing = context.history.listing(_KIND)
    listing.see(
        [
            SeenThing(one.key, {"version": one.version}, one.user_id)
            for one in records
            if one.measured == end
        ]
    )
    ended: list[tuple[str, datetime]] = []
    for lost in listing.close(window.end):
        if not context.history.counts(_KIND, lost.key, at=end):
            ended.append((lost.key, lost.last_seen))
            continue
        owner, version = lost.state.user, int(str(lost.state.facts["version"]))
        user_id = None if owner == project_id else owner
        record = _record(project_id, context, end, user_id, version, 0)
        if record.key == lost.key:  # unless the ledger had to forget the user
            yield Usage(_KIND, record)
    context.history.end(_KIND, ended)


class _Owners:
    """The users of servers, by the server's id."""

    def __init__(self, scope: Scope, context: ProjectContext) -> None:
        self._servers = Servers(scope)
        self._known = context.owners

    def of(self, server_id: str) -> str:
        """Return the user of a server; empty if Nova no longer has it."""
        if server_id not in self._known:
            server = self._servers.one(server_id) or {}
            self._known[server_id] = fit(str(server.get("user_id") or ""))
        return self._known[server_id]


def _address(described: FloatingIP, owners: _Owners) -> PublicAddress:
    details: dict[str, Any] = described.get("port_details") or {}
    # Of the things that a port may belong to, only servers ("compute:ZONE") have a user.
    is_of_server = str(details.get("device_owner")).startswith("compute:")
    server_id = str(details.get("device_id")) if is_of_server else ""
    return PublicAddress(
        version=ip_address(described["floating_ip_address"]).version,
        created=_created(described.get("created_at")),
        user_id=(owners.of(server_id) or None) if _SERVER_ID.fullmatch(server_id) else None,
    )


def _created(text: object) -> datetime:
    """Return when an address was allocated; one that does not say so counts in all months."""
    try:
        return clock.parse(text) if isinstance(text, str) else BEGINNING
    except ValueError:
        return BEGINNING
