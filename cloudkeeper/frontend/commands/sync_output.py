"""What a run of ``cloudkeeper sync`` leaves for people and programs: its record and its output."""

from __future__ import annotations

from appliance.core.run import output
from appliance.core.run.record import RunRecord
from cloudkeeper.frontend.commands import plan
from cloudkeeper.frontend.sync_report import SyncReport
from cloudkeeper.model import HOLDER_KEY, Create, Hide, Remove, Update, UpdateMetadata


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
        "hidden": Hide,
    }
    for name, kind in kinds.items():
        into.add(f"images_{name}", report.done(kind))
    into.add("images_failed", sum(bool(outcome.failure) for outcome in report.outcomes))
    into.add("images_unchanged", report.unchanged)
    into.add("images_held_by_others", report.held_by_others)
    into.add("images_in_outdated_formats", len(report.outdated))
    into.add("images_of_ended_lists", report.kept_of_ended)
    into.add("images_ignored", len(report.ignored))
    into.add("removals_withheld", report.withheld)
    into.add("lists_accepted", report.lists)
    into.add("lists_refused", report.refused_lists)
    into.add("lists_left", report.lists_left)
    into.add("transferred_bytes", report.transferred_bytes)
    into.parts["source"] = _images_by_source(report)


def _images_by_source(report: SyncReport) -> dict[str, dict[str, float]]:
    """Return how many images of each source the cloud has after the run, and whose they are."""
    # By identity: equal changes of two sources are two.
    done = {id(outcome.change) for outcome in report.outcomes if not outcome.failure}
    found: dict[str, dict[str, float]] = {}
    for one in report.compared:
        figures = found.setdefault(one.source, {"images": 0, "images_of_others": 0})
        made = [change for change in one.plan.changes if id(change) in done]
        added = sum(isinstance(change, Create) for change in made)
        removed = sum(isinstance(change, Remove) for change in made)
        figures["images"] += len(one.held) + added - removed
        figures["images_of_others"] += sum(HOLDER_KEY in image.attributes for image in one.held)
    return found


def show(report: SyncReport) -> None:
    """Print the whole report as JSON."""
    outcomes = [
        plan.as_json(outcome, state="failed" if outcome.failure else "done")
        for outcome in report.outcomes
    ]
    output.document(
        {
            "changes": outcomes,
            "unchanged": report.unchanged,
            "withheld": report.withheld,
            "notes": report.notes,
            "failures": report.failures,
        }
    )
