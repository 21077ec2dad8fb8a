"""`caso gaps`: list what was not delivered, or only as an estimate, and extract it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import datetime

from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError, ExitStatus
from appliance.core.run.record import RunRecord
from caso.cmds import startup
from caso.commands import amounts
from caso.ledger.model import DeliveredRow, Span, Stream, month_text
from caso.settings import CasoConfiguration

_NAME = "caso gaps"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument("--fill", action="store_true", help="extract the times that are missing")
    parser.add_argument(
        "--unknown",
        action="store_true",
        help="with --fill, extract also the times that another program delivered",
    )


def _show(arguments: argparse.Namespace) -> ExitStatus:
    """Print the gaps; a gap or an estimate makes the exit status 1."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    is_filled = arguments.fill and not configuration.is_dry_run
    failures = list(_fill(configuration, unknown=arguments.unknown)) if is_filled else []
    for line in dict.fromkeys(map(str, failures)):
        cli.report(_NAME, ApplianceError("", line))
    is_complete = _print(configuration)
    return ExitStatus.DONE if is_complete and not failures else ExitStatus.PARTLY


def _fill(configuration: CasoConfiguration, *, unknown: bool) -> Iterator[ApplianceError]:
    """Extract what is missing, print what was sent, and yield what failed."""
    from caso import gaps, run  # noqa: PLC0415  loads the OpenStack clients

    record = RunRecord(_NAME)
    for outcome in gaps.fill(configuration, record, unknown=unknown):
        yield from outcome.failures
        lines = [*outcome.tally.refused, *run.withheld_lines(outcome)]
        yield from (ApplianceError("", line) for line in lines)
        if outcome.window is not None and not outcome.failures:
            window = Span(outcome.window.start, outcome.window.end)
            records = outcome.tally.records.total()
            print(f"{outcome.selected.project}: {_of(window)}: {records} records sent")
        if outcome.bug:
            raise outcome.bug
    yield from (ApplianceError("", line) for line in record.failures)


def _print(configuration: CasoConfiguration) -> bool:
    """Print what the ledger lacks, and return whether nothing is missing."""
    from caso.ledger.ledger import Ledger  # noqa: PLC0415  loads SQLite

    is_complete = True
    with Ledger(configuration.ledger, read_only=True) as ledger:
        for stream, reached in ledger.windows.all().items():
            for span in reached.gaps():
                print(f"{_name(stream)}: {_of(span)}: not delivered")
                is_complete = False
            for span in reached.unknown():
                print(f"{_name(stream)}: {_of(span)}: delivered without this ledger")
        for row in ledger.deliveries.estimated():
            print(_estimate(row))
            is_complete = False
        for one in ledger.deliveries.decreases():
            lead = f"{_name(one.stream)}: {month_text(one.month)}: {one.key}"
            less = amounts.text(one.stream.kind, one.before - one.after)
            print(f"{lead}: {less} taken back on {_time(one.at)}: {one.reason}")
    return is_complete


def _estimate(one: DeliveredRow) -> str:
    row = one.row
    return (
        f"{_name(one.stream)}: {month_text(row.month)}: {row.key}: estimated, because it vanished;"
        f" closed when it was seen last, at {_time(row.measured)}"
    )


def _name(stream: Stream) -> str:
    origin = stream.origin
    where = f"{origin.project} in {origin.region}" if origin.region else origin.project
    return f"project {where}, {stream.kind} to {stream.destination}"


def _of(span: Span) -> str:
    begin = _time(span.start) if span.start.timestamp() > 0 else "the beginning"
    return f"from {begin} to {_time(span.end)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


VERB = cli.Program(
    "gaps",
    "List the times that were not delivered, and what is an estimate.",
    _add_arguments,
    _show,
)
