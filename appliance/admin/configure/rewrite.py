"""Replacement of a configuration file by a new text."""

from __future__ import annotations

from pathlib import Path

from appliance.core import files


def rewrite(path: Path, text: str) -> None:
    """Replace a file, keeping its owner and its mode; a link to it stays."""
    status = path.stat()
    path = path.resolve()
    data = text.encode(errors="surrogateescape")
    owner = (status.st_uid, status.st_gid)
    files.write_atomic(path, data, mode=status.st_mode & 0o7777, owner=owner)
