"""Looks for a signature of each artefact, and refuses one that no configured key has signed.

    signature of an earlier run ─ bundles among the referrers ─ layers of the tag sha256-HEX.sig

The first one that counts is kept and verified again by each run, so an unchanged artefact costs no
request, and a key that is taken out of the configuration costs its images their approval. What does
not count is reported only if nothing does: whoever can push could add any signature.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from appliance.core.registry import names
from appliance.core.registry.client import NOT_FOUND, RegistryClient
from appliance.core.registry.names import Digest, TaggedArtefact
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.trust.errors import Malformed, Untrusted
from cloudkeeper.frontend.registry import kept, signatures
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.listing import ACCEPT
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.referrers import Referrers
from cloudkeeper.frontend.registry.signatures import (
    ArtefactSignature,
    SignatureForm,
    SignedArtefact,
)
from cloudkeeper.frontend.registry.signing_key import SigningKey

logger = logging.getLogger(__name__)

_ANNOTATION = "dev.cosignproject.cosign/signature"
_MOST = 50
"""Signatures of an artefact."""
_MOST_REASONS = 3
_LARGEST = 2**18
"""Bytes of a payload or bundle; those of cosign have some hundred, with a time stamp some KiB."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a signature is: a layer, or else the manifest of a bundle."""

    form: SignatureForm
    digest: Digest
    layer: dict[str, Any] | None = None


