"""Signatures of artefacts and their keys: every form that counts, and what must not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.core.registry import names
from appliance.core.registry.names import TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend.registry import signatures, signing_key
from cloudkeeper.frontend.registry.signatures import (
    ArtefactSignature,
    SignatureForm,
    SignedArtefact,
)
from cloudkeeper.frontend.registry.signing_key import SigningKey
from tests.cosign import KeyPair, bundle, encoded, envelope, message_signature, payload, statement

pytestmark = pytest.mark.programs("openssl")

HOST, REPOSITORY = "registry.example.org:5000", "egi_vm_images/ubuntu"
MANIFEST = b'{"schemaVersion": 2, "layers": []}'
DIGEST = names.digest_of(MANIFEST)
OTHER = names.digest_of(b"another manifest")
WANTED = SignedArtefact(HOST, TaggedArtefact(REPOSITORY, "24.04", DIGEST), MANIFEST)
REFERENCE = f"{HOST}/{REPOSITORY}"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return KeyPair.create(tmp_path_factory.mktemp("keys"), "foreign")


@pytest.fixture(scope="module")
def trusted(key: KeyPair) -> SigningKey:
    return signing_key.read(key.public)


def simple(key: KeyPair, content: bytes, *, digest: str = "sha256") -> ArtefactSignature:
    value = key.sign(content, digest=digest)
    return ArtefactSignature(SignatureForm.SIMPLE, content, value)


def bundled(document: dict[str, Any] | bytes) -> ArtefactSignature:
    content = document if isinstance(document, bytes) else encoded(document)
    return ArtefactSignature(SignatureForm.BUNDLE, content)


def verdict(signature: ArtefactSignature, *keys: SigningKey) -> str:
    """Return the host that a signature names, or why it does not count."""
    try:
        return signatures.verify(signature, WANTED, keys).host or "counts"
    except ApplianceError as error:
        return str(error)


# What counts.


def forms(key: KeyPair) -> dict[str, ArtefactSignature]:
    """Return a signature of `WANTED` in each form."""
    return {
        "payload": simple(key, payload(DIGEST, REFERENCE)),
        "envelope": bundled(bundle(dsseEnvelope=envelope(key, statement(DIGEST)))),
        "message": bundled(bundle(messageSignature=message_signature(key, MANIFEST))),
    }


def test_each_form_counts_for_its_artefact_and_key(
    key: KeyPair, foreign: KeyPair, trusted: SigningKey
) -> None:
    """A replayed one names another digest; a foreign key made it; another key may stand first."""
    stranger = signing_key.read(foreign.public)
    elsewhere = replace(
        WANTED,
        tagged=TaggedArtefact(REPOSITORY, "24.04", OTHER),
        manifest=b"another manifest",
    )
    for signature in forms(key).values():
        proven = signatures.verify(signature, WANTED, [stranger, trusted])
        assert (proven.key, proven.host) == (trusted, "")
        assert "was made with another key" in verdict(signature, stranger)
        assert "was made with another key" in verdict(signature)
        with pytest.raises(ApplianceError, match="digest"):
            signatures.verify(signature, elsewhere, [trusted])


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (REFERENCE, "counts"),
        (f"{REFERENCE}:24.04", "counts"),
        (f"{REFERENCE}@{DIGEST}", "counts"),
        (f"registry.egi.eu/{REPOSITORY}", "registry.egi.eu"),
        ("registry.egi.eu/ubuntu", "another artefact"),
        (f"registry.egi.eu/other/{REPOSITORY}", "another artefact"),
        (f"{HOST}/egi_vm_images/debian", "another artefact"),
        (f"{HOST}/ubuntu", "another artefact"),
        (f"{REFERENCE}:22.04", "another artefact"),
        (f"{REFERENCE}@{OTHER}", "another artefact"),
        (f"{HOST}/{REPOSITORY.upper()}", "another artefact"),
        ("", "another artefact"),
        ("ubuntu", "another artefact"),
        (f"/{REPOSITORY}", "another artefact"),
        (f"a b\n/{REPOSITORY}", "another artefact"),
    ],
)
@pytest.mark.parametrize("form", ["payload", "statement"])
def test_the_repository_that_a_signature_names(
    key: KeyPair, trusted: SigningKey, reference: str, expected: str, form: str
) -> None:
    """R7: a signature that names the registry of origin is taken, one of another image is not."""
    if form == "payload":
        signature = simple(key, payload(DIGEST, reference))
    else:
        digest = {"sha256": DIGEST.removeprefix("sha256:")}
        body = statement(DIGEST, subject=[{"name": reference, "digest": digest}])
        signature = bundled(bundle(dsseEnvelope=envelope(key, body)))
        expected = expected if reference else "counts"  # cosign 3 writes no name
    assert expected in verdict(signature, trusted)


def test_a_copy_below_a_project_of_a_proxy(key: KeyPair, trusted: SigningKey) -> None:
    """Harbor's proxy caches put their own project before the repository of the origin."""
    copy = TaggedArtefact(f"proxy/{REPOSITORY}", "24.04", DIGEST)
    for reference, counts in (
        (f"registry.egi.eu/{REPOSITORY}", True),
        ("registry.egi.eu/ubuntu", False),
        (f"{HOST}/{REPOSITORY}", False),
    ):
        signature = simple(key, payload(DIGEST, reference))
        try:
            signatures.verify(signature, replace(WANTED, tagged=copy), [trusted])
        except ApplianceError:
            assert not counts, reference
        else:
            assert counts, reference


