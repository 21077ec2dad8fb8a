"""The directory of trust anchors that grid sites install, and chains checked against it.

A chain goes from a certificate to a self-signed root in the directory; intermediates come from the directory or, as
mere hints, from the caller. OpenSSL builds it and checks signatures, names, CA rights and validity at the stated
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from appliance.core.trust.anchors import INSTALL, Anchors, list_files
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed, Untrusted

_LOG = logging.getLogger(__name__)
_FETCH = "run fetch-crl"
_RENEW = "the holder needs a certificate with RSA 2048 or EC, signed with SHA-256 or better"
_MAX_UNTRUSTED = 16
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
        self._anchors = self._read(list_files(path))

    @property
    def problems(self) -> tuple[str, ...]:
        """Files that could not be used when the directory was read."""
        return self._anchors.problems

    def refresh(self) -> bool:
        """Read the directory again if a file of it is new, gone or changed (name, size, inode or mtime).

        Returns whether it was read again. After an error the anchors in use stay in use.

        :raises LocalFailure: as the constructor
        """
        listing = list_files(self.path)
        if listing == self._anchors.listing:
            return False
        self._anchors = self._read(listing)
        return True

    def tls_bundle(self) -> str:
        """Return all CA certificates as PEM text, for ``cadata`` of an `ssl.SSLContext`."""
        anchors = self._anchors.by_fingerprint.values()
        return "".join(anchor.certificate.public_bytes(Encoding.PEM).decode("ascii") for anchor in anchors)

    def verify_chain(
        self, certificate: x509.Certificate, *, untrusted: Sequence[x509.Certificate] = (), at: datetime
    ) -> VerifiedChain:
        """Prove ``certificate`` at the (aware) time ``at``; ``untrusted`` may help as intermediates.

        :raises Untrusted: which rule it breaks
        :raises Malformed: a name or an encoding in it that cannot be read
        """
        subject = _subject(certificate)
        if len(untrusted) > _MAX_UNTRUSTED:
            raise Untrusted(subject, f"{len(untrusted)} certificates came with it, at most {_MAX_UNTRUSTED} are read")
        anchors = self._anchors
        chain = _build(anchors, certificate, untrusted=untrusted, at=at)
        for link in chain:
            _check_key(link, subject=subject)
        warnings: list[str] = []
        for child, issuer in itertools.pairwise(chain):
            if not anchors.holds(child):
                self._check_signature_hash(child, subject=subject)
                _check_policies(anchors, child, issuer=issuer, subject=subject)
            if self.crls is not CRLPolicy.OFF:
                warnings.extend(self._check_revocation(anchors, child, issuer=issuer, subject=subject, at=at))
        return VerifiedChain(subject, chain, tuple(warnings))

    def _read(self, listing: frozenset[tuple[str, int, int, int]]) -> Anchors:
        anchors = Anchors.read(self.path, listing=listing)
        for problem in anchors.problems:
            _LOG.warning("%s; %s", problem, INSTALL)
        return anchors

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
        name = algorithm.name.upper() if algorithm else "an unsupported algorithm"
        raise Untrusted(subject, f"{_subject(link)} is signed with {name}", _RENEW)

    def _check_revocation(
        self, anchors: Anchors, child: x509.Certificate, *, issuer: x509.Certificate, subject: DN, at: datetime
    ) -> Iterator[str]:
        lists = anchors.revocation(issuer)
        finding = lists.judge(child)
        authority = _subject(issuer)
        if finding.is_revoked:
            raise Untrusted(subject, f"{_who(child, subject)} was revoked by {authority}", "the holder needs a new one")
        doubts = [*([] if finding.is_covered else [finding.cause, *lists.flaws]), lists.staleness(at=at)]
        for doubt in filter(None, doubts):
            if self.crls is CRLPolicy.REQUIRE:
                raise Untrusted(subject, f"revocation by {authority} cannot be checked: {doubt}", _FETCH)
            yield f"{authority}: {doubt}; {_FETCH}"


def _build(
    anchors: Anchors, certificate: x509.Certificate, *, untrusted: Sequence[x509.Certificate], at: datetime
) -> tuple[x509.Certificate, ...]:
    """Let OpenSSL find and check the chain."""
    subject = _subject(certificate)
    given = {one.fingerprint(hashes.SHA256()): one for one in (*untrusted, certificate)}

    def identify(found: crypto.X509) -> x509.Certificate:
        fingerprint = hashlib.sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, found)).digest()
        return given.get(fingerprint) or anchors.by_fingerprint[fingerprint].certificate

    store = crypto.X509Store()  # one for each chain: the time of a store can be set only once
    for anchor in anchors.by_fingerprint.values():
        store.add_cert(anchor.openssl)
    store.set_time(at.astimezone(UTC))
    try:
        leaf = crypto.X509.from_cryptography(certificate)
        helpers = [crypto.X509.from_cryptography(one) for one in untrusted]
        return tuple(map(identify, crypto.X509StoreContext(store, leaf, helpers).get_verified_chain()))
    except crypto.X509StoreContextError as error:
        code, _depth, words = error.errors
        culprit = identify(error.certificate)
    except crypto.Error:
        raise Malformed(subject, "OpenSSL cannot read its certificates") from None
    if code in _NO_ISSUER:
        raise Untrusted(
            subject, f"its issuer {_issuer(culprit)} is not among the trust anchors in {anchors.path}", INSTALL
        )
    who = _who(culprit, subject)
    if code == _EXPIRED:
        raise Untrusted(subject, f"{who} expired on {culprit.not_valid_after_utc:%Y-%m-%d %H:%MZ}", "renew it")
    if code == _NOT_YET_VALID:
        starts = f"{culprit.not_valid_before_utc:%Y-%m-%d %H:%MZ}"
        raise Untrusted(subject, f"{who} is valid only from {starts}", "check the clocks of both machines")
    raise Untrusted(subject, f"{who}: {words}")


def _check_policies(anchors: Anchors, child: x509.Certificate, *, issuer: x509.Certificate, subject: DN) -> None:
    name, authority = _subject(child), _subject(issuer)
    for policy in anchors.policies(issuer):
        if not policy.permits(name, issuer=authority):
            cause = f"{_who(child, subject)} lies outside the names that {policy.path} lets {authority} sign"
            raise Untrusted(subject, cause)


def _check_key(certificate: x509.Certificate, *, subject: DN) -> None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    match key:
        case rsa.RSAPublicKey(key_size=size):
            kind, is_strong = "an RSA", size >= _MIN_RSA_BITS
        case ec.EllipticCurvePublicKey(key_size=size):
            kind, is_strong = "an EC", size >= _MIN_EC_BITS
        case _:
            raise Untrusted(subject, f"{_subject(certificate)} has a key that is neither RSA nor EC", _RENEW)
    if not is_strong:
        raise Untrusted(subject, f"{_subject(certificate)} has {kind} key of {size} bits, too short", _RENEW)


def _who(certificate: x509.Certificate, subject: DN) -> str:
    name = _subject(certificate)
    return "its certificate" if name == subject else f"CA {name}"


def _subject(certificate: x509.Certificate) -> DN:
    try:
        return slash_form(certificate.subject)
    except ValueError:
        raise Malformed("certificate", "its subject cannot be read") from None


def _issuer(certificate: x509.Certificate) -> DN:
    try:
        return slash_form(certificate.issuer)
    except ValueError:
        raise Malformed("certificate", "its issuer's name cannot be read") from None
