"""``cloudkeeper sync``: update the images in the cloud; the verb of cron and of 1.7.1."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator

from appliance.core import clock
from appliance.core.run import cli, lock, output
from appliance.core.run.errors import ExitStatus
from appliance.core.run.finding import Finding
from appliance.core.run.record import RunRecord, recorded
from cloudkeeper.frontend import settings
from cloudkeeper.frontend.commands import plan, startup
from cloudkeeper.frontend.settings import FrontendSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the changes that sync would make, as plan does, and make none",
    )
    parser.add_argument("--json", action="store_true", help="print the changes as JSON")
    startup.add_allowance(parser)
    startup.add_reconversion(parser)
    startup.add_filter(parser)
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Update the images, or only check the configuration."""
    if arguments.check_config:
        return startup.report_check(startup.configure(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    if arguments.dry_run:
        return plan.show(startup.configure(arguments, is_reading=True), arguments)
    # The record is that of complete runs: with a filter, its figures would be those of a part.
    runs = None if startup.chosen(arguments) else cli.layout(arguments).runs
    with recorded(startup.PROGRAM, runs) as record:
        record.status = _synchronise(startup.configure(arguments), arguments, record)
    return record.status


def attempts(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield the faults of sources, of the backend, and of the images in the cloud."""
    layout = cli.layout(arguments)
    configured = settings.load(arguments, layout)
    from cloudkeeper.frontend import live_check  # noqa: PLC0415  loads gRPC

    yield from live_check.findings(configured, state=layout.path(startup.STATE))


def _synchronise(
    configured: FrontendSettings, arguments: argparse.Namespace, record: RunRecord
) -> ExitStatus:
    """Create the parts of a run and run them, one run at a time."""
    # Imported here: gRPC and requests take long to import, and --help needs neither.
    from cloudkeeper.frontend.commands import assembly, sync_output  # noqa: PLC0415

    report = assembly.report(configured)
    sync_output.record(report, record)  # now, so that the record holds them however the run ends
    state = cli.layout(arguments).path(startup.STATE)
    with (
        lock.hold(configured.lock_file),
        assembly.remote_images(configured) as remote,
        assembly.backend(configured) as backend,
    ):
        run = assembly.synchronisation(
            configured,
            backend,
            state=state,
            allowed=arguments.allow_remove,
            reconverts=arguments.reconvert,
            chosen=startup.chosen(arguments),
            remote=remote,
        )
        try:
            with run.progress.displayed(sys.stderr):
                run.run(report, at=clock.now())
        finally:
            sync_output.record(report, record)
    if arguments.json:
        sync_output.show(report)
    else:
        for line in report.notes:
            output.line(line)
    return ExitStatus.PARTLY if report.failures else ExitStatus.DONE


VERB = cli.Program(
    "sync",
    "Update the images in the cloud; the default without a verb.",
    add_arguments,
    run,
    attempts=attempts,
    attempted_row="C60",
)
