"""The files of a CA directory, and what they say about one CA.

The files are ``HASH.N``, certificates (PEM), ``HASH.rN``, CRLs (PEM or DER), and
``HASH.signing_policy``; HASH is OpenSSL's hash of the CA's subject. IGTF's bundles have each file
under two hashes, one of them a link. Certificates and policies are read at once, so that a package
upgrade in progress refuses nobody; CRLs, which may be large, are read when first needed.

A file that cannot be used becomes one line in ``problems``; the other files are used.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

from appliance.core.files import read_regular, shell_word
from appliance.core.run.errors import LocalFailure
from appliance.core.trust.distinguished_name import CanonicalName, canonical
from appliance.core.trust.revocation_lists import RevocationLists
from appliance.core.trust.signing_policy import SigningPolicy
from appliance.core.trust.unreadable import UNREADABLE

INSTALL = (
    "install the IGTF trust anchors (Debian's package igtf-policy-classic, or EGI's"
    " ca-policy-egi-core), or set the right CA directory"
)

_CERTIFICATE = re.compile(r"[0-9a-f]{8}\.\d+")
_CRL = re.compile(r"[0-9a-f]{8}\.r\d+")
_POLICY = re.compile(r"[0-9a-f]{8}\.signing_policy")
_MAX_BYTES = 2**20
"""The largest file with certificates or a policy."""

Snapshot = frozenset[tuple[str, int, int, int]]
"""Name, mtime in ns, size and inode of each file that is used here; -1 if stat(2) fails."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A CA certificate of the directory, and the hashes in the names of its files."""

    certificate: x509.Certificate
    openssl: crypto.X509
    hashes: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Anchors:
    """One reading of the directory; the keys of ``by_fingerprint`` are SHA-256 fingerprints."""

    path: Path
    listing: Snapshot
    by_fingerprint: Mapping[bytes, Anchor]
    problems: tuple[str, ...]
    """Files that could not be used."""
    _texts: Mapping[str, str]
    _policies: dict[bytes, tuple[SigningPolicy, ...]] = field(default_factory=dict)
    _by_name: dict[CanonicalName, list[x509.Certificate]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, listing: Snapshot) -> Anchors:
        """Read the files of ``listing``.

        Raises:
            LocalFailure: none of them is a usable certificate.

        """
        anchors: dict[bytes, Anchor] = {}
        texts: dict[str, str] = {}
        problems: list[str] = []
        denied: OSError | None = None
        for name in sorted(name for name, *_ in listing):
            try:
                if _CERTIFICATE.fullmatch(name):
                    _add(anchors, _read(path / name), hash_=name[:8])
                elif _POLICY.fullmatch(name):
                    texts[name] = ""  # a policy that cannot be read permits nothing
                    texts[name] = _read(path / name).decode("utf-8", errors="replace")
            except OSError as error:
                denied = error if isinstance(error, PermissionError) else denied
                problems.append(f"{path / name}: cannot be read: {error.strerror}")
            except (*UNREADABLE, crypto.Error):
                problems.append(f"{path / name}: cannot be read: not PEM")
        if not anchors:
            cause = "no CA certificate (HASH.0) can be read in this directory"
            cause += f": {denied.strerror}" if denied else ""
            raise LocalFailure(path, cause, _remedy(path, denied))
        made = cls(path, listing, anchors, tuple(problems), texts)
        for anchor in anchors.values():
            subject = canonical(anchor.certificate.subject)
            made._by_name.setdefault(subject, []).append(anchor.certificate)
        return made

    def holds(self, certificate: x509.Certificate) -> bool:
        """Check whether this certificate itself is in the directory."""
        return certificate.fingerprint(SHA256()) in self.by_fingerprint

    def named(self, name: CanonicalName) -> Sequence[x509.Certificate]:
        """Return the certificates of the CA with this name: several after a renewed key."""
        return self._by_name.get(name, ())

    def policies(self, issuer: x509.Certificate) -> tuple[SigningPolicy, ...]:
        """Return the signing policies of ``issuer``, from the files of its hashes.

        Raises:
            Untrusted: one of them cannot be parsed.

        """
        fingerprint = issuer.fingerprint(SHA256())
        if fingerprint not in self._policies:
            hashes = self.hashes(issuer)
            names = (name for name in sorted(self._texts) if name[:8] in hashes)
            found = {self._texts[name]: self.path / name for name in names}
            policies = (SigningPolicy.parse(text, path=path) for text, path in found.items())
            self._policies[fingerprint] = tuple(policies)
        return self._policies[fingerprint]

    def read_revocation_lists(self) -> RevocationLists:
        """Read all CRLs of the directory."""
        names = sorted(name for name, *_ in self.listing if _CRL.fullmatch(name))
        return RevocationLists.read([self.path / name for name in names])

    def hashes(self, authority: x509.Certificate) -> set[str]:
        """Return the hashes in the names of this CA's files, for all its keys."""
        found = {format(crypto.X509.from_cryptography(authority).subject_name_hash(), "08x")}
        for installed in self.named(canonical(authority.subject)):
            found |= self.by_fingerprint[installed.fingerprint(SHA256())].hashes
        return found


def list_files(path: Path) -> Snapshot:
    """Return the state of the directory's files, without reading them; links are followed.

    Raises:
        LocalFailure: it is missing or unreadable.

    """
    try:
        names = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise LocalFailure(
            path,
            f"the CA directory cannot be read: {error.strerror}",
            _remedy(path, error),
        ) from None
    kinds = (_CERTIFICATE, _CRL, _POLICY)
    wanted = (name for name in names if any(kind.fullmatch(name) for kind in kinds))
    return frozenset(_look_at(path, wanted))


def _remedy(path: Path, error: OSError | None) -> str:
    """Return what to do about a directory without a readable CA certificate."""
    if not isinstance(error, PermissionError):
        return INSTALL
    try:
        path.stat()
    except OSError:  # a directory above it is closed
        return LocalFailure.from_os(error).remedy
    return f"let every user read it: chmod -R a+rX {shell_word(path)}"


def _look_at(path: Path, names: Iterator[str]) -> Iterator[tuple[str, int, int, int]]:
    for name in names:
        try:
            status = (path / name).stat()
        except OSError as error:  # a dangling link, or no permission: reading the file reports it
            is_closed = isinstance(error, PermissionError)
            if is_closed or os.path.lexists(path / name):  # else it was replaced just now
                yield name, -1, -1, -1
        else:
            yield name, status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes:
    return read_regular(path, limit=_MAX_BYTES, follow=True)


def _add(anchors: dict[bytes, Anchor], data: bytes, *, hash_: str) -> None:
    with warnings.catch_warnings():
        # cryptography warns of serial number 0, which old roots have.
        warnings.simplefilter("ignore")
        certificates = x509.load_pem_x509_certificates(data)
    for certificate in certificates:
        fingerprint = certificate.fingerprint(SHA256())
        if fingerprint not in anchors:
            anchors[fingerprint] = Anchor(certificate, crypto.X509.from_cryptography(certificate))
        anchors[fingerprint].hashes.add(hash_)
