"""Certificate revocation lists of one CA, and what they say about one certificate.

A CRL is usable when it can be read and its signature fits the CA's key. OpenSSL judges whether it covers the
certificate and lists it, with its clock switched off; the age of the CRL is judged apart, so that a stale CRL still
revokes what it lists. So does one that OpenSSL cannot make full use of (an extension, its scope, the CA's key usage).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL's x509_vfy.h, which pyOpenSSL does not name."""
_MAX_FINDINGS = 4096
_CERTIFICATE_REVOKED = 23
"""``X509_V_ERR_CERT_REVOKED``."""


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The usable CRLs of one CA and why others were not."""

    issuer: x509.Certificate
    usable: tuple[x509.CertificateRevocationList, ...]
    flaws: tuple[str, ...]
    _findings: dict[bytes, Finding] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Sequence[Path], *, issuer: x509.Certificate) -> RevocationLists:
        """Read the CRL files of ``issuer``; a file that cannot be used becomes a flaw, never an error."""
        usable, flaws = [], []
        for path in paths:
            try:
                found = _load(path.read_bytes())
                is_signed = found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
            except OSError as error:
                flaws.append(f"{path}: {error.strerror}")
            except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
                flaws.append(f"{path}: not a CRL that can be read")
            else:
                if is_signed:
                    usable.append(found)
                else:
                    flaws.append(f"{path}: not signed by this CA")
        return cls(issuer, tuple(usable), tuple(flaws))

    def judge(self, certificate: x509.Certificate) -> Finding:
        """Say whether the lists cover ``certificate``, and whether it is revoked. The time plays no part."""
        fingerprint = certificate.fingerprint(SHA256())
        if fingerprint not in self._findings:
            if len(self._findings) >= _MAX_FINDINGS:
                self._findings.clear()
            self._findings[fingerprint] = self._look_up(certificate)
        return self._findings[fingerprint]

    def _look_up(self, certificate: x509.Certificate) -> Finding:
        if not self.usable:
            return Finding(is_covered=False, is_revoked=False, cause="no CRL of its issuer is installed")
        store = crypto.X509Store()
        store.add_cert(crypto.X509.from_cryptography(self.issuer))
        for found in self.usable:
            store.add_crl(found)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
        try:
            crypto.X509StoreContext(store, crypto.X509.from_cryptography(certificate)).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, _depth, cause = error.errors
            is_revoked = code == _CERTIFICATE_REVOKED or self._is_listed(certificate)
            return Finding(is_covered=False, is_revoked=is_revoked, cause=f"its CRL: {cause}")
        return Finding(is_covered=True, is_revoked=False)

    def _is_listed(self, certificate: x509.Certificate) -> bool:
        """Say whether a list names the certificate that OpenSSL would not use for it: its CA's word all the same."""
        serial = certificate.serial_number
        return any(found.get_revoked_certificate_by_serial_number(serial) is not None for found in self.usable)

    def staleness(self, *, at: datetime) -> str:
        """Say what is wrong with the age of the newest CRL at ``at``, or nothing."""
        if not self.usable:
            return ""
        newest = max(self.usable, key=lambda found: found.last_update_utc)
        if newest.last_update_utc > at:
            return f"the CRL is valid only from {newest.last_update_utc:%Y-%m-%d %H:%MZ}"
        if newest.next_update_utc is not None and newest.next_update_utc < at:
            return f"the CRL is stale since {newest.next_update_utc:%Y-%m-%d %H:%MZ}"
        return ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What CRLs say about one certificate."""

    is_covered: bool
    is_revoked: bool
    cause: str = ""


def _load(data: bytes) -> x509.CertificateRevocationList:
    if b"-----BEGIN" in data:
        return x509.load_pem_x509_crl(data)
    return x509.load_der_x509_crl(data)
