"""Names in a registry, as the OCI distribution specification has them: repositories, tags, digests.

A name becomes part of URLs and of file names, so nothing else is accepted from a registry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import NewType

from appliance.core.trust.errors import Malformed

Digest = NewType("Digest", str)
"""``sha256:`` and 64 hexadecimal digits in lower case."""

_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(f"{_PART}(?:/{_PART})*", re.ASCII)
_LONGEST_REPOSITORY = 255
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile("sha256:[0-9a-f]{64}", re.ASCII)
_ATTACHED = re.compile("sha256-[0-9a-f]{64}([.][a-z]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TaggedArtefact:
    """A tag, resolved to the digest of its manifest; ``repository`` begins with the project."""

    repository: str
    tag: str
    digest: Digest
    fault: str = field(default="", compare=False)
    """Why it is refused, whatever it says: the registry contradicts itself about its digest."""

    @property
    def reference(self) -> str:
        """``PROJECT/REPOSITORY:TAG``, by which people and EGI's monitoring call the image."""
        return f"{self.repository}:{self.tag}"


def is_repository(text: str) -> bool:
    """Check whether a text can be the name of a repository or project."""
    return len(text) <= _LONGEST_REPOSITORY and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Check whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


def is_attachment(tag: str) -> bool:
    """Check whether a tag names what is attached to an artefact: referrers, or a signature."""
    return _ATTACHED.fullmatch(tag) is not None


def digest(text: object, *, subject: str) -> Digest:
    """Return a text as a digest.

    Raises:
        Malformed: it is none, or of another algorithm than SHA-256.

    """
    if not isinstance(text, str) or _DIGEST.fullmatch(text) is None:
        raise Malformed(subject, f"{str(text)[:80]!r} is not a SHA-256 digest")
    return Digest(text)


def digest_of(content: bytes) -> Digest:
    """Return the digest of some content."""
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def contradiction(header: str, content: bytes) -> str:
    """Return how a header ``Docker-Content-Digest`` contradicts the content; empty: not at all.

    A registry need not send it, and may send another algorithm.
    """
    found, claimed = digest_of(content), header.strip().lower()
    if not claimed.startswith("sha256:") or claimed == found:
        return ""
    return f"the registry calls it {header.strip()[:80]!r}, but its manifest has digest {found}"
