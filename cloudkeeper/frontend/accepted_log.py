"""When each source was last accepted, for people who ask what is stale; it decides nothing.

A JSON file, ``{SOURCE: DATE}`` by the names of messages. One that cannot be read or written costs
a date, and no run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from appliance.core import files

logger = logging.getLogger(__name__)

_LARGEST = 2**22


def read(path: Path) -> Mapping[str, datetime]:
    """Return the dates by source."""
    try:
        found = json.loads(files.read_regular(path, limit=_LARGEST))
        return {str(name): datetime.fromisoformat(date) for name, date in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def note(path: Path, sources: Iterable[str], *, at: datetime) -> None:
    """Note that sources were accepted at ``at``."""
    _write(path, {**read(path), **dict.fromkeys(sources, at)})


def forget(path: Path, sources: Iterable[str]) -> None:
    """Forget sources."""
    gone = set(sources)
    _write(path, {name: date for name, date in read(path).items() if name not in gone})


def _write(path: Path, dates: Mapping[str, datetime]) -> None:
    text = json.dumps({name: date.isoformat() for name, date in dates.items()}, indent=1)
    try:
        files.make_directory(path.parent)
        files.write_atomic(path, f"{text}\n".encode())
    except OSError as error:
        logger.warning("%s: not written: %s", path, error.strerror)
