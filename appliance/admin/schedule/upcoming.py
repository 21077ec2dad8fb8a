"""The next start of each job: by its line in a table of cron, or by its timer.

Cron's times are those of the host's own zone (crontab(5)): a day fits if the day of the month or
the day of the week does, when both are restricted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from appliance.admin.machine import Machine
from appliance.admin.schedule import cron_times, state, tables
from appliance.core.run.layout import Layout

_LONGEST = 8 * 366
"""Days after which a line has no next start: the 29 February of a leap year is the rarest day."""
_NEXT = "NextElapseUSecRealtime"


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The next start of a job, and the time from there to the one after it."""

    at: datetime
    period: timedelta


def of_jobs(layout: Layout, *, now: datetime, machine: Machine) -> Mapping[str, Upcoming]:
    """Return the next start of each job that something of ours starts."""
    starts = [one for one in state.starts(layout) if one.lines or one.has_timer]
    timers = [state.timer(one.job) for one in starts if not one.lines]
    known = _timers(timers, machine) if timers and layout.root == Path("/") else {}
    found = {}
    for one in starts:
        # Timers have the times of the table that cron does not read meanwhile.
        idle = state.idle_table(one.job, layout)
        lines = one.lines or (tuple(tables.lines(idle)) if idle.exists() else ())
        first = _earliest(lines, now=now)
        second = _earliest(lines, now=first) if first else None
        if first and second:
            by_timer = known.get(state.timer(one.job))
            found[one.job.name] = Upcoming(by_timer or first, second - first)
    return found


def _earliest(lines: Sequence[tables.CronLine], *, now: datetime) -> datetime | None:
    moments = (following(line.times, now=now) for line in lines)
    return min(filter(None, moments), default=None)


def following(times: str, *, now: datetime) -> datetime | None:
    """Return the next time of a line of cron after ``now``, in UTC; None if there is none."""
    try:
        fields = cron_times.fields(times)
    except ValueError:  # `appliance check` names such a line
        return None
    if not fields:  # @reboot
        return None
    minutes, hours, days, months, weekdays = (one.values for one in fields)
    has_either = fields[2].is_restricted and fields[4].is_restricted
    local = now.astimezone().replace(tzinfo=None)
    for day in (local.date() + timedelta(days=number) for number in range(_LONGEST)):
        fits = (day.day in days, day.isoweekday() % 7 in weekdays)
        if day.month in months and (any(fits) if has_either else all(fits)):
            for moment in _moments(day, hours, minutes):
                if moment > local:
                    return moment.astimezone(UTC)
    return None


def _moments(day: date, hours: Sequence[int], minutes: Sequence[int]) -> Iterator[datetime]:
    for hour in hours:
        for minute in minutes:
            yield datetime.combine(day, time(hour, minute))


def _timers(names: Sequence[str], machine: Machine) -> Mapping[str, datetime]:
    """Return the next start of timers, as systemd reports it; it may know none of them."""
    show = ["systemctl", "show", "--timestamp=unix", "-p", "Id", "-p", _NEXT, *names]
    status, shown = machine.ask(show)
    found = {}
    for block in shown.split("\n\n") if status == 0 else ():
        entries = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        number = entries.get(_NEXT, "").removeprefix("@")
        if number.isdecimal() and int(number):
            found[entries.get("Id", "")] = datetime.fromtimestamp(int(number), UTC)
    return found
