"""Names that users choose, cleaned for a line of a record."""

from __future__ import annotations

import functools
import re

LONGEST = 255
"""Characters in a column of the repository."""
_KEPT = 2048
"""Results that are kept: most names, such as those of users and images, stand in many records."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR = re.compile(r"%{2,}")


@functools.lru_cache(_KEPT)
def fit(text: str) -> str:
    """Return ``text`` as at most `LONGEST` printable ASCII characters without a record separator.

    Letters outside ASCII are dropped, as cASO does. Control characters become blanks: a line feed
    could begin a forged field. Several per cent signs in a row, the separator, become one. The
    result may be empty.
    """
    if len(text) <= LONGEST and text.isascii() and text.isprintable() and "%%" not in text:
        return text.strip()  # nearly all names
    # The order matters: dropping letters may join per cent signs, cutting may leave a blank.
    ascii_only = text.encode("ascii", errors="ignore").decode("ascii")
    return _SEPARATOR.sub("%", _CONTROL.sub(" ", ascii_only)).strip()[:LONGEST].strip()
