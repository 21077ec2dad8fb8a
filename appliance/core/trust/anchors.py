"""The files of a CA directory: what was read from them, and what they say about one CA.

``HASH.N`` certificates (PEM), ``HASH.rN`` CRLs (PEM or DER), ``HASH.signing_policy``; HASH is OpenSSL's hash of the
CA's subject. IGTF's bundles carry each file under two hashes, of which one is a link. Certificates and policies are
read at once, so that a package upgrade half-way done refuses nobody; CRLs, which may be large, when first needed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.revocation import RevocationLists
from appliance.core.trust.signing_policy import SigningPolicy

INSTALL = "install the IGTF trust anchors (package ca-policy-egi-core) or set the right CA directory"

_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.\d+")
_CRL = re.compile(r"[0-9a-f]{8}\.r\d+")
_POLICY = re.compile(r"[0-9a-f]{8}\.signing_policy")

Listing = frozenset[tuple[str, int, int, int]]
"""Name, mtime in ns, size and inode of each file that has a meaning here."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A CA certificate of the directory and the hashes that it lies under."""

    certificate: x509.Certificate
    openssl: crypto.X509
    hashes: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Anchors:
    """One reading of the directory; ``by_fingerprint`` is by the SHA-256 of the certificate."""

    path: Path
    listing: Listing
    by_fingerprint: Mapping[bytes, Anchor]
    problems: tuple[str, ...]
    """Files that could not be used."""
    _texts: Mapping[str, str]
    _policies: dict[bytes, tuple[SigningPolicy, ...]] = field(default_factory=dict)
    _lists: dict[bytes, RevocationLists] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, listing: Listing) -> Anchors:
        """Read the files of ``listing``.

        :raises LocalFailure: no usable certificate among them
        """
        anchors: dict[bytes, Anchor] = {}
        texts: dict[str, str] = {}
        problems: list[str] = []
        for name in sorted(name for name, *_ in listing):
            try:
                if _CERTIFICATE.fullmatch(name):
                    _add(anchors, (path / name).read_bytes(), hash_=name[:8])
                elif _POLICY.fullmatch(name):
                    texts[name] = ""  # a policy that cannot be read lets its CA sign nothing
                    texts[name] = (path / name).read_text(encoding="utf-8", errors="replace")
            except (OSError, ValueError, x509.InvalidVersion, crypto.Error) as error:
                problems.append(f"{path / name}: cannot be read: {getattr(error, 'strerror', 'not PEM')}")
        if not anchors:
            raise LocalFailure(path, "no CA certificate (HASH.0) can be read in this directory", INSTALL)
        return cls(path, listing, anchors, tuple(problems), texts)

    def holds(self, certificate: x509.Certificate) -> bool:
        """Tell whether this very certificate lies in the directory."""
        return certificate.fingerprint(SHA256()) in self.by_fingerprint

    def policies(self, issuer: x509.Certificate) -> tuple[SigningPolicy, ...]:
        """Return the signing policies that lie beside the certificate of ``issuer``.

        :raises Untrusted: one of them cannot be understood
        """
        fingerprint = issuer.fingerprint(SHA256())
        if fingerprint not in self._policies:
            texts = {self._texts[name]: self.path / name for name in self._files(issuer) if name in self._texts}
            self._policies[fingerprint] = tuple(SigningPolicy.parse(text, path=path) for text, path in texts.items())
        return self._policies[fingerprint]

    def revocation(self, issuer: x509.Certificate) -> RevocationLists:
        """Return the CRLs that lie beside the certificate of ``issuer``."""
        fingerprint = issuer.fingerprint(SHA256())
        if fingerprint not in self._lists:
            paths = {(self.path / name).resolve() for name in self._files(issuer) if _CRL.fullmatch(name)}
            self._lists[fingerprint] = RevocationLists.read(sorted(paths), issuer=issuer)
        return self._lists[fingerprint]

    def _files(self, issuer: x509.Certificate) -> Iterator[str]:
        """Name the files under the hash of the CA, whether installed or not, and under those it was found at."""
        anchor = self.by_fingerprint.get(issuer.fingerprint(SHA256()))
        own = format(crypto.X509.from_cryptography(issuer).subject_name_hash(), "08x")
        hashes = {own} | (anchor.hashes if anchor else set())
        return (name for name, *_ in sorted(self.listing) if name[:8] in hashes)


def list_files(path: Path) -> Listing:
    """Look at the files of the directory, links followed, without reading them.

    :raises LocalFailure: it is missing or unreadable
    """
    found = []
    try:
        for entry in path.iterdir():
            if any(kind.fullmatch(entry.name) for kind in (_CERTIFICATE, _CRL, _POLICY)):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a dangling link, or replaced this instant: not there
                    continue
                found.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        raise LocalFailure(path, f"the CA directory cannot be read: {error.strerror}", INSTALL) from None
    return frozenset(found)


def _add(anchors: dict[bytes, Anchor], data: bytes, *, hash_: str) -> None:
    with warnings.catch_warnings():
        # Old roots have serial number 0, which cryptography deplores.
        warnings.simplefilter("ignore")
        certificates = x509.load_pem_x509_certificates(data)
    for certificate in certificates:
        fingerprint = certificate.fingerprint(SHA256())
        if fingerprint not in anchors:
            anchors[fingerprint] = Anchor(certificate, crypto.X509.from_cryptography(certificate))
        anchors[fingerprint].hashes.add(hash_)
