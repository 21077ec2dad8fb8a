"""`caso reconcile`: compare what was delivered with Nova's usage, or with a table of the portal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from appliance.core import clock
from appliance.core.run import cli, output
from appliance.core.run.errors import ApplianceError, ExitStatus
from caso.cmds import startup
from caso.commands import host_file, months
from caso.commands.report import delivered
from caso.kinds import months as cuts
from caso.ledger.ledger import Ledger
from caso.ledger.model import Month, first_second, month_text
from caso.settings import CasoConfiguration
from caso.usage import hours, portal, portal_months
from caso.usage.destinations import destinations
from caso.usage.nova import ProjectHours, add_delivered, add_earlier, add_used
from caso.usage.portal import METRICS
from caso.usage.portal_months import HOUR, TOLERANCE, DeliveredServers

_Place = tuple[str, str]
"""A region, empty if the configuration names none, and a project's id."""

_NAME = "caso reconcile"
_MOST_SERVERS = 20
"""Servers of a project and month that the text names; JSON has all."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    startup.add_arguments(parser)
    months.add_arguments(parser, first="the month before the last one")
    parser.add_argument(
        "--portal",
        type=Path,
        metavar="FILE",
        help="compare with a table of the accounting portal, saved as CSV or JSON, not with Nova",
    )
    parser.add_argument(
        "--metric",
        choices=METRICS,
        default="wall_hours",
        help="metric of a table that has a column for each month (default: wall_hours)",
    )
    parser.add_argument(
        "--tolerance",
        type=_percent,
        default=TOLERANCE,
        metavar="PERCENT",
        help="largest difference that is not reported, in percent (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _percent(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 100:  # noqa: PLR2004  per cent
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage; write a number like 1")
    return number


def _run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the comparison; the exit status is 1 if it is outside the tolerance."""
    configuration = startup.configure(arguments, keeps_log=False)
    if arguments.check_config:
        return startup.report_check(configuration)
    with Ledger(configuration.ledger, read_only=True) as ledger:
        known = ledger.deliveries.months()
        if not known:
            output.line("nothing was delivered yet")
            return ExitStatus.DONE
        first = arguments.first or month_text(known[-2:][0])
        chosen = [one for one in known if first <= month_text(one) <= (arguments.last or "9999")]
        spent = DeliveredServers()
        for one in hours.spent(delivered(ledger, configuration, known)):
            if one.kind == "cloud" and one.month in chosen:
                spent.add(one)
        if arguments.portal:
            return _with_portal(arguments, spent, chosen)
        ends = _ends(ledger, configuration)
    return _with_nova(arguments, configuration, spent, chosen, ends)


# ------------------------------------------------------------------------------------- Nova's usage


def _ends(ledger: Ledger, configuration: CasoConfiguration) -> dict[_Place, datetime]:
    """Return up to when servers were delivered, by region and project; of this Keystone."""
    destination = destinations(configuration).get("cloud")
    ends: dict[_Place, datetime] = {}
    for stream, reached in ledger.windows.all().items():
        is_ours = stream.kind == "cloud" and stream.destination == destination
        origin = stream.origin
        is_here = origin.region in configuration.regions
        if is_ours and is_here and reached.end is not None:
            key = origin.region, origin.project
            ends[key] = max(reached.end, ends.get(key, reached.end))
    return ends


