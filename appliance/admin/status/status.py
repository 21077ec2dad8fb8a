"""``appliance status``: the services, the last run of each program, and what starts the jobs.

Exit status: 0 if every last run was complete, every service is healthy, either cron or systemd
starts each job, and the images are not stale; 1 if not, with a line for each fault; 3 if no program
has run yet and no service is installed. Flows that are off are shown as such and have no faults.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from appliance.admin import inventory, settings
from appliance.admin.schedule import state
from appliance.admin.status import age, destinations, information, one_each, reach, services
from appliance.admin.status.services import Services
from appliance.core import clock, files
from appliance.core.run import cli, log, record
from appliance.core.run.errors import ExitStatus, LocalFailure, Unavailable
from appliance.core.run.layout import Layout

_MOMENT = "_timestamp_seconds"
"""The end of the name of a figure that is a moment: for Prometheus, not for people."""
_MOST_NOTES = 20
"""Lines behind the figures of a program that are printed."""
_WORDS = {
    ExitStatus.DONE: "done",
    ExitStatus.PARTLY: "partly",
    ExitStatus.USAGE: "misconfigured",
    ExitStatus.NOTHING: "failed",
    ExitStatus.BUG: "broken",
}


@dataclass(frozen=True, slots=True)
class Last:
    """The last run of a program, from its record."""

    program: str
    ended: datetime | None
    status: ExitStatus | None
    last_success: datetime | None
    counts: Mapping[str, float]
    notes: Sequence[str]
    failures: Sequence[str]
    is_off: bool = False
    """Whether its flow is off, so that the result of its last run does not matter."""

    @property
    def is_well(self) -> bool:
        """Return whether it was complete, or its flow is off."""
        return self.is_off or self.status is ExitStatus.DONE

    @property
    def word(self) -> str:
        """Return the word for it in the table."""
        if self.is_off:
            return services.OFF
        return _WORDS[self.status] if self.status is not None else "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the records and the state of the services as JSON",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the state of services and jobs; return the exit status."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    directory, found_services = layout.runs, services.look(layout, host)
    records, unusable = last_records(layout)
    found = {path.stem: record_ for path, record_ in records.items()}
    off = {path.stem for path in records if _is_off(path, host)}
    if not found and found_services is None:
        raise Unavailable(directory, "no program has run yet", "see appliance schedule")
    schedule, images = _schedule(layout, host), age.of_images(host, today=clock.now().date())
    runs = [
        _last(program, record_, is_off=program in off)
        for program, record_ in sorted(one_each.one_a_job(found).items())
    ]
    reached = reach.of_bdii(host, found_services)
    published = information.of_file(layout, host, now=clock.now())
    sent_to = destinations.of_sender(layout, host, found, now=clock.now())
    complaints = [
        *(schedule or ()),
        *unusable,
        *([images.complaint] if images and images.complaint else []),
    ]
    complaints += reached.complaints if reached else []
    complaints += [published.complaint] if published and published.complaint else []
    complaints += [one.complaint for one in sent_to if one.complaint]
    complaints += destinations.unread(layout, host)
    if arguments.json:
        beside = {
            "services": found_services and found_services.as_json(),
            "compose": found_services and found_services.compose,
            "faults": (found_services and found_services.faults) or None,
            "schedule": schedule,
            "images": images and images.as_json(),
            "off": [flow for flow, is_on in host.flows.items() if not is_on] or None,
            "unusable": unusable or None,
            "reach": reached and reached.as_json(),
            "information": published and published.as_json(),
            "destinations": [one.as_json() for one in sent_to] or None,
        }
        known = {name: value for name, value in beside.items() if value is not None}
        print(json.dumps(found | known, indent=1, ensure_ascii=False))
    else:
        if found_services is not None:
            print(_services_table(found_services, at=clock.now()))
        if images is not None and not images.complaint:
            print(images)
        if reached is not None:
            print(reached)
        if published is not None and not published.complaint:
            print(published)
        for one in sent_to:
            if not one.complaint:
                print(log.one_line(str(one)))
        for line in complaints:
            print(f"! {log.one_line(line)}")
        print(
            _table(runs, at=clock.now(), directory=directory)
            if runs
            else f"No program has run yet: {directory}"
        )
    is_well = (found_services is None or found_services.are_well) and not complaints
    return ExitStatus.DONE if is_well and all(last.is_well for last in runs) else ExitStatus.PARTLY


def _is_off(path: Path, host: settings.Host) -> bool:
    """Return whether a record belongs to a program whose flow is off."""
    flow = inventory.flow_of_record(path.stem, path.parent.name)
    return flow is not None and not host.flows[flow]


def last_records(layout: Layout) -> tuple[dict[Path, Mapping[str, object]], list[str]]:
    """Return the last record of each program, and a line for each unusable file.

    Each container writes into a directory of its own. A program may have run in two of them, as
    cloudkeeper-os does when cloudkeeper works in direct mode: its later run counts. The records of
    jobs, which root writes, come last, and no other record replaces them.
    """
    if not layout.runs.exists():
        return {}, []
    kinds = (".json", ".prom", ".tmp")
    below = files.listed(layout.runs, lambda name: not name.endswith(kinds), directories=True)
    own = inventory.records(layout)
    found: dict[str, tuple[Path, Mapping[str, object]]] = {}
    unusable = [str(line) for line in below.skipped.values()]
    # False sorts before True: root's own directory is the last.
    for directory in (layout.runs, *sorted(below.paths, key=own.__eq__)):
        records, broken = record.load_all(directory)
        for path, tree in records.items():
            known = found.get(path.stem)
            if directory == own or not known or _age_of(tree) <= _age_of(known[1]):
                found[path.stem] = path, tree
        unusable += broken
    return dict(found.values()), unusable


def _age_of(tree: Mapping[str, object]) -> timedelta:
    """Return the time since the end of a run; a time that cannot be right counts as the oldest."""
    ended, now = _moment(tree.get("ended")), clock.now()
    return now - ended if ended and ended <= now else timedelta.max


def _schedule(layout: Layout, host: settings.Host) -> list[str] | None:
    """Return the complaints of `appliance schedule`; None if no table or timer is installed."""
    try:
        return state.complaints(layout, host) if state.is_installed(layout) else None
    except OSError as error:  # only root can read root's table
        return [str(LocalFailure.from_os(error))]


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


def _last(program: str, tree: Mapping[str, object], *, is_off: bool) -> Last:
    counts, failures, status = tree.get("counts"), tree.get("failures"), tree.get("status")
    notes = tree.get("notes")
    return Last(
        program=program,
        ended=_moment(tree.get("ended")),
        status=ExitStatus(status)
        if isinstance(status, int) and status in set(ExitStatus)
        else None,
        last_success=_moment(tree.get("last_success")),
        counts=counts if isinstance(counts, dict) else {},
        failures=[str(line) for line in failures] if isinstance(failures, list) else [],
        notes=list(_notes(notes)) if isinstance(notes, dict) else [],
        is_off=is_off,
    )


def _notes(notes: Mapping[object, object]) -> Iterator[str]:
    for name, lines in notes.items():
        for line in lines if isinstance(lines, list) else []:
            yield f"{str(name).replace('_', ' ')}: {line}"


def _moment(text: object) -> datetime | None:
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


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


VERB = cli.Program(
    "status",
    "Print the state of the services and the last run of each program.",
    add_arguments,
    run,
)
