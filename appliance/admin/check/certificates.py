"""The host's certificate, the authorities, and their revocation lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from appliance.admin.check.probe import CheckedSite
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout

_STALE = timedelta(days=3)
"""Revocation lists are fetched every six hours; most are valid for a week or more."""
_REMEDY = "run appliance run fetch-crl, and see appliance schedule"


def of_lists(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if revocation lists are missing or old (C10.g)."""
    yield from stale_lists(site.layout, at=site.now)


def stale_lists(layout: Layout, *, at: datetime) -> Iterator[Finding]:
    """Yield a finding if revocation lists are missing or were not fetched for days."""
    directory = layout.grid_certificates
    try:
        times = [path.stat().st_mtime for path in directory.glob("*.r0")]
    except OSError:
        times = []
    if not times:
        # Without authorities there are no lists to fetch; a site without accounting may have none.
        has_authorities = any(directory.glob("*.crl_url")) or any(directory.glob("*.0"))
        if has_authorities:
            text = f"holds no revocation list; {_REMEDY}"
            yield Finding(str(directory), 0, "", text, "C10.g", is_error=False)
        return
    age = at - datetime.fromtimestamp(max(times), at.tzinfo)
    if age > _STALE:
        text = f"its newest revocation list is {age.days} days old; {_REMEDY}"
        yield Finding(str(directory), 0, "", text, "C10.g", is_error=False)
