"""``appliance migrate``: take over an earlier release of the appliance, or plain upstream files.

Without ``--apply`` it prints the plan and changes nothing. A file that is wrong does not stop the
others: it is named with its line, and so is what only a person can do. A second run has nothing
left to do.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.migrate import apply, plan
from appliance.admin.migrate.forms import sender
from appliance.admin.migrate.plan import MigrationPlan
from appliance.admin.migrate.workspace import Workspace
from appliance.core.run import cli
from appliance.core.run.errors import Busy, ExitStatus, UsageError
from appliance.core.run.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="root of the earlier set-up, a copy of it or of its /etc, or the directory of a site's"
        " file of EGI's catch-all (default: this host itself)",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="carry the plan out (default: print it, and change nothing)",
    )
    parser.add_argument(
        "--destination",
        type=_destination,
        metavar="PLACE",
        help="where messages go if a test queue was in use: ams (EGI), stomp://HOST:PORT/queue/NAME"
        " or keep",
    )


def _destination(text: str) -> str:
    if text in (sender.AMS, sender.KEEP) or sender.STOMP.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r}: write ams, stomp://HOST:PORT/queue/NAME or keep")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the plan; with ``--apply`` carry it out. `ExitStatus.PARTLY` if something is left."""
    layout = cli.layout(arguments)
    settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if arguments.apply and os.geteuid() != 0:
        raise UsageError("appliance", "only root can migrate it", "sudo appliance migrate --apply")
    source: Path = (arguments.source or layout.root).absolute()
    if not source.is_dir():
        raise UsageError("--from", f"{source} is not a directory", "name the root of a copy")
    answer = arguments.destination or ""
    if not arguments.apply:
        return _show(_planned(source, layout, answer)[1])
    with changing.alone(layout):
        return _apply(source, layout, answer)


def _planned(source: Path, layout: Layout, answer: str) -> tuple[Workspace, MigrationPlan]:
    work = Workspace(source, layout, destination=answer)
    return work, plan.make(work)


def _show(made: MigrationPlan) -> ExitStatus:
    for line in plan.lines(made):
        print(line)
    for container in made.containers.running:
        print(f"! container {container}: still runs a job of the earlier release; wait for its end")
    is_open = made.findings or made.questions or made.containers.running or made.containers.others
    if made.is_empty:
        print("Nothing is left to change.")
    elif not made.questions:
        print("Nothing has been changed. Next: the same command with --apply")
    return ExitStatus.PARTLY if is_open else ExitStatus.DONE


def _apply(source: Path, layout: Layout, answer: str) -> ExitStatus:
    work, made = _planned(source, layout, answer)
    for line in plan.lines(made):
        print(line)
    if made.questions:
        raise UsageError("--destination", "must be given", "; ".join(made.questions))
    if made.containers.running:
        names = ", ".join(map(str, made.containers.running))
        raise Busy(names, "still runs a job of the earlier release", "run this again when it ended")
    if made.is_empty:
        print("Nothing is left to change.")
    for line in () if made.is_empty else apply.run(made, work):
        print(line, flush=True)
    print("Next: appliance check --offline, appliance start")
    is_open = made.findings or made.containers.others
    return ExitStatus.PARTLY if is_open else ExitStatus.DONE


VERB = cli.Program(
    "migrate",
    "Take over an earlier release of the appliance, or plain upstream files.",
    add_arguments,
    run,
)
