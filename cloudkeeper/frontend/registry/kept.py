"""What is known about artefacts by their digest, kept on disk between runs.

A directory holds one file per digest. Files that no run has needed for a month are removed. A dry
run reads them and writes nothing.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.registry import names
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import LocalFailure

_UNUSED = timedelta(days=30)


def key_of(host: str, tagged: TaggedArtefact) -> Digest:
    """Return the key of a registry's statement about an artefact; each registry has its own."""
    return names.digest_of(f"{host}/{tagged.repository}@{tagged.digest}".encode())


@dataclass(frozen=True, slots=True)
class KeptByDigest:
    """The files in ``directory``; ``is_read_only`` for a run that remembers nothing."""

    directory: Path
    is_read_only: bool = False

    def get(self, digest: Digest, *, limit: int, at: datetime) -> bytes | None:
        """Return what is kept about a digest; None if it is nothing, or more than ``limit`` bytes.

        The content is unchecked.
        """
        path = self._path(digest)
        try:
            content = files.read_regular(path, limit=limit)
        except OSError:
            return None
        if not self.is_read_only:
            with contextlib.suppress(OSError):  # at worst it is removed too early
                os.utime(path, (at.timestamp(), at.timestamp()))
        return content

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep something about a digest.

        Raises:
            LocalFailure: it cannot be written.

        """
        if self.is_read_only:
            return
        path = self._path(digest)
        try:
            files.make_directory(self.directory)
            files.write_atomic(path, content)
        except OSError as error:
            raise LocalFailure.from_os(error, subject=path) from error

    def clean(self, *, at: datetime) -> None:
        """Remove the entries that no run has needed for a month."""
        if self.is_read_only:
            return
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                if path.stat().st_mtime < (at - _UNUSED).timestamp():
                    path.unlink()

    def _path(self, digest: Digest) -> Path:
        return self.directory / digest.removeprefix("sha256:")
