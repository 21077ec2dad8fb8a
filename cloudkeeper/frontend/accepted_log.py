"""When each source was last accepted, for people who ask what is stale; it decides nothing.

A JSON file, ``{SOURCE: DATE}`` by the names of messages. One that cannot be read or written costs
a date, and no run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from appliance.core import json_file
from appliance.core.run.errors import LocalFailure

logger = logging.getLogger(__name__)

_LARGEST = 2**22


def read(path: Path) -> Mapping[str, datetime]:
    """Return the dates by source."""
    try:
        found = json_file.read(path, limit=_LARGEST)
        return {str(name): datetime.fromisoformat(date) for name, date in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def note(path: Path, sources: Iterable[str], *, at: datetime) -> None:
    """Note that sources were accepted at ``at``."""
    _write(path, {**read(path), **dict.fromkeys(sources, at)})


def forget(path: Path, sources: Iterable[str]) -> None:
    """Forget sources."""
    gone = set(sources)
    _write(path, {name: date for name, date in read(path).items() if name not in gone})


def _write(path: Path, dates: Mapping[str, datetime]) -> None:
    try:
        json_file.write(path, {name: date.isoformat() for name, date in dates.items()})
    except LocalFailure as error:
        logger.warning("%s", error)
