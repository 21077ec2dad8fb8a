"""The starters of the jobs: cron, timers, and lines of others; and jobs that did not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from appliance.admin import inventory
from appliance.admin.check.probe import CheckedSite
from appliance.admin.schedule import state, tables
from appliance.core import json_file
from appliance.core.run.errors import Problem
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_ROWS = (
    ("C08.b", r"sixth field"),
    (
        "C08.c",
        r"ignores the whole file|others can write|for its name|root does not own|CR LF|% ends",
    ),
)
_DAY = timedelta(days=1)
_LARGEST = 2**20
"""Bytes of a run record."""
_CRONS = ("cron", "crond", "cronie")


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each fault in the starters of the jobs (C08.b, c, d, e)."""
    if not state.is_installed(site.layout):
        return
    for problem in state.ignored(site.layout):
        row = next((row for row, words in _ROWS if re.search(words, problem.text)), "C08")
        yield _of(problem, row)
    for problem in state.foreign(site.layout, site.host):
        yield _of(problem, "C08.d")
    for line in state.disagreements(site.layout, site.host):
        row = "C08.e" if line.startswith("both cron") else "C08"
        yield Finding("", 0, "", line, row, is_error=False)


def _of(problem: Problem, row: str) -> Finding:
    path, line = str(problem.path), problem.line
    return Finding(path, line, problem.option, problem.text, row, is_error=False)


def starter(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if tables of jobs are active, and cron does not run (C08.a)."""
    machine = site.machine
    tables = [one for one in state.starts(site.layout) if one.lines]
    if tables and machine.has_systemd and not any(map(machine.is_active, _CRONS)):
        path = state.active_table(tables[0].job, site.layout)
        text = (
            "cron does not run, so it starts no job; systemctl enable --now cron, or use timers:"
            " appliance schedule systemd"
        )
        yield Finding(str(path), 0, "", text, "C08.a", tried="systemctl is-active cron")


def runs(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each job that has not run for two of its periods (C08.f)."""
    for one in state.starts(site.layout):
        job = one.job
        if not (one.lines or one.has_timer) or not site.host.is_wanted(job.name):
            continue
        period = _period_of(one, site.layout)
        last = _last_run(site, job)
        if last is not None and site.now - last > 2 * period:
            hours = round((site.now - last).total_seconds() / 3600)
            path = inventory.records(site.layout) / f"job-{job.name}.json"
            text = (
                f"the job {job.name} last began {hours} hours ago, and is to run every"
                f" {_words(period)}; see appliance logs {job.name}"
            )
            yield Finding(str(path), 0, "", text, "C08.f", is_error=False, tried="its run record")


def period(name: str, layout: Layout) -> timedelta:
    """Return the longest time between two starts of a job; a day if nothing of ours starts it."""
    found = (_period_of(one, layout) for one in state.starts(layout) if one.job.name == name)
    return next(found, _DAY)


def _period_of(start: state.Starts, layout: Layout) -> timedelta:
    # A timer starts the job at the times of the table that cron does not read now.
    table = state.idle_table(start.job, layout)
    lines = start.lines or (tables.lines(table) if table.exists() else ())
    return max((_period(line.times) for line in lines), default=_DAY)


def _last_run(site: CheckedSite, job: inventory.Job) -> datetime | None:
    path = inventory.records(site.layout) / f"job-{job.name}.json"
    try:
        return datetime.fromisoformat(json_file.read(path, limit=_LARGEST)["started"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # it has never run, or `appliance status` reports the broken record


def _period(times: str) -> timedelta:
    """Return the longest time between two starts of a cron line, roughly: an hour, a day, a week.

    ``14 * * * *``, ``30 */6 * * *``, ``@daily``.
    """
    words = times.split()
    if words[0].startswith("@"):
        named = {"@hourly": timedelta(hours=1), "@weekly": 7 * _DAY, "@monthly": 31 * _DAY}
        return named.get(words[0], _DAY)
    minute, hour, day, month, weekday = words
    if month != "*":
        return 366 * _DAY
    if day != "*":
        return 31 * _DAY
    if weekday != "*":
        return 7 * _DAY
    if hour == "*":
        return timedelta(hours=1) if "*" not in minute or "/" in minute else timedelta(minutes=1)
    step = re.fullmatch(r"(?:\*|\d+-\d+)/(\d+)", hour)
    return timedelta(hours=int(step[1])) if step else _DAY


def _words(period: timedelta) -> str:
    hours = round(period.total_seconds() / 3600)
    if hours <= 1:
        return "hour"
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"  # noqa: PLR2004  two days
