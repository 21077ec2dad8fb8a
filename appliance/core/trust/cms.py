"""CMS SignedData (RFC 5652) with one signature, read from DER or BER.

`read` parses the structure and refuses all other forms; `OneSignature.check` verifies it over a
text, which is in the structure (opaque) or not (detached). The chain of the signer's certificate is
verified by `ca_directory`. Certificates, names and attributes are slices of the received bytes:
encoding signed values again could change them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asn1crypto import algos, cms, core, parser
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from appliance.core.trust.unreadable import UNREADABLE

DIGESTS: Mapping[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
"""The accepted digests by asn1crypto's names; SHA-1 is accepted by option only."""
_ASN1_ERRORS = (
    *UNREADABLE, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""Exceptions of asn1crypto and cryptography for bytes that are not the expected structure."""
_SET, _SEQUENCE, _CONTEXT_0 = b"\x31", b"\x30", b"\xa0"


@dataclass(frozen=True, slots=True)
class OneSignature:
    """One SignerInfo with its certificates."""

    signer: x509.Certificate
    others: tuple[x509.Certificate, ...]
    """The other certificates of the message, which are hints for the chain only."""
    digest: str
    scheme: str
    salt_length: int
    value: bytes
    attributes: bytes | None
    """The signed attributes as the SET that is signed; None if the text itself is signed."""
    message_digest: bytes
    content: bytes | None
    """The text of an opaque signature; None for a detached one."""

    def check(self, text: bytes, *, subject: str) -> None:
        """Verify the signature over ``text``, in canonical form.

        Raises:
            Tampered: it is not the signature of this text.
            Untrusted: the key is of another kind than the signature.

        """
        # `read` has refused SHA-1 unless it is allowed.
        algorithm = DIGESTS.get(self.digest) or hashes.SHA1()  # noqa: S303
        if self.attributes is not None:
            if hashlib.new(self.digest, text).digest() != self.message_digest:
                raise Tampered(subject, "the text is not the one that was signed")
            text = self.attributes
        elif text.startswith(_SET):
            # The signed attributes of another message, presented as a text, would verify.
            raise Tampered(
                subject,
                "a signature without attributes over text that looks like attributes",
            )
        try:
            key = self.signer.public_key()
            kind, verify = SCHEMES.get(self.scheme, (None, None))
            if kind is None or verify is None or not isinstance(key, kind):
                raise Untrusted(
                    subject,
                    f"a signature of kind {self.scheme[:40]} is not supported with its key",
                )
            verify(key, self, text, algorithm)
        except InvalidSignature:
            raise Tampered(subject, "the signature does not match the text") from None
        except (ValueError, OverflowError, UnsupportedAlgorithm):
            raise Untrusted(subject, "its key or signature is of an unsupported kind") from None


def _verify_pkcs1(
    key: rsa.RSAPublicKey,
    signature: OneSignature,
    text: bytes,
    algorithm: hashes.HashAlgorithm,
) -> None:
    key.verify(signature.value, text, padding.PKCS1v15(), algorithm)


def _verify_pss(
    key: rsa.RSAPublicKey,
    signature: OneSignature,
    text: bytes,
    algorithm: hashes.HashAlgorithm,
) -> None:
    pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=signature.salt_length)
    key.verify(signature.value, text, pss, algorithm)


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey,
    signature: OneSignature,
    text: bytes,
    algorithm: hashes.HashAlgorithm,
) -> None:
    key.verify(signature.value, text, ec.ECDSA(algorithm))


SCHEMES: Mapping[
    str,
    tuple[type, Callable[[Any, OneSignature, bytes, hashes.HashAlgorithm], None]],
] = {
    "rsassa_pkcs1v15": (rsa.RSAPublicKey, _verify_pkcs1),
    "rsassa_pss": (rsa.RSAPublicKey, _verify_pss),
    "ecdsa": (ec.EllipticCurvePublicKey, _verify_ecdsa),
}
"""The accepted signatures by asn1crypto's names: the kind of key, and the function."""


def read(data: bytes, *, allow_sha1: bool) -> OneSignature:
    """Parse a signature.

    Raises:
        Malformed: it is not a SignedData of one signer with that signer's certificate once.
        Untrusted: its digest is too weak.

    """
    try:
        info = cms.ContentInfo.load(data, strict=True)
        if info["content_type"].native != "signed_data":
            raise Malformed("signature", "it is not CMS SignedData")
        [explicit] = _elements(_elements(data)[1])
        return _read_signed_data(info["content"], _elements(explicit), allow_sha1=allow_sha1)
    except _ASN1_ERRORS:
        raise Malformed("signature", "its CMS structure cannot be read") from None


def _read_signed_data(
    signed: cms.SignedData,
    slices: Sequence[bytes],
    *,
    allow_sha1: bool,
) -> OneSignature:
    """Read a SignedData; ``slices`` are the received bytes of its elements."""
    signers = signed["signer_infos"]
    if len(signers) != 1:
        raise Malformed("signature", f"it has {len(signers)} signers, exactly one is accepted")
    signer = signers[0]
    content = signed["encap_content_info"]
    if content["content_type"].native != "data":
        raise Malformed("signature", "it is not a signature over plain data")
    text = None if isinstance(content["content"], core.Void) else bytes(content["content"])
    digest = signer["digest_algorithm"]["algorithm"].native
    if digest not in DIGESTS and not (digest == "sha1" and allow_sha1):
        cause = f"its digest is {digest[:40].upper()}"
        raise Untrusted("signature", cause, "sign with SHA-256 or better")
    # SignedData: version, digests, content, [0] certificates, [1] CRLs, signers (RFC 5652, 5.1).
    [signer_info] = _elements(slices[-1])
    _version, sid, _digest, *rest = _elements(signer_info)
    bag = [found for one in slices[3:-1] if one.startswith(_CONTEXT_0) for found in _elements(one)]
    certificate, others = _find_signer(bag, sid=sid)
    attributes, message_digest = _read_attributes(signer["signed_attrs"], rest[0])
    scheme, salt_length = _read_algorithm(signer["signature_algorithm"], digest=digest)
    return OneSignature(
        signer=certificate,
        others=others,
        digest=digest,
        scheme=scheme,
        salt_length=salt_length,
        value=signer["signature"].native,
        attributes=attributes,
        message_digest=message_digest,
        content=text,
    )


def _elements(element: bytes) -> list[bytes]:
    """Return the received bytes of the elements in a constructed element."""
    content = parser.parse(element)[4]
    found = []
    while content:
        size = parser.peek(content)
        found.append(content[:size])
        content = content[size:]
    return found


def _find_signer(
    bag: Sequence[bytes],
    *,
    sid: bytes,
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    if not sid.startswith(_SEQUENCE):
        raise Malformed("signature", "its signer is not named by issuer and serial number")
    issuer, serial = _elements(sid)
    if not _is_positive(serial):
        cause = "the serial number of its signer's certificate is not positive"
        raise Malformed("signature", cause)
    signers: list[bytes] = []
    others: list[bytes] = []
    for certificate in bag:
        if certificate.startswith(_SEQUENCE):  # other kinds, such as attribute ones, have tags
            is_signer = _issuer_and_serial(certificate) == (issuer, serial)
            (signers if is_signer else others).append(certificate)
    if len(signers) != 1:
        cause = f"its signer's certificate is in it {len(signers)} times, not once"
        raise Malformed("signature", cause)
    return x509.load_der_x509_certificate(signers[0]), tuple(_load_readable(others))


def _issuer_and_serial(certificate: bytes) -> tuple[bytes, bytes]:
    fields = _elements(_elements(certificate)[0])
    if fields[0].startswith(_CONTEXT_0):  # the version, absent in certificates of version 1
        del fields[0]
    serial, _algorithm, issuer = fields[:3]
    return issuer, serial


def _is_positive(integer: bytes) -> bool:
    return int.from_bytes(parser.parse(integer)[4], "big", signed=True) > 0


def _load_readable(certificates: Sequence[bytes]) -> list[x509.Certificate]:
    """Load the certificates that cryptography accepts; the others could not help a chain."""
    loaded = []
    for certificate in certificates:
        if _is_positive(_issuer_and_serial(certificate)[1]):
            with contextlib.suppress(*UNREADABLE):
                loaded.append(x509.load_der_x509_certificate(certificate))
    return loaded


def _read_attributes(attributes: cms.CMSAttributes, slice_: bytes) -> tuple[bytes | None, bytes]:
    """Return the SET that is signed and the message digest in it.

    These are the received bytes with the tag of a SET; the sender must encode them in DER (RFC
    5652 section 5.4).
    """
    if isinstance(attributes, core.Void):
        return None, b""
    found: dict[str, list[core.Asn1Value]] = {}
    for attribute in attributes:
        name = attribute["type"].native
        if name in found:
            raise Malformed("signature", f"its attribute {name[:40]} occurs twice")
        found[name] = list(attribute["values"])
    kinds, digests = found.get("content_type", []), found.get("message_digest", [])
    if [kind.native for kind in kinds] != ["data"]:
        raise Malformed("signature", "its attribute content_type is missing or not data")
    if len(digests) != 1:
        cause = "its attribute message_digest is missing or has several values"
        raise Malformed("signature", cause)
    return _SET + slice_[1:], digests[0].native


def _read_algorithm(algorithm: algos.SignedDigestAlgorithm, *, digest: str) -> tuple[str, int]:
    """Return the scheme and, for PSS, the length of the salt.

    Attributes and signature must be over the same digest.
    """
    name = algorithm["algorithm"].native
    scheme = algorithm.signature_algo
    if scheme == "rsassa_pss":
        parameters = algorithm["parameters"]
        mask = parameters["mask_gen_algorithm"]
        used = {
            parameters["hash_algorithm"]["algorithm"].native,
            mask["parameters"]["algorithm"].native,
        }
        salt_length = parameters["salt_length"].native
    else:
        used = {digest} if name in {"rsassa_pkcs1v15", "ecdsa"} else {algorithm.hash_algo}
        salt_length = 0
    if used != {digest}:
        raise Malformed("signature", "its digest algorithms contradict each other")
    return scheme, salt_length
