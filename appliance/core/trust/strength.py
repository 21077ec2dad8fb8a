"""The minimum strength of keys and signatures in certificates; other kinds are refused."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.core.trust.chain import subject_of
from appliance.core.trust.distinguished_name import DN
from appliance.core.trust.errors import Untrusted

MIN_RSA_BITS = 2048
CURVES = frozenset(
    {
        "secp224r1",
        "secp256k1",
        "secp256r1",
        "secp384r1",
        "secp521r1",
        "brainpoolP256r1",
        "brainpoolP384r1",
        "brainpoolP512r1",
    }
)
"""At least as strong as RSA 2048 (NIST SP 800-57 part 1, table 2); cryptography's names."""
SIGNATURE_HASHES = frozenset({"sha256", "sha384", "sha512"})
"""Digests of signatures in certificates; SHA-1 is accepted by option only."""
_RENEW = "the holder needs a certificate with RSA 2048 or EC, signed with SHA-256 or better"


def check_key(certificate: x509.Certificate, *, subject: DN) -> None:
    """Refuse a key of another kind, of too few bits, or on another curve.

    Raises:
        Untrusted: the key is too weak; the message is about ``subject``.

    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # such as DSA with odd parameters, or GOST
        key = None
    name = subject_of(certificate)
    match key:
        case rsa.RSAPublicKey(key_size=size):
            if size < MIN_RSA_BITS:
                raise Untrusted(subject, f"{name} has an RSA key of {size} bits, too short", _RENEW)
        case ec.EllipticCurvePublicKey(curve=curve):
            if curve.name not in CURVES:
                cause = f"{name} has an EC key on {curve.name}, a curve that is not accepted"
                raise Untrusted(subject, cause, _RENEW)
        case _:
            raise Untrusted(subject, f"{name} has a key that is neither RSA nor EC", _RENEW)


def check_signature_hash(certificate: x509.Certificate, *, subject: DN, allow_sha1: bool) -> None:
    """Refuse a certificate that is signed over a weak digest.

    Raises:
        Untrusted: the digest is too weak; the message is about ``subject``.

    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    accepted = SIGNATURE_HASHES | ({"sha1"} if allow_sha1 else set())
    if algorithm is None or algorithm.name not in accepted:
        name = algorithm.name.upper() if algorithm else "an unsupported algorithm"
        raise Untrusted(subject, f"{subject_of(certificate)} is signed with {name}", _RENEW)
