"""``caso-extract``: turn the usage of the cloud's projects into accounting messages in the spool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from appliance.core.run.record import recorded
from caso.cmds import common

PROGRAM = "caso-extract"


def extract(arguments: argparse.Namespace) -> ExitStatus:
    """Extract, and record what the run did."""
    if arguments.check_config:
        return common.report_check(common.configure(arguments))
    with recorded(PROGRAM, None if arguments.dry_run else cli.layout(arguments).runs) as record:
        configuration = common.configure(arguments)
        record.is_kept = not configuration.is_dry_run
        from caso import run  # noqa: PLC0415  loads the OpenStack clients

        try:
            record.status = run.run(configuration, record)
        finally:
            record.add("wall_seconds", (clock.now() - record.started).total_seconds())
    return record.status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    program = cli.Program(
        PROGRAM,
        "Turns the usage of a cloud's projects into accounting messages for ssmsend.",
        common.add_arguments,
        extract,
        compatible_status=common.compatible_status,
    )
    return cli.main(program, argv)
