"""``appliance diff runs``: what the next run of each job would change; nothing is changed.

Exit status: 0 if that is known of every job, 1 if not of each, 3 if of none. A job that runs just
now is not asked, because what it will have changed is not known yet.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from appliance.admin import settings
from appliance.admin.diff import forecasts
from appliance.admin.diff.forecasts import JobForecast
from appliance.admin.machine import Machine
from appliance.admin.schedule import upcoming
from appliance.admin.status import services
from appliance.admin.status.row import stamp
from appliance.admin.status.screen import WIDTH, Terminal
from appliance.core import clock
from appliance.core.run import cli, log
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout

_TIMEOUT, _LONGEST = 600, 86400
_LEAD = "{:16} {:10} "
_MOST_LINES = 6


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"seconds that each dry run may take (default: {_TIMEOUT})",
    )


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds from 1 to {_LONGEST}"
        )
    return int(text)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the changes; return the exit status."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    limit = timedelta(seconds=arguments.timeout)
    wanted = [make for job, make in forecasts.JOBS.items() if host.is_wanted(job)]
    # Each mostly waits for a program or for another host.
    with ThreadPoolExecutor(max_workers=len(wanted) or 1) as pool:
        found = list(pool.map(lambda make: make(layout, host, limit), wanted))
    starts = _starts(layout)
    if arguments.json:
        _print_json(found, starts)
    else:
        _print(found, starts)
    unknown = sum(bool(one.failure) for one in found)
    if not unknown:
        return ExitStatus.DONE
    return ExitStatus.NOTHING if unknown == len(found) else ExitStatus.PARTLY


def _starts(layout: Layout) -> dict[str, upcoming.Upcoming]:
    try:
        return dict(upcoming.of_jobs(layout, now=clock.now(), machine=Machine()))
    except OSError:  # only root can read the tables
        return {}


def _print(found: Sequence[JobForecast], starts: dict[str, upcoming.Upcoming]) -> None:
    terminal = Terminal.of_output()
    print(_LEAD.format("JOB", "NEXT RUN") + "CHANGES (nothing was changed)")
    for one in found:
        start = starts.get(one.job)
        due = f"in {services.span(start.at - clock.now())}" if start else "-"
        lines = _wrapped(one.failure) if one.failure else list(one.lines) or ["nothing"]
        if len(lines) > _MOST_LINES:
            more = len(lines) - _MOST_LINES + 1
            lines = [*lines[: _MOST_LINES - 1], f"{more} more lines: appliance diff --json"]
        lead = _LEAD.format(one.job, due)
        for line in lines:
            print(lead + terminal.fit(line, WIDTH - len(lead)))
            lead = " " * len(lead)


def _wrapped(failure: str) -> list[str]:
    """Return a failure on as many lines as it needs: a remedy that is cut helps nobody."""
    # A secret is masked before a line break can divide it.
    whole = log.one_line(log.redact(failure))
    room = WIDTH - len(_LEAD.format("", ""))
    return textwrap.wrap(f"! {whole}", room, subsequent_indent="  ", break_on_hyphens=False)


def _print_json(found: Sequence[JobForecast], starts: dict[str, upcoming.Upcoming]) -> None:
    jobs = []
    for one in found:
        start = starts.get(one.job)
        jobs.append(
            {
                "job": one.job,
                "next_run": stamp(start.at if start else None),
                "changes": [log.redact(line) for line in one.lines],
                "figures": dict(one.figures),
                "failure": log.redact(one.failure),
            }
        )
    print(json.dumps({"jobs": jobs}, indent=1, ensure_ascii=False))


VERB = cli.Program("runs", "Print what the next run of each job would change.", _add_arguments, run)
