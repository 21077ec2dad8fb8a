"""The directory of trust anchors that grid sites install, and chains checked against it.

A chain goes from a certificate to a self-signed root in the directory; intermediates come from
the directory or, as mere hints, from the caller. OpenSSL builds it and checks signatures, names,
CA rights and validity at the stated time, for any purpose: grid host certificates carry
serverAuth and clientAuth only, yet sign messages. The rules that OpenSSL lacks are checked here:
strength of keys and signatures, signing policies, and CRLs with a choice of policy. A signing
policy and the strength of a signature say nothing about a CA certificate that lies in the
directory itself: whoever installed it has decided on it.
"""

from __future__ import annotations

import enum
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core.trust.anchors import Anchors, Snapshot, list_files
from appliance.core.trust.chain import build, subject_of, who
from appliance.core.trust.distinguished_name import DN, canonical
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.revocation import Doubt, Revocation
from appliance.core.trust.strength import check_key, check_signature_hash

_LOG = logging.getLogger(__name__)
_FETCH = "run fetch-crl"
_REPLACE = "replace or remove it"
_MAX_UNTRUSTED = 16
_MAX_LINES = 20
"""Of problems with single files that one reading of the directory logs."""


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
    """Trust anchors, CRLs and signing policies of a directory, as read last (`refresh`).

    ``allow_sha1`` accepts certificates signed with SHA-1 (those of the directory itself may
    always be). Safe for several threads.

    Raises:
        LocalFailure: the directory is missing, unreadable or without a usable CA certificate.

    """

    def __init__(
        self,
        path: Path,
        *,
        crls: CRLPolicy = CRLPolicy.WARN,
        allow_sha1: bool = False,
    ) -> None:
        self.path = path
        self.crls = crls
        self._allow_sha1 = allow_sha1
        self._logged: set[str] = set()
        self._revocation = self._read(list_files(path))

    @property
    def problems(self) -> tuple[str, ...]:
        """Files that could not be used when the directory was read, CRLs unless they are off."""
        known = self._revocation
        lists = () if self.crls is CRLPolicy.OFF else known.lists.problems
        return (*known.anchors.problems, *lists)

    def refresh(self) -> bool:
        """Read the directory again if a file of it is new, gone or changed.

        A file has changed when its size, inode or mtime has. Returns whether it was read again.
        After an error the anchors in use stay in use.

        Raises:
            LocalFailure: as the constructor.

        """
        listing = list_files(self.path)
        if listing == self._revocation.anchors.listing:
            return False
        self._revocation = self._read(listing)
        return True

    def tls_bundle(self) -> str:
        """Return all CA certificates as PEM text, for ``cadata`` of an `ssl.SSLContext`."""
        anchors = self._revocation.anchors.by_fingerprint.values()
        certificates = (anchor.certificate.public_bytes(Encoding.PEM) for anchor in anchors)
        return b"".join(certificates).decode("ascii")

    def verify_chain(
        self,
        certificate: x509.Certificate,
        *,
        untrusted: Sequence[x509.Certificate] = (),
        at: datetime,
    ) -> VerifiedChain:
        """Prove ``certificate`` at the (aware) time ``at``.

        ``untrusted`` may help as intermediates.

        Raises:
            Untrusted: which rule it breaks.
            Malformed: a name or an encoding in it that cannot be read.

        """
        subject = subject_of(certificate)
        if len(untrusted) > _MAX_UNTRUSTED:
            raise Untrusted(
                subject,
                f"{len(untrusted)} certificates came with it, at most {_MAX_UNTRUSTED} are read",
            )
        known = self._revocation
        anchors = known.anchors
        chain = build(anchors, certificate, untrusted=untrusted, at=at)
        for link in chain:
            check_key(link, subject=subject)
        for child, issuer in itertools.pairwise(chain):
            if not anchors.holds(child):
                check_signature_hash(child, subject=subject, allow_sha1=self._allow_sha1)
                _check_policies(anchors, child, issuer=issuer, subject=subject)
        if self.crls is CRLPolicy.OFF:
            return VerifiedChain(subject, chain, ())
        doubts = known.doubts(chain, untrusted=untrusted, at=at)
        self._log(known.lists.problems)
        warnings = tuple(self._judge(doubt, subject=subject) for doubt in doubts)
        return VerifiedChain(subject, chain, warnings)

    def _read(self, listing: Snapshot) -> Revocation:
        anchors = Anchors.read(self.path, listing=listing)
        self._log(anchors.problems)
        return Revocation(anchors)

    def _log(self, problems: Sequence[str]) -> None:
        """Log the problems that were not logged before, in a bounded number of lines."""
        if self._logged.issuperset(problems):
            return
        new = [problem for problem in problems if problem not in self._logged]
        self._logged.update(new)
        for problem in new[:_MAX_LINES]:
            _LOG.warning("%s; %s", problem, _REPLACE)
        if len(new) > _MAX_LINES:
            _LOG.warning("%s: %d more files cannot be used", self.path, len(new) - _MAX_LINES)

    def _judge(self, doubt: Doubt, *, subject: DN) -> str:
        """Return the warning that a doubt is worth.

        Raises:
            Untrusted: it is worth more than that.

        """
        authority = subject_of(doubt.issuer)
        if doubt.is_revoked:
            cause = f"{who(doubt.link, subject)} was revoked by {authority} ({doubt.cause})"
            raise Untrusted(subject, cause, "the holder needs a new one")
        if self.crls is CRLPolicy.REQUIRE:
            cause = f"revocation by {authority} cannot be checked: {doubt.cause}"
            raise Untrusted(subject, cause, _FETCH)
        return f"{authority}: {doubt.cause}; {_FETCH}"


def _check_policies(
    anchors: Anchors,
    child: x509.Certificate,
    *,
    issuer: x509.Certificate,
    subject: DN,
) -> None:
    if canonical(child.subject) == canonical(issuer.subject):
        return  # a CA that renewed its key vouches for itself; what it signs with it is bound below
    name, authority = subject_of(child), subject_of(issuer)
    for policy in anchors.policies(issuer):
        if not policy.permits(name, issuer=authority):
            bound = f"the names that {policy.path} lets {authority} sign"
            raise Untrusted(subject, f"{who(child, subject)} lies outside {bound}")
