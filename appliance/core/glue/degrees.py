"""Degrees of a site's place, as GLUE 2.0 and its readers take them."""

from __future__ import annotations

import re

LATITUDE, LONGITUDE = 90, 180
_DEGREES = re.compile(r"[+-]?[0-9]*\.?[0-9]+")


def fault(text: str, most: int) -> str:
    """Return why a text is not degrees up to ``most`` in both directions; empty if it is."""
    # float() reads more than clients do: "1_0", "1e1", digits of other scripts
    if not text or (_DEGREES.fullmatch(text) and abs(float(text)) <= most):
        return ""
    return f"{text!r} is not allowed; write degrees from -{most} to {most}, such as 43.46"
