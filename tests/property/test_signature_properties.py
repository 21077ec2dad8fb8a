"""Readers of signatures on documents that hold anything: they refuse, and raise nothing else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.registry import names
from appliance.core.registry.names import TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.frontend.registry import signatures
from cloudkeeper.frontend.registry.signatures import (
    ArtefactSignature,
    SignatureForm,
    SignedArtefact,
)
from cloudkeeper.frontend.registry.signing_key import SigningKey
from tests import cosign

KEY = ec.generate_private_key(ec.SECP256R1())
TRUSTED = SigningKey(KEY.public_key(), Path("/key.pub"))
MANIFEST = b"{}"
DIGEST = names.digest_of(MANIFEST)
WANTED = SignedArtefact("r.example.org", TaggedArtefact("a/b", "1", DIGEST), MANIFEST)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def sign(content: bytes) -> str:
    return base64.b64encode(KEY.sign(content, ec.ECDSA(hashes.SHA256()))).decode()


def paths(document: Any) -> list[tuple[str | int, ...]]:
    """Return the place of each value in a document."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    found: list[tuple[str | int, ...]] = []
    for key, value in pairs:
        found.append((key,))
        if isinstance(value, dict | list):
            found += [(key, *rest) for rest in paths(value)]
    return found


def replaced(document: Any, path: tuple[str | int, ...], value: object) -> Any:
    """Return a document with another value in one place."""
    changed = json.loads(json.dumps(document))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def verify(signature: ArtefactSignature) -> str:
    """Return the host that a signature names; ``refused`` if it does not count."""
    try:
        return signatures.verify(signature, WANTED, [TRUSTED]).host
    except ApplianceError as error:
        str(error).encode()  # it can be printed
        return "refused"


def test_the_documents_below_count() -> None:
    for document in (PAYLOAD, STATEMENT):
        assert verify(signed(document)) == ""


PAYLOAD = json.loads(cosign.payload(DIGEST, "r.example.org/a/b"))
STATEMENT = json.loads(cosign.statement(DIGEST))
BINDING = (
    ("critical", "image", "docker-manifest-digest"),
    ("critical", "identity", "docker-reference"),
    ("subject", 0, "digest", "sha256"),
    ("predicateType",),
)


def signed(document: Any) -> ArtefactSignature:
    """Return a document that our key has signed, in the form that it belongs to."""
    content = json.dumps(document).encode()
    if "critical" in document or "subject" not in document:
        return ArtefactSignature(SignatureForm.SIMPLE, content, sign(content))
    kind = cosign.STATEMENT_TYPE
    whole = f"DSSEv1 {len(kind)} {kind} {len(content)} ".encode() + content
    envelope = {
        "payload": base64.b64encode(content).decode(),
        "payloadType": kind,
        "signatures": [{"sig": sign(whole)}],
    }
    made = json.dumps(cosign.bundle(dsseEnvelope=envelope)).encode()
    return ArtefactSignature(SignatureForm.BUNDLE, made)


@pytest.mark.parametrize("document", [PAYLOAD, STATEMENT], ids=["payload", "statement"])
@given(data=st.data())
def test_signed_documents_with_another_value(document: Any, data: st.DataObject) -> None:
    """Signed by us, so only the content can make it count; what binds must be as it was."""
    path = data.draw(st.sampled_from(paths(document)))
    value = data.draw(JSON)
    changed = replaced(document, path, value)
    verdict = verify(signed(changed))
    if path in BINDING:
        assert verdict == "refused"


@given(data=st.data())
def test_bundles_with_another_value(data: st.DataObject) -> None:
    bundle = json.loads(signed(STATEMENT).content)
    changed = replaced(bundle, data.draw(st.sampled_from(paths(bundle))), data.draw(JSON))
    content = json.dumps(changed).encode()
    assert verify(ArtefactSignature(SignatureForm.BUNDLE, content)) in ("", "refused")


@given(content=st.binary(max_size=200), value=st.text(max_size=100))
def test_anything_is_no_signature(content: bytes, value: str) -> None:
    for form in SignatureForm:
        assert verify(ArtefactSignature(form, content, value)) == "refused"
    assert verify(ArtefactSignature(SignatureForm.SIMPLE, content, sign(content))) == "refused"
