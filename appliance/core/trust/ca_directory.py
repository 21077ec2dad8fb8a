"""The directory of trust anchors of grid sites, and the verification of chains against it.

A chain leads from a certificate to a self-signed root in the directory; intermediates come from
the directory or, as hints, from the caller. OpenSSL builds it and checks signatures, names, the
rights of CAs and the validity at a given time, for any purpose: grid host certificates are for
serverAuth and clientAuth only, and sign messages all the same. The rules that OpenSSL lacks are
checked here: the strength of keys and signatures, signing policies, and CRLs under a choice of
policies. Signing policies and the strength of signatures do not apply to a CA certificate in the
directory itself, because the administrator decided to install it.
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
"""Lines about single files that one reading of the directory logs."""


class CRLPolicy(enum.Enum):
    """How CRLs are used."""

    WARN = "warn"
    """A CRL that is present applies, even a stale one; a missing or stale one is a warning."""
    REQUIRE = "require"
    """A missing or stale CRL is a refusal."""
    OFF = "off"
    """No CRL is read."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A verified chain, from the certificate to the root."""

    subject: DN
    certificates: tuple[x509.Certificate, ...]
    warnings: tuple[str, ...]


class CADirectory:
    """Trust anchors, CRLs and signing policies of a directory, as they were last read.

    ``allow_sha1`` accepts certificates signed with SHA-1; those of the directory itself are always
    accepted. Several threads may use one object.

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
        """Problems of files that could not be used, among them CRLs unless they are off."""
        known = self._revocation
        lists = () if self.crls is CRLPolicy.OFF else known.lists.problems
        return (*known.anchors.problems, *lists)

    def refresh(self) -> bool:
        """Read the directory again if files were added, removed or changed.

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
        """Verify ``certificate`` at the (aware) time ``at``.

        ``untrusted`` may help as intermediates.

        Raises:
            Untrusted: it breaks a rule.
            Malformed: a name or an encoding in it cannot be read.

        """
        subject = subject_of(certificate)
        if len(untrusted) > _MAX_UNTRUSTED:
            raise Untrusted(
                subject,
                f"{len(untrusted)} certificates came with it, at most {_MAX_UNTRUSTED} are read",
            )
        known = self._revocation  # another thread may replace it by `refresh`
        anchors = known.anchors
        chain = build(anchors, certificate, untrusted=untrusted, at=at)
        for link in chain:
            check_key(link, subject=subject)
        for child, issuer in itertools.pairwise(chain):
            # Names, rights and dates of installed CAs were checked by OpenSSL all the same.
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
        """Log the problems that were not logged before, up to a number of lines."""
        if self._logged.issuperset(problems):
            return
        new = [problem for problem in problems if problem not in self._logged]
        self._logged.update(new)
        for problem in new[:_MAX_LINES]:
            _LOG.warning("%s; %s", problem, _REPLACE)
        if len(new) > _MAX_LINES:
            _LOG.warning("%s: %d more files cannot be used", self.path, len(new) - _MAX_LINES)

    def _judge(self, doubt: Doubt, *, subject: DN) -> str:
        """Return the warning about a doubt.

        Raises:
            Untrusted: the doubt refuses the certificate under the policy.

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
        return  # a CA that renewed its key signs itself; certificates by the new key are checked
    name, authority = subject_of(child), subject_of(issuer)
    for policy in anchors.policies(issuer):
        if not policy.permits(name, issuer=authority):
            bound = f"the names that {policy.path} lets {authority} sign"
            raise Untrusted(subject, f"{who(child, subject)} lies outside {bound}")