# What does not.


def altered(content: bytes) -> bytes:
    """Return a content with one of its letters changed."""
    return content.replace(b"cosign", b"cosigm", 1)


@pytest.mark.parametrize("digest", ["sha384", "sha512", "sha1"])
def test_a_signature_over_another_hash(key: KeyPair, trusted: SigningKey, digest: str) -> None:
    found = simple(key, payload(DIGEST, REFERENCE), digest=digest)
    assert "was made with another key, or over another content" in verdict(found, trusted)
    made = envelope(key, statement(DIGEST), digest=digest)
    assert "was made with another key" in verdict(bundled(bundle(dsseEnvelope=made)), trusted)


@pytest.mark.parametrize(
    ("critical", "words"),
    [
        ({"image": {"docker-manifest-digest": OTHER}}, "names the digest"),
        ({"image": {"docker-manifest-digest": DIGEST.upper()}}, "names the digest"),
        ({"image": {"docker-manifest-digest": None}}, "docker-manifest-digest is missing or"),
        ({"image": [DIGEST]}, "its image is missing or is not a dict"),
        ({"identity": {}}, "its docker-reference is missing"),
        ({"identity": {"docker-reference": 7}}, "its docker-reference is missing or is not a str"),
        ({"type": "atomic container signature"}, "is of type 'atomic container signature', not"),
        ({"type": None}, "its type is missing or is not a str"),
    ],
)
def test_payloads_that_are_signed_and_do_not_bind(
    key: KeyPair, trusted: SigningKey, critical: dict[str, Any], words: str
) -> None:
    assert words in verdict(simple(key, payload(DIGEST, REFERENCE, **critical)), trusted)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "its payload is not a JSON object"),
        (b'{"critical": {}', "its payload is not JSON"),
        (b"\xff\xfe{}", "its payload is not JSON"),
        (b'{"critical": NaN}', "in its payload NaN is not JSON"),
        (b"[" * 100_000, "its payload is not JSON"),
        (b'{"optional": ' + b"9" * 5000 + b"}", "its payload is not JSON"),
        (payload(DIGEST, REFERENCE).replace(b'"critical"', b'"critical": {}, "critical"'), "twice"),
        (
            payload(DIGEST, REFERENCE).replace(
                b'"docker-manifest-digest"',
                f'"docker-manifest-digest": "{OTHER}", "docker-manifest-digest"'.encode(),
            ),
            "the key 'docker-manifest-digest' occurs twice",
        ),
    ],
    ids=["list", "cut", "utf-16", "nan", "deep", "long number", "two critical", "two digests"],
)
def test_payloads_that_are_signed_and_not_well_formed(
    key: KeyPair, trusted: SigningKey, content: bytes, words: str
) -> None:
    assert words in verdict(simple(key, content), trusted)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, content=one.content.replace(b"24", b"25")),
        lambda one: replace(one, content=one.content + b" "),
        lambda one: replace(one, value=""),
        lambda one: replace(one, value=base64.b64encode(bytes(64)).decode()),
        lambda one: replace(one, value=one.value[:-8]),
        lambda one: replace(one, value=one.value + "\n"),
        lambda one: replace(one, value="*" + one.value),
        lambda one: replace(one, value=one.value * 4),
        lambda one: replace(one, value="ü"),
        lambda one: replace(one, form=SignatureForm.BUNDLE),
    ],
    ids=[
        *("content", "longer content", "no signature", "zeros", "cut", "line end", "no base64"),
        *("too long", "not ascii", "other form"),
    ],
)
def test_a_payload_or_signature_that_is_altered(
    key: KeyPair, trusted: SigningKey, spoil: Callable[[ArtefactSignature], ArtefactSignature]
) -> None:
    found = simple(key, payload(DIGEST, f"{REFERENCE}:24.04"))
    assert verdict(found, trusted) == "counts"
    assert verdict(spoil(found), trusted) not in ("", "counts")


