"""Names that users choose, made fit for a line of a record."""

from __future__ import annotations

import re

LONGEST = 255
"""Length of the repository's columns."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR = re.compile(r"%{2,}")


def fit(text: str) -> str:
    """Return ``text`` as printable ASCII without a record separator, cut to the repository's columns; maybe empty.

    Letters outside ASCII are dropped, as cASO does; control characters, which could begin a new
    line and so a forged field, become blanks; several per cent signs in a row become one.
    """
    ascii_only = text.encode("ascii", errors="ignore").decode("ascii")
    return _SEPARATOR.sub("%", _CONTROL.sub(" ", ascii_only)).strip()[:LONGEST].strip()
