"""The verdict of a CA directory's CRLs on a chain.

There are two checks, because each finds what the other does not:

1. A walk of our own over all lists of each link's issuer, and of the CRL issuers that a link
   names. A certificate that a list names is revoked, even if the list is stale, of another scope,
   or not usable for OpenSSL. A hold ends with a later delta list that removes it; no other
   revocation ends.
2. OpenSSL, with support for scopes, indirect lists and deltas, checks whether each link is covered
   by a list that can be used at the given time. A link that is not covered is a `Doubt`: a warning
   or a refusal, by the caller's policy. OpenSSL finds lists by the issuer of the certificate only,
   so it never covers a link whose lists another issuer signs. A link that it finds revoked with
   its clock off is revoked too.

OpenSSL's verdict changes only when a list or certificate begins or ends, so it is kept for the
time in between.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import crypto

from appliance.core.trust.anchors import Anchors
from appliance.core.trust.chain import NO_CHECK_TIME, Chain, is_provable
from appliance.core.trust.distinguished_name import CanonicalName, canonical
from appliance.core.trust.revocation_lists import (
    InstalledList,
    RevocationLists,
    named_list_issuers,
)

_EXTENDED, _DELTAS = 0x1000, 0x2000
"""``X509_V_FLAG_*`` of OpenSSL's x509_vfy.h, for which pyOpenSSL has no names."""
_SECOND = timedelta(seconds=1)
_MAX_CASES = 1024
_MAX_STORES = 64


class _Code(enum.IntEnum):
    """``X509_V_ERR_*`` of OpenSSL's x509_vfy.h that have messages of our own."""

    NO_LIST = 3
    NOT_YET_VALID = 11
    STALE = 12
    REVOKED = 23


@dataclass(frozen=True, slots=True)
class Doubt:
    """A link of a chain that the lists revoke, or do not cover."""

    link: x509.Certificate
    issuer: x509.Certificate
    cause: str
    """Of a revoked link, the list that names it."""
    is_revoked: bool = False


@dataclass(frozen=True, slots=True)
class _Error:
    """An error of OpenSSL; ``depth`` is the position of its link in the chain."""

    code: int
    depth: int
    words: str


@dataclass
class Revocation:
    """The CRLs of one reading of a CA directory, and the verdicts so far."""

    anchors: Anchors
    _cases: dict[tuple[bytes, ...], _Case] = field(default_factory=dict)
    _stores: dict[tuple[object, ...], list[tuple[datetime | None, crypto.X509Store]]] = field(
        default_factory=dict,
    )

    @cached_property
    def lists(self) -> RevocationLists:
        """The CRLs, read when first needed."""
        return self.anchors.read_revocation_lists()

    def doubts(
        self,
        chain: Chain,
        *,
        untrusted: Sequence[x509.Certificate],
        at: datetime,
    ) -> tuple[Doubt, ...]:
        """Return the doubts about the links of a verified ``chain`` at ``at``.

        If links are revoked, only these are returned. ``untrusted`` are the other certificates of
        the message, among which may be those of separate keys for lists.
        """
        helpers = tuple(one for one in dict.fromkeys(untrusted) if one not in chain)
        prints = [one.fingerprint(SHA256()) for one in (*chain, *helpers)]
        key = (bytes([len(chain)]), *prints)
        case = self._cases.get(key)
        if case is None:
            # A limit for the memory of a receiver that runs for months.
            if len(self._cases) >= _MAX_CASES:
                self._cases.clear()
            case = self._cases[key] = _Case(self, chain, helpers)
        return case.doubts(at)

    def store(
        self,
        root: x509.Certificate,
        lists: Sequence[InstalledList],
        *,
        flags: int,
        at: datetime | None,
        turns: Sequence[datetime],
    ) -> crypto.X509Store:
        """Return a store for ``at``, or for any other time between the same two ``turns``.

        Stores are kept, because adding a list of megabytes takes longer than all other steps.
        """
        kept = self._stores.setdefault((root, *(id(one) for one in lists), flags), [])
        for moment, store in kept:
            if _interval(turns, moment) == _interval(turns, at):
                return store
        if sum(map(len, self._stores.values())) >= _MAX_STORES:
            self._stores.clear()
        store = crypto.X509Store()  # its time can be set only once
        store.add_cert(crypto.X509.from_cryptography(root))
        for one in lists:
            store.add_crl(one.crl)
        store.set_flags(flags | crypto.X509StoreFlags.CRL_CHECK | _EXTENDED | _DELTAS)
        if at is None:
            store.set_flags(NO_CHECK_TIME)
        else:
            store.set_time(at.astimezone(UTC))
        kept.append((at, store))
        return store


