"""The keys of a backup: certificates of administrators, their private keys, and passphrases."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from appliance.core import files
from appliance.core.config import secret_file
from appliance.core.run.errors import LocalFailure, UsageError
from appliance.core.run.layout import Layout
from appliance.core.trust.unreadable import UNREADABLE

_LIMIT = 2**20  # bytes of a file
_SHORTEST = 12
"""Characters of a passphrase that protects a backup; that of a key is its owner's choice."""
_HOST_CERTIFICATE = "/etc/grid-security/hostcert.pem"
_NAME_CERTIFICATE = "name an administrator's certificate"
_NAME_KEY = "name the key of a certificate of the backup"
_LEAST_BITS = 2048


def certificate(path: Path, layout: Layout) -> x509.Certificate:
    """Return the certificate of a recipient.

    Raises:
        UsageError: The file holds none, its key cannot be used, or is the host's own.

    """
    try:
        found = x509.load_pem_x509_certificate(_content(path, _NAME_CERTIFICATE))
        key = found.public_key()
    except (*UNREADABLE, UnsupportedAlgorithm) as error:
        cause = "is not a certificate in PEM"
        raise UsageError(path, cause, _NAME_CERTIFICATE) from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < _LEAST_BITS:
        cause = "cannot be a recipient: its key is not RSA of 2048 bits or more"
        raise UsageError(path, cause, "name another certificate, or use --passphrase-file")
    if _public(found) == _host_key(layout):
        cause = "is this host's own: its key would be lost together with the host"
        raise UsageError(path, cause, _NAME_CERTIFICATE)
    return found


def _host_key(layout: Layout) -> bytes:
    path = layout.path(_HOST_CERTIFICATE)
    try:
        return _public(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, *UNREADABLE, UnsupportedAlgorithm):  # `appliance check` reports it
        return b""


def _public(found: x509.Certificate) -> bytes:
    return found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def new_passphrase(path: Path) -> bytes:
    """Return the passphrase in the first line of a file, to protect a new backup.

    Raises:
        UsageError: There is none, it is short, or others can read the file.

    """
    found = passphrase(path)
    if len(found.decode()) < _SHORTEST:
        cause = f"its passphrase has fewer than {_SHORTEST} characters"
        raise UsageError(path, cause, f"openssl rand -base64 24 > {files.shell_word(path)}")
    return found


def passphrase(path: Path) -> bytes:
    """Return the passphrase in the first line of a file, to open a key or a backup.

    Raises:
        UsageError: There is none, or others can read the file.

    """
    try:
        found = secret_file.read(path.absolute())
    except secret_file.BadSecret as error:
        raise UsageError("--passphrase-file", str(error)) from error
    if found.mode & 0o077:
        cause = f"has mode {found.mode:04o}, so others can read it"
        raise UsageError(path, cause, f"chmod 600 {files.shell_word(path)}")
    return found.text.encode()


def private_key(path: Path, password: bytes | None) -> rsa.RSAPrivateKey:
    """Return a private key; ``password`` is that of an encrypted one.

    Raises:
        UsageError: The file holds none, or the password does not fit.

    """
    try:
        found = load_pem_private_key(_content(path, _NAME_KEY), password)
    except TypeError as error:
        if password is None:
            cause = "is encrypted"
            raise UsageError(path, cause, "add --passphrase-file with its passphrase") from error
        raise UsageError(path, "is not encrypted", "leave out --passphrase-file") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        cause = "is not a private key in PEM, or the passphrase is another one"
        raise UsageError(path, cause, _NAME_KEY) from error
    if not isinstance(found, rsa.RSAPrivateKey):
        raise UsageError(path, "is not an RSA key", _NAME_KEY)
    return found


def _content(path: Path, missing: str) -> bytes:
    try:
        return files.read_regular(path, limit=_LIMIT, follow=True)
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path, missing=missing) from error
