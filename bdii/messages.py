"""Foreign names and texts as they may stand in a message: short, printable, and few of a kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_SHOWN = 300
MOST_LINES = 5
"""Lines of one kind of trouble that are passed on."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown(dn: str) -> str:
    """Return a name as it stands in a message: a long one without its middle."""
    return (
        dn
        if len(dn) <= LONGEST_SHOWN
        else f"{dn[: LONGEST_SHOWN // 2]}…{dn[-LONGEST_SHOWN // 2 :]}"
    )


def printable(text: str) -> str:
    """Return a text of strangers as it may stand in a log line: no control character, nothing that is not UTF-8."""
    return _CONTROL.sub("?", text).encode("utf-8", "backslashreplace").decode()


def few(lines: Sequence[str]) -> list[str]:
    """Return the first of many lines, and how many there are more."""
    return [
        *lines[:MOST_LINES],
        *([f"{len(lines) - MOST_LINES} more of this kind"] if len(lines) > MOST_LINES else []),
    ]
