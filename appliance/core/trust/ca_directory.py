"""The directory of trust anchors that grid sites install, and chains checked against it.

Files, named by OpenSSL's hash of the CA's subject: ``HASH.N`` certificates (PEM), ``HASH.rN`` CRLs (PEM or DER, kept
fresh by fetch-crl), ``HASH.signing_policy``. IGTF's bundles carry each file under two hashes, of which one is a link.

A chain goes from the certificate to a self-signed root in the directory; intermediates come from the directory or,
as mere hints, from the caller. OpenSSL builds it and checks signatures, names, CA rights and validity at the stated
time, for any purpose: grid host certificates carry serverAuth and clientAuth only, yet sign messages. The rules that
OpenSSL lacks are checked here: strength of keys and signatures, signing policies, and CRLs with a choice of policy.
A signing policy and the strength of a signature say nothing about a CA certificate that lies in the directory itself:
whoever installed it has decided on it.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed, Untrusted
from appliance.core.trust.revocation import Finding, RevocationLists
from appliance.core.trust.signing_policy import SigningPolicy

_LOG = logging.getLogger(__name__)
_FILE = re.compile(r"(?P<hash>[0-9a-f]{8})\.(?P<kind>signing_policy|r?)(?P<number>\d*)")
_INSTALL = "install the IGTF trust anchors (package ca-policy-egi-core) or set the right CA directory"
_MAX_UNTRUSTED = 16
_MAX_FINDINGS = 4096
_MIN_RSA_BITS = 2048
_MIN_EC_BITS = 224
"""As strong as RSA 2048 (NIST SP 800-57 part 1, table 2)."""
_NO_ISSUER, _NOT_YET_VALID, _EXPIRED = frozenset({2, 18, 19, 20, 21}), 9, 10
"""``X509_V_ERR_*`` of OpenSSL's x509_vfy.h that deserve better words than its own."""


class CRLPolicy(enum.Enum):
    """What to make of CRLs."""

    WARN = "warn"
    """One that is present applies, even a stale one; a missing or stale one gives a warning."""
    REQUIRE = "require"
    """A missing or stale one refuses."""
    OFF = "off"
    """None is read."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A proven chain: the certificate first, the root last."""

    subject: DN
    certificates: tuple[x509.Certificate, ...]
    warnings: tuple[str, ...]


class CADirectory:
    """Trust anchors, CRLs and signing policies of one directory, read at construction and by `refresh`.

    ``allow_sha1`` accepts certificates signed with SHA-1 (those of the directory itself may always be).
    Safe for several threads.

    :raises LocalFailure: the directory is missing, unreadable or without a usable CA certificate
    """

    def __init__(self, path: Path, *, crls: CRLPolicy = CRLPolicy.WARN, allow_sha1: bool = False) -> None:
        self.path = path
        self.crls = crls
        self._allow_sha1 = allow_sha1
        self._anchors = _Anchors.read(path, listing=_list(path))

    @property
    def problems(self) -> tuple[str, ...]:
        """Files that could not be used when the directory was read."""
        return self._anchors.problems

    def refresh(self) -> bool:
        """Read the directory again if a file of it is new, gone or changed (name, size, inode or mtime).

        Returns whether it was read again. After an error the anchors in use stay in use.

        :raises LocalFailure: as the constructor
        """
        listing = _list(self.path)
        if listing == self._anchors.listing:
            return False
        self._anchors = _Anchors.read(self.path, listing=listing)
        return True

    def tls_bundle(self) -> str:
        """Return all CA certificates as PEM text, for ``cadata`` of an `ssl.SSLContext`."""
        return "".join(
            anchor.certificate.public_bytes(Encoding.PEM).decode("ascii")
            for anchor in self._anchors.by_fingerprint.values()
        )

    def verify_chain(
        self, certificate: x509.Certificate, *, untrusted: Sequence[x509.Certificate] = (), at: datetime
    ) -> VerifiedChain:
        """Prove ``certificate`` at the (aware) time ``at``; ``untrusted`` may help as intermediates.

        :raises Untrusted: which rule it breaks
        :raises Malformed: a name or key in it that cannot be read
        """
        subject = _subject(certificate)
        if len(untrusted) > _MAX_UNTRUSTED:
            raise Untrusted(subject, f"{len(untrusted)} certificates came with it, at most {_MAX_UNTRUSTED} are read")
        anchors = self._anchors
        chain = anchors.build(certificate, untrusted=untrusted, at=at)
        for link in chain:
            _check_key(link, subject=subject)
            if not anchors.holds(link):
                self._check_signature_hash(link, subject=subject)
        found: list[str] = []
        for child, issuer in itertools.pairwise(chain):
            if not anchors.holds(child):
                anchors.check_policy(child, issuer=issuer, subject=subject)
            if self.crls is not CRLPolicy.OFF:
                found.extend(self._check_revocation(child, issuer=issuer, subject=subject, at=at))
        return VerifiedChain(subject, chain, tuple(found))

    def _check_signature_hash(self, link: x509.Certificate, *, subject: DN) -> None:
        try:
            algorithm = link.signature_hash_algorithm
        except UnsupportedAlgorithm:
            algorithm = None
        match algorithm:
            case hashes.SHA256() | hashes.SHA384() | hashes.SHA512():
                return
            case hashes.SHA1() if self._allow_sha1:
                return
            case None:
                raise Untrusted(subject, f"{_subject(link)} is signed with an unsupported algorithm", _RENEW)
            case weak:
                raise Untrusted(subject, f"{_subject(link)} is signed with {weak.name.upper()}", _RENEW)

    def _check_revocation(
        self, child: x509.Certificate, *, issuer: x509.Certificate, subject: DN, at: datetime
    ) -> Iterator[str]:
        lists, finding = self._anchors.revocation(child, issuer=issuer)
        authority, name = _subject(issuer), _subject(child)
        if finding.is_revoked:
            who = "certificate" if name == subject else f"CA {name}"
            raise Untrusted(subject, f"{who} revoked by {authority}", "the holder needs a new certificate")
        doubts = [*([] if finding.is_covered else [finding.cause, *lists.flaws]), lists.staleness(at=at)]
        for doubt in filter(None, doubts):
            if self.crls is CRLPolicy.REQUIRE:
                raise Untrusted(subject, f"revocation by {authority} cannot be checked: {doubt}", _FETCH)
            yield f"{authority}: {doubt}; {_FETCH}"


