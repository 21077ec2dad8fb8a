"""``cloudkeeper plan``: print what ``sync`` would change, and change nothing, not even a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli, lock, output
from appliance.core.run.errors import ExitStatus
from cloudkeeper.frontend.commands import startup
from cloudkeeper.frontend.settings import FrontendSettings
from cloudkeeper.model import (
    HOLDER_KEY,
    SBOM_KEY,
    UNMARKED_KEY,
    Appliance,
    Change,
    Create,
    ListId,
    Update,
    UpdateMetadata,
)

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.sync_report import ChangeOutcome, ComparedList, SyncReport

_ACTIONS = {Create: "add", Update: "update", UpdateMetadata: "describe"}
"""Words for changes; others are called by the name of their class."""
_NEW = "it is new in the list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags, and those of the configuration."""
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    startup.add_allowance(parser)
    startup.add_reconversion(parser)
    startup.add_filter(parser)
    startup.add_arguments(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the plan, or only check the configuration."""
    configured = startup.configure(arguments, is_reading=True)
    if arguments.check_config:
        return startup.report_check(configured)
    return show(configured, arguments)


def show(configured: FrontendSettings, arguments: argparse.Namespace) -> ExitStatus:
    """Print what sync would change with these settings; ``sync --dry-run`` does the same."""
    from cloudkeeper.frontend.commands import assembly  # noqa: PLC0415  loads gRPC

    if running := lock.holder(configured.lock_file):
        output.remark(f"a sync is {running}; the plan changes until it ends")
    report = assembly.report(configured)
    state = cli.layout(arguments).path(startup.STATE)
    with assembly.backend(configured) as backend:
        planned = assembly.synchronisation(
            configured,
            backend,
            state=state,
            allowed=arguments.allow_remove,
            reconverts=arguments.reconvert,
            chosen=startup.chosen(arguments),
            is_dry=True,
        )
        planned.run(report, at=clock.now())
    if arguments.json:
        output.document(_as_json(report))
    else:
        _print(report)
    return ExitStatus.PARTLY if report.failures else ExitStatus.DONE


def transfer_size(change: Change) -> int | None:
    """Return the bytes that a change downloads; None if the source does not say."""
    return change.offer.source.size if isinstance(change, Create | Update) else 0


def as_json(outcome: ChangeOutcome, *, state: str) -> dict[str, object]:
    """Return a change for JSON; ``state`` is planned, done or failed."""
    change = outcome.change
    return {
        "action": type(change).__name__,
        "vo": outcome.vo,
        "list": change.appliance.list_id,
        "image": change.appliance.identifier,
        "title": change.appliance.title,
        "sboms": change.appliance.attributes.get(SBOM_KEY, "").split(),
        "reason": getattr(change, "reason", _NEW),
        "bytes": transfer_size(change),
        "state": state,
        "failure": outcome.failure,
    }


def _as_json(report: SyncReport) -> dict[str, object]:
    held = [
        {
            "vo": found.vo,
            "list": one.list_id,
            "image": one.identifier,
            "holder": one.attributes.get(HOLDER_KEY, ""),
            "maker": one.attributes.get(UNMARKED_KEY, ""),
        }
        for found in report.compared
        for one, _ in _held(found.held)
    ]
    return {
        "changes": [as_json(outcome, state="planned") for outcome in report.outcomes],
        "held": held,
        "unchanged": report.unchanged,
        "withheld": report.withheld,
        "notes": report.notes,
        "failures": report.failures,
    }


def _held(appliances: Sequence[Appliance]) -> Iterator[tuple[Appliance, str]]:
    """Yield the appliances of other programs in the cloud, each with the consequence for sync."""
    for one in appliances:
        if holder := one.attributes.get(HOLDER_KEY):
            yield one, f"{holder} keeps it; it is not uploaded a second time"
        elif maker := one.attributes.get(UNMARKED_KEY):
            yield one, f"{maker} made it; the next sync adopts it and moves no data"


def _print(report: SyncReport) -> None:
    by_list: dict[ListId, list[ChangeOutcome]] = {}
    for outcome in report.outcomes:
        by_list.setdefault(outcome.change.appliance.list_id, []).append(outcome)
    compared = {found.plan.list_id: found for found in report.compared}
    for list_id in dict.fromkeys([*compared, *by_list]):
        _print_list(list_id, by_list.get(list_id, []), compared)
    for line in report.notes:
        output.line(line)
    total = _summary([outcome.change for outcome in report.outcomes])
    unchanged = output.count(report.unchanged, "image")
    output.line(f"{total}, {unchanged} unchanged, nothing was done")


def _print_list(
    list_id: ListId, outcomes: Sequence[ChangeOutcome], compared: Mapping[ListId, ComparedList]
) -> None:
    name, vo, unchanged = f"list {list_id}", outcomes[0].vo if outcomes else "", 0
    rows = [_row(outcome.change) for outcome in outcomes]
    if found := compared.get(list_id):
        name, vo, unchanged = found.source, found.vo, found.plan.unchanged
        withheld = [(each.appliance, "too many would be removed") for each in found.plan.withheld]
        withheld += [
            (each.appliance, "a refused image may replace it") for each in found.plan.waiting
        ]
        rows += [("keep", _shown(appliance), "", words) for appliance, words in withheld]
        present = _held(found.held)
        rows += [("present", _shown(appliance), "", words) for appliance, words in present]
    total = _summary([outcome.change for outcome in outcomes])
    output.line(f"{name} for {vo}: {total}, {output.count(unchanged, 'image')} unchanged")
    if rows:
        output.table(rows, indent="  ")


def _row(change: Change) -> tuple[str, str, str, str]:
    kind = _ACTIONS.get(type(change), type(change).__name__.lower())
    amount = output.size(transfer_size(change)) if isinstance(change, Create | Update) else ""
    return kind, _shown(change.appliance), amount, getattr(change, "reason", _NEW)


def _shown(appliance: Appliance) -> str:
    title = appliance.title[:60]
    is_named = title.endswith(appliance.identifier)  # the title of a registry's image
    return title if is_named else f'{appliance.identifier} "{title}"'


def _summary(changes: Sequence[Change]) -> str:
    sizes = [transfer_size(change) for change in changes]
    least = "at least " if None in sizes else ""
    amount = output.size(sum(filter(None, sizes)))
    return f"{output.count(len(changes), 'change')}, {least}{amount} to transfer"


VERB = cli.Program("plan", "Print the changes that sync would make.", add_arguments, run)
