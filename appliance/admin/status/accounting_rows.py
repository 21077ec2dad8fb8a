"""The rows of accounting: extraction, and one for each destination."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from appliance.admin.status import evidence
from appliance.admin.status.destinations import DestinationState
from appliance.admin.status.evidence import SiteEvidence
from appliance.admin.status.row import Row, stamp
from appliance.core import senders
from appliance.core.run.errors import ApplianceError
from appliance.core.spool import Spool

_QUARANTINE = "appliance run caso -- quarantine list"


def rows(site: SiteEvidence) -> Iterator[Row]:
    """Yield the rows of the jobs of accounting that have run or are scheduled."""
    if site.is_known("caso"):
        yield _extraction(site)
    if site.destinations:
        for one in site.destinations:
            yield _destination(site, one)
    elif site.is_known("ssmsend"):
        yield evidence.of_job(site, "ssmsend", details="" if site.last("ssmsend") else "no run yet")


def _extraction(site: SiteEvidence) -> Row:
    last = site.last("caso")
    lag = last.figure("lag_seconds") if last else None
    held = last.figure("records_in_quarantine") if last else None
    details, behind = [], None
    if last and last.ended and lag is not None:
        behind = (site.now - last.ended).total_seconds() + lag
        details.append(f"accounted to {site.span(site.now - timedelta(seconds=behind))} ago")
    if held:
        details.insert(0, f"{held:g} held")
    figures = {"behind_seconds": behind, "records_in_quarantine": held}
    trouble = f"{held:g} records are in quarantine; see {_QUARANTINE}" if held else ""
    return evidence.of_job(
        site, "caso", details=", ".join(details), figures=figures, trouble=trouble
    )


def _destination(site: SiteEvidence, state: DestinationState) -> Row:
    program = senders.record_name(state.configuration, site.layout)
    dead = _dead_letters(state.spool)
    words = [f"{state.queued} wait" if state.queued else "nothing waits"]
    if state.oldest:
        words = [f"{state.queued} wait for {site.span(state.oldest)}"]
    if dead:
        words.append(f"{dead} dead")
    return evidence.of_job(
        site,
        "ssmsend",
        name=program,
        program=program,
        details=state.problem or ", ".join(words),
        figures={
            "destination": state.name,
            "messages_waiting": None if state.problem else state.queued,
            "oldest_waiting": stamp(state.oldest),
            "dead_letters": dead,
            "last_delivered": stamp(state.delivered),
        },
        trouble=state.problem or _trouble(site, state, dead),
    )


def _trouble(site: SiteEvidence, state: DestinationState, dead: int | None) -> str:
    period = site.period("ssmsend")
    if period and state.oldest and site.now - state.oldest > 2 * period:
        return f"the oldest message has waited {site.span(state.oldest)}; see appliance check"
    return f"{dead} were set aside; see appliance run ssmsend -- failed" if dead else ""


def _dead_letters(spool: Path) -> int | None:
    """Return how many messages the sender has set aside; None if that cannot be read."""
    try:
        return Spool(spool.parent / "failed" / spool.name).count()
    except ApplianceError:
        return None
