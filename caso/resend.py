"""Sending records of the quarantine again: by the rules and names of today.

A record may have been refused by an earlier version, or while a clock was wrong. It is sent past
the guard of the ledger like any other, and leaves the quarantine when it is delivered.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.core import causes, clock
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.record import RunRecord
from caso import quarantine, run
from caso.kinds.kind import UsageRecord
from caso.kinds.registry import KINDS
from caso.lanes import Advance, Lanes
from caso.ledger.model import Origin
from caso.quarantine import RefusedRecord
from caso.settings import CasoConfiguration


@dataclass(frozen=True, slots=True)
class Resent:
    """What became of a record; ``reason`` is empty if it was sent."""

    entry: RefusedRecord
    reason: str = ""


def chosen(configuration: CasoConfiguration, names: Iterable[str]) -> list[RefusedRecord]:
    """Return the entries with some names, or all of them.

    Raises:
        LocalFailure: there is none with such a name.

    """
    found = {entry.name: entry for entry in quarantine.entries(configuration.quarantine)}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in found:
            raise LocalFailure(f"record {name}", "is not in the quarantine", "see the list of it")
    return [found[name] for name in wanted] if wanted else list(found.values())


def send(
    configuration: CasoConfiguration, names: Iterable[str], record: RunRecord
) -> Iterator[Resent | ApplianceError]:
    """Send records again, and yield what became of each, and what failed beside."""
    entries = chosen(configuration, names)
    with run.opened(configuration, record) as accounting:
        if not configuration.is_dry_run:
            stuck = accounting.recover().stuck
            yield from stuck.values()
        places = sorted(entries, key=_place)
        for (project, region), group in itertools.groupby(places, key=_place):
            origin = Origin(configuration.access.auth_url, region, project)
            yield from _of_project(accounting, origin, list(group))
        if not configuration.is_dry_run:
            yield from accounting.deliver()


def _place(entry: RefusedRecord) -> tuple[str, str]:
    return entry.project, entry.region


def _of_project(
    accounting: run.AccountingRun, origin: Origin, entries: Sequence[RefusedRecord]
) -> Iterator[Resent | ApplianceError]:
    """Send the records of one project."""
    configuration = accounting.configuration
    good: list[tuple[RefusedRecord, UsageRecord]] = []
    for entry in entries:
        judged = _judged(entry, configuration)
        if isinstance(judged, str):
            yield Resent(entry, judged)
        else:
            good.append((entry, judged))
    if not good or configuration.is_dry_run:
        yield from (Resent(entry) for entry, _ in good)
        return
    kinds = sorted({entry.kind for entry, _ in good})
    lanes = Lanes.open(accounting.ledger, origin, accounting.messengers, kinds)
    sent = {lane.stream.kind for lane in lanes.lanes}
    for entry, record in good:
        lanes.add(entry.kind, record)
    lanes.commit({kind: Advance() for kind in kinds}, dict)
    yield from lanes.failures
    less = {(one.kind, one.key) for one in lanes.withheld()}
    for entry, record in good:
        if lanes.failures:
            yield Resent(entry, "not delivered")
        elif entry.kind not in sent:
            yield Resent(entry, f"{entry.kind} records have no destination")
        else:
            entry.path.unlink(missing_ok=True)
            known = (entry.kind, record.key) in less
            yield Resent(entry, "more was delivered since" if known else "")


def _judged(entry: RefusedRecord, configuration: CasoConfiguration) -> UsageRecord | str:
    """Return a record as it may be sent now, or the reason why it may not."""
    try:
        record: Any = entry.restore()
    except LocalFailure as error:
        return error.cause
    if record is None or not entry.project:
        return "the file does not have the record; extract its month again"
    # A name that was wrong in the configuration has been corrected there.
    names = configuration.names
    record = replace(record, site=names.site, service=names.service)
    try:
        checked = KINDS[entry.kind].check(record, clock.now())
    except ArithmeticError as error:
        return f"its figures cannot be computed: {causes.of_answer(error)}"
    found: UsageRecord = checked.record
    return "; ".join(checked.faults) or found