_FETCH = "run fetch-crl"
_RENEW = "the holder needs a certificate with RSA 2048 or EC, signed with SHA-256 or better"


@dataclass(frozen=True, slots=True)
class _Anchor:
    certificate: x509.Certificate
    openssl: crypto.X509
    hashes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Anchors:
    """One reading of the directory, with what was derived from it so far."""

    path: Path
    listing: frozenset[tuple[str, int, int, int]]
    by_fingerprint: dict[bytes, _Anchor]
    problems: tuple[str, ...]
    _policies: dict[bytes, tuple[SigningPolicy, ...]] = field(default_factory=dict)
    _lists: dict[bytes, RevocationLists] = field(default_factory=dict)
    _findings: dict[tuple[bytes, bytes], Finding] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, listing: frozenset[tuple[str, int, int, int]]) -> _Anchors:
        anchors: dict[bytes, _Anchor] = {}
        problems: list[str] = []
        for name in sorted(name for name, *_ in listing if _is_certificate(name)):
            try:
                certificates = _load_all((path / name).read_bytes())
            except (OSError, ValueError) as error:
                problems.append(f"{path / name}: the certificate cannot be read ({error})")
                continue
            for certificate in certificates:
                fingerprint = certificate.fingerprint(hashes.SHA256())
                known = anchors.get(fingerprint)
                if known is None:
                    known = _Anchor(certificate, crypto.X509.from_cryptography(certificate))
                anchors[fingerprint] = replace(known, hashes=known.hashes | {name[:8]})
        for problem in problems:
            _LOG.warning("%s; %s", problem, _INSTALL)
        if not anchors:
            raise LocalFailure(path, "no CA certificate (HASH.0) can be read in this directory", _INSTALL)
        return cls(path, listing, anchors, tuple(problems))

    def holds(self, certificate: x509.Certificate) -> bool:
        """Tell whether this very certificate lies in the directory."""
        return certificate.fingerprint(hashes.SHA256()) in self.by_fingerprint

    def build(
        self, certificate: x509.Certificate, *, untrusted: Sequence[x509.Certificate], at: datetime
    ) -> tuple[x509.Certificate, ...]:
        """Let OpenSSL find and check the chain."""
        known = {one.fingerprint(hashes.SHA256()): one for one in (*untrusted, certificate)}
        subject = _subject(certificate)
        # A store for each chain: the time of a store can be set once only.
        store = crypto.X509Store()
        for anchor in self.by_fingerprint.values():
            store.add_cert(anchor.openssl)
        store.set_time(at.astimezone(UTC))
        try:
            leaf = crypto.X509.from_cryptography(certificate)
            helpers = [crypto.X509.from_cryptography(one) for one in untrusted]
            found = crypto.X509StoreContext(store, leaf, helpers).get_verified_chain()
        except crypto.X509StoreContextError as error:
            code, _depth, words = error.errors
            culprit = self._identify(error.certificate, known=known)
            raise self._explain(code, words, culprit=culprit, subject=subject) from None
        except crypto.Error:
            raise Malformed(subject, "its certificates cannot be read by OpenSSL") from None
        return tuple(self._identify(one, known=known) for one in found)

    def _identify(self, certificate: crypto.X509, *, known: Mapping[bytes, x509.Certificate]) -> x509.Certificate:
        fingerprint = hashlib.sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)).digest()
        return known.get(fingerprint) or self.by_fingerprint[fingerprint].certificate

    def _explain(self, code: int, words: str, *, culprit: x509.Certificate, subject: DN) -> Untrusted:
        name = _subject(culprit)
        who = "its certificate" if name == subject else f"CA {name}"
        if code in _NO_ISSUER:
            cause = f"its issuer {slash_form(culprit.issuer)} is not among the trust anchors in {self.path}"
            return Untrusted(subject, cause, _INSTALL)
        if code == _EXPIRED:
            return Untrusted(subject, f"{who} expired on {culprit.not_valid_after_utc:%Y-%m-%d %H:%MZ}", "renew it")
        if code == _NOT_YET_VALID:
            starts = f"{culprit.not_valid_before_utc:%Y-%m-%d %H:%MZ}"
            return Untrusted(subject, f"{who} is valid only from {starts}", "check the clocks of both machines")
        return Untrusted(subject, f"{who}: {words}")

    def check_policy(self, child: x509.Certificate, *, issuer: x509.Certificate, subject: DN) -> None:
        """Enforce each signing policy that lies beside the issuer's certificate."""
        key = issuer.fingerprint(hashes.SHA256())
        policies = self._policies.get(key)
        if policies is None:
            policies = self._policies[key] = tuple(self._read_policies(issuer))
        name, authority = _subject(child), _subject(issuer)
        for policy in policies:
            if not policy.permits(name, issuer=authority):
                who = "it" if name == subject else f"CA {name}"
                raise Untrusted(subject, f"{who} lies outside the names that {policy.path} lets {authority} sign")

    def _read_policies(self, issuer: x509.Certificate) -> Iterator[SigningPolicy]:
        paths = {(self.path / name).resolve() for name in self._names(issuer) if name.endswith(".signing_policy")}
        for path in sorted(paths):
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise Untrusted(path, f"the signing policy cannot be read: {error.strerror}", _INSTALL) from None
            yield SigningPolicy.parse(text, path=path)

    def revocation(self, child: x509.Certificate, *, issuer: x509.Certificate) -> tuple[RevocationLists, Finding]:
        """Return the CRLs of ``issuer`` and what they say about ``child``."""
        authority = issuer.fingerprint(hashes.SHA256())
        key = (authority, child.fingerprint(hashes.SHA256()))
        lists = self._lists.get(authority)
        if lists is None:
            paths = {(self.path / name).resolve() for name in self._names(issuer) if _is_crl(name)}
            lists = self._lists[authority] = RevocationLists.read(sorted(paths), issuer=issuer)
        finding = self._findings.get(key)
        if finding is None:
            if len(self._findings) >= _MAX_FINDINGS:
                self._findings.clear()
            finding = self._findings[key] = lists.judge(child)
        return lists, finding

    def _names(self, issuer: x509.Certificate) -> Iterator[str]:
        """Name the files that belong to ``issuer``: its own hash, and those under which its certificate lies."""
        anchor = self.by_fingerprint.get(issuer.fingerprint(hashes.SHA256()))
        own = format(crypto.X509.from_cryptography(issuer).subject_name_hash(), "08x")
        wanted = {own} | (anchor.hashes if anchor else set())
        return (name for name, *_ in self.listing if name[:8] in wanted)


