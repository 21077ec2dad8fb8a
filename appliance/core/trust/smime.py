"""Verification of detached S/MIME: from bytes that anybody may have written to a text with a proven signer.

The order is the order of trust: size, MIME frame, CMS structure, signature over the text, chain of the signer at the
stated time, and only then the inner part, whose headers are as signed as its body. The signer is the one certificate
that the SignerInfo names, whatever else the message carries.

A signature without signed attributes, straight over the text, is accepted, as the openssl program accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from cryptography import x509

from appliance.core.trust import cms, mime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed

_MAX_DN = 1024


@dataclass(frozen=True, slots=True)
class Verified:
    """A proven text and its signer.

    ``body`` is the inner part's, transfer encoding undone, line ends LF (those inside base64 as they were);
    ``headers`` the inner part's, names in lower case, none if it has no header block.
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
) -> Verified:
    """Verify a ``multipart/signed`` message against ``trust`` at the (aware) time ``at``.

    ``max_bytes`` bounds the whole message; ``allow_sha1`` accepts a SHA-1 digest of the text. SSM's messages must have
    a header block inside the signed part; image lists mostly have none and need ``require_header=False``.

    :raises Malformed: the message is not what this function verifies
    :raises Tampered: text or signature were changed
    :raises Untrusted: the signer is not proven, or by too weak means
    """
    if len(message) > max_bytes:
        raise Malformed("message", f"it has {len(message)} bytes, at most {max_bytes} are accepted")
    parts = mime.split_signed(message)
    signature = cms.read(parts.signature, allow_sha1=allow_sha1)
    signer = _name(signature.signer)
    signature.check(mime.canonical(parts.content), subject=signer)
    chain = trust.verify_chain(signature.signer, untrusted=signature.others, at=at)
    headers, body = _read_inner(parts.content, require_header=require_header)
    return Verified(body, headers, chain.subject, signature.signer, chain.warnings)


def _name(certificate: x509.Certificate) -> DN:
    try:
        names = [slash_form(certificate.subject), slash_form(certificate.issuer)]
    except ValueError:
        raise Malformed("message", "a name in its signer's certificate cannot be read") from None
    if max(map(len, names)) > _MAX_DN:
        raise Malformed("message", f"a name in its signer's certificate is longer than {_MAX_DN} characters")
    return names[0]


def _read_inner(content: bytes, *, require_header: bool) -> tuple[Mapping[str, str], bytes]:
    try:
        headers, body = mime.split_header(content)
        if not any(name.startswith("content-") for name in headers):
            # Without one, first lines of a text that look like headers would be taken for its header block.
            raise Malformed("message", mime.NO_BLANK_LINE)
    except Malformed:
        if require_header:
            raise
        return MappingProxyType({}), content
    return headers, mime.decode_transfer(body, encoding=headers.get("content-transfer-encoding", ""))
