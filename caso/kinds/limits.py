"""What the repository takes in a field: the limits of APEL 2.5.0's record classes and databases.

Each function returns what is wrong with a value, a few words with the field's name on the wire, or
an empty text. A kind decides whether that is a fault of the record or a field to leave out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from caso.kinds.text import LONGEST

CLOCK_TOLERANCE = timedelta(days=2)
"""How far a time may be in the future: clocks differ, and a wrong time zone is up to a day."""

INT = 2**31
BIGINT = 2**63
DECIMAL = 10_000_000
"""The first number that a column DECIMAL(10,3) cannot hold."""

THOUSANDTH = Decimal("0.001")
"""The smallest number above 0 in such a column."""

MISSING = ("", "none", "null")
"""Texts that the repository takes for no value, in any case of the letters."""

_KEPT = 4096
"""Results that are kept: most servers have one of few numbers of cores."""

R = TypeVar("R")


def text(name: str, value: str, *, longest: int = LONGEST) -> str:
    """Return what is wrong with a text that may be empty."""
    if len(value) > longest:
        return f"{name} is longer than {longest} characters"
    if not (value.isascii() and value.isprintable()) or "%%" in value:
        return f"{name} has %% or other than printable ASCII"
    return ""


def required(name: str, value: str) -> str:
    """Return what is wrong with a text that the repository refuses to miss."""
    return f"{name} is missing" if value.strip().lower() in MISSING else text(name, value)


def number(name: str, value: float | Decimal, *, below: float, least: float | Decimal = 0) -> str:
    """Return what is wrong with a number; one that is no number has a fault as well."""
    return "" if least <= value < below else f"{name} is {value}"


@functools.lru_cache(_KEPT)
def count(value: int | Decimal) -> int | float:
    """Return a number as the repository's columns DECIMAL(10,3) hold it, for a message."""
    rounded = Decimal(value).quantize(THOUSANDTH)
    return int(rounded) if rounded == int(rounded) else float(rounded)


def moment(name: str, value: datetime, *, now: datetime) -> str:
    """Return what is wrong with a moment that cannot be in the future or before 1970."""
    is_possible = value.timestamp() > 0 and value <= now + CLOCK_TOLERANCE
    return "" if is_possible else f"{name} {value.isoformat()} is before 1970 or in the future"


def found(results: Iterable[str]) -> tuple[str, ...]:
    """Return the results that are not empty."""
    return tuple(filter(None, results))


def leave_out(
    record: R, results: Mapping[str, str], *, empty: Iterable[str] = ()
) -> tuple[R, tuple[str, ...]]:
    """Return the record without its unusable attributes, and what was wrong with them.

    ``results`` has a result by the name of each optional attribute; those in ``empty`` are texts
    that become empty, all others become None.
    """
    if not any(results.values()):  # nearly always; a copy of each record would cost more
        return record, ()
    wrong = {name: result for name, result in results.items() if result}
    texts = frozenset(empty)
    changes: dict[str, Any] = {name: "" if name in texts else None for name in wrong}
    return replace(record, **changes), tuple(wrong.values())  # type: ignore[type-var]