@dataclass(slots=True)
class SignatureCheck:
    """Requires signatures by ``keys`` for the artefacts of a registry."""

    client: RegistryClient
    manifests: Manifests
    referrers: Referrers
    kept: KeptByDigest
    keys: Sequence[SigningKey]
    origins: set[str] = field(default_factory=set)
    """The other registries that signatures name."""

    def check(self, artefacts: Sequence[SignedArtefact], *, at: datetime) -> None:
        """Check that one of some artefacts is signed: an index, or the image in it.

        Raises:
            Untrusted: no signature counts.

        """
        if any(self._is_known(artefact, at=at) for artefact in artefacts):
            return
        reasons: list[str] = []
        if not any(self._is_signed(artefact, reasons) for artefact in artefacts):
            raise self._refusal(artefacts[0], reasons)

    def _is_known(self, artefact: SignedArtefact, *, at: datetime) -> bool:
        """Check whether an earlier run has kept a signature that counts."""
        key = kept.key_of(artefact.host, artefact.tagged)
        known = _read(self.kept.get(key, limit=2 * _LARGEST, at=at))
        return known is not None and not self._fault(known, artefact)

    def _is_signed(self, artefact: SignedArtefact, reasons: list[str]) -> bool:
        """Check whether the registry has a signature that counts; add the reasons for others."""
        for signature in self._found(artefact.tagged, reasons):
            if fault := self._fault(signature, artefact):
                reasons.append(fault)
                continue
            self._keep(kept.key_of(artefact.host, artefact.tagged), signature)
            return True
        return False

    def _fault(self, signature: ArtefactSignature, artefact: SignedArtefact) -> str:
        """Return why a signature does not count; empty if it does."""
        try:
            proven = signatures.verify(signature, artefact, self.keys)
        except ApplianceError as error:
            return str(error)
        if proven.host:
            self.origins.add(proven.host)
        return ""

    def _refusal(self, artefact: SignedArtefact, reasons: Sequence[str]) -> Untrusted:
        by = ", ".join(map(str, self.keys))
        remedy = f"ask who publishes it to sign {artefact.tagged.digest}"
        if not reasons:
            return Untrusted(artefact, f"is not signed with the key in {by}", remedy)
        distinct = list(dict.fromkeys(reasons))
        words = ", ".join(distinct[:_MOST_REASONS])
        if len(distinct) > _MOST_REASONS:
            words += f", and {len(distinct) - _MOST_REASONS} more reasons"
        return Untrusted(artefact, f"no signature counts for the key in {by}: {words}", remedy)

    def _found(self, tagged: TaggedArtefact, reasons: list[str]) -> Iterator[ArtefactSignature]:
        """Yield the signatures of an artefact; add the reasons for those that cannot be read."""
        number = 0
        for find in (self._bundles, self._layers):
            try:
                for place in find(tagged):
                    number += 1
                    if number > _MOST:
                        reasons.append(f"has more than {_MOST} signatures")
                        return
                    try:
                        yield self._fetch(tagged, place)
                    except ApplianceError as error:  # another one may count
                        reasons.append(str(error))
            except ApplianceError as error:
                reasons.append(str(error))

    def _bundles(self, tagged: TaggedArtefact) -> Iterator[_Place]:
        for referrer in self.referrers.of(tagged):
            if referrer.artefact_type == SignatureForm.BUNDLE:
                yield _Place(SignatureForm.BUNDLE, referrer.digest)

    def _layers(self, tagged: TaggedArtefact) -> Iterator[_Place]:
        tag = f"{tagged.digest.replace(':', '-')}.sig"
        path = f"/v2/{tagged.repository}/manifests/{tag}"
        answer = self.client.get(path, scope=tagged.repository, headers=ACCEPT)
        if answer.status != NOT_FOUND:
            for layer in _layers_of(answer.content, f"{tagged.repository}:{tag}"):
                yield _Place(SignatureForm.SIMPLE, tagged.digest, layer)

    def _fetch(self, tagged: TaggedArtefact, place: _Place) -> ArtefactSignature:
        layer, subject = place.layer, "signature"
        if layer is None:
            wanted = TaggedArtefact(tagged.repository, tagged.tag, place.digest)
            layers = _layers_of(self.manifests.fetch(wanted), subject)
            if len(layers) != 1:
                raise Malformed(subject, f"has {len(layers)} layers; a bundle is one")
            (layer,) = layers
        if (media_type := layer.get("mediaType")) != place.form:
            words = f"is of media type {str(media_type)[:80]!r}, not {place.form}"
            raise Malformed(subject, words)
        value = ""
        if place.form is SignatureForm.SIMPLE:
            value = _annotated(layer, subject)
        digest = names.digest(layer.get("digest"), subject=subject)
        content = self.client.blob(tagged.repository, digest, limit=_LARGEST)
        return ArtefactSignature(place.form, content, value)

    def _keep(self, key: Digest, signature: ArtefactSignature) -> None:
        try:
            self.kept.put(key, _encoded(signature))
        except LocalFailure as error:  # it has been verified; the next run fetches it again
            logger.warning("a signature is not kept: %s", error)


def _annotated(layer: dict[str, Any], subject: str) -> str:
    notes = layer.get("annotations")
    found = notes.get(_ANNOTATION) if isinstance(notes, dict) else None
    if not isinstance(found, str):
        raise Malformed(subject, f"has no annotation {_ANNOTATION}")
    return found


def _layers_of(manifest: bytes, subject: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(manifest)
    except (ValueError, RecursionError):
        raise Malformed(subject, "its manifest is not JSON") from None
    layers = found.get("layers") if isinstance(found, dict) else None
    if not isinstance(layers, list) or not all(isinstance(each, dict) for each in layers):
        raise Malformed(subject, "its manifest has no list of layers")
    return layers


def _encoded(signature: ArtefactSignature) -> bytes:
    content = base64.b64encode(signature.content).decode()
    found = {"form": signature.form, "content": content, "value": signature.value}
    return json.dumps(found).encode()


def _read(content: bytes | None) -> ArtefactSignature | None:
    """Return what an earlier run has kept; None if that cannot be read. It is not verified."""
    try:
        found = json.loads(content or b"")
        form, value = SignatureForm(found["form"]), str(found["value"])
        return ArtefactSignature(form, base64.b64decode(found["content"], validate=True), value)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
