"""Signatures as cosign makes them with a key; keys and signatures are those of the openssl program.

The documents are written here by hand, after what cosign 2 and 3 push.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIMPLE_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"


def openssl(*arguments: str | Path, content: bytes = b"") -> bytes:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


@dataclass(frozen=True)
class KeyPair:
    """A key in PEM: ``private`` and ``public`` are files."""

    private: Path
    public: Path

    @classmethod
    def create(cls, directory: Path, name: str, *options: str, algorithm: str = "EC") -> KeyPair:
        """Make a key of ECDSA P-256, or of another kind with openssl's ``options``."""
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(directory / f"{name}.key", directory / f"{name}.pub")
        words = options or ("-pkeyopt", "ec_paramgen_curve:P-256")
        openssl("genpkey", "-algorithm", algorithm, *words, "-out", made.private)
        openssl("pkey", "-in", made.private, "-pubout", "-out", made.public)
        return made

    def sign(self, content: bytes, *, digest: str = "sha256") -> str:
        """Return a signature in base64."""
        made = openssl("dgst", f"-{digest}", "-sign", self.private, content=content)
        return base64.b64encode(made).decode()


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def payload(digest: str, reference: str, **critical: Any) -> bytes:
    """Return what cosign 2 signs."""
    found = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return encoded({"critical": found | critical, "optional": None})


def statement(digest: str, **changes: Any) -> bytes:
    """Return what cosign 3 signs."""
    found = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}, "annotations": {}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    }
    return encoded(found | changes)


def bundle(**content: Any) -> dict[str, Any]:
    """Return a bundle around an envelope or a message signature."""
    material = {"publicKey": {"hint": "YWJj"}, "tlogEntries": []}
    return {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, **content}


def envelope(key: KeyPair, body: bytes, *, digest: str = "sha256") -> dict[str, Any]:
    """Return a signed envelope of DSSE around a statement."""
    signed = f"DSSEv1 {len(STATEMENT_TYPE)} {STATEMENT_TYPE} {len(body)} ".encode() + body
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": STATEMENT_TYPE,
        "signatures": [{"sig": key.sign(signed, digest=digest), "keyid": ""}],
    }


def message_signature(key: KeyPair, manifest: bytes) -> dict[str, Any]:
    """Return a signature over a manifest itself, as ``cosign sign-blob`` makes it."""
    digest = base64.b64encode(hashlib.sha256(manifest).digest()).decode()
    return {
        "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
        "signature": key.sign(manifest),
    }
