"""What a build derives from its inputs: identifiers of the disk, and the time of all files.

Two builds of the same bundle, packages and files have the same ones, others differ.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

from deploy import debian

_NAMESPACE = uuid.UUID("6f0a3c1e-7f2b-5c39-9d0e-0d5b7c2f9a14")


@dataclass(frozen=True, slots=True)
class BuildIdentity:
    """The digest of a build's inputs, and the day of its newest one."""

    digest: str
    day: date

    def uuid(self, name: str) -> uuid.UUID:
        """Return the identifier of a part of the disk."""
        return uuid.uuid5(_NAMESPACE, f"{self.digest} {name}")

    @property
    def serial(self) -> str:
        """The serial number of the boot partition's file system: 8 hexadecimal digits."""
        return self.uuid("boot file system").hex[:8].upper()

    @property
    def epoch(self) -> int:
        """The time stamp of files, in seconds: no file of the image is newer."""
        return int(datetime.combine(self.day, time(), UTC).timestamp())


def of(bundle_digest: str, base: debian.Base, trees: list[Path]) -> BuildIdentity:
    """Return the identity of a build from a bundle, packages, and trees of files."""
    parts = [bundle_digest.encode(), (base.directory / debian.LIST).read_bytes()]
    parts += [part for tree in trees for part in _parts(tree)]
    return BuildIdentity(debian.digest(parts), base.archive)


def _parts(tree: Path) -> Iterator[bytes]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{path.relative_to(tree)} {path.stat().st_mode & 0o111}".encode()
            yield hashlib.sha256(path.read_bytes()).digest()
