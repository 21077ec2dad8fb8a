"""Accelerators of servers, from the properties of their flavors.

    flavor property         value (the names can be set in [accelerator])
    Accelerator:Type        GPU, say
    Accelerator:Vendor      with the next one: the model of the record
    Accelerator:Model
    Accelerator:Number      how many a server gets; 0.5 is half of a shared one

All four are needed, as in cASO. Nova attaches accelerators by other properties, which say neither
type nor model; a flavor with such a one alone is named once.

A server shows its present flavor only. An earlier one comes from the history that runs leave
behind, and the time of the change from Nova's actions of the server. Without an action, the change
counts from the start of the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal, InvalidOperation

from appliance.core.cloud.compute import Server, Servers
from caso.kinds.accelerator import Accelerator, AcceleratorRecord, AcceleratorState, durations
from caso.kinds.months import ExtractionWindow, first_moment
from caso.kinds.text import fit
from caso.sources.history import KnownState, SeenThing
from caso.sources.resizes import changed_at
from caso.sources.server import Life
from caso.sources.source import ProjectContext, Usage

KIND = "accelerator"

_PAGE = 500
_OTHER_PROPERTIES = ("pci_passthrough:alias", "resources:VGPU", "resources:PGPU")
_NOTHING: Mapping[str, object] = {}


class ServerAccelerators:
    """The accelerators of one project's servers in a window."""

    def __init__(self, servers: Servers, window: ExtractionWindow, context: ProjectContext) -> None:
        self._servers = servers
        self._window = window
        self._context = context
        self._known = dict(context.history.states(KIND, since=first_moment(window.start)))
        self._listing = context.history.listing(KIND)
        self._seen: list[SeenThing] = []
        self._ended: dict[str, datetime] = {}

    def records(self, server: Server, life: Life, window: ExtractionWindow) -> Iterator[Usage]:
        """Yield the records of a server, oldest month first."""
        server_id = server["id"]
        known = self._known.pop(server_id, ())
        present = read(server["flavor"], self._context)
        if present is None and not known:
            return
        states = self._states(server_id, life.born, known, present)
        if life.died is not None:
            self._ended[server_id] = life.died
        self._see(server_id, server.get("user_id"), states[-1])
        user_id = fit(str(server.get("user_id") or ""))
        yield from self._made(server_id, states, user_id, life.died, window)

    def close(self) -> Iterator[Usage]:
        """Yield the last records of servers that no listing shows any more."""
        self._listing.see(self._seen)
        for one in self._listing.close(self._window.end):
            if one.key not in self._ended:
                self._ended[one.key] = one.last_seen
                states = self._known.pop(one.key, None) or [one.state]
                yield from self._lost(one.key, states, one.last_seen)
        self._context.history.end(KIND, self._ended.items())
        # What ended in the window and is in no listing: the run that noted it delivered nothing.
        for key, states in self._known.items():
            until = states[-1].until
            if until is not None and until > self._window.start:
                yield from self._lost(key, states, until)

    def abandon(self) -> None:
        """Forget a listing that did not come to its end."""
        self._listing.abandon()

    def _states(
        self,
        server_id: str,
        born: datetime,
        known: Sequence[KnownState],
        present: Accelerator | None,
    ) -> list[KnownState]:
        """Return the states of a server up to the present one."""
        facts = _NOTHING if present is None else _facts(present)
        if not known:
            return [KnownState(born, None, facts)]
        last = replace(known[-1], until=None)
        if last.facts == facts:
            return [*known[:-1], last]
        since = changed_at(self._servers, server_id, last.since, self._window)
        return [*known[:-1], replace(last, until=since), KnownState(since, None, facts)]

    def _see(self, server_id: str, user_id: object, state: KnownState) -> None:
        user = user_id if isinstance(user_id, str) else None
        self._seen.append(SeenThing(server_id, state.facts, user, state.since))
        if len(self._seen) >= _PAGE:
            self._listing.see(self._seen)
            self._seen = []

    def _lost(self, key: str, states: Sequence[KnownState], until: datetime) -> Iterator[Usage]:
        window = replace(self._window, start=min(until, self._window.start))
        for usage in self._made(key, states, states[-1].user or "", until, window):
            yield usage._replace(is_estimated=True)

    def _made(
        self,
        server_id: str,
        states: Sequence[KnownState],
        user_id: str,
        died: datetime | None,
        window: ExtractionWindow,
    ) -> Iterator[Usage]:
        context = self._context
        name = fit(context.user_name(user_id) or "") or None if user_id else None
        known = [AcceleratorState(state.since, _accelerator(state.facts)) for state in states]
        for month, accelerator, active in durations(known, died, window):
            yield Usage(
                KIND,
                AcceleratorRecord(
                    vm_uuid=server_id,
                    site=context.names.site,
                    service=context.names.service,
                    vo=context.vo,
                    accelerator=accelerator,
                    month=month,
                    active=active,
                    user_id=user_id,
                    user_name=name,
                ),
            )


def read(flavor: Mapping[str, object], context: ProjectContext) -> Accelerator | None:
    """Return the accelerators of a flavor; warn of properties that cannot be used."""
    specs = flavor.get("extra_specs")
    if not isinstance(specs, Mapping):
        return None
    keys = context.names.accelerator
    found = {key: fit(str(specs.get(key) or "")) for key in keys.all()}
    name = flavor.get("original_name", "")
    if not any(found.values()):
        for other in _OTHER_PROPERTIES:
            if specs.get(other):
                context.warn(
                    f"flavor {name}: has {other}, but not {', '.join(keys.all())}: its servers"
                    " have no records of accelerators"
                )
        return None
    if missing := [key for key, value in found.items() if not value]:
        words = f"flavor {name}: lacks {', '.join(missing)}: its servers have no records of"
        context.warn(f"{words} accelerators")
        return None
    count = _count(found[keys.number])
    if count is None:
        words = f"flavor {name}: {keys.number}={found[keys.number]!r} is no number above 0: its"
        context.warn(f"{words} servers have no records of accelerators")
        return None
    model = fit(f"{found[keys.vendor]} {found[keys.model]}")
    return Accelerator(found[keys.type], model, count)


def _count(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    # Normalised, because 1 and 1.0 are the same number of accelerators.
    return number.normalize() + 0 if number.is_finite() and number > 0 else None


def _facts(one: Accelerator) -> dict[str, object]:
    return {"type": one.type, "model": one.model, "count": f"{one.count:f}"}


def _accelerator(facts: Mapping[str, object]) -> Accelerator | None:
    if not facts:
        return None
    return Accelerator(str(facts["type"]), str(facts["model"]), Decimal(str(facts["count"])))
