"""Public keys that may have signed an artefact: ECDSA on the curve P-256, as cosign has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.core import files
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.errors import Malformed, Untrusted

_LARGEST = 16 * 1024
_BEGIN = b"-----BEGIN "
_REMEDY = "write the public key of cosign, of the form BEGIN PUBLIC KEY"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key, and the file that it comes from."""

    key: ec.EllipticCurvePublicKey
    origin: Path

    def __str__(self) -> str:
        return str(self.origin)


def read(path: Path) -> SigningKey:
    """Read a public key in PEM.

    Raises:
        LocalFailure: the file cannot be read.
        Malformed: it holds no public key, or something beside it.
        Untrusted: the key is of another kind than ECDSA P-256.

    """
    try:
        content = files.read_regular(path, limit=_LARGEST, follow=True)
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from error
    if b"PRIVATE KEY-----" in content:
        raise Malformed(path, "holds a private key", _REMEDY)
    if (count := content.count(_BEGIN)) > 1:
        raise Malformed(path, f"holds {count} PEM blocks", "write one file for each key")
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed(path, "holds no public key in PEM", _REMEDY) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Untrusted(path, "holds a key that is not ECDSA", "use a key of ECDSA P-256")
    if not isinstance(key.curve, ec.SECP256R1):
        words = f"holds a key on the curve {key.curve.name}"
        raise Untrusted(path, words, "use a key of ECDSA P-256")
    return SigningKey(key, path)
