"""Passwords: random, one set an instance, each in a file of mode 0600."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def password(directory: Path, name: str) -> str:
    """Return the password ``name``, made when it is asked for the first time."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / name
    if not path.exists():
        private = directory / f".{name}.{os.getpid()}"
        write_private(private, secrets.token_hex(16))
        try:
            os.link(private, path)  # the first one wins, whole
        except FileExistsError:
            pass
        finally:
            private.unlink()
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody but its owner may read, replacing one that is there in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(temporary, path)
