"""The messages of accounting that wait to be sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from appliance.admin.check import schedule
from appliance.admin.check.probe import CheckedSite
from appliance.admin.status import destinations, services
from appliance.admin.status.records import last_records
from appliance.core import senders
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding

_JOB = "ssmsend"


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each spool with a message older than two periods of the sender (C40.c).

    A configuration or spool that cannot be read is left out, because the sender reports it.
    """
    period = schedule.period(_JOB, site.layout)
    records = {path.stem: tree for path, tree in last_records(site.layout)[0].items()}
    for path in senders.configurations(site.layout).paths:
        try:
            settings = Settings(document.read([path], ini.parse))
        except ApplianceError:
            continue
        last = records.get(senders.record_name(path, site.layout), {})
        state = destinations.state_of(path, settings, last, layout=site.layout, now=site.now)
        if state.oldest is None or site.now - state.oldest <= 2 * period:
            continue
        place = settings.where("messaging", "path")
        text = (
            f"the oldest of {state.queued} messages in {state.spool} has waited for"
            f" {services.span(site.now - state.oldest)}, and the sender runs every"
            f" {services.span(period)}; {_reason(last)}; see appliance logs {_JOB}"
        )
        line = place.line if place else 0
        tried = "the time in the name of the oldest message"
        yield Finding(str(path), line, "[messaging] path", text, "C40.c", tried=tried)


def _reason(last: Mapping[str, object]) -> str:
    """Return what came of the last run of the sender."""
    failures = last.get("failures")
    if isinstance(failures, list) and failures:
        return f"its last run, {last.get('ended')}, says: {failures[-1]}"
    return f"its last run ended at {last['ended']}" if last.get("ended") else "it has never run"
