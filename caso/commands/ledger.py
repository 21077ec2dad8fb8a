"""`caso ledger`: show what was delivered for a thing; remove users and old months."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from caso.cmds import startup
from caso.commands import amounts
from caso.ledger.model import DeliveredRow, Sighting, month_text
from caso.settings import CasoConfiguration

if TYPE_CHECKING:
    from caso.ledger.ledger import Ledger

_HEADER = ("month", "kind", "destination", "amount", "VO", "user", "sent", "message")


def _add_key(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument("key", metavar="UUID", help="id of a server or volume, or another key")


def _add_user(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    parser.add_argument("user", metavar="USER", help="id of a user in Keystone")


@contextmanager
def _opened(configuration: CasoConfiguration, *, read_only: bool) -> Iterator[Ledger]:
    from caso.ledger.ledger import Ledger  # noqa: PLC0415  loads SQLite

    with Ledger(
        configuration.ledger, read_only=read_only, retention=configuration.retention
    ) as ledger:
        yield ledger


def _show(arguments: argparse.Namespace) -> ExitStatus:
    """Print what was delivered for a thing; an unknown thing makes the exit status 1."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    with _opened(configuration, read_only=True) as ledger:
        rows = ledger.deliveries.of(arguments.key)
        sightings = ledger.sightings.of(arguments.key)
    if not rows and not sightings:
        print(f"{arguments.key}: not in the ledger")
        return ExitStatus.PARTLY
    table = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        print("  ".join(padded).rstrip())
    for sighting in sightings:
        print(_seen(sighting))
    return ExitStatus.DONE


def _cells(one: DeliveredRow) -> tuple[str, ...]:
    row, kind = one.row, one.stream.kind
    amount = amounts.text(kind, row.amount, places=2)
    notes = ", estimated" * row.is_estimated + ", ended" * row.has_ended
    return (
        month_text(row.month),
        kind,
        one.stream.destination,
        amount + notes,
        row.vo,
        row.user or "-",
        _time(one.at),
        (one.sha256 or "-")[:16],
    )


def _seen(sighting: Sighting) -> str:
    until = "now" if sighting.until is None else _time(sighting.until)
    facts = ", ".join(f"{name} {value}" for name, value in sorted(sighting.facts.items()))
    return f"seen from {_time(sighting.since)} to {until} in {sighting.origin.project}: {facts}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _forget(arguments: argparse.Namespace) -> ExitStatus:
    """Blank the id of a user; the hours stay."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    with _opened(configuration, read_only=configuration.is_dry_run) as ledger:
        if configuration.is_dry_run:
            print(f"{ledger.retention.count(arguments.user)} rows have this user")
            return ExitStatus.DONE
        rows = ledger.retention.forget(arguments.user)
    from caso.memory.store import MemoryFile  # noqa: PLC0415  loads SQLite

    # It has the user's name, and the id beside servers.
    memory = MemoryFile(configuration.state / "memory.sqlite")
    memory.forget(arguments.user)
    memory.close()
    print(f"{rows} rows no longer have this user; their hours stay")
    return ExitStatus.DONE


def _purge(arguments: argparse.Namespace) -> ExitStatus:
    """Remove the months that are older than the retention."""
    configuration = startup.configure(arguments)
    if arguments.check_config:
        return startup.report_check(configuration)
    from caso import run  # noqa: PLC0415  loads the OpenStack clients

    # A run keeps the numbers of rows that nothing refers to yet, which a purge would remove.
    with (
        run.locked(configuration),
        _opened(configuration, read_only=configuration.is_dry_run) as ledger,
    ):
        first = month_text(ledger.retention.first_kept(clock.now()))
        if configuration.is_dry_run:
            print(f"months before {first} would be removed")
            return ExitStatus.DONE
        purged = ledger.retention.purge(clock.now())
    print(f"{purged.deliveries} rows of months before {first} removed")
    return ExitStatus.DONE


VERB = cli.Program(
    "ledger",
    "Show what was delivered; remove users and old months.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program("show", "Show what was delivered for a server or volume.", _add_key, _show),
        cli.Program("forget", "Blank the id of a user; the hours stay.", _add_user, _forget),
        cli.Program(
            "purge",
            "Remove the months that are older than [ledger] months.",
            startup.add_arguments,
            _purge,
        ),
    ),
)
