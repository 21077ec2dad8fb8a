"""Foreign names and texts in messages: short, printable, and few of a kind.

Providers and other BDIIs choose these texts, and an administrator reads them in a terminal.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

logger = logging.getLogger(__name__)

LONGEST_SHOWN = 300
MOST_LINES = 5
# Control characters of ASCII and Latin-1, and the two line separators of Unicode.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shortened(dn: str) -> str:
    """Return a name for a message: a long one without its middle."""
    if len(dn) <= LONGEST_SHOWN:
        return dn
    return f"{dn[: LONGEST_SHOWN // 2]}…{dn[-LONGEST_SHOWN // 2 :]}"


def printable(text: str) -> str:
    """Return a foreign text for a log line: valid UTF-8 without control characters."""
    return _CONTROL.sub("?", text).encode("utf-8", "backslashreplace").decode()


def few(lines: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """Return the first ``most`` lines, and one that counts the others."""
    more = len(lines) - most
    return [*lines[:most], *([f"{more} more of this kind"] if more > 0 else [])]


class ProblemLog:
    """Logs each problem when it begins, not again in each cycle while it lasts."""

    def __init__(self) -> None:
        self._lasting: frozenset[str] = frozenset()

    def report(self, problems: Sequence[str]) -> None:
        """Log the problems of a cycle that the cycle before did not have."""
        for problem in dict.fromkeys(problems):
            if problem not in self._lasting:
                logger.warning("%s", problem)
        self._lasting = frozenset(problems)

    def forget(self) -> None:
        """Log all problems of the next cycle."""
        self._lasting = frozenset()
