"""Sending a month again, also where that takes delivered hours back.

The repository keeps the last record of a server and month, so a wrong one is corrected by a right
one. Where the right one has less use, the guard of the ledger withholds it. Only a person may let
it pass, who has seen what it changes; the ledger keeps when, and why.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.record import RunRecord
from caso import run
from caso.kinds.kind import UsageRecord
from caso.kinds.months import SECOND, ExtractionWindow, next_month
from caso.lanes import OneMonth
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, Stream, first_second
from caso.project import ProjectOutcome
from caso.selection import Selected, select
from caso.settings import CasoConfiguration, Period
from caso.windows import KindWindow


@dataclass(frozen=True, slots=True)
class Change:
    """What would change for one thing."""

    key: str
    delivered: int | None
    """None if nothing was delivered."""
    now: int | None
    """None if the cloud does not show it any more: what was delivered stays."""

    @property
    def difference(self) -> int:
        """Return how much more is in the cloud than was delivered."""
        return 0 if self.now is None else self.now - (self.delivered or 0)


@dataclass(slots=True)
class MonthNow:
    """The records of a project and month as the cloud shows them now."""

    amounts: dict[str, dict[str, int]] = field(default_factory=dict)
    """The amounts by kind and key."""
    failures: list[ApplianceError] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)
    """Kinds of which records are missing."""

    def add(self, kind: str, record: UsageRecord, *, is_estimated: bool = False) -> None:  # noqa: ARG002
        """Take a record."""
        self.amounts.setdefault(kind, {})[record.key] = record.amount

    def drop(self, kinds: Iterable[str], error: ApplianceError) -> None:
        """Take note that the records of some kinds are not complete."""
        self.failures.append(error)
        self.incomplete.update(kinds)


@dataclass(frozen=True, slots=True)
class ComparedProject:
    """What sending the month again changes in a project, by stream, sorted by key."""

    selected: Selected
    changes: dict[Stream, list[Change]]
    failures: tuple[ApplianceError, ...] = ()


def compare(
    configuration: CasoConfiguration, month: Month, names: Iterable[str], record: RunRecord
) -> Iterator[ComparedProject]:
    """Yield what sending a month again would change; nothing is written.

    Projects that cannot be accounted are in the failures of ``record``.
    """
    with run.opened(replace(configuration, is_dry_run=True), record) as accounting:
        for selected in _chosen(accounting, names):
            comparison, failures = MonthNow(), list[ApplianceError]()
            for region in accounting.regions:
                try:
                    windows = _windows(accounting, month)
                    region.read(selected, windows, OneMonth(comparison, month))
                except (ApplianceError, OSError) as error:
                    failures.append(region.about(selected, error))
                    comparison.incomplete |= region.kinds
                failures += [region.about(selected, error) for error in comparison.failures]
                comparison.failures.clear()
            changes = {
                stream: _changes(accounting.ledger, stream, month, comparison.amounts.get(kind, {}))
                for kind, streams in accounting.regions[0].streams(selected).items()
                for stream in streams
                if kind not in comparison.incomplete
            }
            yield ComparedProject(selected, changes, tuple(failures))


def send(
    configuration: CasoConfiguration,
    month: Month,
    names: Iterable[str],
    record: RunRecord,
    *,
    reason: str,
) -> Iterator[ProjectOutcome]:
    """Send a month again, whatever was delivered; no checkpoint moves."""
    with run.opened(replace(configuration, is_dry_run=False), record) as accounting:
        stuck = accounting.recover().stuck
        chosen = _chosen(accounting, names)
        for selected, region in itertools.product(chosen, accounting.regions):
            if (error := stuck.get(region.origin(selected).label)) is not None:
                failure = region.about(selected, error)
                yield ProjectOutcome(selected, region.region, failures=(failure,))
                continue
            windows = _windows(accounting, month)
            yield region.account_again(selected, windows, reason=reason, month=month)


def of_month(configuration: CasoConfiguration, month: Month) -> CasoConfiguration:
    """Return a configuration whose period is a month."""
    start = first_second(month)
    return replace(configuration, period=Period(start, next_month(start) - SECOND))


def _chosen(accounting: run.AccountingRun, names: Iterable[str]) -> list[Selected]:
    """Return the selected projects, or those of them that have one of the names or ids."""
    wanted = set(names)
    selected, failures = select(accounting.cloud, accounting.configuration)
    if not wanted:
        if failures and not selected:
            raise failures[0]
        for error in failures:
            accounting.record.fail(str(error))
        return selected
    found = [one for one in selected if wanted & {one.project.id, one.project.name, *one.aliases}]
    known = {name for one in found for name in (one.project.id, one.project.name, *one.aliases)}
    for name in sorted(wanted - known):
        raise LocalFailure(
            f"project {name}",
            "is not among the projects that are accounted",
            "see caso projects",
        )
    return found


def _windows(accounting: run.AccountingRun, month: Month) -> dict[str, KindWindow]:
    period = accounting.configuration.period
    start = period.start or first_second(month)
    window = ExtractionWindow(start, accounting.end())
    if window.start >= window.end:
        raise LocalFailure(f"month {start:%Y-%m}", "has not begun", "choose another month")
    return {kind: KindWindow(window, moves=False) for kind in accounting.regions[0].kinds}


def _changes(ledger: Ledger, stream: Stream, month: Month, amounts: dict[str, int]) -> list[Change]:
    delivered = {
        one.row.key: one.row.amount
        for one in ledger.deliveries.rows(month, stream.destination)
        if one.stream.kind == stream.kind and one.stream.origin.project == stream.origin.project
    }
    keys = sorted(amounts.keys() | delivered.keys())
    return [Change(key, delivered.get(key), amounts.get(key)) for key in keys]