DIGEST_OF_OTHER = {"sha256": OTHER.removeprefix("sha256:")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": [{"digest": DIGEST_OF_OTHER}]}, "does not name the digest"),
        ({"subject": [{"digest": {"sha512": DIGEST}}]}, "does not name the digest"),
        ({"subject": []}, "does not name the digest"),
        ({"subject": {}}, "its subject is missing or is not a list"),
        ({"subject": ["x"]}, "its subject is not a list of a few objects"),
        ({"subject": [{}] * 101}, "its subject is not a list of a few objects"),
        ({"subject": [{"name": "x"}]}, "its digest is missing"),
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "is of type"),
        ({"predicateType": "https://cyclonedx.org/bom"}, "is no signature, but 'https://cyclone"),
        ({"predicateType": None}, "its predicateType is missing"),
    ],
)
def test_statements_that_are_signed_and_do_not_bind(
    key: KeyPair, trusted: SigningKey, changes: dict[str, Any], words: str
) -> None:
    """An attestation is signed with the same key over the same digest, and approves nothing."""
    found = bundled(bundle(dsseEnvelope=envelope(key, statement(DIGEST, **changes))))
    assert words in verdict(found, trusted)


def test_a_statement_in_which_a_key_occurs_twice(key: KeyPair, trusted: SigningKey) -> None:
    body = statement(DIGEST).replace(b'"subject"', b'"subject": [], "subject"')
    found = bundled(bundle(dsseEnvelope=envelope(key, body)))
    assert "in its statement the key 'subject' occurs twice" in verdict(found, trusted)


CERTIFICATE = {"certificate": {"rawBytes": "AAAA"}}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda made: made.pop("mediaType"), "its mediaType is missing"),
        (
            lambda made: made.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"),
            "is of media type 'application/vnd.dev.sigstore.bundle.v0.2+json', not",
        ),
        (lambda made: made.pop("verificationMaterial"), "its verificationMaterial is missing"),
        (lambda made: made.update(verificationMaterial=CERTIFICATE), "made with a certificate"),
        (lambda made: made.pop("dsseEnvelope"), "must hold either dsseEnvelope or"),
        (
            lambda made: made.update(messageSignature={}),
            "must hold either dsseEnvelope or messageSignature, not both",
        ),
        (lambda made: made.update(dsseEnvelope=[]), "its dsseEnvelope is missing or is not a dict"),
        (lambda made: made["dsseEnvelope"].update(payloadType="text/plain"), "is of type 'text/"),
        (lambda made: made["dsseEnvelope"].update(payload="*"), "its payload is not base64"),
        (lambda made: made["dsseEnvelope"].update(signatures=[]), "has 0 signatures"),
        (lambda made: made["dsseEnvelope"].update(signatures=["x"]), "has 1 signatures"),
        (lambda made: made["dsseEnvelope"]["signatures"].append({}), "has 2 signatures"),
        (lambda made: made["dsseEnvelope"]["signatures"][0].pop("sig"), "its sig is missing"),
        (
            lambda made: made["dsseEnvelope"].update(
                payload=base64.b64encode(altered(statement(DIGEST))).decode()
            ),
            "was made with another key, or over another content",
        ),
    ],
)
def test_bundles_that_are_altered(
    key: KeyPair, trusted: SigningKey, spoil: Callable[[Any], object], words: str
) -> None:
    made = bundle(dsseEnvelope=envelope(key, statement(DIGEST)))
    assert verdict(bundled(made), trusted) == "counts"
    spoil(made)
    assert words in verdict(bundled(made), trusted)


