"""The rows of errors and warnings about the host's certificate, of which programs report text."""

from __future__ import annotations

from appliance.core.run.errors import ApplianceError
from appliance.core.run.finding import Finding

_ROWS = (
    ("C10.b", "does not belong"),
    ("C10.c", "expired"),
    ("C10.e", "open to"),
    ("C10.a", "no private key in PEM form"),
    ("C10", "certificate"),
    ("C10.a", "key"),
)


_PERIODS = ("within 1 day,", "within 7 days,")
"""Words of `Identity.expiry_warning` from which on the end is an error."""


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
    is_error = any(period in words for period in _PERIODS)
    return Finding(path, 0, "", words, row, name, is_error=is_error)
