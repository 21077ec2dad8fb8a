"""The long form of ``appliance status``: all services, figures, notes and failures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from appliance.admin.status import services
from appliance.admin.status.records import Last
from appliance.admin.status.services import Services
from appliance.admin.status.site import SiteStatus
from appliance.core.run import log

_MOMENT = "_timestamp_seconds"
"""The end of the name of a figure that is a moment: for Prometheus, not for people."""
_MOST_NOTES = 20
"""Lines behind the figures of a program that are printed."""


def show(found: SiteStatus) -> None:
    """Print all that is known."""
    if found.services is not None:
        print(_services_table(found.services, at=found.now))
    if found.images is not None and not found.images.complaint:
        print(found.images)
    if found.reached is not None:
        print(found.reached)
    if found.published is not None and not found.published.complaint:
        print(found.published)
    for one in found.sent_to:
        if not one.complaint:
            print(log.one_line(str(one)))
    for line in found.complaints:
        print(f"! {log.one_line(line)}")
    for line in found.further:
        print(f"! {log.one_line(line)}")
    directory = found.layout.runs
    print(
        _table(found.runs, at=found.now, directory=directory)
        if found.runs
        else f"No program has run yet: {directory}"
    )


def _services_table(found: Services, *, at: datetime) -> str:
    lines = _aligned(services.rows(found, at=at)) if found.states else []
    if not found.states and not found.failure:
        lines = ["No service has a container; start them with appliance start"]
    lines += [f"  ! {log.one_line(line)}" for line in services.complaints(found)]
    about = f"Compose: {found.compose}" if found.compose else "The programs run without containers."
    return "\n".join([*lines, about, ""])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _table(runs: Sequence[Last], *, at: datetime, directory: Path) -> str:
    rows = [("PROGRAM", "LAST RUN", "STATE", "LAST COMPLETE RUN")]
    rows += [
        (
            last.program,
            _ago(last.ended, at),
            last.word,
            _ago(last.last_success, at),
        )
        for last in runs
    ]
    lines = _aligned(rows)
    for last in [run for run in runs if not run.is_off]:
        figures = ", ".join(
            f"{name.replace('_', ' ')} {_figure(value)}"
            for name, value in last.counts.items()
            if not name.endswith(_MOMENT)
        )
        lines.append(f"\n{last.program}: {figures or 'no figures'}")
        lines += [f"  - {log.one_line(line)}" for line in last.notes[:_MOST_NOTES]]
        if (more := len(last.notes) - _MOST_NOTES) > 0:
            lines.append(f"  - {more} more; see appliance status --json")
        lines += [f"  ! {log.one_line(line)}" for line in last.failures]
    return "\n".join([*lines, f"\nRecords and metrics: {directory}"])


def _figure(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ago(moment: datetime | None, at: datetime) -> str:
    if moment is None:
        return "never"
    span = services.span(at - moment)
    return "just now" if span == "0 min" else f"{span} ago"
