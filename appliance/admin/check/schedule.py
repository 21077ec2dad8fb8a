"""The starters of the jobs: cron, timers, and lines of others."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.admin.check.probe import CheckedSite
from appliance.admin.schedule import state
from appliance.core.run.finding import Finding


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for each fault in the starters of the jobs (C08.b, c, d, e)."""
    if not state.is_installed(site.layout):
        return
    for line in state.complaints(site.layout, site.host):
        row = "C08.e" if line.startswith("both cron") else "C08"
        yield Finding("", 0, "", line, row, is_error=False)
