"""``appliance schedule cron|systemd``: make either of the two start the jobs, and not the other.

The old starter is disabled first, so that no job is started twice in between. If a step fails, the
previous state is restored, so that the jobs are started in any case. A run that finds the wanted
state changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from appliance.admin import changing, inventory, settings
from appliance.admin.inventory import JOBS, Job
from appliance.admin.schedule import horizon, minutes, state
from appliance.core import clock, files
from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError, ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout

_SYSTEMCTL = "/usr/bin/systemctl"
logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    add_starter(parser, "starter of the jobs (default: print the present one)")
    parser.add_argument(
        "--show", action="store_true", help="print what starts each job, and change nothing"
    )
    add_since(parser)
    parser.add_argument(
        "--with",
        dest="also",
        action="append",
        default=[],
        metavar="JOB",
        help="also schedule this job, which not every site needs; may be repeated",
    )


def add_starter(parser: argparse.ArgumentParser, words: str) -> None:
    """Add the argument ``by``, the starter of the jobs."""
    parser.add_argument("by", nargs="?", choices=("cron", "systemd"), help=words)


def add_since(parser: argparse.ArgumentParser) -> None:
    """Add the flag for the start of the first extraction."""
    parser.add_argument(
        "--since",
        type=_date,
        metavar="DATE",
        help="date from which to account projects without a checkpoint: servers that existed on it"
        " or later (default: the first day of this month)",
    )


def _date(text: str) -> datetime:
    try:
        found = clock.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a date; write it like 2026-11-01"
        ) from error
    if found > clock.now():
        raise argparse.ArgumentTypeError(f"{text} is in the future")
    return found


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Change the starter of the jobs, or print it."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    wanted = _wanted([inventory.find(name) for name in arguments.also], host, layout)
    if arguments.by and not (arguments.show or arguments.check_config):
        with changing.alone(layout):
            _change(arguments.by, wanted, layout)
            horizon.keep(arguments.since or horizon.since(layout), layout)
    elif arguments.since and not arguments.check_config:
        with changing.alone(layout):
            horizon.keep(arguments.since, layout)
    elif not arguments.by and arguments.also:
        words = "needs the starter of the jobs"
        raise UsageError("--with", words, "write appliance schedule cron|systemd --with JOB")
    return _show(layout)


def _wanted(also: Sequence[Job], host: settings.Host, layout: Layout) -> list[Job]:
    """Return the jobs to schedule: the usual ones, those of --with, and those already scheduled.

    A host whose jobs nothing starts yet schedules those of its profile, too. On any other host an
    administrator has decided before, so that an upgrade adds none.
    """
    present = [
        job
        for job in JOBS.values()
        if state.is_enabled(job, layout) or state.active_table(job, layout).exists()
    ]
    return [
        job
        for job in JOBS.values()
        if job.is_scheduled
        or job in also
        or job in present
        or (not present and job.profile == host.profile)
    ]


def _change(by: str, wanted: Sequence[Job], layout: Layout) -> None:
    # A foreign starter would start jobs beside the new one, so nothing is changed.
    if found := list(state.foreign(layout)):
        raise ConfigurationError(found)
    change = _change_to_cron if by == "cron" else _change_to_systemd
    change(wanted, layout)


def _change_to_cron(wanted: Sequence[Job], layout: Layout) -> None:
    for job in wanted:
        active, idle = state.active_table(job, layout), state.idle_table(job, layout)
        if not (active.exists() or idle.exists()):
            raise Unavailable(active, "does not exist", "run the bundle's install again")
    with _undone_if_it_fails(layout):
        _systemctl(
            "disable", [job for job in JOBS.values() if state.is_enabled(job, layout)], layout
        )
        for job in wanted:
            # An active table stays as it is; the administrator may have changed it.
            if not (table := state.active_table(job, layout)).exists():
                _move(state.idle_table(job, layout), table)
                minutes.write_table(job, table, layout)


def _change_to_systemd(wanted: Sequence[Job], layout: Layout) -> None:
    missing = [
        job
        for job in wanted
        if not (layout.path("/etc/systemd/system") / state.timer(job)).exists()
    ]
    if missing:
        raise Unavailable(
            state.timer(missing[0]), "is not installed", "run the bundle's install again"
        )
    with _undone_if_it_fails(layout):
        for job in JOBS.values():
            if (table := state.active_table(job, layout)).exists():
                _move(table, state.idle_table(job, layout))
        added = [job for job in wanted if not state.is_enabled(job, layout)]
        for job in added:
            minutes.write_timer(job, layout)
        _systemctl("enable", added, layout)


@contextlib.contextmanager
def _undone_if_it_fails(layout: Layout) -> Iterator[None]:
    """Restore the tables and timers if the block raises."""
    tables = [job for job in JOBS.values() if state.active_table(job, layout).exists()]
    timers = [job for job in JOBS.values() if state.is_enabled(job, layout)]
    try:
        yield
    except BaseException:  # also after an interrupt: otherwise nothing starts the jobs
        added = [
            job for job in JOBS.values() if state.is_enabled(job, layout) and job not in timers
        ]
        _try(_systemctl, "disable", added, layout)
        _try(_put_back, tables, layout)
        _try(
            _systemctl,
            "enable",
            [job for job in timers if not state.is_enabled(job, layout)],
            layout,
        )
        raise


def _try(step: Callable[..., None], *arguments: object) -> None:
    try:
        step(*arguments)
    # Only a warning: the first failure is raised anyway, and the other steps must follow.
    except (Unavailable, OSError) as error:
        logger.warning("%s; see appliance schedule --show", error)


def _put_back(tables: Sequence[Job], layout: Layout) -> None:
    for job in JOBS.values():
        active, idle = state.active_table(job, layout), state.idle_table(job, layout)
        if job in tables and not active.exists():
            _move(idle, active)
        elif job not in tables and active.exists():
            _move(active, idle)


def _move(source: Path, target: Path) -> None:
    files.make_directory(target.parent, mode=0o755)
    os.replace(source, target)
    # The target first: after a crash the table exists twice rather than not at all.
    files.sync_directory(target.parent)
    files.sync_directory(source.parent)


def _systemctl(verb: str, scheduled: Sequence[Job], layout: Layout) -> None:
    """Enable or disable timers; on the running host, also start or stop them."""
    if not scheduled:
        return
    timers = [state.timer(job) for job in scheduled]
    is_host = layout.root == Path("/") and Path("/run/systemd/system").exists()
    # systemctl cannot start or stop units of another root.
    where = ["--now"] if is_host else [f"--root={layout.root}"]
    done = subprocess.run(
        [_SYSTEMCTL, "--quiet", *where, verb, *timers], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable("systemctl", f"cannot {verb} the timers: {done.stderr.strip()}")


def _show(layout: Layout) -> ExitStatus:
    found, host = state.starts(layout), settings.load(layout)
    rows = [("JOB", "BY", "WHEN")]
    for one in found:
        by = [word for word, holds in (("cron", one.lines), ("systemd", one.has_timer)) if holds]
        when = ", ".join(line.times for line in one.lines) or (
            state.timer(one.job) if one.has_timer else ""
        )
        # `appliance run` starts no job of such a flow, so the starter does not matter.
        if not host.is_wanted(one.job.name):
            by, when = ["off"], f"flow {one.job.flow}"
        otherwise = "nobody" if one.job.is_scheduled or one.job.profile else "cloudbdii"
        rows.append((one.job.name, " and ".join(by) or otherwise, when))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    if host.is_wanted("caso"):
        print("The next extraction of usage reaches back to:")
        for line in horizon.show(layout):
            print(line)
    wrong = state.complaints(layout, host)
    for line in wrong:
        print(f"! {line}")
    return ExitStatus.PARTLY if wrong else ExitStatus.DONE


VERB = cli.Program(
    "schedule",
    "Make cron or systemd's timers start the jobs, or print which of them does.",
    add_arguments,
    run,
)