class _Case:
    """A chain, with the certificates and lists that its verdict needs."""

    def __init__(self, known: Revocation, chain: Chain, helpers: Chain) -> None:
        links = chain[:-1]
        own = [canonical(link.issuer) for link in links]
        others = itertools.chain.from_iterable(map(named_list_issuers, links))
        self._known = known
        self._chain = chain
        self._usable: dict[CanonicalName, list[InstalledList]] = {}
        self._flaws: dict[CanonicalName, list[str]] = {}
        authorities: dict[x509.Certificate, None] = {}
        for name in dict.fromkeys((*own, *others)):
            authorities |= dict.fromkeys(self._sort(name, helpers))
        self._others = tuple(one for one in authorities if one not in chain)
        self._own_lists = [one for name in dict.fromkeys(own) for one in self._usable[name]]
        self._turns = sorted(self._times())
        self._revoked = tuple(self._walk())
        self._verdicts: dict[int | None, tuple[Doubt, ...]] = {}

    def doubts(self, at: datetime) -> tuple[Doubt, ...]:
        if self._revoked:
            return self._revoked
        interval = _interval(self._turns, at)
        if interval not in self._verdicts:
            self._verdicts[interval] = self._ask_openssl(at)
        return self._verdicts[interval]

    def _sort(self, name: CanonicalName, helpers: Chain) -> list[x509.Certificate]:
        """Sort the lists of an issuer into usable and flawed; return its known certificates."""
        known = [one for one in self._chain if canonical(one.subject) == name]
        known += self._known.anchors.named(name)
        usable, flaws = self._usable.setdefault(name, []), self._flaws.setdefault(name, [])
        came_along = [one for one in helpers if canonical(one.subject) == name]
        for one in self._known.lists.of(name):
            if one.is_signed_by(known) or self._is_signed_by_helper(one, came_along, helpers):
                usable.append(one)
            else:
                flaws.append(f"{one.path}: not signed by this CA")
        return known + came_along

    def _is_signed_by_helper(
        self,
        found: InstalledList,
        came_along: Sequence[x509.Certificate],
        helpers: Chain,
    ) -> bool:
        # The chain is checked first: anybody can make certificates, and hashing lists is slow.
        untrusted = (*helpers, *self._chain)
        signers = (one for one in came_along if is_provable(self._known.anchors, one, untrusted))
        return found.is_signed_by(signers)

    def _times(self) -> Iterator[datetime]:
        """Yield the times when OpenSSL's verdict may change; the last second still counts."""
        for one in (*self._chain, *self._others):
            yield from (one.not_valid_before_utc, one.not_valid_after_utc + _SECOND)
        for found in self._own_lists:
            yield found.starts
            if found.ends is not None:
                yield found.ends + _SECOND

    def _walk(self) -> Iterator[Doubt]:
        """Yield a doubt for each certificate of the chain that a list names as revoked."""
        for link, issuer in itertools.pairwise(self._chain):
            names = {canonical(link.issuer)} | named_list_issuers(link)
            found = _revoking(link, [one for name in names for one in self._usable[name]])
            if found is not None:
                yield Doubt(link, issuer, str(found.path), is_revoked=True)

    def _ask_openssl(self, at: datetime) -> tuple[Doubt, ...]:
        pairs = list(itertools.pairwise(self._chain))
        whole = self._verify(0, crypto.X509StoreFlags.CRL_CHECK_ALL, at=at)
        if whole is None:
            return ()
        found = []
        for position, (link, issuer) in enumerate(pairs):
            error = self._verify(position, 0, at=at)
            if error is not None:
                # With its clock on, OpenSSL reports a stale list before it looks for the serial.
                timeless = self._verify(position, 0, at=None)
                error = timeless if timeless and timeless.code == _Code.REVOKED else error
                found.append(self._doubt(link, issuer, error, at=at))
        if not found and whole.depth < len(pairs):
            # Each link alone is covered, but the key that signed a list is revoked. The root comes
            # last: OpenSSL 3.0 checks it too, although no list can revoke a root.
            found.append(self._doubt(*pairs[whole.depth], whole, at=at))
        return tuple(one for one in found if one.is_revoked) or tuple(found)

    def _verify(self, position: int, flags: int, *, at: datetime | None) -> _Error | None:
        """Check the link at ``position`` with OpenSSL; CRL_CHECK_ALL includes those above it."""
        leaf, *rest = map(crypto.X509.from_cryptography, self._chain[position:])
        others = map(crypto.X509.from_cryptography, self._others)
        store = self._known.store(
            self._chain[-1],
            self._own_lists,
            flags=flags,
            at=at,
            turns=self._turns,
        )
        try:
            crypto.X509StoreContext(store, leaf, [*rest, *others]).verify_certificate()
        except crypto.X509StoreContextError as error:
            code, depth, words = error.errors
            return _Error(code, depth, words)
        return None

    def _doubt(
        self,
        link: x509.Certificate,
        issuer: x509.Certificate,
        error: _Error,
        *,
        at: datetime,
    ) -> Doubt:
        usable = self._usable[canonical(link.issuer)]
        future = [one for one in usable if one.starts > at]
        stale = [one for one in usable if one.ends is not None and one.ends < at]
        match error.code:
            case _Code.REVOKED:
                paths = ", ".join(str(one.path) for one in usable)
                return Doubt(link, issuer, paths, is_revoked=True)
            case _Code.NO_LIST:
                cause = self._missing(link, issuer)
            case _Code.NOT_YET_VALID if future:
                first = min(future, key=lambda one: one.starts)
                cause = f"{first.path}: the CRL is valid only from {first.starts:%Y-%m-%d %H:%MZ}"
            case _Code.STALE if stale:
                last = max(stale, key=lambda one: one.starts)
                cause = f"{last.path}: the CRL is stale since {last.ends:%Y-%m-%d %H:%MZ}"
            case _:
                cause = f"its CRL: {error.words}"
        return Doubt(link, issuer, cause)

    def _missing(self, link: x509.Certificate, issuer: x509.Certificate) -> str:
        name = canonical(link.issuer)
        flaws = [
            *self._flaws[name],
            *self._known.lists.unreadable(self._known.anchors.hashes(issuer)),
        ]
        if self._usable[name]:
            paths = ", ".join(str(one.path) for one in self._usable[name])
            return f"{paths}: the CRL does not cover it"
        if any(self._usable[other] for other in named_list_issuers(link)):
            return "its only CRL is of another issuer: it can revoke a certificate, not clear one"
        if flaws:
            return f"no CRL of its issuer can be used: {'; '.join(flaws)}"
        return "no CRL of its issuer is installed"


def _interval(turns: Sequence[datetime], at: datetime | None) -> int | None:
    return None if at is None else bisect.bisect_right(turns, at)


def _revoking(link: x509.Certificate, lists: Sequence[InstalledList]) -> InstalledList | None:
    """Return a list that revokes ``link``."""
    held: list[InstalledList] = []
    released: list[datetime] = []
    for one in lists:
        for reason in one.reasons(link):
            match reason:
                case x509.ReasonFlags.remove_from_crl:
                    released.append(one.starts)
                case x509.ReasonFlags.certificate_hold:
                    held.append(one)
                case _:
                    return one
    last = max(released, default=None)
    return next((one for one in held if last is None or last < one.starts), None)
