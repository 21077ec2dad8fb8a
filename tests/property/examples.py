"""The number of examples of properties that need another one than most."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100
"""What hypothesis tries if nothing else is said."""


def examples(number: int) -> int:
    """Return the examples of a property with ``number`` of them in CI; quick runs try fewer."""
    return max(1, number * settings().max_examples // _USUAL)
