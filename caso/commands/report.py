"""`caso report`: the hours that were delivered, by VO, project, month or day."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from appliance.core.run import cli, output
from appliance.core.run.errors import ApplianceError, ExitStatus
from caso.cmds import startup
from caso.commands import host_file, months, report_page, tables
from caso.kinds.registry import KINDS
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, month_text
from caso.settings import CasoConfiguration
from caso.usage import hours, rates
from caso.usage.destinations import destinations
from caso.usage.hours import Owned, Spent
from caso.usage.rates import Rates

_NAME = "caso report"
_HOUR = 3600
_BY = ("month", "day", "vo", "project", "kind")
_USUAL = "month,vo"
LOCAL = "local"
"""What stands for the VO of a project of the site's own."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    months.add_arguments(parser)
    parser.add_argument(
        "--by",
        type=_columns,
        default=_columns(_USUAL),
        metavar="LIST",
        help=f"columns that group the lines: {', '.join(_BY)}; addresses are on the day of their"
        f" last count (default: {_USUAL})",
    )
    parser.add_argument("--users", action="store_true", help="a line for each user, by id")
    parser.add_argument(
        "--rate", type=Path, metavar="FILE", help="file of rates; a column has the cost"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON array")
    form.add_argument("--html", action="store_true", help="print a page with pictures by day")
    form.add_argument("--csv", action="store_true", help="print CSV (RFC 4180)")


def _columns(text: str) -> tuple[str, ...]:
    found = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in found:
        if word not in _BY:
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(_BY)}")
    return found


@dataclass(slots=True)
class _Line:
    """The sums of one line of the report."""

    things: set[str] = field(default_factory=set)
    amount: int = 0
    cpu: int = 0
    cost: Decimal = Decimal()

    def add(self, spent: Spent, priced: Rates | None) -> None:
        self.things.add(spent.key)
        self.amount += spent.amount
        self.cpu += spent.cpu
        if priced:
            self.cost += priced.cost(spent.kind, spent.vo, spent.amount, spent.cpu)


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the report; a local project that cannot be counted makes the exit status 1."""
    configuration = startup.configure(arguments, keeps_log=False)
    if arguments.check_config:
        return startup.report_check(configuration)
    priced = rates.read(host_file.named(arguments.rate)) if arguments.rate else None
    columns = [*arguments.by, *(["user"] if arguments.users else [])]
    lines: dict[tuple[str, ...], _Line] = {}
    failures: list[ApplianceError] = []
    found = _spent(configuration, arguments, failures)
    if arguments.html:  # which is read twice
        found = iter(kept := list(found))
    for spent in found:
        for day, part in hours.by_day(spent) if "day" in columns else [("", spent)]:
            key = (part.kind, *(_value(part, column, day) for column in columns))
            lines.setdefault(key, _Line()).add(part, priced)
    table = _table(columns, sorted(lines.items(), key=_order), priced)
    if arguments.html:
        with Ledger(configuration.ledger, read_only=True) as ledger:
            output.line(report_page.page(ledger, kept, table))
    else:
        _print(arguments, table)
    for failure in failures:
        cli.report(_NAME, failure)
    return ExitStatus.PARTLY if failures else ExitStatus.DONE


def _order(item: tuple[tuple[str, ...], _Line]) -> tuple[str, ...]:
    (kind, *values), _ = item
    return *values, kind


def _value(spent: Spent, column: str, day: str) -> str:
    values: dict[str, Callable[[], str]] = {
        "month": lambda: month_text(spent.month),
        "day": lambda: day,
        "vo": lambda: spent.vo,
        "project": lambda: spent.project,
        "kind": lambda: spent.kind,
        "user": lambda: spent.user,
    }
    return values[column]()


def _spent(
    configuration: CasoConfiguration,
    arguments: argparse.Namespace,
    failures: list[ApplianceError],
) -> Iterator[Spent]:
    """Yield the use of the chosen months, that of local projects included."""
    with Ledger(configuration.ledger, read_only=True) as ledger:
        known = ledger.deliveries.months()
        for spent in hours.spent(delivered(ledger, configuration, known)):
            if months.is_chosen(arguments, month_text(spent.month)):
                yield spent
    if configuration.local_projects:
        from caso.usage import local  # noqa: PLC0415  loads the OpenStack clients

        chosen = [one for one in known if months.is_chosen(arguments, month_text(one))]
        for spent in local.spent(configuration, chosen, LOCAL, failures):
            if months.is_chosen(arguments, month_text(spent.month)):
                yield spent


def delivered(
    ledger: Ledger, configuration: CasoConfiguration, known: Iterable[Month]
) -> Iterator[Owned]:
    """Yield what was delivered in these months, of each kind by one messenger alone."""
    chosen = destinations(configuration)
    for month in known:
        for destination in dict.fromkeys(chosen.values()):
            for one in ledger.deliveries.rows(month, destination):
                if chosen.get(one.stream.kind) == destination:
                    origin = one.stream.origin
                    yield Owned(one.stream.kind, origin.region, origin.project, one.row)


def _table(
    columns: Sequence[str],
    lines: Sequence[tuple[tuple[str, ...], _Line]],
    priced: Rates | None,
) -> list[list[object]]:
    """Return the rows of the report, after a row with the names of their columns."""
    named = [column for column in columns if column != "kind"]
    header: list[object] = [
        *named,
        "kind",
        "things",
        "hours",
        "cpu_hours",
        *([priced.unit] if priced else []),
    ]
    return [header, *(_cells(columns, key, line, priced) for key, line in lines)]


def _print(arguments: argparse.Namespace, table: Sequence[Sequence[object]]) -> None:
    if tables.show(arguments, table):
        return
    if len(table) > 1:
        output.table([[str(cell) for cell in row] for row in table])
    else:
        output.line("nothing was delivered in these months")


def _cells(
    columns: Sequence[str], key: tuple[str, ...], line: _Line, priced: Rates | None
) -> list[object]:
    kind, *values = key
    shown: list[object] = [
        value for column, value in zip(columns, values, strict=True) if column != "kind"
    ]
    is_count = KINDS[kind].is_count
    wall = "" if is_count else round(line.amount / _HOUR, 2)
    things = line.amount if is_count else len(line.things)
    cost = [float(round(line.cost, 2))] if priced else []
    return [*shown, KINDS[kind].things, things, wall, round(line.cpu / _HOUR, 2), *cost]


VERB = cli.Program(
    "report",
    "Show the hours that were delivered, by VO, project, month or day.",
    _add_arguments,
    _run,
)
