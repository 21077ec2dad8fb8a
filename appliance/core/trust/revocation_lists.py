"""The CRLs of a CA directory by the name of their issuer, and their entries.

A list belongs to the CA that its issuer field names, whatever the name of its file. It is used if
a key of a certificate of that name signed it. CAs renew their keys, and some have a separate key
for lists, so any such certificate suffices, not only the issuer of the checked one. A list may be
partial (a scope, some reasons), a delta (RFC 5280 section 5.2.4) or indirect, with entries about
certificates of other issuers (section 5.3.3).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from appliance.core.files import read_regular
from appliance.core.trust.distinguished_name import CanonicalName, canonical
from appliance.core.trust.unreadable import UNREADABLE

_MAX_BYTES = 64 * 2**20
"""The largest file; the largest list of the IGTF has 5 MB."""


@dataclass(frozen=True, slots=True)
class InstalledList:
    """A CRL and its file."""

    path: Path
    crl: x509.CertificateRevocationList
    _signed_by: dict[x509.Certificate, bool] = field(default_factory=dict)

    @property
    def starts(self) -> datetime:
        """When the list was issued."""
        return self.crl.last_update_utc

    @property
    def ends(self) -> datetime | None:
        """When the next list is due; without such a date a list is never stale."""
        return self.crl.next_update_utc

    def is_signed_by(self, authorities: Iterable[x509.Certificate]) -> bool:
        """Check whether the key of one of these certificates signed the list."""
        return any(map(self._is_signed_by, authorities))

    def reasons(self, certificate: x509.Certificate) -> Iterator[x509.ReasonFlags | None]:
        """Yield the reason, or None, of each entry that names ``certificate``.

        An entry is about certificates of the issuer that it names, else of the one of the entry
        before it, else of the issuer of the list (RFC 5280 section 5.3.3).
        """
        serial = certificate.serial_number
        if self.crl.get_revoked_certificate_by_serial_number(serial) is None:
            return  # the usual case, without the walk below, which is slow on long lists
        wanted, authority = canonical(certificate.issuer), {canonical(self.crl.issuer)}
        for entry in self.crl:
            authority = _certificate_issuer(entry) or authority
            if entry.serial_number == serial and wanted in authority:
                yield _reason(entry)

    def _is_signed_by(self, authority: x509.Certificate) -> bool:
        if authority not in self._signed_by:
            try:
                key = authority.public_key()
                verdict = self.crl.is_signature_valid(key)  # type: ignore[arg-type]
            except (ValueError, TypeError, UnsupportedAlgorithm):
                verdict = False
            self._signed_by[authority] = verdict
        return self._signed_by[authority]


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The CRLs of a directory, and the problems of its CRL files."""

    problems: tuple[str, ...]
    _by_issuer: dict[CanonicalName, list[InstalledList]]
    _unreadable: dict[str, list[str]]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> RevocationLists:
        """Read CRL files, PEM or DER; a file that cannot be read becomes a problem."""
        found: dict[CanonicalName, list[InstalledList]] = {}
        unreadable: dict[str, list[str]] = {}
        problems: dict[Path, str] = {}
        seen: set[Path] = set()
        for name in paths:
            # IGTF's bundles have each file under two names; it is read once.
            path = Path(os.path.realpath(name))
            if path not in seen:
                seen.add(path)
                try:
                    crl = _load(read_regular(path, limit=_MAX_BYTES))
                    found.setdefault(canonical(crl.issuer), []).append(InstalledList(path, crl))
                except OSError as error:
                    problems[path] = f"{name}: the CRL cannot be read: {error.strerror}"
                except (*UNREADABLE, TypeError):
                    problems[path] = f"{name}: not a CRL that can be read"
            if path in problems:
                unreadable.setdefault(name.name[:8], []).append(problems[path])
        return cls(tuple(problems.values()), found, unreadable)

    def of(self, issuer: CanonicalName) -> Sequence[InstalledList]:
        """Return the lists whose issuer field has this name, whoever signed them."""
        return self._by_issuer.get(issuer, ())

    def unreadable(self, hashes: Iterable[str]) -> list[str]:
        """Return the problems of files with one of these hashes in their names."""
        found = (problem for hash_ in sorted(hashes) for problem in self._unreadable.get(hash_, ()))
        return list(dict.fromkeys(found))


def named_list_issuers(certificate: x509.Certificate) -> frozenset[CanonicalName]:
    """Return the names of the CRL issuers that a certificate names (RFC 5280 section 4.2.1.13).

    It names them if its own issuer does not sign the lists.
    """
    names: set[CanonicalName] = set()
    for kind in (x509.CRLDistributionPoints, x509.FreshestCRL):
        # OpenSSL refuses a certificate whose extension cannot be read.
        with contextlib.suppress(x509.ExtensionNotFound, *UNREADABLE):
            extension = certificate.extensions.get_extension_for_oid(kind.oid)
            for point in cast("Iterable[x509.DistributionPoint]", extension.value):
                names |= _directory_names(point.crl_issuer or ())
    return frozenset(names)


def _directory_names(names: Iterable[x509.GeneralName]) -> set[CanonicalName]:
    return {canonical(name.value) for name in names if isinstance(name, x509.DirectoryName)}


def _certificate_issuer(entry: x509.RevokedCertificate) -> set[CanonicalName] | None:
    """Return the names of the issuer that an entry names, if it names one."""
    with contextlib.suppress(x509.ExtensionNotFound, *UNREADABLE):
        extension = entry.extensions.get_extension_for_class(x509.CertificateIssuer)
        return _directory_names(extension.value)
    return None


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    with contextlib.suppress(x509.ExtensionNotFound, *UNREADABLE):
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    return None


def _load(data: bytes) -> x509.CertificateRevocationList:
    if b"-----BEGIN" in data:
        return x509.load_pem_x509_crl(data)
    return x509.load_der_x509_crl(data)