def _list(path: Path) -> frozenset[tuple[str, int, int, int]]:
    """Return name, mtime in ns, size and inode of each file of the directory that has a meaning here."""
    found = []
    try:
        for entry in path.iterdir():
            if _FILE.fullmatch(entry.name):
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a dangling link, or replaced this instant: not there
                    continue
                found.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        raise LocalFailure(path, f"the CA directory cannot be read: {error.strerror}", _INSTALL) from None
    return frozenset(found)


def _is_certificate(name: str) -> bool:
    parsed = _FILE.fullmatch(name)
    return parsed is not None and parsed["kind"] == "" and parsed["number"] != ""


def _is_crl(name: str) -> bool:
    parsed = _FILE.fullmatch(name)
    return parsed is not None and parsed["kind"] == "r"


def _load_all(data: bytes) -> list[x509.Certificate]:
    with warnings.catch_warnings():
        # Old roots have serial number 0, which cryptography deplores.
        warnings.simplefilter("ignore")
        return x509.load_pem_x509_certificates(data)


def _subject(certificate: x509.Certificate) -> DN:
    try:
        return slash_form(certificate.subject)
    except ValueError:
        raise Malformed("certificate", "its subject cannot be read") from None


def _check_key(certificate: x509.Certificate, *, subject: DN) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Untrusted(subject, "a key in its chain is of an unsupported kind", _RENEW) from None
    match key:
        case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return
        case ec.EllipticCurvePublicKey() if key.curve.key_size >= _MIN_EC_BITS:
            return
        case rsa.RSAPublicKey() | ec.EllipticCurvePublicKey():
            kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else "EC"
            size = key.key_size
            raise Untrusted(subject, f"{_subject(certificate)} has {kind} key of {size} bits, too short", _RENEW)
        case _:
            raise Untrusted(subject, f"{_subject(certificate)} has a key that is neither RSA nor EC", _RENEW)
