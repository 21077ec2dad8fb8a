"""Records as JSON that a later run can read back, for the quarantine.

The types of a record's fields say how each is written: times as ISO 8601, durations as seconds,
decimal numbers as text, and records inside records as objects.
"""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime, timedelta
from decimal import Decimal
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R")


def to_json(value: object) -> Any:
    """Return a record, or the value of a field, as JSON knows it."""
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
        case enum.Enum():
            return value.value
        case _ if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            return {field.name: to_json(getattr(value, field.name)) for field in fields}
        case _:
            return value


def from_json(kind: type[R], value: object) -> R:
    """Return the record of a class.

    Raises:
        ValueError, TypeError, LookupError, ArithmeticError: it is none of this class.

    """
    if not isinstance(value, dict):
        raise TypeError(f"{kind.__name__} is {value!r}")
    hints = get_type_hints(kind)
    return kind(**{name: _read(hints[name], found) for name, found in value.items()})


def _read(hint: Any, value: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        options = [option for option in get_args(hint) if option is not NoneType]
        # A decimal number is the only one of several types that is written as text.
        hint = Decimal if Decimal in options and isinstance(value, str) else options[0]
    if hint is datetime:
        return datetime.fromisoformat(value)
    if hint is timedelta:
        return timedelta(seconds=value)
    if hint is Decimal:
        return Decimal(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    if issubclass(hint, enum.Enum):
        return hint(value)
    if type(value) is not hint and not (hint is float and isinstance(value, int)):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value
