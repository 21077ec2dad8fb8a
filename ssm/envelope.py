"""S/MIME as SSM writes it: a detached signature, and optional encryption around that.

The wire form is the one that openssl's ``smime -sign -text`` prints (RFC 8551, 3.5.3):
``multipart/signed``, LF line ends, an inner part that begins with ``Content-Type: text/plain``. The
signature covers that inner part with CRLF line ends (RFC 8551, 3.1.1). Text that is not ASCII, and
text that SSM's receiver would misread, is sent quoted-printable: the one form that every SSM reads.
The MIME frame is put together by hand. An e-mail generator copies the text several times, and takes
five times as long.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import secrets
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from appliance.core import clock
from appliance.core.run.errors import ApplianceError
from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Untrusted
from ssm.settings import Link

logger = logging.getLogger("ssm.ssm2")

_PLAIN = b"Content-Type: text/plain\n\n"
_QUOTED = (
    b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n"
)
_SIGNATURE = (
    b'Content-Type: application/x-pkcs7-signature; name="smime.p7s"\n'
    b"Content-Transfer-Encoding: base64\n"
    b'Content-Disposition: attachment; filename="smime.p7s"\n\n'
)
_ENCRYPTED = (
    b"MIME-Version: 1.0\n"
    b'Content-Disposition: attachment; filename="smime.p7m"\n'
    b'Content-Type: application/x-pkcs7-mime; smime-type=enveloped-data; name="smime.p7m"\n'
    b"Content-Transfer-Encoding: base64\n\n"
)
_MENTION = re.compile(rb"application/((?:x-)?pkcs7-mime)")
_BREAKS = (b"\r", b"\0", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e")
CIPHERS: dict[str, type[algorithms.AES128 | algorithms.AES256]] = {
    "aes128": algorithms.AES128,
    "aes256": algorithms.AES256,
}


class Unsendable(ApplianceError):
    """A message that no run can ever send as it is."""


class Undecipherable(Untrusted):
    """A message that is not encrypted to this host, or not with a supported cipher."""


def load_identity(link: Link) -> Identity:
    """Load certificate and key; log a warning when the certificate expires soon."""
    identity = Identity.load(link.certificate, key_path=link.key, at=clock.now())
    if warning := identity.expiry_warning(at=clock.now()):
        logger.warning("%s", warning)
    return identity


def sign(text: bytes, *, identity: Identity) -> bytes:
    """Return ``text`` (UTF-8) as a signed message with LF line ends.

    Raises:
        Unsendable: the text is empty or not UTF-8.

    """
    inner = _inner_part(text)
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(mime.canonical(inner))
        .add_signer(identity.certificate, identity.key, hashes.SHA256())
        .sign(Encoding.DER, [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary])
    )
    boundary = b"----" + secrets.token_hex(16).upper().encode("ascii")
    return b"".join(
        (
            b"MIME-Version: 1.0\nContent-Type: multipart/signed; ",
            b'protocol="application/x-pkcs7-signature"; micalg="sha-256"; boundary="%b"\n\n'
            b"This is an S/MIME signed message\n\n--%b\n" % (boundary, boundary),
            inner,
            b"\n--%b\n" % boundary,
            _SIGNATURE,
            base64.encodebytes(signature),
            b"\n--%b--\n\n" % boundary,
        )
    )


def encrypt(message: bytes, *, recipient: x509.Certificate, cipher: str) -> bytes:
    """Return a signed message encrypted to ``recipient``, whose key must be RSA.

    ``cipher`` is a name in `CIPHERS`.
    """
    enveloped = (
        pkcs7.PKCS7EnvelopeBuilder()
        .set_data(mime.canonical(message))
        .add_recipient(recipient)
        .set_content_encryption_algorithm(CIPHERS[cipher])
        .encrypt(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    )
    return _ENCRYPTED + base64.encodebytes(enveloped)


def check_recipient(recipient: x509.Certificate, *, subject: object) -> None:
    """Raise `Untrusted` when `encrypt` cannot encrypt to this certificate."""
    if not isinstance(recipient.public_key(), rsa.RSAPublicKey):
        raise Untrusted(
            subject,
            "its key is not RSA, messages cannot be encrypted to it",
            "name an RSA certificate",
        )


def decrypt(message: bytes, *, identity: Identity) -> bytes:
    """Return the content of an encrypted message; return any other message unchanged.

    Only the top header decides whether a message is encrypted.

    Raises:
        Malformed: it has no header that can be read.
        Undecipherable: it cannot be decrypted with the key of ``identity``.

    """
    headers, body = mime.split_header(mime.with_newlines(message))
    if mime.parse_content_type(headers.get("content-type", "")).type not in mime.OPAQUE_TYPES:
        return message
    if not isinstance(identity.key, rsa.RSAPrivateKey):
        raise Undecipherable("message", "it is encrypted, and only an RSA key can decrypt it")
    try:
        return pkcs7.pkcs7_decrypt_der(
            base64.b64decode(body), identity.certificate, identity.key, []
        )
    except UnsupportedAlgorithm as error:
        raise Undecipherable(
            "message", f"encrypted with another cipher than AES-CBC: {error}"
        ) from None
    except (ValueError, TypeError) as error:
        raise Undecipherable(
            "message", f"not encrypted to this host's certificate: {error}"
        ) from None


def open_envelope(
    message: bytes, *, identity: Identity, trust: CADirectory, at: datetime, max_bytes: int
) -> smime.Verified:
    """Decrypt a message if it is encrypted, then verify it.

    Raises:
        ApplianceError: as `decrypt` and `smime.verify` raise; also `Malformed` when it is too long.

    """
    if len(message) > max_bytes:
        raise Malformed("message", f"it has {len(message)} bytes, at most {max_bytes} are accepted")
    return smime.verify(
        decrypt(message, identity=identity), trust=trust, at=at, max_bytes=max_bytes
    )


def needs_quoting(text: bytes) -> bool:
    """Check whether ``text`` must be sent quoted-printable.

    Text that is not ASCII must, and text that SSM's receiver misreads otherwise: SSM takes a
    message for encrypted when it mentions that type anywhere, and breaks lines where Python's
    ``splitlines`` does. It does both before it decodes.
    """
    text = mime.with_newlines(text)
    # Nine searches for bytes read a megabyte in 1.4 ms; one regular expression takes 10.
    return (
        not text.isascii()
        or any(character in text for character in _BREAKS)
        or (b"pkcs7-mime" in text and _MENTION.search(text) is not None)
    )


def quoted_size(text: bytes) -> int:
    """Return the number of bytes of ``text`` in quoted-printable form."""
    return len(_quote(mime.with_newlines(text)))


def _inner_part(text: bytes) -> bytes:
    """Return the part that is signed, with LF line ends; raise `Unsendable` as `sign` does."""
    text = mime.with_newlines(text)
    if not text.strip():
        raise Unsendable("message", "it is empty")
    if not needs_quoting(text):
        return _PLAIN + text
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unsendable("message", f"it is not UTF-8 text: byte {error.start + 1}") from None
    return _QUOTED + _quote(text)


def _quote(text: bytes) -> bytes:
    # A carriage return without a line feed must be encoded, because openssl strips it. b2a_qp
    # does that only in binary mode.
    quoted = mime.with_newlines(binascii.b2a_qp(text, istext=b"\r" not in text))
    # Encoding the slash hides the type from SSM. The soft line break after it keeps the line
    # within the 76 characters of quoted-printable.
    return _MENTION.sub(rb"application=2F=\n\1", quoted)
