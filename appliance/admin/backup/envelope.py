"""The encryption of a backup: CMS AuthEnvelopedData (RFC 5083) with AES-256-GCM (RFC 5084).

The content key is encrypted to each administrator's RSA certificate, or by a passphrase (RFC 3211).
The structure has indefinite lengths, so that a backup of any size is written and read in pieces.
``openssl cms -decrypt`` (OpenSSL 3) reads it as well.

Nothing that `opened` yields is authentic before it has ended: only the end has the tag of the whole
text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from appliance.admin.backup import der
from appliance.admin.backup.der import OCTETS, SEQUENCE, SET, DamagedBackup, ElementReader

Recipient = Callable[[bytes], bytes]
"""Returns the RecipientInfo of a content key."""
Unlock = Callable[[Sequence[tuple[int, bytes]]], bytes | None]
"""Returns the content key from tags and contents of all RecipientInfos; None if none fits."""

_CONTENT_KEY = 32
_NONCE = 12
_TAG = 16
_BLOCK = 16
_PIECE = 2**16
_MOST_RECIPIENTS = 2**20  # bytes
_ITERATIONS = 600_000  # OWASP's advice of 2023 for PBKDF2 with SHA-256
_MOST_ITERATIONS = 10_000_000
_BY_PASSPHRASE = 0xA3
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

_ENVELOPED = der.identifier("1.2.840.113549.1.9.16.1.23")
_DATA = der.identifier("1.2.840.113549.1.7.1")
_AES_GCM = der.identifier("2.16.840.1.101.3.4.1.46")
_AES_CBC = der.identifier("2.16.840.1.101.3.4.1.42")
_SHA_256 = der.encode(SEQUENCE, der.identifier("2.16.840.1.101.3.4.2.1"))
_MGF_1 = der.encode(SEQUENCE, der.identifier("1.2.840.113549.1.1.8"), _SHA_256)
_RSA_OAEP = der.encode(
    SEQUENCE,
    der.identifier("1.2.840.113549.1.1.7"),
    der.encode(SEQUENCE, der.encode(0xA0, _SHA_256), der.encode(0xA1, _MGF_1)),
)
_PBKDF_2 = der.identifier("1.2.840.113549.1.5.12")
_HMAC_SHA_256 = der.encode(SEQUENCE, der.identifier("1.2.840.113549.2.9"), b"\5\0")
_PASSWORD_KEK = der.identifier("1.2.840.113549.1.9.16.3.9")
BEGINNING = b"\x30\x80" + _ENVELOPED
"""The first bytes of an envelope."""
_HEAD = BEGINNING + b"\xa0\x80\x30\x80" + der.integer(0)


class Envelope:
    """A stream that encrypts what is written to it."""

    def __init__(self, file: BinaryIO, recipients: Sequence[Recipient]) -> None:
        key, nonce = os.urandom(_CONTENT_KEY), os.urandom(_NONCE)
        self._file = file
        self._cipher = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
        infos = sorted(recipient(key) for recipient in recipients)
        parameters = der.encode(SEQUENCE, der.encode(OCTETS, nonce), der.integer(_TAG))
        file.write(_HEAD + der.encode(SET, *infos))
        file.write(b"\x30\x80" + _DATA + der.encode(SEQUENCE, _AES_GCM, parameters) + b"\xa0\x80")

    def write(self, data: bytes) -> int:
        """Encrypt and write bytes."""
        for start in range(0, len(data), _PIECE):
            piece = self._cipher.update(data[start : start + _PIECE])
            self._file.write(der.encode(OCTETS, piece))
        return len(data)

    def close(self) -> None:
        """Write the end, without which the envelope cannot be opened."""
        self._cipher.finalize()
        mac = der.encode(OCTETS, self._cipher.tag)
        self._file.write(der.END * 2 + mac + der.END * 3)


def opened(file: BinaryIO, unlock: Unlock) -> Iterator[bytes] | None:
    """Return the pieces of an envelope's text; None if ``unlock`` has no key to it.

    Raises:
        DamagedBackup: Also from the iterator: it is truncated, altered, or another structure.

    """
    reader = ElementReader(file)
    reader.expect(_HEAD)
    tag, infos = reader.element(limit=_MOST_RECIPIENTS)
    if tag != SET:
        raise DamagedBackup("it has no recipients")
    reader.expect(b"\x30\x80" + _DATA)
    _, algorithm = reader.element(limit=2 * _PIECE)
    key, nonce = unlock(der.elements(infos)), _nonce(algorithm)
    reader.expect(b"\xa0\x80")
    return None if key is None else _pieces(reader, key, nonce)


def _nonce(algorithm: bytes) -> bytes:
    nonce = der.elements(algorithm)[-1][1][2:-3]
    parameters = der.encode(SEQUENCE, der.encode(OCTETS, nonce), der.integer(_TAG))
    if len(nonce) != _NONCE or algorithm != _AES_GCM + parameters:
        raise DamagedBackup("it is encrypted in another way")
    return nonce


def _pieces(reader: ElementReader, key: bytes, nonce: bytes) -> Iterator[bytes]:
    cipher = Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor()
    while True:
        tag, piece = reader.element(limit=_PIECE)
        if tag != OCTETS:
            break
        yield cipher.update(piece)
    if tag or piece:
        raise DamagedBackup("it is altered")
    reader.expect(der.END)
    tag, mac = reader.element(limit=_TAG)
    reader.expect(der.END * 3)
    if not reader.at_end():
        raise DamagedBackup("something follows its end")
    try:
        cipher.finalize_with_tag(mac)
    except (InvalidTag, ValueError) as error:
        raise DamagedBackup("it is altered") from error


# ----------------------------------------------------------------------------------- certificates


def to_certificate(certificate: x509.Certificate) -> Recipient:
    """Return the recipient of a certificate, whose key must be of RSA."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("the certificate's key is not of RSA")

    def info(content_key: bytes) -> bytes:
        names = certificate.issuer.public_bytes(), der.integer(certificate.serial_number)
        encrypted = der.encode(OCTETS, key.encrypt(content_key, _OAEP))
        issuer = der.encode(SEQUENCE, *names)
        return der.encode(SEQUENCE, der.integer(0), issuer, _RSA_OAEP, encrypted)

    return info


