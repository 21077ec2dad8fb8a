"""``appliance logs``: the log file of a job, or what a service has said to the engine."""

from __future__ import annotations

import argparse
import difflib
import subprocess
import sys
from collections.abc import Sequence

from appliance.admin import native, settings
from appliance.admin.engine import Engine
from appliance.admin.jobs import JOBS, SERVICES
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout

_TAIL = "/usr/bin/tail"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    names = ", ".join([*SERVICES, *JOBS])
    parser.add_argument("name", nargs="?", metavar="SERVICE|JOB", help=f"{names}; without one, all jobs")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written from now on")
    parser.add_argument("-n", "--lines", type=int, default=50, metavar="N", help="lines of the past; default: 50")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the lines."""
    try:
        return _print(arguments)
    except KeyboardInterrupt:
        if arguments.follow:  # that is how one takes leave
            return ExitStatus.DONE
        raise


def _print(arguments: argparse.Namespace) -> ExitStatus:
    layout, name = cli.layout(arguments), arguments.name
    if arguments.lines < 0:
        raise UsageError("-n", "a number of lines cannot be negative")
    if name in SERVICES:
        return _of_service(name, layout, lines=arguments.lines, follow=arguments.follow)
    if name is not None and name not in JOBS:
        near = difflib.get_close_matches(name, [*SERVICES, *JOBS], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"write one of {', '.join([*SERVICES, *JOBS])}"
        raise UsageError(name, "there is no such service or job", hint)
    jobs = [JOBS[name]] if name else list(JOBS.values())
    paths = [path for job in jobs if (path := layout.path(f"/var/log/{job.log}")).exists()]
    if not paths:
        raise Unavailable(layout.path(f"/var/log/{jobs[0].log}"), "does not exist", "no job has run yet")
    return _of_files([str(path) for path in paths], lines=arguments.lines, follow=arguments.follow)


def _of_files(paths: Sequence[str], *, lines: int, follow: bool) -> ExitStatus:
    # tail opens a file again when it has been rotated
    done = subprocess.run([_TAIL, "-n", str(lines), *(["-F"] if follow else []), "--", *paths], check=False)
    return ExitStatus.DONE if done.returncode == 0 else ExitStatus.NOTHING


def _of_service(service: str, layout: Layout, *, lines: int, follow: bool) -> ExitStatus:
    host = settings.load(layout)
    if host.is_native:
        return ExitStatus.DONE if native.logs(service, lines=lines, follow=follow) == 0 else ExitStatus.NOTHING
    with Engine(host.socket) as engine:
        for piece in engine.logs(service, lines=lines, follow=follow):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    return ExitStatus.DONE


VERB = cli.Program("logs", "Prints what a job or a service has written.", add_arguments, run)
