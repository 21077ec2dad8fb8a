"""`caso report --html`: the hours of a report as a page with pictures, and what was accounted."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from caso.ledger.ledger import Ledger
from caso.ledger.windows import Reached
from caso.usage import charts, hours
from caso.usage.hours import Spent

_HOUR = 3600
_DAY = timedelta(days=1)
_GIB = 1024
_MOST_DAYS = 800
_STYLE = "body{font-family:sans-serif} table{border-collapse:collapse} td,th{padding:2px 8px}"


def page(ledger: Ledger, spent: Iterable[Spent], table: Sequence[Sequence[object]]) -> str:
    """Return the page; the first row of the table has the names of its columns."""
    memory = _memory(ledger)
    servers: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    cpu: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    gib: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    days: set[str] = set()
    for one in spent:
        for day, part in hours.by_day(one):
            days.add(day)
            if part.kind == "cloud":
                servers[part.vo][day] += 1
                cpu[part.vo][day] += part.cpu / _HOUR
                gib[part.vo][day] += part.amount / _HOUR * memory.get(part.key, 0) / _GIB
    shown = _all_days(days)
    pictures = [
        charts.bars("Servers", shown, servers),
        charts.bars("CPU hours", shown, cpu),
        charts.bars("Memory: GiB hours", shown, gib),
        charts.heat("What was accounted, by project and kind", shown, _states(ledger, shown)),
    ]
    head = f'<meta charset="utf-8"><title>Usage</title><style>{_STYLE}</style>'
    legend = " ".join(
        f'<span style="background:{color}">&nbsp;{name}&nbsp;</span>'
        for name, color in charts.STATES.items()
    )
    body = "".join(f"<p>{picture}</p>" for picture in pictures)
    return (
        f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><h1>Usage that was delivered</h1>'
        f"{_table(table)}{body}<p>{legend}</p></body></html>"
    )


def _memory(ledger: Ledger) -> dict[str, int]:
    """Return the memory of each server in MiB, as it was seen last."""
    seen = ledger.sightings.of_kind("cloud")
    return {one.key: int(str(one.facts.get("memory") or 0)) for one in seen}


def _all_days(days: set[str]) -> list[str]:
    """Return all days from the first to the last one, and not more than two years of them."""
    if not days:
        return []
    first, last = (
        datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (min(days), max(days))
    )
    count = min((last - first).days, _MOST_DAYS)
    return [f"{last - number * _DAY:%Y-%m-%d}" for number in range(count, -1, -1)]


def _states(ledger: Ledger, days: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the state of each day, by project and kind."""
    found: dict[str, dict[str, str]] = {}
    for stream, reached in ledger.windows.all().items():
        states = found.setdefault(f"{stream.origin.project} {stream.kind}", {})
        for day, state in _of_days(reached, days):
            states[day] = min(state, states.get(day, state), key=_ORDER.index)
    return found


_ORDER = ("missing", "unknown", "none", "done")
"""Of several destinations, regions among them, the one that is the worst counts."""


def _of_days(reached: Reached, days: Sequence[str]) -> Iterator[tuple[str, str]]:
    if not reached.spans:
        return
    begin = min(span.start for span in reached.spans)
    for day in days:
        first = datetime.fromisoformat(day).replace(tzinfo=UTC)
        last = min(first + _DAY, max(span.end for span in reached.spans))
        first = max(first, begin)
        if first >= last:
            yield day, "none"
            continue
        inside = [span for span in reached.spans if span.start < last and span.end > first]
        covered = sum(
            ((min(span.end, last) - max(span.start, first)) for span in inside), timedelta(0)
        )
        # Windows are a second apart.
        if covered + timedelta(seconds=len(inside) + 1) < last - first:
            yield day, "missing"
        else:
            yield day, "done" if all(span.is_known for span in inside) else "unknown"


def _table(rows: Sequence[Sequence[object]]) -> str:
    header, *others = rows
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>"
        for row in others
    )
    return f"<table><tr>{top}</tr>{body}</table>"
