"""``appliance logs``: print the log file of a job, or the output of a service from the engine."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime

from appliance.admin import settings
from appliance.admin.inventory import JOBS, SERVICES, UNITS, Job, records
from appliance.admin.runtime import native
from appliance.admin.runtime.engine import Engine
from appliance.admin.service import choose
from appliance.core.run import cli, log, record
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.suggestion import did_you_mean

_TAIL = "/usr/bin/tail"
_NAMES = (*dict.fromkeys([*SERVICES, *UNITS]), *JOBS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    names = ", ".join([*_NAMES])
    parser.add_argument(
        "name",
        nargs="?",
        metavar="SERVICE|JOB",
        help=f"service or job: {names} (default: all jobs)",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="continue to print new lines")
    parser.add_argument(
        "-n",
        "--lines",
        type=int,
        default=50,
        metavar="N",
        help="number of latest lines to print (default: 50)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the latest lines of the log."""
    try:
        return _print(arguments)
    except KeyboardInterrupt:
        if arguments.follow:  # an interrupt is the usual way to end it
            return ExitStatus.DONE
        raise


def _print(arguments: argparse.Namespace) -> ExitStatus:
    layout, name = cli.layout(arguments), arguments.name
    if arguments.lines < 0:
        raise UsageError("-n", "the number of lines is negative", "write 0 or more")
    if name in SERVICES or name in UNITS:
        services = UNITS.get(name, (name,))
        return _of_services(services, layout, lines=arguments.lines, follow=arguments.follow)
    if name is not None and name not in JOBS:
        hint = did_you_mean(name, _NAMES, otherwise=f"write one of {', '.join(_NAMES)}")
        raise UsageError(name, "there is no such service or job", hint)
    # Without a name only jobs: services have no log files, and tail follows files only.
    jobs = [JOBS[name]] if name else list(JOBS.values())
    if settings.load(layout).journal:
        status = native.job_logs(
            [job.name for job in jobs], lines=arguments.lines, follow=arguments.follow
        )
        return ExitStatus.DONE if status == 0 else ExitStatus.NOTHING
    paths = [path for job in jobs if (path := layout.path(f"/var/log/{job.log}")).exists()]
    mentioned = [job.name for job in jobs if _mention_run_by_hand(job, layout)]
    if not paths:
        remedy = "no job has run yet"
        if mentioned:
            remedy = f"appliance run {mentioned[0]} --log runs it again and writes it"
        path = layout.path(f"/var/log/{JOBS[(mentioned or [jobs[0].name])[0]].log}")
        raise Unavailable(path, "does not exist", remedy)
    return _of_files([str(path) for path in paths], lines=arguments.lines, follow=arguments.follow)


def _of_files(paths: Sequence[str], *, lines: int, follow: bool) -> ExitStatus:
    # With -F, tail opens the new file after a rotation.
    done = subprocess.run(
        [_TAIL, "-n", str(lines), *(["-F"] if follow else []), "--", *paths], check=False
    )
    return ExitStatus.DONE if done.returncode == 0 else ExitStatus.NOTHING


def _mention_run_by_hand(job: Job, layout: Layout) -> bool:
    """Print where the output of the last run is, if that is not the log file; return whether."""
    last = record.read(f"job-{job.name}", records(layout))
    begun, ended = ((last or {}).get(name) for name in ("started", "ended"))
    try:
        written = layout.path(f"/var/log/{job.log}").stat().st_mtime
    except OSError:
        written = 0.0
    try:
        is_missed = (
            isinstance(begun, str) and datetime.fromisoformat(begun).timestamp() > written + 1
        )
    except ValueError:
        return False
    if is_missed:
        print(
            f"# {job.name}: the last run, which ended {ended}, wrote to the terminal it was"
            " started from",
            flush=True,
        )
    return is_missed


def _of_services(
    services: Sequence[str], layout: Layout, *, lines: int, follow: bool
) -> ExitStatus:
    """Print why services do not run with their configuration, and their output."""
    host = settings.load(layout)
    if host.is_native:
        status = native.logs(services, lines=lines, follow=follow)
        return ExitStatus.DONE if status == 0 else ExitStatus.NOTHING
    unit = SERVICES[services[0]]
    decision = choose.read(unit, layout)
    faults = [
        line for service in services for line in decision.choices[service].lines(service, unit)
    ]
    for line in faults:
        print(log.one_line(log.redact(f"! {line}")), flush=True)
    with Engine(host.socket) as engine:
        if follow and len(services) > 1:
            return _followed(engine, services, lines=lines)
        missing = 0
        for service in services:
            if len(services) > 1:
                print(f"==> {service} <==", flush=True)
            try:
                _write(engine.logs(service, lines=lines, follow=follow))
            except Unavailable as error:
                if not faults and len(services) == 1:
                    raise
                missing += 1
                print(f"{service}: {error.cause}", flush=True)
    return ExitStatus.NOTHING if missing == len(services) and not faults else ExitStatus.DONE


def _followed(engine: Engine, services: Sequence[str], *, lines: int) -> ExitStatus:
    """Print the latest output of several services, and continue as new output arrives."""
    # The engine has one endless stream for each container, so each needs a thread.
    threads = [
        threading.Thread(
            target=_write, args=(engine.logs(service, lines=lines, follow=True),), daemon=True
        )
        for service in services
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ExitStatus.DONE


def _write(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


VERB = cli.Program("logs", "Print the log of a job or a service.", add_arguments, run)
