"""Chains from a certificate to a root of a CA directory, found and checked by OpenSSL.

OpenSSL checks signatures, names, the rights of CAs and the validity at a given time, for any
purpose: grid host certificates are for serverAuth and clientAuth only, and sign messages all the
same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

from appliance.core.trust.anchors import INSTALL, Anchors
from appliance.core.trust.distinguished_name import DN, slash_form
from appliance.core.trust.errors import Malformed, NoAnchor, Untrusted

NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL's x509_vfy.h, for which pyOpenSSL has no name."""
_NO_ISSUER, _NOT_YET_VALID, _EXPIRED = frozenset({2, 18, 19, 20}), 9, 10
"""``X509_V_ERR_*`` of OpenSSL's x509_vfy.h that have messages of our own."""

Chain = tuple[x509.Certificate, ...]
"""A certificate, its issuer and so on to a self-signed root."""


def build(
    anchors: Anchors,
    certificate: x509.Certificate,
    *,
    untrusted: Sequence[x509.Certificate],
    at: datetime | None,
) -> Chain:
    """Return a chain that is valid at ``at``, or at any time if ``at`` is None.

    ``untrusted`` may help as intermediates.

    Raises:
        Untrusted: there is no such chain.
        Malformed: a name or an encoding in a certificate cannot be read.

    """
    subject = subject_of(certificate)
    # OpenSSL returns copies, which are mapped to our objects by their fingerprints.
    given = {one.fingerprint(SHA256()): one for one in (*untrusted, certificate)}

    def identify(found: crypto.X509) -> x509.Certificate:
        fingerprint = hashlib.sha256(crypto.dump_certificate(crypto.FILETYPE_ASN1, found)).digest()
        return given.get(fingerprint) or anchors.by_fingerprint[fingerprint].certificate

    store = crypto.X509Store()  # one for each chain: its time can be set only once
    for anchor in anchors.by_fingerprint.values():
        store.add_cert(anchor.openssl)
    if at is None:
        store.set_flags(NO_CHECK_TIME)
    else:
        store.set_time(at.astimezone(UTC))
    try:
        leaf = crypto.X509.from_cryptography(certificate)
        helpers = [crypto.X509.from_cryptography(one) for one in untrusted]
        context = crypto.X509StoreContext(store, leaf, helpers)
        return tuple(map(identify, context.get_verified_chain()))
    except crypto.X509StoreContextError as error:
        raise _refusal(
            anchors,
            error,
            culprit=identify(error.certificate),
            subject=subject,
        ) from None
    except crypto.Error:
        raise Malformed(subject, "OpenSSL cannot read its certificates") from None


def is_provable(
    anchors: Anchors,
    certificate: x509.Certificate,
    untrusted: Sequence[x509.Certificate],
) -> bool:
    """Check whether a certificate has a chain to a CA of the directory, at any time."""
    try:
        build(anchors, certificate, untrusted=untrusted, at=None)
    except (Untrusted, Malformed):
        return False
    return True


_RENEW_AUTHORITY = (
    "install that CA's newer certificate (apt-get install --only-upgrade igtf-policy-classic), or"
    " get a certificate of another CA"
)


def who(certificate: x509.Certificate, subject: DN) -> str:
    """Return the name of a certificate of the chain in a message about ``subject``."""
    name = subject_of(certificate)
    return "its certificate" if name == subject else f"CA {name}"


def subject_of(certificate: x509.Certificate) -> DN:
    """Return the subject of a certificate in slash form.

    Raises:
        Malformed: the subject cannot be read.

    """
    try:
        return slash_form(certificate.subject)
    except (TypeError, ValueError):  # as in smime: the first for a BIT STRING
        raise Malformed("certificate", "its subject cannot be read") from None


def _issuer_of(certificate: x509.Certificate) -> DN:
    try:
        return slash_form(certificate.issuer)
    except (TypeError, ValueError):  # as in smime: the first for a BIT STRING
        raise Malformed("certificate", "its issuer's name cannot be read") from None


def _refusal(
    anchors: Anchors,
    error: crypto.X509StoreContextError,
    *,
    culprit: x509.Certificate,
    subject: DN,
) -> Untrusted:
    code, _depth, words = error.errors
    # 2, 18, 19, 20: no issuer, self-signed leaf, self-signed in the chain, no local issuer.
    if code in _NO_ISSUER:
        issuer = _issuer_of(culprit)
        missing = f"its issuer {issuer} is not among the trust anchors in {anchors.path}"
        return NoAnchor(subject, missing, INSTALL)
    name = who(culprit, subject)
    if code == _EXPIRED:
        ended = f"{culprit.not_valid_after_utc:%Y-%m-%d %H:%MZ}"
        is_own = subject_of(culprit) == subject
        remedy = "renew it" if is_own else _RENEW_AUTHORITY
        return Untrusted(subject, f"{name} expired on {ended}", remedy)
    if code == _NOT_YET_VALID:
        starts = f"{culprit.not_valid_before_utc:%Y-%m-%d %H:%MZ}"
        return Untrusted(
            subject,
            f"{name} is valid only from {starts}",
            "check the clocks of both machines",
        )
    return Untrusted(subject, f"{name}: {words}")
