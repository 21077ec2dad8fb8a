"""CMS SignedData (RFC 5652) with one detached signature, read from DER or BER.

`read` takes the structure apart and refuses what is not of this one shape; `OneSignature.check` proves it over a
text. The chain of the signer's certificate is somebody else's business (see `ca_directory`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from asn1crypto import algos, cms, core
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from appliance.core.trust.errors import Malformed, Tampered, Untrusted

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ASN1_ERRORS = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, x509.InvalidVersion
)  # fmt: skip
"""What asn1crypto and cryptography raise on bytes that are not the structure asked for."""
_SET = b"\x31"


@dataclass(frozen=True, slots=True)
class OneSignature:
    """One SignerInfo with its certificates."""

    signer: x509.Certificate
    others: tuple[x509.Certificate, ...]
    """The other certificates of the message: hints for the chain, nothing more."""
    digest: str
    scheme: str
    salt_length: int
    value: bytes
    attributes: bytes | None
    """The signed attributes in DER, as the SET that is signed; none: the signature is over the text itself."""
    message_digest: bytes

    def check(self, text: bytes, *, subject: str) -> None:
        """Prove that the signature is over ``text`` (canonical form).

        :raises Tampered: it is not
        :raises Untrusted: a key of another kind than the signature
        """
        algorithm = _DIGESTS.get(self.digest) or hashes.SHA1()  # noqa: S303 - `read` has refused it unless allowed
        if self.attributes is not None:
            if hashlib.new(self.digest, text).digest() != self.message_digest:
                raise Tampered(subject, "the text is not the one that was signed")
            text = self.attributes
        elif text.startswith(_SET):
            # Signed attributes of another message, passed off as a text, would verify.
            raise Tampered(subject, "a signature without attributes over text that looks like attributes")
        try:
            key = self.signer.public_key()
            match key, self.scheme:
                case rsa.RSAPublicKey(), "rsassa_pkcs1v15":
                    key.verify(self.value, text, padding.PKCS1v15(), algorithm)
                case rsa.RSAPublicKey(), "rsassa_pss":
                    pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=self.salt_length)
                    key.verify(self.value, text, pss, algorithm)
                case ec.EllipticCurvePublicKey(), "ecdsa":
                    key.verify(self.value, text, ec.ECDSA(algorithm))
                case _:
                    raise Untrusted(subject, f"a signature of kind {self.scheme[:40]} is not supported with its key")
        except InvalidSignature:
            raise Tampered(subject, "the signature does not fit") from None
        except (ValueError, OverflowError, UnsupportedAlgorithm):
            raise Untrusted(subject, "its key or signature is of an unsupported kind") from None


def read(data: bytes, *, allow_sha1: bool = False) -> OneSignature:
    """Take a detached signature apart.

    :raises Malformed: not a SignedData of exactly one signer whose certificate it carries exactly once
    :raises Untrusted: a digest that is too weak
    """
    try:
        info = cms.ContentInfo.load(data, strict=True)
        if info["content_type"].native != "signed_data":
            raise Malformed("signature", "it is not CMS SignedData")
        return _read_signed_data(info["content"], allow_sha1=allow_sha1)
    except _ASN1_ERRORS:
        raise Malformed("signature", "its CMS structure cannot be read") from None


def _read_signed_data(signed: cms.SignedData, *, allow_sha1: bool) -> OneSignature:
    signers = signed["signer_infos"]
    if len(signers) != 1:
        raise Malformed("signature", f"it has {len(signers)} signers, exactly one is accepted")
    signer = signers[0]
    content = signed["encap_content_info"]
    if content["content_type"].native != "data" or not isinstance(content["content"], core.Void):
        raise Malformed("signature", "it is not a detached signature over plain data")
    digest = signer["digest_algorithm"]["algorithm"].native
    if digest not in _DIGESTS and not (digest == "sha1" and allow_sha1):
        raise Untrusted("signature", f"its digest is {digest[:40].upper()}", "sign with SHA-256 or better")
    certificate, others = _find_signer(signed["certificates"], sid=signer["sid"])
    attributes, message_digest = _read_attributes(signer["signed_attrs"])
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
    )


def _find_signer(
    bag: cms.CertificateSet, *, sid: cms.SignerIdentifier
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    if sid.name != "issuer_and_serial_number":
        raise Malformed("signature", "its signer is not named by issuer and serial number")
    issuer, serial = sid.chosen["issuer"].dump(), sid.chosen["serial_number"].native
    if serial <= 0:
        raise Malformed("signature", "the serial number of its signer's certificate is not positive")
    signers: list[cms.Certificate] = []
    others: list[cms.Certificate] = []
    for choice in () if isinstance(bag, core.Void) else bag:
        if choice.name == "certificate":
            body = choice.chosen["tbs_certificate"]
            is_signer = body["serial_number"].native == serial and body["issuer"].dump() == issuer
            (signers if is_signer else others).append(choice.chosen)
    if len(signers) != 1:
        raise Malformed("signature", f"its signer's certificate is in it {len(signers)} times, not once")
    return x509.load_der_x509_certificate(signers[0].dump()), tuple(_load_readable(others))


def _load_readable(certificates: Sequence[cms.Certificate]) -> list[x509.Certificate]:
    """Load those that cryptography takes without complaint; the rest could not help a chain anyway."""
    loaded = []
    for certificate in certificates:
        if certificate["tbs_certificate"]["serial_number"].native > 0:
            try:
                loaded.append(x509.load_der_x509_certificate(certificate.dump()))
            except (ValueError, x509.InvalidVersion):
                continue
    return loaded


def _read_attributes(attributes: cms.CMSAttributes) -> tuple[bytes | None, bytes]:
    """Return the SET that is signed and the message digest in it.

    The bytes are taken as they came, with the tag of a SET: RFC 5652 section 5.4 wants DER of the sender.
    """
    if isinstance(attributes, core.Void):
        return None, b""
    found: dict[str, list[core.Asn1Value]] = {}
    for attribute in attributes:
        name = attribute["type"].native
        if name in found:
            raise Malformed("signature", f"its attribute {name[:40]} is there twice")
        found[name] = list(attribute["values"])
    kinds, digests = found.get("content_type", []), found.get("message_digest", [])
    if [kind.native for kind in kinds] != ["data"]:
        raise Malformed("signature", "its attribute content_type is missing or not data")
    if len(digests) != 1:
        raise Malformed("signature", "its attribute message_digest is missing or has several values")
    return _SET + attributes.dump()[1:], digests[0].native


def _read_algorithm(algorithm: algos.SignedDigestAlgorithm, *, digest: str) -> tuple[str, int]:
    """Return the scheme and, for PSS, the length of the salt; digests of attributes and signature must be one."""
    name = algorithm["algorithm"].native
    scheme = algorithm.signature_algo
    if scheme == "rsassa_pss":
        parameters = algorithm["parameters"]
        mask = parameters["mask_gen_algorithm"]
        used = {parameters["hash_algorithm"]["algorithm"].native, mask["parameters"]["algorithm"].native}
        salt_length = parameters["salt_length"].native
    else:
        used = {digest} if name in {"rsassa_pkcs1v15", "ecdsa"} else {algorithm.hash_algo}
        salt_length = 0
    if used != {digest}:
        raise Malformed("signature", "its digest algorithms contradict each other")
    return scheme, salt_length
