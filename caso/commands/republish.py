"""`caso republish`: send a month again, also where that takes delivered hours back."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from appliance.core.run import cli, place
from appliance.core.run.errors import ApplianceError, ExitStatus
from appliance.core.run.record import RunRecord
from caso.cmds import startup
from caso.commands import amounts, months
from caso.ledger.model import Month, month_text
from caso.settings import CasoConfiguration

if TYPE_CHECKING:  # it loads the OpenStack clients
    from caso.republish import Change, ComparedProject

_NAME = "caso republish"
_NO_REASON = "no reason given"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument(
        "--month",
        type=months.numbered,
        required=True,
        metavar="MONTH",
        help="month to send, like 2026-10",
    )
    parser.add_argument(
        "--project",
        action="append",
        default=[],
        metavar="PROJECT",
        help="name or id of a project; may be repeated (default: all that are accounted)",
    )
    parser.add_argument(
        "--allow-decrease",
        action="store_true",
        help="send the month, even records with less use than before (default: only print changes)",
    )
    parser.add_argument(
        "--reason", default=_NO_REASON, metavar="TEXT", help="why; the ledger keeps it"
    )


def _republish(arguments: argparse.Namespace) -> ExitStatus:
    """Print what changes for each thing; with ``--allow-decrease`` send the month."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    from caso import republish  # noqa: PLC0415  loads the OpenStack clients

    is_sent = arguments.allow_decrease and not configuration.is_dry_run
    configuration = republish.of_month(configuration, arguments.month)
    names: list[str] = arguments.project
    failures: list[ApplianceError] = []
    done = 0
    record = RunRecord(_NAME)
    for compared in republish.compare(configuration, arguments.month, names, record):
        print("\n".join(_lines(compared, arguments.month)))
        failures += compared.failures
        done += not compared.failures
    failures += [ApplianceError("", line) for line in record.failures]
    if is_sent:
        more = _send(configuration, arguments.month, names, arguments.reason)
        failures = [*failures, *more]
    else:
        print(f"nothing was written; to send these amounts: {_command(arguments)}")
    for line in dict.fromkeys(map(str, failures)):
        cli.report(_NAME, ApplianceError("", line))
    if not failures:
        return ExitStatus.DONE
    return ExitStatus.PARTLY if done else ExitStatus.NOTHING


def _send(
    configuration: CasoConfiguration, month: Month, names: Sequence[str], reason: str
) -> Iterator[ApplianceError]:
    """Send the month, print what was sent, and yield what failed."""
    from caso import republish  # noqa: PLC0415

    for outcome in republish.send(configuration, month, names, RunRecord(_NAME), reason=reason):
        yield from outcome.failures
        yield from (ApplianceError("", line) for line in outcome.tally.refused)
        if not outcome.failures:
            sent = outcome.tally.records.items()
            records = sum(count for (of, _), count in sent if of == month_text(month))
            print(
                f"{outcome.selected.project}: {month_text(month)} sent again: {records} records,"
                f" {outcome.messages} messages"
            )
        if outcome.bug:
            raise outcome.bug


def _command(arguments: argparse.Namespace) -> str:
    words = ["republish", "--month", month_text(arguments.month)]
    for name in arguments.project:
        words += ["--project", name]
    return place.command("caso", "caso", *words, "--allow-decrease", "--reason", "TEXT")


def _lines(compared: ComparedProject, month: Month) -> Iterator[str]:
    for stream, changes in compared.changes.items():
        lead = f"{compared.selected.project}: {month_text(month)}, {stream.kind} to"
        yield f"{lead} {stream.destination}"
        for change in changes:
            yield f"  {change.key}  {_change(stream.kind, change)}"
        yield f"  {_sum(stream.kind, changes)}"


def _change(kind: str, change: Change) -> str:
    delivered = "nothing" if change.delivered is None else amounts.text(kind, change.delivered)
    if change.now is None:
        return f"delivered {delivered}, no longer in the cloud: stays"
    now, difference = amounts.text(kind, change.now), amounts.text(kind, change.difference)
    return f"delivered {delivered}, now {now}: {'+' * (change.difference >= 0)}{difference}"


def _sum(kind: str, changes: Iterable[Change]) -> str:
    known = [change for change in changes if change.now is not None]
    delivered = amounts.text(kind, sum(change.delivered or 0 for change in known))
    now = amounts.text(kind, sum(change.now or 0 for change in known))
    difference = sum(change.difference for change in known)
    return (
        f"sum of {len(known)}: delivered {delivered}, now {now}:"
        f" {'+' * (difference >= 0)}{amounts.text(kind, difference)}"
    )


VERB = cli.Program(
    "republish",
    "Show what sending a month again would change, and send it.",
    _add_arguments,
    _republish,
)
