"""Output of the verbs: lines that no peer can forge, tables, and JSON, all without secrets."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

from appliance.core.run import log

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def line(text: str = "") -> None:
    """Print a line; controls in it are escaped, and secrets masked."""
    print(log.one_line(log.redact(text)))


def remark(text: str) -> None:
    """Print a line to standard error, whatever the level of the log."""
    print(log.one_line(log.redact(text)), file=sys.stderr)


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> None:
    """Print rows in columns, of which the last one is as long as it is."""
    shown = [[log.one_line(log.redact(cell)) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"{indent}{'  '.join(cells)}".rstrip())


def document(content: object) -> None:
    """Print JSON, in which dates are ISO 8601."""
    print(log.redact(json.dumps(content, indent=1, default=_iso)))


def size(number: int | None) -> str:
    """Return a number of bytes for people."""
    if number is None:
        return "unknown"
    amount, unit = float(number), 0
    while amount >= _STEP and unit < len(_UNITS) - 1:
        amount, unit = amount / _STEP, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{number} B"


def moment(at: datetime | None) -> str:
    """Return a time for people, in UTC."""
    return f"{at:%Y-%m-%d %H:%M}Z" if at else "unknown"


def count(number: int, one: str) -> str:
    """Return a number of things whose name has a regular plural."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
