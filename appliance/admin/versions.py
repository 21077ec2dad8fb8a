"""Versions of the appliance, compared by their numbers."""

from __future__ import annotations

import re


def ordered(version: str) -> list[int]:
    """Return the numbers of a version: 1.10.0 is later than 1.9."""
    return [int(number) for number in re.findall(r"\d+", version)]
