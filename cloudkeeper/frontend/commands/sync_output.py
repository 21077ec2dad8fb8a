"""What a run of ``cloudkeeper sync`` leaves for people and programs: its record and its output."""

from __future__ import annotations

import json

from appliance.core.run import log
from appliance.core.run.record import RunRecord
from cloudkeeper.frontend.sync import ChangeOutcome, SyncReport, describe
from cloudkeeper.model import Create, Remove, Update, UpdateMetadata


def record(report: SyncReport, into: RunRecord) -> None:
    """Copy the report into the run's record; the second call replaces the first."""
    into.failures.clear()
    into.counts.clear()
    for line in report.failures:
        into.fail(line)
    kinds = {
        "added": Create,
        "updated": Update,
        "metadata_updated": UpdateMetadata,
        "removed": Remove,
    }
    for name, kind in kinds.items():
        into.add(f"images_{name}", report.done(kind))
    into.add("images_failed", sum(bool(outcome.failure) for outcome in report.outcomes))
    into.add("images_unchanged", report.unchanged)
    into.add("images_held_by_others", report.held_by_others)
    into.add("removals_withheld", report.withheld)
    into.add("lists_accepted", report.lists)
    into.add("lists_refused", report.refused_lists)
    into.add("lists_left", report.lists_left)
    into.add("transferred_bytes", report.transferred_bytes)


def show(report: SyncReport, *, as_json: bool, is_dry: bool) -> None:
    """Print the whole report as JSON, or the changes of a dry run as lines."""
    if as_json:
        document = {
            "changes": [_as_json(outcome, is_dry=is_dry) for outcome in report.outcomes],
            "unchanged": report.unchanged,
            "withheld": report.withheld,
            "failures": report.failures,
        }
        print(log.redact(json.dumps(document, indent=1)))
    elif is_dry:
        for outcome in report.outcomes:
            print(log.one_line(log.redact(f"{outcome.vo}: would {describe(outcome.change)}")))
        print(
            f"{len(report.outcomes)} changes, {report.unchanged} images unchanged, nothing was done"
        )


def _as_json(outcome: ChangeOutcome, *, is_dry: bool) -> dict[str, object]:
    appliance = outcome.change.appliance
    state = "failed" if outcome.failure else "done"
    return {
        "action": type(outcome.change).__name__,
        "vo": outcome.vo,
        "list": appliance.list_id,
        "image": appliance.identifier,
        "title": appliance.title,
        "reason": getattr(outcome.change, "reason", "it is new in the list"),
        "state": "planned" if is_dry else state,
        "failure": outcome.failure,
    }
