"""Who starts the jobs of a site: tables in ``/etc/cron.d`` or enabled timers.

A table that does not count lies in ``/etc/fedcloud/cron.d``, with whatever the administrator has changed in it. What
starts jobs beside the two (root's own table, as in the releases of 2019 to 2022; a copy under another name) is foreign:
with it a job would run twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.jobs import JOBS, Job
from appliance.admin.schedule import tables
from appliance.core.run.errors import Problem
from appliance.core.run.layout import Layout


@dataclass(frozen=True, slots=True)
class Starts:
    """What starts one job: the lines of its table that counts, and whether its timer is enabled."""

    job: Job
    lines: tuple[tables.Line, ...]
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


def foreign(layout: Layout) -> Iterator[Problem]:
    """Yield lines that start a job of ours from where they do not belong."""
    known = {active_table(job, layout) for job in JOBS.values()}
    crontabs = layout.path("/var/spool/cron/crontabs") / "root", layout.path("/etc/crontab")
    directory = layout.path("/etc/cron.d")
    others = [path for path in sorted(directory.glob("*")) if path not in known and path.is_file()]
    for path in (*others, *filter(Path.exists, crontabs)):
        for line in tables.lines(path, has_user=path != crontabs[0]):
            if line.is_ours and not (path in others and list(tables.problems(path))):
                cause = "starts a job of the appliance a second time; remove this line"
                yield Problem(path, line.number, "", cause)


def ignored(layout: Layout) -> Iterator[Problem]:
    """Yield why cron ignores a table that was meant to start a job of ours."""
    directory = layout.path("/etc/cron.d")
    known = {job.cron for job in JOBS.values()}
    for path in sorted(directory.glob("*")):
        if path.name.endswith(".fedcloud-new"):  # an upgrade's, beside a table that the administrator has changed
            continue
        if path.is_file() and (path.name in known or tables.starts_ours(path)):
            yield from tables.problems(path)
