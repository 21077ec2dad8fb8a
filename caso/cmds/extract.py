"""``caso-extract``: turn the usage of the cloud's projects into accounting messages in the spool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError, ExitStatus, LocalFailure
from appliance.core.run.record import RunRecord
from caso.cmds import common

PROGRAM = "caso-extract"


def extract(arguments: argparse.Namespace) -> ExitStatus:
    """Extract, and record what the run did."""
    configuration = common.configure(arguments)
    if arguments.check_config:
        return common.report_check(configuration)
    from caso import run  # noqa: PLC0415  loads the OpenStack clients

    record = RunRecord(PROGRAM)
    status = ExitStatus.BUG
    try:
        status = run.run(configuration, record)
    except (ApplianceError, OSError) as error:
        known = error if isinstance(error, ApplianceError) else LocalFailure.from_os(error)
        record.fail(str(known))
        status = known.status
        raise known from error
    except KeyboardInterrupt:
        status = ExitStatus.NOTHING
        raise
    finally:
        record.add("wall_seconds", (clock.now() - record.started).total_seconds())
        if not configuration.is_dry_run:
            record.close(status, cli.layout(arguments).runs)
    return status


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
