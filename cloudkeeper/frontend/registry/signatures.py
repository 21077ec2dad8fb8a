"""Signatures of cosign that were made with a key: whether one binds an artefact.

Cosign has two forms. Both sign with ECDSA P-256 over SHA-256 here.

simple signing    payload in JSON, which names repository and digest; the signature is beside it
bundle            JSON of Sigstore, media type ``…bundle.v0.3+json``, around one of
                    DSSE envelope: a signed in-toto statement, whose subject is the digest
                    message signature: over the manifest itself

The bundle names no repository, unless its subject has a name. Everything here is offline: no
transparency log is asked, no certificate of Fulcio is accepted, and no time of signing is known.
Sources: cosign's SIGNATURE_SPEC.md, Sigstore's protobuf-specs, DSSE 1.0, in-toto Statement v1.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.core.registry.names import TaggedArtefact
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from cloudkeeper.frontend.registry.signing_key import SigningKey

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIMPLE_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIMPLE_SIGNATURE = "cosign container image signature"
_STATEMENT = "https://in-toto.io/Statement/v1"
_STATEMENT_TYPE = "application/vnd.in-toto+json"
_SIGN = "https://sigstore.dev/cosign/sign/v1"
_LONGEST = 256
"""Characters of a signature in base64; one of P-256 has about 96."""
_MOST_SUBJECTS = 100
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?", re.ASCII)
_T = TypeVar("_T")


class SignatureForm(enum.StrEnum):
    """The form of a signature; the value is the media type of its content."""

    SIMPLE = SIMPLE_TYPE
    BUNDLE = BUNDLE_TYPE


@dataclass(frozen=True, slots=True)
class ArtefactSignature:
    """A signature as a registry keeps it. ``value``, in base64, is not part of the content."""

    form: SignatureForm
    content: bytes
    value: str = ""


@dataclass(frozen=True, slots=True)
class SignedArtefact:
    """An artefact at ``host``, for which a signature is wanted."""

    host: str
    tagged: TaggedArtefact
    manifest: bytes

    def __str__(self) -> str:
        return f"{self.host}/{self.tagged.reference}"


@dataclass(frozen=True, slots=True)
class ProvenSigner:
    """Who has signed an artefact. ``host`` is the registry that the signature names, or empty."""

    key: SigningKey
    host: str


def verify(
    signature: ArtefactSignature, artefact: SignedArtefact, keys: Sequence[SigningKey]
) -> ProvenSigner:
    """Return who has signed an artefact.

    Raises:
        Malformed: the signature does not have its form.
        Tampered: it was made with another key, or over another content.
        Untrusted: it is valid, and is none of this artefact.

    """
    if signature.form is SignatureForm.SIMPLE:
        key = _signer(signature.value, signature.content, keys)
        return ProvenSigner(key, _bound_by_payload(signature.content, artefact))
    return _verify_bundle(_load(signature.content, "bundle"), artefact, keys)


def _verify_bundle(
    bundle: Mapping[str, Any], artefact: SignedArtefact, keys: Sequence[SigningKey]
) -> ProvenSigner:
    media_type = _get(bundle, "mediaType", str)
    if media_type != BUNDLE_TYPE:
        raise Malformed("bundle", f"is of media type {media_type[:80]!r}, not {BUNDLE_TYPE}")
    material = _get(bundle, "verificationMaterial", dict)
    if "publicKey" not in material:
        raise Untrusted("bundle", "was made with a certificate, not with a key")
    if ("dsseEnvelope" in bundle) == ("messageSignature" in bundle):
        raise Malformed("bundle", "must hold either dsseEnvelope or messageSignature, not both")
    if "dsseEnvelope" in bundle:
        return _verify_envelope(_get(bundle, "dsseEnvelope", dict), artefact, keys)
    return _verify_message(_get(bundle, "messageSignature", dict), artefact, keys)


def _verify_envelope(
    envelope: Mapping[str, Any], artefact: SignedArtefact, keys: Sequence[SigningKey]
) -> ProvenSigner:
    kind = _get(envelope, "payloadType", str)
    if kind != _STATEMENT_TYPE:
        raise Malformed("envelope", f"its payload is of type {kind[:80]!r}, not {_STATEMENT_TYPE}")
    payload = _decoded(_get(envelope, "payload", str), "payload")
    signatures = _get(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise Malformed("envelope", f"has {len(signatures)} signatures; a bundle has one")
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    key = _signer(_get(signatures[0], "sig", str), signed, keys)
    return ProvenSigner(key, _bound_by_statement(payload, artefact))


def _verify_message(
    message: Mapping[str, Any], artefact: SignedArtefact, keys: Sequence[SigningKey]
) -> ProvenSigner:
    digest = _get(message, "messageDigest", dict)
    if (algorithm := _get(digest, "algorithm", str)) != "SHA2_256":
        raise Malformed("message signature", f"its digest is {algorithm[:40]!r}, not SHA2_256")
    _check_digest(f"sha256:{_decoded(_get(digest, 'digest', str), 'digest').hex()}", artefact)
    key = _signer(_get(message, "signature", str), artefact.manifest, keys)
    return ProvenSigner(key, "")


def _signer(value: str, content: bytes, keys: Sequence[SigningKey]) -> SigningKey:
    """Return the key that has made a signature (base64 of DER)."""
    if len(value) > _LONGEST:
        raise Malformed("signature", f"is longer than {_LONGEST} characters")
    signature = _decoded(value, "signature")
    for key in keys:
        try:
            key.key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            continue
        return key
    raise Tampered("signature", "was made with another key, or over another content")


def _bound_by_payload(payload: bytes, artefact: SignedArtefact) -> str:
    """Return the host that a payload of simple signing names, if it is another one."""
    critical = _get(_load(payload, "payload"), "critical", dict)
    kind = _get(critical, "type", str)
    if kind != _SIMPLE_SIGNATURE:
        raise Malformed("payload", f"is of type {kind[:80]!r}, not {_SIMPLE_SIGNATURE!r}")
    _check_digest(_get(_get(critical, "image", dict), "docker-manifest-digest", str), artefact)
    return _host_of(_get(_get(critical, "identity", dict), "docker-reference", str), artefact)


def _bound_by_statement(payload: bytes, artefact: SignedArtefact) -> str:
    """Return the host that the subject of a statement names, if it is another one."""
    statement = _load(payload, "statement")
    if (kind := _get(statement, "_type", str)) != _STATEMENT:
        raise Malformed("statement", f"is of type {kind[:80]!r}, not {_STATEMENT}")
    if (predicate := _get(statement, "predicateType", str)) != _SIGN:
        # Attestations are signed with the same key, and are no approval of the image.
        raise Untrusted("statement", f"is no signature, but {predicate[:80]!r}")
    subjects = _get(statement, "subject", list)
    if len(subjects) > _MOST_SUBJECTS or not all(isinstance(each, dict) for each in subjects):
        raise Malformed("statement", "its subject is not a list of a few objects")
    wanted = artefact.tagged.digest.removeprefix("sha256:")
    for subject in subjects:
        if _get(subject, "digest", dict).get("sha256") == wanted:
            name = _get(subject, "name", str) if subject.get("name") is not None else ""
            return _host_of(name, artefact) if name else ""
    raise Untrusted("statement", f"does not name the digest {artefact.tagged.digest}")


def _check_digest(found: str, artefact: SignedArtefact) -> None:
    if found != artefact.tagged.digest:
        raise Untrusted("signature", f"names the digest {found[:80]!r}, of another artefact")


def _host_of(reference: str, artefact: SignedArtefact) -> str:
    """Return the host of a reference of this artefact; empty if it is the artefact's own.

    A copy in another registry keeps the signature of its origin: the same repository, perhaps
    below a project of that registry.
    """
    name, _, digest = reference.partition("@")
    host, _, path = name.partition("/")
    directory, slash, last = path.rpartition("/")
    last, _, tag = last.partition(":")
    repository, ours = f"{directory}{slash}{last}", artefact.tagged.repository
    is_elsewhere = host != artefact.host and _HOST.fullmatch(host)
    is_copy = is_elsewhere and slash and ours.endswith(f"/{repository}")
    is_other = (tag or artefact.tagged.tag) != artefact.tagged.tag or (
        (digest or artefact.tagged.digest) != artefact.tagged.digest
    )
    is_ours = repository == ours and (host == artefact.host or is_elsewhere)
    if not (is_ours or is_copy) or is_other:
        raise Untrusted("signature", f"names {reference[:120]!r}, another artefact")
    return "" if host == artefact.host else host


def _get(holder: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    found = holder.get(key)
    if not isinstance(found, kind):
        raise Malformed("signature", f"its {key} is missing or is not a {kind.__name__}")
    return found


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("signature", f"its {name} is not base64") from None


def _load(content: bytes, name: str) -> Mapping[str, Any]:
    """Return a JSON object of which each key occurs once, so that all readers see the same."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            key = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise Malformed("signature", f"in its {name} the key {key[:80]!r} occurs twice")
        return made

    def refuse(word: str) -> NoReturn:
        raise Malformed("signature", f"in its {name} {word} is not JSON")

    try:
        found = json.loads(content.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Malformed("signature", f"its {name} is not JSON") from None
    if not isinstance(found, dict):
        raise Malformed("signature", f"its {name} is not a JSON object")
    return found
