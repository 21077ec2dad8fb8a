"""Findings about the host's certificate and about revocation lists."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from appliance.admin.check.finding import Finding
from appliance.core.run.errors import ApplianceError
from appliance.core.run.layout import Layout

_STALE = timedelta(days=3)
"""Revocation lists are fetched every six hours; most are valid for a week or more."""
_REMEDY = "run appliance run fetch-crl, and see appliance schedule"
_ROWS = (
    ("C10.b", "does not belong"),
    ("C10.c", "expired"),
    ("C10.e", "open to"),
    ("C10.a", "no private key in PEM form"),
    ("C10", "certificate"),
    ("C10.a", "key"),
)


def row_of(error: ApplianceError) -> str:
    """Return the row of an error of the host's certificate or key; empty for other errors."""
    text = f"{error.subject}: {error.cause}"
    if "/etc/grid-security/" not in text:
        return ""
    if "does not exist" in text or "No such file" in text:
        return "C10.a"
    return next((row for row, words in _ROWS if words in text), "C10")


def of_warning(name: str, text: str) -> Finding:
    """Return the finding for a warning ``PATH: TEXT`` about the host's certificate."""
    path, _, words = text.partition(": ")
    rows = (
        ("C10.g", "revocation"),
        ("C10.g", "CRL"),
        ("C10.f", "trust"),
        ("C10.d", "expires"),
        ("C10.d", "ends"),
    )
    row = next((row for row, word in rows if word in words), "C10")
    return Finding(path, 0, "", words, row, name, is_error=False)


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
