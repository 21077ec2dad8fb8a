"""Manifests by their digest, kept on disk: what a digest names never changes.

A file of the cache is verified like an answer of the registry, so a damaged or foreign one is
fetched again. Manifests that no tag has named for a month are removed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from appliance.core import files
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend.registry import names
from cloudkeeper.frontend.registry.client import MAX_BYTES, NOT_FOUND, RegistryClient
from cloudkeeper.frontend.registry.listing import ACCEPT
from cloudkeeper.frontend.registry.names import TaggedArtefact

_UNUSED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Manifests of a registry, and ``directory``, which keeps them between runs."""

    client: RegistryClient
    directory: Path

    def get(self, wanted: TaggedArtefact, *, at: datetime) -> bytes:
        """Return the manifest that has the digest of a tag.

        Raises:
            Unavailable: the registry does not have it any longer, or cannot be reached.
            Tampered: what the registry sends has another digest.
            LocalFailure: the cache cannot be written.

        """
        path = self.directory / wanted.digest.removeprefix("sha256:")
        with contextlib.suppress(OSError):
            content = files.read_regular(path, limit=MAX_BYTES)
            if names.digest_of(content) == wanted.digest:
                os.utime(path, (at.timestamp(), at.timestamp()))
                return content
        content = self._fetch(wanted)
        try:
            files.make_directory(self.directory)
            files.write_atomic(path, content)
        except OSError as error:
            raise LocalFailure.from_os(error, subject=path) from error
        return content

    def clean(self, *, at: datetime) -> None:
        """Remove the manifests that no run has needed for a month."""
        with contextlib.suppress(OSError):
            for path in self.directory.iterdir():
                if path.stat().st_mtime < (at - _UNUSED).timestamp():
                    path.unlink()

    def _fetch(self, wanted: TaggedArtefact) -> bytes:
        path = f"/v2/{wanted.repository}/manifests/{wanted.digest}"
        answer = self.client.get(path, scope=wanted.repository, headers=ACCEPT)
        subject = f"{self.client.host}/{wanted.reference}"
        if answer.status == NOT_FOUND:
            words = f"the registry has no manifest {wanted.digest} any longer"
            raise Unavailable(subject, words, "the next run lists the tags again")
        if (found := names.digest_of(answer.content)) != wanted.digest:
            words = f"the manifest that came has digest {found}, not {wanted.digest}"
            raise Tampered(subject, words, "ask the registry's administrators")
        return answer.content
