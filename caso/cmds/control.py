"""`caso`: show how far accounting has come, and the batches that wait."""

from __future__ import annotations

import argparse

from appliance.core import clock, lastrun
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from caso.checkpoint import Checkpoints
from caso.cmds import mapping_migrate, projects, startup


def _show_checkpoints(arguments: argparse.Namespace) -> ExitStatus:
    """Print each checkpoint file with its time and age, and each unfinished batch.

    A broken file or an unfinished batch makes the exit status 1.
    """
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    checkpoints, at, status = (
        Checkpoints(configuration.spool),
        clock.now().replace(microsecond=0),
        ExitStatus.DONE,
    )
    for path in sorted(configuration.spool.glob("lastrun*")):
        try:
            moment = lastrun.read(path)
        except ValueError:
            print(f"{path.name}: has no time")
            status = ExitStatus.PARTLY
            continue
        except OSError as error:
            print(f"{path.name}: cannot be read: {(error.strerror or str(error)).lower()}")
            status = ExitStatus.PARTLY
            continue
        if moment is not None:
            end = moment.isoformat(sep=" ", timespec="seconds")
            print(f"{path.name}: accounted up to {end}, {at - moment.replace(microsecond=0)} ago")
    for messenger in [one.open(checkpoints) for one in configuration.messengers]:
        for line in messenger.unusable():
            print(line)
            status = ExitStatus.PARTLY
        for project in messenger.pending():
            print(f"{project}: a batch waits; the next caso-extract moves it to the spool")
            status = ExitStatus.PARTLY
    return status


PROGRAM = cli.Program(
    "caso",
    "Show the state and the projects of accounting.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "checkpoints",
            "Show up to when each project has been accounted.",
            startup.add_arguments,
            _show_checkpoints,
        ),
        # cASO has them as programs, `caso-projects` and `caso-mapping-migrate`.
        cli.Program("projects", projects.SENTENCE, startup.add_arguments, projects.show),
        cli.Program(
            "mapping-migrate",
            mapping_migrate.SENTENCE,
            mapping_migrate.add_arguments,
            mapping_migrate.migrate,
        ),
    ),
)


def main() -> int:
    """Run the program and return its exit status."""
    return cli.main(PROGRAM)
