"""Who starts the jobs of a site: tables in ``/etc/cron.d`` or enabled timers.

A table that does not count lies in ``/etc/fedcloud/cron.d``, with whatever the administrator has
changed in it; a first installation puts all of them there. What starts jobs beside the two (root's
own table, as in the releases of 2019 to 2022; a copy under another name,
`appliance.admin.schedule.starters`) is foreign: with it a job would run twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin import settings
from appliance.admin.inventory import JOBS, Job
from appliance.admin.schedule import starters, tables
from appliance.core.run.errors import ConfigurationError, Problem
from appliance.core.run.layout import Layout


@dataclass(frozen=True, slots=True)
class Starts:
    """What starts one job: the lines of its table that counts, and whether its timer is enabled."""

    job: Job
    lines: tuple[tables.CronLine, ...]
    has_timer: bool


def active_table(job: Job, layout: Layout) -> Path:
    """Return where a job's table counts."""
    return layout.path("/etc/cron.d") / job.cron


def idle_table(job: Job, layout: Layout) -> Path:
    """Return where a job's table waits."""
    return layout.path("/etc/fedcloud/cron.d") / job.cron


def timer(job: Job) -> str:
    """Return the name of a job's timer."""
    return f"fedcloud-job@{job.name}.timer"


def is_enabled(job: Job, layout: Layout) -> bool:
    """Say whether a job's timer is started with the system."""
    return (layout.path("/etc/systemd/system/timers.target.wants") / timer(job)).is_symlink()


def starts(layout: Layout) -> list[Starts]:
    """Return what starts each job."""
    return [
        Starts(
            job,
            tuple(tables.lines(path)) if (path := active_table(job, layout)).exists() else (),
            is_enabled(job, layout),
        )
        for job in JOBS.values()
    ]


def is_installed(layout: Layout) -> bool:
    """Say whether this host has anything that could start a job."""
    units = layout.path("/etc/systemd/system")
    places = (
        (active_table(job, layout), idle_table(job, layout), units / timer(job))
        for job in JOBS.values()
    )
    return any(path.exists() for paths in places for path in paths)


def complaints(layout: Layout, host: settings.Host | None = None) -> list[str]:
    """Return a line for all that is not well with who starts the jobs.

    With the settings of the ``host``, it does not matter who starts a job whose flow is off.
    """
    wanted = [one for one in starts(layout) if host is None or host.is_wanted(one.job.name)]
    return [*_disagreements(wanted), *map(str, foreign(layout)), *map(str, ignored(layout))]


def _disagreements(found: Sequence[Starts]) -> list[str]:
    twice = [one.job.name for one in found if one.lines and one.has_timer]
    never = [
        one.job.name
        for one in found
        if one.job.is_scheduled and not one.lines and not one.has_timer
    ]
    kinds = {bool(one.lines) for one in found if one.lines or one.has_timer}
    words = []
    if twice:
        words.append(
            f"both cron and systemd start {', '.join(twice)}: choose one with appliance schedule cron|systemd"
        )
    elif len(kinds) > 1:
        words.append(
            "cron starts some jobs and systemd others: choose one with appliance schedule cron|systemd"
        )
    if never and not kinds:
        words.append(
            "no job is started yet: choose who starts them with appliance schedule cron|systemd"
        )
    elif never:
        words.append(
            f"nobody starts {', '.join(never)}: choose with appliance schedule cron|systemd"
        )
    return words


def foreign(layout: Layout) -> Iterator[Problem]:
    """Yield what starts a job of ours from where it does not belong."""
    yield from map(_problem, starters.others(layout))


def _problem(starter: starters.Starter) -> Problem:
    cause = f"starts the job {starter.job} beside the appliance{starter.note}; remove this line"
    return Problem(starter.path, starter.line, "", cause)


def refuse_second(job: Job, layout: Layout) -> None:
    """Raise `ConfigurationError` when somebody else starts a job too, so that it would run twice.

    A line that calls the appliance's own command is nobody else as long as nothing of ours starts
    the job: earlier releases had such lines in root's table.
    """
    is_ours_active = active_table(job, layout).exists() or is_enabled(job, layout)
    found = [
        starter
        for starter in starters.others(layout)
        if starter.job == job.name and (is_ours_active or not starter.is_wrapped)
    ]
    if found:
        raise ConfigurationError(list(map(_problem, found)))


def ignored(layout: Layout) -> Iterator[Problem]:
    """Yield why cron ignores a table that was meant to start a job of ours."""
    directory = layout.path("/etc/cron.d")
    known = {job.cron for job in JOBS.values()}
    for path in sorted(directory.glob("*")):
        # an upgrade's, beside a table that the administrator has changed
        if path.name.endswith(".fedcloud-new"):
            continue
        if path.is_file() and (path.name in known or tables.starts_ours(path)):
            yield from tables.problems(path)
