"""`caso-extract`: write the usage of the cloud's projects into the spool, as messages."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.core import clock, egi_flags
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.finding import Finding
from appliance.core.run.record import recorded
from caso.cmds import startup
from caso.commands import tables

if TYPE_CHECKING:  # it loads the OpenStack clients
    from caso.project import ProjectOutcome

PROGRAM = "caso-extract"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all accounting programs, and of this one."""
    startup.add_arguments(parser)
    startup.add_since(parser)
    form = parser.add_mutually_exclusive_group()
    words = "with --dry-run, print what would be sent as"
    form.add_argument("--json", action="store_true", help=f"{words} one JSON array")
    form.add_argument("--csv", action="store_true", help=f"{words} CSV (RFC 4180)")
    egi_flags.add_arguments(parser, (egi_flags.CLOUD, egi_flags.PORTAL))


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of what a run reads and writes; it changes nothing."""
    configuration = startup.configure(arguments, keeps_log=False)
    from caso import live_findings  # noqa: PLC0415  loads the OpenStack clients

    yield from live_findings.findings(configuration)
    if arguments.as_egi:
        from caso import egi_check  # noqa: PLC0415

        yield from egi_check.findings(configuration, egi_flags.wanted(arguments))


def extract(arguments: argparse.Namespace) -> ExitStatus:
    """Extract, and write the run record."""
    if arguments.check_config:
        return startup.report_check(startup.configure(arguments))
    with recorded(PROGRAM, None if arguments.dry_run else cli.layout(arguments).runs) as record:
        configuration = startup.configure(arguments)
        has_form = arguments.json or arguments.csv
        record.is_kept = not configuration.is_dry_run and not has_form
        if has_form and not configuration.is_dry_run:
            flag = "--json" if arguments.json else "--csv"
            raise UsageError(flag, "prints what a dry run would send", "add --dry-run")
        from caso import dry_run, run  # noqa: PLC0415  loads the OpenStack clients

        cli.keep_loaded()

        def show(outcomes: Sequence[ProjectOutcome]) -> None:
            tables.show(arguments, dry_run.table(outcomes))

        try:
            record.status = run.run(configuration, record, show=show if has_form else None)
        finally:
            record.add("wall_seconds", (clock.now() - record.started).total_seconds())
    return record.status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return cli.main(
        cli.Program(
            PROGRAM,
            "Write the usage of a cloud's projects as accounting messages for ssmsend.",
            add_arguments,
            extract,
            compatible_status=startup.compatible_status,
            attempts=attempts,
        ),
        argv,
    )
