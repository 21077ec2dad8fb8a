"""The host's certificate and private key, whose files may be renewed while a program runs."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed, Untrusted
from appliance.core.trust.unreadable import UNREADABLE

EXPIRY_WARNINGS = (1, 7, 14, 30)
"""Days before the end of a certificate that a warning names."""

_SAMPLE = b"sample"

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, the other certificates of its file as chain, and its key.

    The key appears in no representation. Its file may be readable for its owner, and for its group
    if the program runs as that group; never for others.
    """

    certificate_path: Path
    key_path: Path
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    dn: DN
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    _stamp: _Stamp = field(repr=False, compare=False)

    @classmethod
    def load(cls, certificate_path: Path, *, key_path: Path, at: datetime) -> Identity:
        """Load both files; the first certificate is the host's, the others are its chain.

        Raises:
            LocalFailure: a file cannot be read.
            Malformed: a file is not PEM of the right kind.
            Untrusted: the key is readable for others, encrypted or of another certificate, or the
                certificate is not valid at ``at``.

        """
        # Taken first: a file that is replaced while it is read then counts as changed.
        stamp = _stamp(certificate_path, key_path)
        certificate, *chain = load_certificates(certificate_path)
        key = _load_key(key_path)
        if certificate.public_key() != key.public_key():
            raise Untrusted(
                key_path,
                f"the key does not belong to {certificate_path}",
                "install the pair together",
            )
        _check_use(key, key_path)
        if at > certificate.not_valid_after_utc:
            ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%MZ}"
            raise Untrusted(certificate_path, f"the certificate expired on {ended}", "renew it")
        if at < certificate.not_valid_before_utc:
            starts = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%MZ}"
            raise Untrusted(
                certificate_path, f"the certificate is valid only from {starts}", "check the clock"
            )
        dn = slash_form(certificate.subject)
        return cls(certificate_path, key_path, certificate, tuple(chain), dn, key, stamp)

    def expires_within(self, days: int, *, at: datetime) -> bool:
        """Check whether the certificate ends within ``days`` after ``at``."""
        return self.certificate.not_valid_after_utc - at <= timedelta(days=days)

    def expiry_warning(self, *, at: datetime) -> str:
        """Return a warning if the certificate ends within `EXPIRY_WARNINGS`, else nothing."""
        # The shortest period that applies comes first.
        for days in EXPIRY_WARNINGS:
            if self.expires_within(days, at=at):
                ends = f"{self.certificate.not_valid_after_utc:%Y-%m-%d %H:%MZ}"
                period = f"{days} day{'s' if days != 1 else ''}"
                return f"{self.certificate_path}: expires within {period}, on {ends}; renew it"
        return ""

    def reload_if_changed(self, *, at: datetime) -> Identity:
        """Return this identity, or a new one if a file was replaced (inode, size or mtime).

        Certificate and key are replaced one after the other. The error of such a moment is no
        reason for the caller to give up the identity in use.

        Raises:
            LocalFailure: as `load`.
            Malformed: as `load`.
            Untrusted: as `load`.

        """
        if _stamp(self.certificate_path, self.key_path) == self._stamp:
            return self
        return Identity.load(self.certificate_path, key_path=self.key_path, at=at)


def _stamp(*paths: Path) -> _Stamp:
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise LocalFailure.from_os(error, subject=path) from None
        stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of a file in PEM form, at least one.

    Raises:
        LocalFailure: the file cannot be read.
        Malformed: it holds none.

    """
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from None
    except UNREADABLE:
        raise Malformed(
            path, "no certificate in PEM form", "install the host certificate"
        ) from None


def _load_key(path: Path) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        # OpenSSL checks the primes of 2048 bits for 36 ms, those of 4096 bits for 256 ms.
        key = load_pem_private_key(
            _read_private(path), password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        raise Untrusted(
            path, "the key is encrypted", "store it without a passphrase, mode 0400"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed(path, "no private key in PEM form", "install the host key") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Untrusted(
            path, "the key is neither RSA nor EC", "request a certificate for such a key"
        )
    return key


def _check_use(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, path: Path) -> None:
    """Sign and verify once: in a damaged file, the private half of the key may be a wrong one."""
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(_SAMPLE, padding.PKCS1v15(), hashes.SHA256())
            key.public_key().verify(signature, _SAMPLE, padding.PKCS1v15(), hashes.SHA256())
        else:
            signature = key.sign(_SAMPLE, ec.ECDSA(hashes.SHA256()))
            key.public_key().verify(signature, _SAMPLE, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        raise Malformed(path, "the private key is damaged", "install the host key again") from None


def _read_private(path: Path) -> bytes:
    """Read the key after checking the mode of the open file, whose name could be replaced."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            is_ours = status.st_gid == os.getegid()
            if mode & stat.S_IRWXO or (mode & stat.S_IRWXG and not is_ours):
                who = (
                    "others"
                    if mode & stat.S_IRWXO
                    else f"group {status.st_gid}, which is not this program's"
                )
                raise Untrusted(
                    path,
                    f"the private key is open to {who} (mode {mode:04o})",
                    f"chmod 0400 {path}",
                )
            return file.read()
    except OSError as error:
        raise LocalFailure.from_os(error, subject=path) from None
