"""`caso-projects`: show the projects that are accounted, and their VOs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from caso.cmds import startup

PROGRAM = "caso-projects"
SENTENCE = "Show the projects that are accounted, and their VOs."


def show(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each project in cASO's form, and failures to standard error."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    from appliance.core.cloud.session import Cloud  # noqa: PLC0415  loads the OpenStack clients
    from caso.selection import select  # noqa: PLC0415

    selected, failures = select(Cloud(configuration.access), configuration)
    for item in selected:
        print(f"'{item.aliases[0]} ({item.project.name}) mapped to VO '{item.vo}'")
    for error in failures:
        cli.report(PROGRAM, error)
    if not failures:
        return ExitStatus.DONE
    return ExitStatus.PARTLY if selected else ExitStatus.NOTHING


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            PROGRAM,
            SENTENCE,
            startup.add_arguments,
            show,
            compatible_status=startup.compatible_status,
        ),
        argv,
    )
