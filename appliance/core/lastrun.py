"""cASO's ``lastrun`` files: the time up to which a project has been accounted.

`caso` continues from there; ``appliance`` shows it before jobs are scheduled.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from appliance.core import clock, files

_FULL = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?\s*(Z|[+-]\d\d:?\d\d)?")
_LONGEST = 4096
"""Bytes of such a file."""


def read(path: Path) -> datetime | None:
    """Return the time in a checkpoint file; None if there is no file.

    A truncated date is never completed: it could pass for another time.

    Raises:
        ValueError: the file does not hold a complete date.

    """
    try:
        # A date of any cASO is ASCII; a longer file or another text is not a checkpoint.
        text = files.read_regular(path, limit=_LONGEST, follow=True).decode("ascii").strip()
    except FileNotFoundError:
        return None
    if not _FULL.fullmatch(text):
        raise ValueError(text)
    return clock.parse(text)
