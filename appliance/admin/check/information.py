"""The BDII of this host, by its services and by the records of its cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from appliance.admin.check.probe import CheckedSite
from appliance.admin.status import services
from appliance.admin.status.records import last_records
from appliance.core import clock
from appliance.core.config import document, shell
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.finding import Finding

_SERVICES = {"cloudbdii": "bdii-resource", "sitebdii": "bdii-site"}
"""The record of each service's cycles."""
_CONFIGURATION = {"cloudbdii": "/etc/bdii/bdii.conf", "sitebdii": "/etc/sitebdii/bdii.conf"}
_BREATHE = 120
"""Seconds between two cycles, unless BDII_BREATHE_TIME says otherwise."""
_COLLECT = timedelta(minutes=5)
"""The longest that a cycle waits for its sources."""


_HELD = "would be deleted at once"
"""Words of the line that a cycle writes while it holds a shrink; single removals wait as well."""


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield the faults of services that are to run (C50.a), and of their cycles (C50.d, C50.e)."""
    found = services.look(site.layout, site.host)
    if found is None or found.failure:
        return  # nothing is installed, or the engine's own probe reports it
    records = {path.stem: (path, tree) for path, tree in last_records(site.layout)[0].items()}
    for state in found.states:
        if state.service not in _SERVICES or state.service in found.off:
            continue
        path, tree = records.get(_SERVICES[state.service], (None, {}))
        if not state.is_well:
            text = services.complaint(state)
            reason = f" ({_last(tree)})" if _last(tree) else ""
            yield Finding("", 0, state.service, f"{text}{reason}", "C50.a", tried="its health")
        elif path is not None:
            yield from _of_cycle(site, state.service, path, tree)


def runs(service: str, site: CheckedSite) -> bool:
    """Check whether a service runs and is well; also if that is not known."""
    found = services.look(site.layout, site.host)
    if found is None or found.failure:
        return True
    return any(state.is_well for state in found.states if state.service == service)


def _of_cycle(
    site: CheckedSite, service: str, path: Path, tree: Mapping[str, object]
) -> Iterator[Finding]:
    ended, counts = _moment(tree.get("ended")), tree.get("counts")
    limit = 2 * (_pause(site, service) + _COLLECT)
    logs = f"see appliance logs {service}"
    if ended is not None and site.now - ended > limit:
        ago = services.span(site.now - ended)
        text = f"its last cycle ended {ago} ago; restart {service}, and {logs}"
        yield Finding(str(path), 0, service, text, "C50.d", tried="the end of its last cycle")
        return
    failures = tree.get("failures")
    lines = [str(line) for line in failures] if isinstance(failures, list) else []
    held = [line for line in lines if _HELD in line]
    others = [line for line in lines if _HELD not in line]
    found = [f"entries are still served although the source lacks them: {line}" for line in held]
    if stale := counts.get("entries_stale") if isinstance(counts, dict) else 0:
        reason = others[0] if others else "no reason is known"
        found.append(f"{stale:g} entries are stale: {reason}")
    for words in found:
        tried = "the figures of its last cycle"
        text = f"{words}; {logs}"
        yield Finding(str(path), 0, service, text, "C50.e", is_error=False, tried=tried)


def _pause(site: CheckedSite, service: str) -> timedelta:
    path = site.layout.path(_CONFIGURATION[service])
    try:
        entries = document.read([path], shell.parse).sections.get(shell.SECTION, {})
        return timedelta(seconds=int(entries["BDII_BREATHE_TIME"].text))
    except (ConfigurationError, KeyError, ValueError):  # the service reports a wrong one
        return timedelta(seconds=_BREATHE)


def _last(tree: Mapping[str, object]) -> str:
    """Return what went wrong in the last cycle; empty if nothing did."""
    failures = tree.get("failures")
    return str(failures[-1]) if isinstance(failures, list) and failures else ""


def _moment(text: object) -> datetime | None:
    try:
        return clock.parse(text) if isinstance(text, str) else None
    except ValueError:
        return None
