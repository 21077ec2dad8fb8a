"""The rows of the information system: both BDIIs, and the site's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from appliance.admin.status import evidence
from appliance.admin.status.evidence import SiteEvidence
from appliance.admin.status.records import Last
from appliance.admin.status.row import Light, Row, stamp
from appliance.core.config import document, shell
from appliance.core.run.errors import ConfigurationError

_LEVELS = {
    "cloudbdii": ("bdii-resource", "/etc/bdii/bdii.conf"),
    "sitebdii": ("bdii-site", "/etc/sitebdii/bdii.conf"),
}
_BREATHE = 120
"""Seconds between two cycles, unless BDII_BREATHE_TIME says otherwise."""
_COLLECT = timedelta(minutes=5)
"""The longest that a cycle waits for its sources."""
_NAMES = {"entries": "entries", "entries_stale": "stale", "deletions_waiting": "held"}


def rows(site: SiteEvidence) -> Iterator[Row]:
    """Yield the rows of what this site publishes."""
    for service, (program, configuration) in _LEVELS.items():
        last = site.runs.get(program)
        found = evidence.of_service(site, service, program=program, details=_details(last))
        if found:
            yield _with_freshness(site, found, last, configuration)
    if site.published or "cloud-info-json" in site.starts:
        yield _json_file(site)


def _details(last: Last | None) -> str:
    found = ((last.figure(name), word) for name, word in _NAMES.items()) if last else ()
    return ", ".join(f"{number:g} {word}" for number, word in found if number)


def _with_freshness(site: SiteEvidence, row: Row, last: Last | None, configuration: str) -> Row:
    figures = {name: last.figure(name) for name in _NAMES} if last else {}
    ended = last.ended if last else None
    limit = 2 * (_pause(site, configuration) + _COLLECT)
    if row.light is Light.OK and ended and site.now - ended > limit:
        reason = f"its last cycle ended {site.span(ended)} ago; see appliance logs {row.name}"
        return replace(row, light=Light.WARNING, reason=reason, figures=figures)
    return replace(row, figures=figures)


def _pause(site: SiteEvidence, name: str) -> timedelta:
    try:
        found = document.read([site.layout.path(name)], shell.parse).sections.get(shell.SECTION, {})
        return timedelta(seconds=int(found["BDII_BREATHE_TIME"].text))
    except (ConfigurationError, KeyError, ValueError, OverflowError):  # the service reports it
        return timedelta(seconds=_BREATHE)


def _json_file(site: SiteEvidence) -> Row:
    published = site.published
    created = published.created if published else None
    words = [f"cloud read {site.span(created)} ago"] if created else []
    if published and published.held:
        words.append(f"{published.held} removals held")
    return evidence.of_job(
        site,
        "cloud-info-json",
        details=", ".join(words),
        figures={
            "created": stamp(created),
            "valid_until": stamp(published.valid_until) if published else None,
            "removals_held": published.held if published else None,
        },
        trouble=published.complaint if published else "",
    )
