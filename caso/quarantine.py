"""The quarantine: records that the repository would refuse, as files, each with the reason."""

from __future__ import annotations

import re
from pathlib import Path

from appliance.core import files


def set_aside(directory: Path, *, key: str, reason: str, text: str) -> Path:
    """Write a record with the reason and return the file. The next run replaces it."""
    # The key holds an id from Nova, which must not lead out of the directory.
    path = directory / f"{re.sub(r'[^0-9A-Za-z._-]', '_', key)[:200]}.txt"
    files.make_directory(directory)
    files.write_atomic(path, f"# refused: {reason}\n{text}\n".encode(errors="backslashreplace"))
    return path
