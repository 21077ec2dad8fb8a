"""``appliance check [NAME ...]``: check the configuration, not the running programs.

Each job and service checks its configuration in its own container, as it would run; then the files
are compared with each other. Nothing is locked or stopped. The only files written are a copy of the
host key on tmpfs, which the check of ssmsend needs, and a note that a service passed
(`appliance.admin.service.kept`). No other host is contacted. Without ``--offline`` the commands
that do contact the cloud are printed in the end.

Exit status: 0 nothing found; 1 findings, listed; 2 usage, or the host's own settings cannot be
read; 3 no program could be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from appliance.admin import inventory, settings
from appliance.admin.check import across, inside, trust
from appliance.admin.check.finding import Finding, identify
from appliance.admin.images import needed
from appliance.admin.run import hostkey
from appliance.admin.runtime.engine import Engine
from appliance.admin.schedule import state
from appliance.admin.service import kept
from appliance.admin.settings import Host
from appliance.core import clock
from appliance.core.config.settings import Value
from appliance.core.run import cli, log
from appliance.core.run.errors import (
    ApplianceError,
    ConfigurationError,
    ExitStatus,
    LocalFailure,
    UsageError,
)
from appliance.core.run.layout import Layout
from appliance.core.suggestion import did_you_mean

_FRESH = 3.0
"""Seconds: an editor may still be writing a file that has changed so recently."""
_PAUSE = 1.0
_ONLINE = (
    (("caso",), "appliance run caso -- --dry-run"),
    (("cloudbdii", "cloud-info"), "appliance run cloud-info"),
    (("cloudkeeper",), "appliance run cloudkeeper -- plan"),
)
"""By the programs that were checked, the command that logs in or fetches, and sends nothing."""


@dataclass(slots=True)
class CheckReport:
    """The findings of a check, and the programs that were checked or are off."""

    findings: list[Finding] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    off: list[str] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Add findings, except those known already with the same place and id."""
        known = {(one.path, one.line, one.identifier) for one in self.findings if one.line}
        self.findings += [
            one for one in findings if (one.path, one.line, one.identifier) not in known
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"jobs and services to check: {', '.join(_names())} "
        " (default: all whose flow is on, except cloud-info)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="do not print the commands that test passwords and other hosts",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Check, and print the findings."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    chosen = list(dict.fromkeys(name for word in arguments.names for name in _members(word)))
    if not host.is_native:
        settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("check", "only root can read all files", "sudo appliance check")
    report = check(host, layout, chosen)
    print(_as_json(report) if arguments.json else _as_text(report))
    if not (arguments.json or arguments.offline):
        for line in _untried(report.asked):
            print(line)
    return ExitStatus.PARTLY if report.findings and report.asked else _empty(report)


def _empty(report: CheckReport) -> ExitStatus:
    return ExitStatus.DONE if report.asked or not report.findings else ExitStatus.NOTHING


def check(host: Host, layout: Layout, chosen: Sequence[str]) -> CheckReport:
    """Check the ``chosen`` jobs and services, or all that run without being asked for."""
    report = CheckReport()
    names = list(chosen) or [name for name in _names() if _is_usual(name)]
    report.off = [host.off(name) for name in names if not host.is_wanted(name)]
    names = [name for name in names if host.is_wanted(name)]
    # fetch-crl has no service: it runs on the host and has no configuration to check.
    services = {name: service for name in names if (service := _service(name))}
    report.add(*across.host_files(host, layout, services=services.values()))
    _ask_all(report, services, host, layout)
    report.add(*across.site_names(report.values), *across.spools(report.values))
    report.add(*across.test_destinations(report.values, host.profile))
    report.add(*across.vo_tables(host, layout, services=services.values()))
    if not chosen:
        report.add(*_schedule(layout, host))
        report.add(*trust.stale_lists(layout, at=clock.now()))
    report.findings.sort(key=lambda one: (not one.is_error, one))
    return report


def _ask_all(report: CheckReport, services: dict[str, str], host: Host, layout: Layout) -> None:
    try:
        # One connection for all checks; without containers there is no engine.
        with contextlib.nullcontext() if host.is_native else Engine(host.socket) as engine:
            for name, service in services.items():
                _progress(name)
                try:
                    answer = _noted(engine, name, service, host, layout)
                except (ApplianceError, OSError) as error:
                    report.add(*_of_failure(name, error))
                else:
                    report.asked.append(name)
                    report.add(*answer.findings)
                    report.values += answer.values
    except ApplianceError as error:
        report.add(inside.of_error("", error, identifier="C04.a"))


def _noted(
    engine: Engine | None, name: str, service: str, host: Host, layout: Layout
) -> inside.CheckAnswer:
    """Check a program; note a service that passes, so that its start does not check it again."""
    if engine is None:
        return patiently(name, service, host, layout)
    image = next(iter(needed.require(engine, host, [service]).values()))
    is_service = name in inventory.SERVICES
    before = kept.take(service, host, layout, image=image) if is_service else None
    answer = patiently(name, service, host, layout)
    # An editor may have replaced a file in between; it is unknown which one was checked.
    if before and answer.is_usable and before == kept.take(service, host, layout, image=image):
        kept.note_check(before, service, layout)
    return answer


def patiently(name: str, service: str, host: Host, layout: Layout) -> inside.CheckAnswer:
    """Check a program; check again if a file with an error is just being written."""
    try:
        answer = _ask(name, service, host, layout)
    except ApplianceError as error:
        # A file that exists now has been replaced meanwhile; any other one is missing.
        if not Path(error.subject).is_absolute() or not Path(error.subject).exists():
            raise
        answer = None  # an editor has just replaced the file by renaming a new one
    if answer is None or any(one.is_error and _is_fresh(one.path) for one in answer.findings):
        time.sleep(_PAUSE)
        answer = _ask(name, service, host, layout)
    return answer


def _ask(name: str, service: str, host: Host, layout: Layout) -> inside.CheckAnswer:
    job = inventory.JOBS.get(name)
    if job is None:
        return inside.ask(name, service, host, layout)
    warnings: list[str] = []
    with hostkey.staged(
        job, layout, at=clock.now(), name=f"check-{name}", warn=warnings.append
    ) as mounts:
        answer = inside.ask(name, service, host, layout, mounts=mounts)
    return replace(
        answer, findings=(*answer.findings, *(trust.of_warning(name, one) for one in warnings))
    )


def _is_fresh(path: str) -> bool:
    try:
        return abs(time.time() - Path(path).stat().st_mtime) < _FRESH
    except OSError:
        return False


def _of_failure(name: str, error: ApplianceError | OSError) -> Iterator[Finding]:
    known = error if isinstance(error, ApplianceError) else LocalFailure.from_os(error)
    if isinstance(known, ConfigurationError):
        for problem in known.problems:
            row = identify(problem.option, problem.text)
            yield Finding(str(problem.path), problem.line, problem.option, problem.text, row, name)
    elif row := trust.row_of(known):
        yield inside.of_error(name, known, identifier=row)
    else:
        yield inside.of_error(name, known, identifier="C04.c" if "image" in known.cause else "C04")


def _schedule(layout: Layout, host: Host) -> Iterator[Finding]:
    if not state.is_installed(layout):
        return
    for line in state.complaints(layout, host):
        row = "C08.e" if line.startswith("both cron") else "C08"
        yield Finding("", 0, "", line, row, is_error=False)


def _names() -> list[str]:
    return [*inventory.JOBS, *inventory.SERVICES]


def _is_usual(name: str) -> bool:
    return name in inventory.SERVICES or inventory.JOBS[name].is_scheduled


def _service(name: str) -> str:
    return name if name in inventory.SERVICES else inventory.JOBS[name].service


def _members(name: str) -> Sequence[str]:
    """Return the job or service of this name, or the services of the unit."""
    if name in _names():
        return [name]
    if name in inventory.UNITS:
        return inventory.UNITS[name]
    known = [*_names(), *inventory.UNITS]
    hint = did_you_mean(name, known, otherwise=f"write one of {', '.join(known)}")
    raise UsageError(name, "there is no such job or service", hint)


def _progress(name: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\rchecking {name} …\x1b[K", end="", file=sys.stderr, flush=True)


def _as_text(report: CheckReport) -> str:
    if sys.stderr is not None and sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    width = max((len(one.program) for one in report.findings), default=0)
    lines = []
    for one in report.findings:
        kind = "error  " if one.is_error else "warning"
        lines.append(
            f"{one.identifier:6} {kind}  {one.program:{width}}  {one}".replace("  " * 2, "  ")
        )
    errors = sum(one.is_error for one in report.findings)
    counts = (
        f"{errors} errors, {len(report.findings) - errors} warnings"
        if report.findings
        else "nothing found"
    )
    asked = ", ".join(report.asked) or "no program could be checked"
    return "\n".join(
        log.one_line(log.redact(line)) for line in [*lines, *report.off, f"{asked}: {counts}"]
    )


def _untried(asked: Sequence[str]) -> Iterator[str]:
    """Yield the commands that contact the cloud and other hosts, and change nothing there."""
    commands = [command for names, command in _ONLINE if set(names) & set(asked)]
    if commands:
        yield "No other host was contacted, no password tried. Commands that do, and send nothing:"
        yield from (f"  {command}" for command in commands)


def _as_json(report: CheckReport) -> str:
    found = [
        {"id" if key == "identifier" else key: value for key, value in asdict(one).items()}
        for one in report.findings
    ]
    tree = {"findings": found, "checked": report.asked, "off": report.off}
    return log.redact(json.dumps(tree, indent=1, ensure_ascii=False))


VERB = cli.Program(
    "check",
    "Check the configuration of jobs and services, without changing anything.",
    add_arguments,
    run,
)