def _with_nova(
    arguments: argparse.Namespace,
    configuration: CasoConfiguration,
    spent: DeliveredServers,
    chosen: list[Month],
    ends: Mapping[_Place, datetime],
) -> ExitStatus:
    from appliance.core.cloud.compute import Servers  # noqa: PLC0415  start-up is a cost
    from appliance.core.cloud.session import Cloud  # noqa: PLC0415

    cloud, found, failures = Cloud(configuration.access), list[ProjectHours](), []
    for place, end in sorted(ends.items()):
        try:
            servers = Servers(cloud.in_region(place[0]).project(place[1]))
            for month in chosen:
                compared = _compared(place, month, end, spent)
                start = first_second(month)
                if compared.until > start:
                    begin = start - cuts.SECOND
                    add_used(compared, servers.used(start, compared.until + cuts.SECOND), begin)
                    if compared.has_surplus:  # it may also hide what others have too little
                        add_earlier(compared, servers.changed(start), begin)
                    found.append(compared)
        except ApplianceError as error:
            failures.append(error)
    _print_projects(arguments, found)
    for failure in failures:
        cli.report(_NAME, failure)
    if failures and not found:
        return ExitStatus.NOTHING
    is_good = all(abs(one.difference) <= arguments.tolerance for one in found)
    return ExitStatus.DONE if is_good and not failures else ExitStatus.PARTLY


def _compared(place: _Place, month: Month, end: datetime, spent: DeliveredServers) -> ProjectHours:
    following = cuts.first_moment(first_second(month) + timedelta(days=32))
    until = min(end, following - timedelta(seconds=1), clock.now())
    parts = spent.by_project.get((*place, month), [])
    vo = parts[0].vo if parts else ""
    compared = ProjectHours(*place, month_text(month), vo, until)
    add_delivered(compared, parts)
    return compared


def _print_projects(arguments: argparse.Namespace, found: list[ProjectHours]) -> None:
    if arguments.json:
        output.document([_project_as_json(one, arguments.tolerance) for one in found])
        return
    for one in found:
        is_far = abs(one.difference) > arguments.tolerance
        output.line(
            f"{one.month} project {one.project}{f', region {one.region}' if one.region else ''}"
            f"{f', VO {one.vo}' if one.vo else ''}:"
            f" {one.delivered / HOUR:.2f} h delivered, {one.used / HOUR:.2f} h in Nova's usage"
            f" up to {one.until:%Y-%m-%d %H:%M:%S}, {one.difference:+.2f} %"
            f"{f': more than {arguments.tolerance:g} %' if is_far else ''}"
        )
        named = list(one.differing(arguments.tolerance)) if is_far else []
        for key, server in named[:_MOST_SERVERS]:
            word = "too much" if server.surplus > 0 else "too little"
            output.line(f"  server {key}: {abs(server.surplus) / HOUR:.2f} h {word}")
        if len(named) > _MOST_SERVERS:
            output.line(f"  {len(named) - _MOST_SERVERS} more; --json has them all")
    if not found:
        output.line("no project was delivered in these months")


def _project_as_json(one: ProjectHours, tolerance: float) -> dict[str, Any]:
    return {
        "month": one.month,
        "region": one.region,
        "project": one.project,
        "vo": one.vo,
        "until": one.until,
        "delivered_hours": round(one.delivered / HOUR, 4),
        "used_hours": round(one.used / HOUR, 4),
        "difference_percent": round(one.difference, 4),
        "servers": [
            {"server": key, "surplus_hours": round(server.surplus / HOUR, 4)}
            for key, server in one.differing(tolerance)
        ],
    }


# ------------------------------------------------------------------------------------- the portal


def _with_portal(
    arguments: argparse.Namespace, spent: DeliveredServers, chosen: list[Month]
) -> ExitStatus:
    """Compare each number of the table, and each VO and month that it lacks."""
    table = portal.read(host_file.named(arguments.portal), arguments.metric)
    wanted = {month_text(month) for month in chosen}
    rows = list(portal_months.rows(spent.by_vo(), table, wanted, arguments.tolerance))
    if arguments.json:
        output.document(rows)
    else:
        for row in rows:
            output.line(portal_months.text(row))
        if not rows:
            output.line("neither the ledger nor the table has these months")
    return ExitStatus.DONE if all(row["is_within"] for row in rows) else ExitStatus.PARTLY


VERB = cli.Program(
    "reconcile",
    "Compare what was delivered with Nova's usage, or with a table of the accounting portal.",
    _add_arguments,
    _run,
)
