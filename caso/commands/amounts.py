"""Amounts of the ledger for people."""

from __future__ import annotations


def text(kind: str, amount: int) -> str:
    """Return an amount of a kind: hours, or a number of addresses."""
    return str(amount) if kind == "ip" else f"{amount / 3600:.1f} h"
