"""The known name that a misspelled one may stand for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like ``name``; empty if none is like it."""
    # difflib's own cutoff of 0.6 finds one wrong letter in a word of four.
    found = difflib.get_close_matches(name, list(known), n=1)
    return found[0] if found else ""


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """Return the question that suggests the closest name, or ``otherwise`` if there is none."""
    near = closest(name, known)
    return f"did you mean {near}?" if near else otherwise
