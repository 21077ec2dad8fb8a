"""The signature of an artefact, as ``cosign sign --key`` makes it: Sigstore's bundle, with a key.

`cloudkeeper` verifies it (`signing_key` of a source), and so does ``cosign verify --key``. Both
take ECDSA P-256 with SHA-256, and no other key. No transparency log has it, so cosign needs
``--insecure-ignore-tlog``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

from deploy.bundle import BundleError, check_key

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_SIGN = "https://sigstore.dev/cosign/sign/v1"
_STATEMENT = "application/vnd.in-toto+json"
ANNOTATIONS = {
    "dev.sigstore.bundle.content": "dsse-envelope",
    "dev.sigstore.bundle.predicateType": _SIGN,
}
"""Of the artefact that holds the signature; cosign finds it by them."""


def check_artefact_key(key: Path) -> None:
    """Check that a key can sign artefacts, and that only its owner can read it.

    Raises:
        BundleError: It is missing, of another kind, or others can read it.

    """
    check_key(key)
    if b"prime256v1" not in _openssl("pkey", "-in", key, "-noout", "-text"):
        words = "make one by openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        raise BundleError(f"{key}: is not an ECDSA key of the curve P-256; {words}")


def signature(digest: str, key: Path) -> bytes:
    """Return a signature of the artefact whose manifest has a digest, ``sha256:…``."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {}}],
        "predicateType": _SIGN,
        "predicate": {},
    }
    payload = json.dumps(statement).encode()
    # DSSE: what is signed names the type and the lengths, too.
    signed = b"DSSEv1 %d %s %d %s" % (len(_STATEMENT), _STATEMENT.encode(), len(payload), payload)
    made = _openssl("dgst", "-sha256", "-sign", key, content=signed)
    public = _openssl("pkey", "-in", key, "-pubout", "-outform", "DER")
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _base64(hashlib.sha256(public).digest())}},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": _STATEMENT,
            "signatures": [{"sig": _base64(made)}],
        },
    }
    return json.dumps(bundle).encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _openssl(*arguments: str | Path, content: bytes = b"") -> bytes:
    command = ["openssl", *arguments]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())[-600:]
        raise BundleError(f"openssl {arguments[0]}: {words}")
    return done.stdout
