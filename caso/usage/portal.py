"""A saved table of EGI's accounting portal: counts or hours by VO and month, as CSV or JSON.

    CSV, a line for each VO and month     vo,month,vms,wall_hours,cpu_hours
    CSV, a column for each month          VO,2026-09,2026-10
    JSON                                  [{"vo": …, "month": …, "wall_hours": …}, …], or an object
                                          that has this list as a value

Names of columns are read in any case, with blanks for underscores, and some have other names
(`_NAMES`). A month is ``2026-10``, ``10/2026``, or a date in it.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from appliance.core.config import document
from appliance.core.run.errors import ConfigurationError, Problem

Metric = Literal["vms", "wall_hours", "cpu_hours"]
METRICS: tuple[Metric, ...] = ("vms", "wall_hours", "cpu_hours")
Table = dict[tuple[str, str], dict[Metric, float]]
"""By VO and month."""

_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("vo", "fqan", "virtual_organisation", "group"), "vo"),
    **dict.fromkeys(("month", "date", "time", "timestamp", "period"), "month"),
    **dict.fromkeys(("vms", "count", "vm_count", "num_vms", "number_of_vms"), "vms"),
    **dict.fromkeys(("wall_hours", "wall", "elapsed", "elapsed_hours", "wallclock"), "wall_hours"),
    **dict.fromkeys(("cpu_hours", "cpu", "cpu_time", "elapsed_cpu_hours"), "cpu_hours"),
}
_YEAR_FIRST = re.compile(r"(\d{4})-(\d{1,2})(?:\D.*)?")
_MONTH_FIRST = re.compile(r"(\d{1,2})/(\d{4})")
_SUMS = frozenset({"total", "sum", "all"})
"""Names of rows and columns that add up the others."""


def read(path: Path, metric: Metric) -> Table:
    """Read a file; ``metric`` is what the cells of a table of months are.

    Raises:
        ConfigurationError: it is no such table; the line is named.

    """
    return parse(path, document.read_text(path), metric)


def parse(path: Path, text: str, metric: Metric) -> Table:
    """Return the table in a text; ``path`` is for messages.

    Raises:
        ConfigurationError: it is no such table; the line is named.

    """
    if text.lstrip("\ufeff \t\r\n")[:1] in ("[", "{"):
        return _of_rows(path, enumerate(_json_rows(path, text), start=1), metric, word="entry")
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")), dialect=_dialect(text))
    lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not lines:
        raise _wrong(path, 0, "is empty; save the table of the portal as CSV or JSON")
    (_, header), *rest = lines
    named = ((number, dict(zip(header, row, strict=False))) for number, row in rest)
    return _of_rows(path, named, metric, word="line")


def _dialect(text: str) -> type[csv.Dialect] | str:
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)

    class _Portal(csv.excel):
        delimiter = separator

    return _Portal


def _json_rows(path: Path, text: str) -> Sequence[Mapping[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, getattr(error, "lineno", 0), "is not JSON; save it again") from error
    if isinstance(content, Mapping):
        content = next((value for value in content.values() if isinstance(value, list)), content)
    if not isinstance(content, list) or not all(isinstance(one, Mapping) for one in content):
        raise _wrong(path, 0, "has no list of objects; save the table of the portal again")
    return content


def _of_rows(
    path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]], metric: Metric, *, word: str
) -> Table:
    table: Table = {}
    for number, row in rows:
        line = number if word == "line" else 0
        where = "" if line else f"{word} {number}: "
        found = {_name(name): value for name, value in row.items() if name}
        vo = str(found.get("vo") or next(iter(row.values()), "")).strip()
        if not vo or vo.lower() in _SUMS:
            continue
        for month, values in _cells(found, row, metric):
            if month is None:
                raise _wrong(path, line, f"{where}has no month; write it like 2026-10")
            for name, value in values.items():
                amount = _number(value)
                if amount is None:
                    raise _wrong(path, line, f"{where}{value!r} is not a number")
                cell = table.setdefault((vo, month), {})
                cell[name] = cell.get(name, 0.0) + amount
    if not table:
        raise _wrong(path, 0, "has no VO, month and number; see the reference of caso reconcile")
    return table


def _cells(
    found: Mapping[str, Any], row: Mapping[str, Any], metric: Metric
) -> Iterator[tuple[str | None, dict[Metric, Any]]]:
    """Yield the months of a row with their values."""
    if "month" in found or not any(map(_month, row)):
        values = {name: found[name] for name in METRICS if found.get(name) not in (None, "")}
        if values:
            yield _month(found.get("month")), values
        return
    for name, value in row.items():
        if (month := _month(name)) and value not in (None, ""):
            yield month, {metric: value}


def _name(text: str) -> str:
    plain = re.sub(r"\W+", "_", text.strip().lower()).strip("_")
    return _NAMES.get(plain, plain)


def _month(text: object) -> str | None:
    if found := _YEAR_FIRST.fullmatch(str(text).strip()):
        year, month = found.groups()
    elif found := _MONTH_FIRST.fullmatch(str(text).strip()):
        month, year = found.groups()
    else:
        return None
    return f"{year}-{int(month):02d}" if 1 <= int(month) <= 12 else None  # noqa: PLR2004


def _number(value: object) -> float | None:
    """Return a number; blanks and commas may separate thousands."""
    if isinstance(value, bool):
        return None
    try:
        number = float(re.sub(r"[\s,](?=\d{3})", "", str(value).strip()))
    except ValueError:
        return None
    return number if number >= 0 else None


def _wrong(path: Path, line: int, text: str) -> ConfigurationError:
    return ConfigurationError([Problem(path, line, "", text)])
