"""The report of a dry run: by project, VO, month and kind, what would be sent to each messenger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from appliance.core.run import output
from caso.forecast import Expected, Forecast
from caso.kinds.registry import KINDS
from caso.ledger.model import Month, month_text
from caso.project import ProjectOutcome

_HOUR = 3600
_COLUMNS = (
    *("project", "project_id", "region", "vo", "month", "kind", "destination"),
    *("things", "hours", "cpu_hours", "more_hours", "more_cpu_hours"),
    *("records", "withheld", "quarantined", "messages"),
)
"""``more_hours`` and ``more_cpu_hours`` are the difference to what was delivered before."""


def table(outcomes: Iterable[ProjectOutcome]) -> list[list[object]]:
    """Return the rows of the report, after a row with the names of their columns.

    Records that would go to the quarantine have rows of their own, without a destination.
    """
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    return [list(_COLUMNS), *rows]


def lines(outcome: ProjectOutcome) -> Iterator[str]:
    """Yield the report of a project as text, a line for each messenger, month and kind."""
    for forecast in outcome.forecasts:
        for month, expected in sorted(forecast.months.items()):
            kind = forecast.kind
            words = [f"{expected.records} records", kind.describe(expected.amount)]
            if not kind.is_count:
                words.append(f"{expected.more / _HOUR:+.1f} h since the last delivery")
            if kind.is_cumulative:
                cpu, more = (f"{one / _HOUR:.1f}" for one in (expected.cpu, expected.more_cpu))
                words.append(f"{cpu} h of CPU time, of which {more} h were not delivered yet")
            if forecast.max_size:
                words.append(output.count(forecast.messages(month), "message"))
            yield f"  {month_text(month)}, to {forecast.stream.destination}: {', '.join(words)}"
    if held := outcome.tally.quarantined.total():
        yield f"  {output.count(held, 'record')} would go to the quarantine"


def _rows(outcome: ProjectOutcome) -> Iterator[list[object]]:
    selected = outcome.selected
    lead = [selected.project.name, selected.project.id, outcome.region, selected.vo]
    for forecast in outcome.forecasts:
        for month in sorted({*forecast.months, *forecast.withheld}):
            yield [*lead, *_cells(forecast, month)]
    for (month_name, kind), number in sorted(outcome.tally.quarantined.items()):
        things = KINDS[kind].things if kind else ""
        yield [*lead, month_name, things, "", 0, "", "", "", "", 0, 0, number, 0]


def _cells(forecast: Forecast, month: Month) -> list[object]:
    kind, expected = forecast.kind, forecast.months.get(month, Expected())
    is_count = kind.is_count
    hours = ["" if is_count else round(one / _HOUR, 2) for one in (expected.amount, expected.more)]
    cpu = [round(one / _HOUR, 2) for one in (expected.cpu, expected.more_cpu)]
    return [
        *(month_text(month), kind.things, forecast.stream.destination),
        *(expected.amount if is_count else expected.records, hours[0], cpu[0], hours[1], cpu[1]),
        *(expected.records, forecast.withheld[month], 0, forecast.messages(month)),
    ]