def by_key(key: rsa.RSAPrivateKey) -> Unlock:
    """Return what opens an envelope with a private key."""

    def unlock(infos: Sequence[tuple[int, bytes]]) -> bytes | None:
        for tag, info in infos:
            if tag == SEQUENCE and (found := _decrypted(key, der.elements(info)[-1][1])):
                return found
        return None

    return unlock


def _decrypted(key: rsa.RSAPrivateKey, encrypted: bytes) -> bytes | None:
    try:
        found = key.decrypt(encrypted, _OAEP)
    except ValueError:  # of another recipient
        return None
    return found if len(found) == _CONTENT_KEY else None


# ------------------------------------------------------------------------------------ passphrases


def to_passphrase(passphrase: bytes) -> Recipient:
    """Return the recipient who knows a passphrase."""

    def info(content_key: bytes) -> bytes:
        salt, vector = os.urandom(_BLOCK), os.urandom(_BLOCK)
        kek = _derived(passphrase, salt, _ITERATIONS)
        derivation = der.encode(
            SEQUENCE, der.encode(OCTETS, salt), der.integer(_ITERATIONS), _HMAC_SHA_256
        )
        cipher = der.encode(SEQUENCE, _AES_CBC, der.encode(OCTETS, vector))
        return der.encode(
            _BY_PASSPHRASE,
            der.integer(0),
            der.encode(0xA0, _PBKDF_2, derivation),
            der.encode(SEQUENCE, _PASSWORD_KEK, cipher),
            der.encode(OCTETS, _wrapped(content_key, kek, vector)),
        )

    return info


def by_passphrase(passphrase: bytes) -> Unlock:
    """Return what opens an envelope with a passphrase."""

    def unlock(infos: Sequence[tuple[int, bytes]]) -> bytes | None:
        for tag, info in infos:
            if tag == _BY_PASSPHRASE and (found := _unlocked(passphrase, info)):
                return found
        return None

    return unlock


def _unlocked(passphrase: bytes, info: bytes) -> bytes | None:
    """Return the content key of a RecipientInfo in our own form; None if it does not fit."""
    try:
        _, (_, derivation), (_, wrapping), (_, wrapped) = der.elements(info)
        (_, _), (_, parameters) = der.elements(derivation)
        (_, salt), (_, count), _ = der.elements(parameters)
        (_, _), (_, cipher) = der.elements(wrapping)
        (_, _), (_, vector) = der.elements(cipher)
    except ValueError as error:
        raise DamagedBackup("a recipient is not of a backup") from error
    iterations = int.from_bytes(count, "big")
    is_block = len(wrapped) % _BLOCK == 0 and len(wrapped) >= 2 * _BLOCK
    if not 0 < iterations <= _MOST_ITERATIONS or len(vector) != _BLOCK or not is_block:
        raise DamagedBackup("a recipient is not of a backup")
    return _unwrapped(wrapped, _derived(passphrase, salt, iterations), vector)


def _derived(passphrase: bytes, salt: bytes, iterations: int) -> bytes:
    return PBKDF2HMAC(hashes.SHA256(), _CONTENT_KEY, salt, iterations).derive(passphrase)


def _cbc(key: bytes, vector: bytes, data: bytes, *, encrypts: bool) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CBC(vector))
    return (cipher.encryptor() if encrypts else cipher.decryptor()).update(data)


def _wrapped(content_key: bytes, kek: bytes, vector: bytes) -> bytes:
    """Return a key encrypted twice, as in section 2.3.1 of RFC 3211."""
    check = bytes(byte ^ 0xFF for byte in content_key[:3])
    block = bytes([len(content_key)]) + check + content_key
    block += os.urandom(-len(block) % _BLOCK)
    inner = _cbc(kek, vector, block, encrypts=True)
    return _cbc(kek, inner[-_BLOCK:], inner, encrypts=True)


def _unwrapped(wrapped: bytes, kek: bytes, vector: bytes) -> bytes | None:
    """Return the key, as in section 2.3.2 of RFC 3211; None with another passphrase."""
    last = _cbc(kek, wrapped[-2 * _BLOCK : -_BLOCK], wrapped[-_BLOCK:], encrypts=False)
    inner = _cbc(kek, last, wrapped, encrypts=False)
    block = _cbc(kek, vector, inner, encrypts=False)
    content_key = block[4 : 4 + block[0]]
    check = bytes(byte ^ 0xFF for byte in content_key[:3])
    return content_key if len(content_key) == _CONTENT_KEY and block[1:4] == check else None
