"""Read cASO's ``lastrun`` files: up to when a project has been accounted.

`caso` goes on from there; the command ``appliance`` shows it before jobs are scheduled.
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
    """Return a checkpoint file's moment, None without a file; `ValueError` when it holds no full date.

    A date that has been cut off may never pass for a later one, so nothing is filled in.
    """
    try:
        text = files.read_regular(path, limit=_LONGEST, follow=True).decode("ascii").strip()
    except FileNotFoundError:
        return None
    if not _FULL.fullmatch(text):
        raise ValueError(text)
    return clock.parse(text)
