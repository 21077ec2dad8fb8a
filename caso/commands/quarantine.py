"""`caso quarantine`: list, show and send what the repository would have refused."""

from __future__ import annotations

import argparse

from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError, ExitStatus
from appliance.core.run.record import RunRecord
from caso import quarantine
from caso.cmds import startup
from caso.kinds.registry import KINDS
from caso.quarantine import RefusedRecord

_NAME = "caso quarantine resend"


def _add_name(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument("name", metavar="RECORD", help="name of a record, from the list")


def _add_names(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="RECORD",
        help="name of a record, from the list (default: all)",
    )


def _list(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each record and the sums; the exit status is 1 if there are any."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    held = list(quarantine.entries(configuration.quarantine))
    for entry in held:
        print(_line(entry))
    print(f"held: {quarantine.summary(held)}" if held else "the quarantine is empty")
    return ExitStatus.PARTLY if held else ExitStatus.DONE


def _line(entry: RefusedRecord) -> str:
    about = [entry.month, f"project {entry.project}" if entry.project else ""]
    if entry.amount is not None and entry.kind in KINDS:
        about.append(KINDS[entry.kind].describe(entry.amount))
    known = ", ".join(word for word in about if word)
    return f"{entry.name}: {entry.kind or 'of an earlier version'}: {entry.reason}" + (
        f" ({known})" if known else ""
    )


def _show(arguments: argparse.Namespace) -> ExitStatus:
    """Print a record as it would be sent, or the service's description of the thing."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    from caso import resend  # noqa: PLC0415  loads the OpenStack clients

    (entry,) = resend.chosen(configuration, [arguments.name])
    print(_line(entry))
    print(entry.text, end="")
    return ExitStatus.DONE


def _resend(arguments: argparse.Namespace) -> ExitStatus:
    """Send records again; print what became of each."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    from caso import resend  # noqa: PLC0415  loads the OpenStack clients

    status = ExitStatus.DONE
    record = RunRecord(_NAME)
    for one in resend.send(configuration, arguments.names, record):
        if isinstance(one, ApplianceError):
            cli.report(_NAME, one)
        elif one.reason:
            print(f"{one.entry.name}: {one.reason}")
        else:
            would = "would be sent" if configuration.is_dry_run else "sent"
            print(f"{one.entry.name}: {would}")
            continue
        status = ExitStatus.PARTLY
    return status


VERB = cli.Program(
    "quarantine",
    "List, show and send records that were set aside.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program("list", "List the records that are held.", startup.add_arguments, _list),
        cli.Program("show", "Show a record.", _add_name, _show),
        cli.Program("resend", "Send records by the rules of today.", _add_names, _resend),
    ),
)
