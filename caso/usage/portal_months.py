"""Months of the ledger beside those of a table of the accounting portal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from caso.ledger.model import Month, month_text
from caso.usage.hours import Spent
from caso.usage.portal import METRICS, Metric, Table

HOUR = 3600
TOLERANCE = 1.0
"""Per cent."""


@dataclass(slots=True)
class DeliveredServers:
    """What was delivered for servers."""

    by_project: dict[tuple[str, str, Month], list[Spent]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, spent: Spent) -> None:
        """Add the use of a server in a month."""
        self.by_project[spent.region, spent.project, spent.month].append(spent)

    def by_vo(self) -> Table:
        """Return counts and hours by VO and month."""
        sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0])
        for parts in self.by_project.values():
            for one in parts:
                cell = sums[one.vo, month_text(one.month)]
                cell[0] += 1
                cell[1] += one.amount / HOUR
                cell[2] += one.cpu / HOUR
        return {key: dict(zip(METRICS, cell, strict=True)) for key, cell in sums.items()}


def rows(
    ours: Table, table: Table, months: Collection[str], tolerance: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of the table, and for each VO and month that it lacks."""
    metrics = {metric for cell in table.values() for metric in cell}
    for vo, month in sorted({*table, *ours}, key=lambda key: (key[1], key[0])):
        if month in months:
            theirs, mine = table.get((vo, month), {}), ours.get((vo, month), {})
            yield from _rows(vo, month, mine, theirs, metrics, tolerance)


def _rows(
    vo: str,
    month: str,
    mine: Mapping[Metric, float],
    theirs: Mapping[Metric, float],
    metrics: set[Metric],
    tolerance: float,
) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        if metric not in metrics:
            continue
        here, there = mine.get(metric, 0.0), theirs.get(metric, 0.0)
        largest = max(here, there)
        rounding = 0.0 if metric == "vms" else 0.5  # tables have whole hours
        percent = 100 * (there - here) / here if here else 100.0 * bool(there)
        yield {
            "month": month,
            "vo": vo,
            "metric": metric,
            "delivered": round(here, 2),
            "portal": round(there, 2),
            "difference_percent": round(percent, 2),
            "is_within": abs(there - here) <= rounding + largest * tolerance / 100,
        }


def text(row: Mapping[str, Any]) -> str:
    """Return a row as a line."""
    excess = row["portal"] - row["delivered"]
    verdict = ""
    if not row["is_within"]:
        words = "too much at the portal: delivered by another program, or twice"
        verdict = f": {words}" if excess > 0 else ": not all has arrived"
    return (
        f"{row['month']} {row['vo']}: {row['metric']} {row['delivered']} delivered,"
        f" {row['portal']} at the portal ({row['difference_percent']:+.2f} %){verdict}"
    )
