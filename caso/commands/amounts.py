"""Amounts of the ledger for people."""

from __future__ import annotations

from caso.kinds.registry import KINDS


def text(kind: str, amount: int, *, places: int = 1) -> str:
    """Return an amount of a kind: hours, or a number of things."""
    return str(amount) if KINDS[kind].is_count else f"{amount / 3600:.{places}f} h"
