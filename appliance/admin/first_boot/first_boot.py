"""``appliance first-boot``: take the answers of the machine's user data, and start what they need.

A unit of the machine's image runs it at each boot. It writes the answers to the files of the site,
checks these, and starts services and jobs if the check finds no error. Each step is done once for
the same answers, so that a boot after a power failure continues, and so that later boots never
undo what an administrator has changed since. What is missing goes to standard output, which is the
console of the machine, and to its message of the day (`appliance.admin.motd`).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.check import check
from appliance.admin.configure import configure
from appliance.admin.first_boot.progress import BootProgress
from appliance.admin.first_boot.user_data import ANSWERS, UserData
from appliance.admin.inventory import JOBS, SERVICES
from appliance.admin.schedule import state
from appliance.admin.settings import Host
from appliance.admin.start import start
from appliance.core import files
from appliance.core.run import cli, output
from appliance.core.run.errors import (
    ApplianceError,
    ConfigurationError,
    ExitStatus,
    LocalFailure,
    Problem,
    UsageError,
)
from appliance.core.run.layout import Layout

_LIMIT = 2**20
_AGAIN = (
    "correct it here and run appliance first-boot, or boot a new machine with correct user data"
)


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: the user data says it all."""


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Do what earlier boots have not done yet."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can configure it", "sudo appliance first-boot")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # people watch the console
    with changing.small("first-boot", layout):
        progress = BootProgress.read(layout)
        try:
            return _go_on(progress, layout)
        except ApplianceError as error:
            progress.keep(problems=str(error).splitlines())
            raise


def _go_on(progress: BootProgress, layout: Layout) -> ExitStatus:
    answers = layout.path(ANSWERS)
    try:
        content = files.read_regular(answers, limit=_LIMIT)
    except FileNotFoundError:
        return _without_answers(progress, layout)
    except OSError as error:
        raise LocalFailure.from_os(error) from error
    answers.chmod(0o600)  # cloud-init writes 0644 unless the document says otherwise
    progress.begin(content)
    if progress.is_started:
        progress.keep()
        output.line(f"Configured with {answers}, and started, at an earlier boot")
        return ExitStatus.DONE
    if not progress.is_configured:
        _configure(answers, layout)
        progress.is_configured = True
        progress.keep()
    return _start(progress, layout)


def _without_answers(progress: BootProgress, layout: Layout) -> ExitStatus:
    """Say why the machine is not configured; it is no failure if nobody wanted that.

    Raises:
        ConfigurationError: The user data has errors.

    """
    if configure.is_configured(layout):
        progress.keep()
        output.line("Configured by an administrator; the user data has no answers")
        return ExitStatus.DONE
    given = UserData.read(layout)
    if problem := given.absence():
        raise ConfigurationError([problem])
    why = "has no user data" if given.has_source else "found no metadata service and no drive"
    words = f"Not configured: this machine {why}; log in and run appliance configure"
    progress.keep(problems=[words])
    output.line(words)
    return ExitStatus.PARTLY


def _configure(answers: Path, layout: Layout) -> None:
    """Write the answers to the files of the site.

    Raises:
        ConfigurationError: Answers are wrong; the lines are those of the user data.

    """
    output.line(f"Writing the answers of {answers} to the files of the site")
    try:
        configure.take(answers, layout)
    except ConfigurationError as error:
        given = UserData.read(layout)
        found = [given.located(problem, answers) for problem in error.problems]
        raise ConfigurationError([*found, Problem(answers, 0, "", _AGAIN)]) from error


def _start(progress: BootProgress, layout: Layout) -> ExitStatus:
    """Start services and jobs, unless their configuration has errors."""
    host = settings.load(layout)
    if errors := list(_errors(host, layout)):
        progress.keep(problems=errors)
        for line in errors:
            output.line(line)
        output.line("Nothing is started. Correct this, then: appliance start")
        return ExitStatus.USAGE
    status = start.run(
        argparse.Namespace(root=layout.root, by=None, since=None, check_config=False)
    )
    # Services come back at each boot, and jobs by their schedule: one start is enough.
    progress.is_started = not state.disagreements(layout, host)
    left = ["The start was not complete: appliance status, appliance logs NAME"]
    progress.keep(problems=left if status != ExitStatus.DONE else ())
    return status


def _errors(host: Host, layout: Layout) -> Iterator[str]:
    """Yield what keeps a job or service that is on from working."""
    wanted: Sequence[str] = [
        *(job.name for job in JOBS.values() if job.is_scheduled and host.is_wanted(job.name)),
        *filter(host.is_wanted, SERVICES),
    ]
    report, _ = check.check(host, layout, wanted, is_patient=True)
    for bug in report.bugs:
        raise bug
    yield from (str(one) for one in report.findings if one.is_error)


VERB = cli.Program(
    "first-boot",
    "Configure and start this machine by the answers in its user data.",
    add_arguments,
    run,
)
