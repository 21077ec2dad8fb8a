"""Manifests by their digest, kept on disk: what a digest names never changes.

A kept file is verified like an answer of the registry, so a damaged or foreign one is fetched
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from appliance.core.registry import names
from appliance.core.registry.client import MAX_BYTES, NOT_FOUND, RegistryClient
from appliance.core.registry.names import TaggedArtefact
from appliance.core.run.errors import Unavailable
from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend.registry import artefact
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.listing import ACCEPT, DIGEST_HEADER

_ASK = "ask the registry's administrators"


@dataclass(frozen=True, slots=True)
class ResolvedArtefact:
    """What a tag names, and the manifest of its image: the same, unless the tag names an index."""

    tagged: TaggedArtefact
    image: TaggedArtefact
    content: bytes
    """Of the artefact that the tag names."""
    manifest: bytes

    @property
    def parts(self) -> tuple[tuple[TaggedArtefact, bytes], ...]:
        """The artefact that the tag names, then its image if that is another one."""
        image = () if self.image == self.tagged else ((self.image, self.manifest),)
        return ((self.tagged, self.content), *image)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Manifests of a registry, and those of earlier runs."""

    client: RegistryClient
    kept: KeptByDigest

    def get(self, wanted: TaggedArtefact, *, at: datetime) -> bytes:
        """Return the manifest that has the digest of a tag.

        Raises:
            Unavailable: the registry does not have it any longer, or cannot be reached.
            Tampered: what the registry sends has another digest.
            LocalFailure: it cannot be kept.

        """
        content = self.kept.get(wanted.digest, limit=MAX_BYTES, at=at)
        if content is None or names.digest_of(content) != wanted.digest:
            content = self.fetch(wanted)
            self.kept.put(wanted.digest, content)
        return content

    def resolve(self, tagged: TaggedArtefact, *, at: datetime) -> ResolvedArtefact:
        """Return the manifest of the image that a tag names, through an index of one image.

        Raises:
            Malformed: it is an index of several images, or no manifest.
            ApplianceError: as for `get`.

        """
        content = self.get(tagged, at=at)
        digest = artefact.wrapped(content, subject=f"{self.client.host}/{tagged.reference}")
        if digest is None:
            return ResolvedArtefact(tagged, tagged, content, content)
        image = replace(tagged, digest=digest)
        return ResolvedArtefact(tagged, image, content, self.get(image, at=at))

    def fetch(self, wanted: TaggedArtefact) -> bytes:
        """Return a manifest from the registry.

        Raises:
            Unavailable: the registry does not have it any longer, or cannot be reached.
            Tampered: what the registry sends has another digest.

        """
        path = f"/v2/{wanted.repository}/manifests/{wanted.digest}"
        answer = self.client.get(path, scope=wanted.repository, headers=ACCEPT)
        subject = f"{self.client.host}/{wanted.reference}"
        if answer.status == NOT_FOUND:
            words = f"the registry has no manifest {wanted.digest} any longer"
            raise Unavailable(subject, words, "the next run lists the tags again")
        if (found := names.digest_of(answer.content)) != wanted.digest:
            words = f"the manifest that came has digest {found}, not {wanted.digest}"
            raise Tampered(subject, words, _ASK)
        if words := names.contradiction(answer.headers.get(DIGEST_HEADER, ""), answer.content):
            raise Tampered(subject, words, _ASK)
        return answer.content
