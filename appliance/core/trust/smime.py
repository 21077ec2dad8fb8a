"""Verification of S/MIME: from untrusted bytes to a text with a verified signer.

The steps follow the order of trust: size, frame, CMS structure, signature over the text, purpose of
the signer's key, chain of the signer at the given time, and only then the inner part, whose headers
are signed like its body. The signer is the one certificate that the SignerInfo names; the other
certificates of a message do not matter. Of a message in any `Form`, only the signed text is used.

A signature over the text itself, without signed attributes, is accepted, as by the openssl program.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from cryptography import x509

from appliance.core.trust import cms, mime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed, Untrusted
from appliance.core.trust.unreadable import UNREADABLE

_MAX_DN = 1024
_DER_SEQUENCE, _LONG_LENGTH = b"\x30", b"\x80"
"""The first bytes of CMS. A header may begin with 0x30 ("0"), but its second byte is ASCII."""


class Form(enum.Enum):
    """The form in which a message has its text and signature."""

    DETACHED = "multipart/signed"
    """Two parts, the text and its signature (RFC 8551 section 3.5.3)."""
    OPAQUE = "application/pkcs7-mime"
    """The text inside the signature, in base64 (RFC 8551 section 3.5.2)."""
    PEM = "PEM"
    """The text inside the signature, without a MIME header."""
    DER = "DER"
    """As `PEM`, in binary."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified text and its signer.

    ``body`` is the body of the inner part, decoded, with LF at line ends (those inside base64 stay
    as they are). ``headers`` are its headers, names in lower case; none without a header block.
    """

    body: bytes
    headers: Mapping[str, str]
    signer: DN
    certificate: x509.Certificate
    warnings: tuple[str, ...]


def verify(
    message: bytes,
    *,
    trust: CADirectory,
    at: datetime,
    max_bytes: int,
    allow_sha1: bool = False,
    require_header: bool = True,
    forms: Container[Form] = frozenset({Form.DETACHED}),
) -> Verified:
    """Verify a signed message of one of ``forms`` against ``trust`` at the (aware) time ``at``.

    ``max_bytes`` limits the whole message; ``allow_sha1`` accepts a SHA-1 digest of the text.
    SSM's messages must have a header block inside the signed part; image lists mostly have none
    and need ``require_header=False``.

    Raises:
        Malformed: the message has another form.
        Tampered: text or signature were changed.
        Untrusted: the signer is not trusted, or the signature is too weak.

    """
    if len(message) > max_bytes:
        raise Malformed("message", f"it has {len(message)} bytes, at most {max_bytes} are accepted")
    text, hashed, signature = _take_apart(message, forms=forms, allow_sha1=allow_sha1)
    signer = _name(signature.signer)
    signature.check(hashed, subject=signer)
    _check_usage(signature.signer, subject=signer)
    chain = trust.verify_chain(signature.signer, untrusted=signature.others, at=at)
    headers, body = _read_inner(text, require_header=require_header)
    return Verified(body, headers, chain.subject, signature.signer, chain.warnings)


def _take_apart(
    message: bytes,
    *,
    forms: Container[Form],
    allow_sha1: bool,
) -> tuple[bytes, bytes, cms.OneSignature]:
    """Return the claimed text, with LF and as it is hashed, and its signature."""
    form = _form_of(message)
    if form not in forms or form is Form.DETACHED:
        parts = mime.split_signed(message)  # raises the error about any other form
        if Form.DETACHED not in forms:
            raise Malformed("message", "it has a detached signature")
        signature = cms.read(parts.signature, allow_sha1=allow_sha1)
        if signature.content is not None:
            raise Malformed("signature", "it is not a detached signature over plain data")
        return parts.content, mime.canonical(parts.content), signature
    signature = cms.read(_READERS[form](message), allow_sha1=allow_sha1)
    if signature.content is None:
        raise Malformed("message", "it has a signature and no text", "sign it with the text inside")
    return mime.with_newlines(signature.content), signature.content, signature


_READERS: Mapping[Form, Callable[[bytes], bytes]] = {
    Form.OPAQUE: mime.read_opaque,
    Form.PEM: mime.read_pem,
    Form.DER: bytes,
}


def _form_of(message: bytes) -> Form:
    """Return the form of a message by its first bytes, its top header or its PEM."""
    if message[:1] == _DER_SEQUENCE and message[1:2] >= _LONG_LENGTH:
        return Form.DER
    try:
        return Form.OPAQUE if mime.is_opaque(message) else Form.DETACHED
    except Malformed:
        return Form.PEM if mime.is_pem(message) else Form.DETACHED


def _check_usage(certificate: x509.Certificate, *, subject: DN) -> None:
    """Refuse keys whose certificate names their usage, but not signatures.

    This is RFC 8551 section 4.4.2 and openssl's purpose ``smimesign``, without the rule that the
    extended key usage must allow e-mail: grid host certificates are for TLS servers and clients
    only.
    """
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    except UNREADABLE:
        raise Malformed(subject, "the extensions of its certificate cannot be read") from None
    if not (usage.digital_signature or usage.content_commitment):
        cause = "its certificate is not for signatures (key usage)"
        raise Untrusted(subject, cause, "sign with a certificate that is")


def _name(certificate: x509.Certificate) -> DN:
    try:
        names = [slash_form(certificate.subject), slash_form(certificate.issuer)]
    except (TypeError, ValueError):  # the first for a BIT STRING where X.520 has a text
        raise Malformed("message", "a name in its signer's certificate cannot be read") from None
    if max(map(len, names)) > _MAX_DN:
        cause = f"a name in its signer's certificate is longer than {_MAX_DN} characters"
        raise Malformed("message", cause)
    return names[0]


def _read_inner(content: bytes, *, require_header: bool) -> tuple[Mapping[str, str], bytes]:
    try:
        headers, body = mime.split_header(content)
        if not any(name.startswith("content-") for name in headers):
            # Else a text whose first lines look like headers would lose these lines.
            raise Malformed("message", mime.NO_BLANK_LINE)
    except Malformed:
        if require_header:
            raise
        return MappingProxyType({}), content
    return headers, mime.decode_transfer(
        body,
        encoding=headers.get("content-transfer-encoding", ""),
    )