def test_an_envelope_without_its_prefix_does_not_count(key: KeyPair, trusted: SigningKey) -> None:
    """A signature over the bare statement would also be one over any file of these bytes."""
    made = envelope(key, statement(DIGEST))
    made["signatures"][0]["sig"] = key.sign(statement(DIGEST))
    assert "was made with another key" in verdict(bundled(bundle(dsseEnvelope=made)), trusted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messageDigest": {"algorithm": "SHA2_512", "digest": "AAAA"}}, "'SHA2_512', not SHA2"),
        ({"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"}}, "names the digest"),
        ({"messageDigest": None}, "its messageDigest is missing"),
        ({"signature": base64.b64encode(b"x" * 70).decode()}, "was made with another key"),
        ({"signature": 7}, "its signature is missing or is not a str"),
    ],
)
def test_message_signatures_that_do_not_bind(
    key: KeyPair, trusted: SigningKey, changes: dict[str, Any], words: str
) -> None:
    made = message_signature(key, MANIFEST) | changes
    assert words in verdict(bundled(bundle(messageSignature=made)), trusted)


def test_a_bundle_in_which_a_key_occurs_twice(key: KeyPair, trusted: SigningKey) -> None:
    text = json.dumps(bundle(messageSignature=message_signature(key, MANIFEST)))
    twice = text.replace('"mediaType"', '"mediaType": "x", "mediaType"')
    assert "the key 'mediaType' occurs twice" in verdict(bundled(twice.encode()), trusted)


# Keys.


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        ("EC", ("-pkeyopt", "ec_paramgen_curve:P-384"), "holds a key on the curve secp384r1; use"),
        ("EC", ("-pkeyopt", "ec_paramgen_curve:secp256k1"), "holds a key on the curve secp256k1"),
        ("RSA", ("-pkeyopt", "rsa_keygen_bits:1024"), "holds a key that is not ECDSA; use a key"),
        ("ED25519", ("-outform", "PEM"), "holds a key that is not ECDSA; use a key of ECDSA P-256"),
    ],
    ids=["P-384", "secp256k1", "RSA", "Ed25519"],
)
def test_keys_of_another_kind(
    tmp_path: Path, algorithm: str, options: tuple[str, ...], words: str
) -> None:
    found = KeyPair.create(tmp_path, "other", *options, algorithm=algorithm)
    with pytest.raises(ApplianceError, match=f"{found.public}: {words}"):
        signing_key.read(found.public)


def test_files_that_hold_no_key(tmp_path: Path, key: KeyPair) -> None:
    public = key.public.read_text()
    for text, words in (
        ("", "holds no public key in PEM; write the public key of cosign"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "holds no public key"),
        (key.private.read_text(), "holds a private key; write the public key of cosign"),
        (public + public, "holds 2 PEM blocks; write one file for each key"),
    ):
        path = tmp_path / "key.pub"
        path.write_text(text)
        with pytest.raises(ApplianceError, match=f"{path}: {words}"):
            signing_key.read(path)
    with pytest.raises(ApplianceError, match=r"missing[.]pub: "):
        signing_key.read(tmp_path / "missing.pub")
    linked = tmp_path / "linked.pub"
    linked.symlink_to(key.public)
    assert signing_key.read(linked).key == signing_key.read(key.public).key
