"""``appliance status``: what the last run of each program did.

Exit status 0 when every last run left nothing undone, 1 when one did (its failures are listed), 3 when no program has
run yet.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.core import clock
from appliance.core.run import cli, log, record
from appliance.core.run.errors import ExitStatus, Unavailable

_WORDS = {
    ExitStatus.DONE: "done",
    ExitStatus.PARTLY: "partly",
    ExitStatus.USAGE: "misconfigured",
    ExitStatus.NOTHING: "failed",
    ExitStatus.BUG: "broken",
}


@dataclass(frozen=True, slots=True)
class Last:
    """The last run of one program, as its record tells it."""

    program: str
    ended: datetime | None
    status: ExitStatus | None
    last_success: datetime | None
    counts: Mapping[str, float]
    failures: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument("--json", action="store_true", help="print the records as they are")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the records of all programs."""
    directory = cli.layout(arguments).runs
    if directory.exists():
        os.scandir(directory).close()  # the listing below passes over a directory that may not be read
    found = {
        path.stem: told for path in sorted(directory.glob("*.json")) if (told := record.read(path.stem, directory))
    }
    if not found:
        raise Unavailable(directory, "no program has left a record", "see whether cron or its timers start them")
    runs = [_last(program, told) for program, told in found.items()]
    if arguments.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print(_table(runs, at=clock.now(), directory=directory))
    return ExitStatus.DONE if all(last.status is ExitStatus.DONE for last in runs) else ExitStatus.PARTLY


def _last(program: str, told: Mapping[str, object]) -> Last:
    counts, failures, status = told.get("counts"), told.get("failures"), told.get("status")
    return Last(
        program=program,
        ended=_moment(told.get("ended")),
        status=ExitStatus(status) if isinstance(status, int) and status in set(ExitStatus) else None,
        last_success=_moment(told.get("last_success")),
        counts=counts if isinstance(counts, dict) else {},
        failures=[str(line) for line in failures] if isinstance(failures, list) else [],
    )


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def _table(runs: Sequence[Last], *, at: datetime, directory: Path) -> str:
    rows = [("PROGRAM", "LAST RUN", "STATE", "LAST COMPLETE RUN")]
    rows += [
        (
            last.program,
            _ago(last.ended, at),
            _WORDS[last.status] if last.status is not None else "unknown",
            _ago(last.last_success, at),
        )
        for last in runs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for last in runs:
        figures = ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in last.counts.items())
        lines.append(f"\n{last.program}: {figures or 'no figures'}")
        lines += [f"  ! {log.one_line(line)}" for line in last.failures]
    return "\n".join([*lines, f"\nRecords and metrics: {directory}"])


def _figure(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ago(moment: datetime | None, at: datetime) -> str:
    if moment is None:
        return "never"
    minutes = max(int((at - moment).total_seconds() // 60), 0)
    for unit, length in (("d", 1440), ("h", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {unit} ago"
    return f"{minutes} min ago" if minutes else "just now"


VERB = cli.Program("status", "Prints what the last run of each program did.", add_arguments, run)
