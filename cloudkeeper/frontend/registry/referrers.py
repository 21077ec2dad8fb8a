"""What refers to an artefact: its SBOM, its signatures; each is an artefact of its own.

The distribution specification 1.1 lists them by digest (``/v2/NAME/referrers/DIGEST``). A registry
that does not know this answers 404; there, whoever attaches something also keeps an index of the
same form under the tag ``sha256-HEX``. A tag of this name that is no index lists nothing: some
registries answer with the artefact itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from appliance.core.registry import names
from appliance.core.registry.client import NOT_FOUND, RegistryClient
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.trust.errors import Malformed
from cloudkeeper.frontend.registry.listing import ACCEPT

_MOST = 200
"""Referrers of one artefact; EGI's images have one."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """An artefact that refers to another one, by the digest of its manifest."""

    digest: Digest
    artefact_type: str


@dataclass(slots=True)
class Referrers:
    """The referrers of a registry's artefacts; each artefact is asked for once in a run."""

    client: RegistryClient
    _has_api: bool = True
    _found: dict[tuple[str, Digest], tuple[Referrer, ...]] = field(default_factory=dict)

    def of(self, tagged: TaggedArtefact) -> tuple[Referrer, ...]:
        """Return the referrers of an artefact.

        Raises:
            ApplianceError: the registry does not say, or lists far too much.

        """
        key = (tagged.repository, tagged.digest)
        if key not in self._found:
            self._found[key] = tuple(self._bounded(tagged))
        return self._found[key]

    def _bounded(self, tagged: TaggedArtefact) -> Iterator[Referrer]:
        for number, found in enumerate(self._listed(tagged)):
            if number >= _MOST:
                subject = f"{self.client.host}/{tagged.reference}"
                raise Malformed(subject, f"has more than {_MOST} referrers")
            yield found

    def _listed(self, tagged: TaggedArtefact) -> Iterator[Referrer]:
        if self._has_api:
            path = f"/v2/{tagged.repository}/referrers/{tagged.digest}"
            for page in self.client.pages(path, scope=tagged.repository, may_be_missing=True):
                if page is None:  # 404: an artefact that this registry does not know has none
                    self._has_api = False
                    break
                yield from _read(page)
        if not self._has_api:
            tag = tagged.digest.replace(":", "-")
            path = f"/v2/{tagged.repository}/manifests/{tag}"
            answer = self.client.get(path, scope=tagged.repository, headers=ACCEPT)
            if answer.status != NOT_FOUND:
                yield from _read(_parsed(answer.content))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _read(index: Any) -> Iterator[Referrer]:
    """Yield the referrers of an index; descriptors that cannot be used are none."""
    manifests = index.get("manifests") if isinstance(index, dict) else None
    for item in manifests if isinstance(manifests, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("artifactType"), str):
            continue
        try:
            yield Referrer(
                names.digest(item.get("digest"), subject="referrer"), item["artifactType"]
            )
        except Malformed:
            continue
