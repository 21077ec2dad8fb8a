"""Amounts of bytes as people write them: ``50M``, ``1.5G``, ``200 GiB``.

The units are powers of 1024.
"""

from __future__ import annotations

import re

ALLOWED = "a number of bytes, with K, M, G or T for its unit: 50M"

_AMOUNT = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,3})?) *([KMGT]?)(?:i?B)?(?:/s)?", re.ASCII | re.IGNORECASE
)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse(text: str) -> int:
    """Return an amount in bytes.

    Raises:
        ValueError: it is none.

    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no amount of bytes")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def shown(number: int) -> str:
    """Return an amount as `parse` reads it, in the largest unit without a fraction."""
    for unit, size in reversed(_UNITS.items()):
        if number >= size and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)
