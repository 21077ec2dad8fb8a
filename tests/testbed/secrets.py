"""Passwords: random, one set an instance, each in a file of mode 0600."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


def password(directory: Path, name: str) -> str:
    """Return the password ``name``, made when it is asked for the first time."""
    path = directory / name
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = _private_file(path, secrets.token_hex(16))
        with contextlib.suppress(FileExistsError):  # the first one wins, whole
            os.link(temporary, path)
        temporary.unlink()
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner may read, replacing one that is there in one step."""
    os.replace(_private_file(path, text), path)


def _private_file(beside: Path, text: str) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{beside.name}.", dir=beside.parent)  # mode 0600
    with open(descriptor, "w") as file:
        file.write(text)
    return Path(name)
