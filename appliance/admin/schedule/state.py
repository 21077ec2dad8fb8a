"""The starters of a site's jobs: tables in ``/etc/cron.d`` or enabled timers.

An idle table is in ``/etc/fedcloud/cron.d``, with the administrator's changes; a first installation
writes all tables there. Other starters are foreign, such as root's own table, which releases of
2019 to 2022 used, or a copy under another name (`appliance.admin.schedule.starters`). They would
start a job twice.
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

_CHOOSE = "choose one with appliance schedule cron|systemd"


@dataclass(frozen=True, slots=True)
class Starts:
    """The starters of a job: the lines of its active table, and whether its timer is enabled."""

    job: Job
    lines: tuple[tables.CronLine, ...]
    has_timer: bool


def active_table(job: Job, layout: Layout) -> Path:
    """Return the path of a job's table that cron reads."""
    return layout.path("/etc/cron.d") / job.cron


def idle_table(job: Job, layout: Layout) -> Path:
    """Return the path of a job's table that cron does not read."""
    return layout.path("/etc/fedcloud/cron.d") / job.cron


def timer(job: Job) -> str:
    """Return the name of a job's timer."""
    return f"fedcloud-job@{job.name}.timer"


def is_enabled(job: Job, layout: Layout) -> bool:
    """Return whether a job's timer is enabled."""
    return (layout.path("/etc/systemd/system/timers.target.wants") / timer(job)).is_symlink()


def starts(layout: Layout) -> list[Starts]:
    """Return the starters of each job."""
    return [
        Starts(
            job,
            tuple(tables.lines(path)) if (path := active_table(job, layout)).exists() else (),
            is_enabled(job, layout),
        )
        for job in JOBS.values()
    ]


def is_installed(layout: Layout) -> bool:
    """Return whether a table or timer of a job is installed."""
    units = layout.path("/etc/systemd/system")
    places = (
        (active_table(job, layout), idle_table(job, layout), units / timer(job))
        for job in JOBS.values()
    )
    return any(path.exists() for paths in places for path in paths)


def complaints(layout: Layout, host: settings.Host | None = None) -> list[str]:
    """Return a line for each fault in the starters of the jobs.

    With the settings of the ``host``, jobs whose flow is off are left out.
    """
    lines = disagreements(layout, host)
    return [*lines, *map(str, foreign(layout, host)), *map(str, ignored(layout))]


def disagreements(layout: Layout, host: settings.Host | None = None) -> list[str]:
    """Return a line for each fault that cron and timers have together."""
    return _disagreements(
        [one for one in starts(layout) if host is None or host.is_wanted(one.job.name)]
    )


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
        words.append(f"both cron and systemd start {', '.join(twice)}: {_CHOOSE}")
    elif len(kinds) > 1:
        words.append(f"cron starts some jobs and systemd others: {_CHOOSE}")
    if never and not kinds:
        words.append(
            "no job is started yet: run appliance start, or appliance schedule cron|systemd"
        )
    elif never:
        words.append(f"nothing starts {', '.join(never)}: run appliance schedule cron|systemd")
    return words


def foreign(layout: Layout, host: settings.Host | None = None) -> Iterator[Problem]:
    """Yield a problem for each foreign starter of a job whose flow is on."""
    for starter in starters.others(layout):
        if host is None or host.is_wanted(starter.job):
            yield _problem(starter)


def _problem(starter: starters.Starter) -> Problem:
    cause = (
        f"starts the job {starter.job} beside the appliance{starter.note};"
        " keep one starter: switch the flow off, or remove this line"
    )
    return Problem(starter.path, starter.line, "", cause)


def refuse_second(job: Job, layout: Layout) -> None:
    """Check that a job has no foreign starter, which would start it twice.

    Without an active table or timer, a line that calls the appliance's own command is allowed:
    earlier releases put such lines into root's table.

    Raises:
        ConfigurationError: There are foreign starters; each is listed.

    """
    # Only then would a line with our command start the job a second time.
    is_ours_active = active_table(job, layout).exists() or is_enabled(job, layout)
    found = [
        starter
        for starter in starters.others(layout)
        if starter.job == job.name and (is_ours_active or not starter.is_wrapped)
    ]
    if found:
        raise ConfigurationError(list(map(_problem, found)))


def ignored(layout: Layout) -> Iterator[Problem]:
    """Yield the reasons why cron ignores tables of jobs."""
    directory = layout.path("/etc/cron.d")
    known = {job.cron for job in JOBS.values()}
    for path in sorted(directory.glob("*")):
        # The installer writes these beside tables that the administrator has changed.
        if path.name.endswith(".fedcloud-new"):
            continue
        if path.is_file() and (path.name in known or tables.starts_ours(path)):
            yield from tables.problems(path)
