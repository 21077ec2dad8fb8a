"""The times of a line of cron, by crontab(5): five fields, or a word such as ``@daily``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES: tuple[Sequence[str], ...] = ((), (), (), _MONTHS, _DAYS)
_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")


@dataclass(frozen=True, slots=True)
class CronField:
    """A field: its sorted values, and whether it does not begin with a star."""

    values: Sequence[int]
    is_restricted: bool


def fields(times: str) -> Sequence[CronField]:
    """Return the five fields; none for ``@reboot``.

    Raises:
        ValueError: Cron does not accept the times.

    """
    if times.lower() == "@reboot":
        return ()
    texts = _WORDS.get(times.lower(), times).split()
    if len(texts) != len(_RANGES):
        raise ValueError(times)
    return [
        CronField(_values(text, *bounds, names=names), is_restricted=not text.startswith("*"))
        for text, bounds, names in zip(texts, _RANGES, _NAMES, strict=True)
    ]


def _values(text: str, least: int, most: int, *, names: Sequence[str]) -> list[int]:
    """Return the sorted values of a field; raises `ValueError` for what cron does not accept."""
    found: set[int] = set()
    for part in text.lower().split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(text)
        first, last, step = match.groups()
        begin = least if first is None else _number(first, least, names)
        end = most if first is None or (step and not last) else begin
        end = _number(last, least, names) if last else end
        if not least <= begin <= end <= most or step == "0":
            raise ValueError(text)
        found.update(range(begin, end + 1, int(step or 1)))
    # 7 is Sunday, too.
    return sorted({number % 7 for number in found} if names is _DAYS else found)


def _number(text: str, least: int, names: Sequence[str]) -> int:
    return names.index(text) + least if text in names else int(text)
