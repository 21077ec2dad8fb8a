"""F-T1: what lists of a CA directory revoke is refused, whoever of the CA signed them, and
warnings are true.

PKITS (`tests.interop.test_pkits`) has the verdicts of others on lists of every kind; here is what
a site may have.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.distinguished_name import canonical
from appliance.core.trust.errors import Untrusted
from appliance.core.trust.revocation_lists import RevocationLists
from tests.simulators.authority import (
    DAY,
    NOW,
    Authority,
    Pair,
    ec_key,
    entry,
    identifiers,
    lists_signed_by,
    name,
    rsa_key,
)

pytestmark = pytest.mark.programs("openssl")

HOST = "/DC=EU/DC=TEST/C=ES/O=Hosts/O=Test Site/CN=host.example.org"
ROOT = "/DC=ORG/DC=TEST-GRID/CN=Test Root"
OTHER = "/DC=ORG/DC=TEST-GRID/CN=Other Root"
BOTH = (CRLPolicy.WARN, CRLPolicy.REQUIRE)
HOLD = x509.ReasonFlags.certificate_hold
REMOVED = x509.ReasonFlags.remove_from_crl


@pytest.fixture
def root() -> Authority:
    return Authority.root(ROOT)


@pytest.fixture
def directory(tmp_path: Path, root: Authority) -> Path:
    path = tmp_path / "certificates"
    root.publish(path, crl=root.crl())
    return path


def add(directory: Path, crl: x509.CertificateRevocationList, file: str) -> str:
    (directory / file).write_bytes(crl.public_bytes(Encoding.PEM))
    return str(directory / file)


def refusals(
    directory: Path,
    pair: Pair,
    *,
    untrusted: Sequence[x509.Certificate] = (),
    at: datetime = NOW,
    policies: Sequence[CRLPolicy] = BOTH,
) -> str:
    """Return the one refusal of all these settings."""
    found = set()
    for crls in policies:
        with pytest.raises(Untrusted) as caught:
            CADirectory(directory, crls=crls).verify_chain(
                pair.certificate,
                untrusted=untrusted,
                at=at,
            )
        found.add(str(caught.value))
    [only] = found
    return only


def warnings(
    directory: Path,
    pair: Pair,
    *,
    untrusted: Sequence[x509.Certificate] = (),
    at: datetime = NOW,
) -> tuple[str, ...]:
    trust = CADirectory(directory)
    return trust.verify_chain(pair.certificate, untrusted=untrusted, at=at).warnings


# Whose lists count


def test_a_list_signed_by_a_renewed_key_of_the_ca(directory: Path, root: Authority) -> None:
    renewed = Authority.root(ROOT, key=ec_key("renewed"))
    renewed.publish(directory, number=1)
    host = root.issue(HOST)
    renewed.revoke(host)
    path = add(directory, renewed.crl(), f"{root.hash}.r1")
    assert f"its certificate was revoked by {ROOT} ({path}); the holder" in refusals(
        directory,
        host,
    )
    assert warnings(directory, root.issue(HOST)) == ()


def test_a_list_signed_by_a_renewed_key_that_comes_along(directory: Path, root: Authority) -> None:
    """The CA that signs lists with a key of its own, in a certificate that it issued to itself."""
    key = ec_key("lists")
    signer = Authority(
        root.issue(ROOT, ca=True, key=key, extensions=identifiers(key, root.pair.key)),
    )
    host = root.issue(HOST)
    signer.revoke(host)
    add(directory, signer.crl(), f"{root.hash}.r1")
    assert "revoked by" in refusals(directory, host, untrusted=[signer.pair.certificate])
    # The other list covers it, and nobody knows now who signed this one.
    assert warnings(directory, host) == ()


def test_a_list_of_an_intermediate_that_comes_along(directory: Path, root: Authority) -> None:
    sub = root.sub()
    host = sub.issue(HOST)
    bag = [sub.pair.certificate]
    add(directory, sub.crl(), f"{sub.hash}.r0")
    assert warnings(directory, host, untrusted=bag) == ()
    sub.revoke(host)
    add(directory, sub.crl(), f"{sub.hash}.r0")
    assert "revoked by" in refusals(directory, host, untrusted=bag)


def test_a_key_for_lists_that_has_expired(directory: Path, root: Authority) -> None:
    """The list itself is in time; one reading of the directory answers for both times."""
    subject, keys = "/DC=ORG/DC=TEST-GRID/CN=Test Issuing", (ec_key("sub"), ec_key("lists"))
    sub, lists_key = (
        Authority(
            root.issue(
                subject,
                ca=True,
                key=key,
                ends=NOW + days * DAY,
                extensions=identifiers(key, root.pair.key),
            )
        )
        for key, days in zip(keys, (9, 2), strict=True)
    )
    sub.publish(directory, crl=lists_key.crl())
    host = sub.issue(HOST, extensions=identifiers(rsa_key("host"), sub.pair.key)[1:])
    trust = CADirectory(directory, crls=CRLPolicy.REQUIRE)
    bag = [lists_key.pair.certificate]
    for _ in range(2):
        assert trust.verify_chain(host.certificate, untrusted=bag, at=NOW).warnings == ()
        with pytest.raises(Untrusted, match="cannot be checked"):
            trust.verify_chain(host.certificate, untrusted=bag, at=NOW + 3 * DAY)


def test_a_key_that_nobody_vouches_for_signs_no_lists(directory: Path, root: Authority) -> None:
    rogue = Authority.root(ROOT, key=ec_key("rogue"))
    host = root.issue(HOST)
    rogue.revoke(host)
    add(directory, rogue.crl(), f"{root.hash}.r1")
    assert warnings(directory, host, untrusted=[rogue.pair.certificate]) == ()


def test_a_list_counts_under_any_file_name(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    root.revoke(host)
    add(directory, root.crl(), "0123abcd.r7")
    assert "revoked by" in refusals(directory, host)


def test_the_name_of_a_list_is_compared_as_openssl_compares(tmp_path: Path) -> None:
    directory = tmp_path / "certificates"
    root = Authority.root("/O=Example  Grid/CN=Root")
    root.publish(directory)
    host = root.issue(HOST)
    spelled = Authority(
        Pair(Authority.root("/O=EXAMPLE grid/CN=ROOT ").pair.certificate, root.pair.key),
    )
    spelled.revoke(host)
    add(directory, spelled.crl(), f"{root.hash}.r0")
    assert "revoked by" in refusals(directory, host)


def test_a_list_signed_by_another_kind_of_key(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateRevocationListBuilder(name(ROOT), NOW - DAY, NOW + DAY)
    crl = builder.add_revoked_certificate(entry(host)).sign(key, None)
    path = add(directory, crl, f"{root.hash}.r0")
    [warning] = warnings(directory, host)
    cause = f"no CRL of its issuer can be used: {path}: not signed by this CA"
    assert warning == f"{ROOT}: {cause}; run fetch-crl"


def test_a_certificate_of_the_ca_whose_key_signs_nothing(directory: Path, root: Authority) -> None:
    """A key for the exchange of keys: cryptography does not take it for a list's signature."""
    host = root.issue(HOST)
    exchange = x25519.X25519PrivateKey.generate()
    odd = Authority(root.issue(ROOT, ca=True, key=exchange))  # type: ignore[arg-type]
    odd.publish(directory, number=1)
    rogue = Authority.root(ROOT, key=ec_key("rogue"))
    rogue.revoke(host)
    path = add(directory, rogue.crl(), f"{root.hash}.r0")
    [warning] = warnings(directory, host)
    assert f"can be used: {path}: not signed by this CA" in warning


def test_a_file_with_two_names_is_read_once(directory: Path, root: Authority) -> None:
    """IGTF's bundles carry each under two hashes."""
    original = directory / f"{root.hash}.r0"
    (directory / "0123abcd.r0").symlink_to(original)
    broken = directory / "89abcdef.r0"
    broken.write_text("nonsense")
    (directory / "89abcdef.r1").symlink_to(broken)
    lists = RevocationLists.read(sorted(directory.glob("*.r*")))
    assert [one.path for one in lists.of(canonical(name(ROOT)))] == [original]
    assert lists.problems == (f"{broken}: not a CRL that can be read",)


def test_a_list_of_another_ca_says_nothing(directory: Path, root: Authority) -> None:
    other = Authority.root(OTHER)
    host = root.issue(HOST)
    other.revoke(host)
    other.publish(directory, crl=other.crl())
    assert warnings(directory, host) == ()


# Indirect lists


def indirect(**changes: bool) -> x509.IssuingDistributionPoint:
    options = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "indirect_crl": True,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(None, None, only_some_reasons=None, **(options | changes))


@pytest.fixture
def other(directory: Path) -> Authority:
    authority = Authority.root(OTHER)
    authority.publish(directory)
    return authority


def test_a_list_of_the_issuer_that_the_certificate_names(
    directory: Path,
    root: Authority,
    other: Authority,
) -> None:
    host = root.issue(HOST, extensions=[lists_signed_by(name(OTHER))])
    found = [entry(other.issue("/CN=own")), entry(host, issuer=name(ROOT))]
    path = add(directory, other.crl(entries=found, extension=indirect()), f"{other.hash}.r0")
    assert f"revoked by {ROOT} ({path})" in refusals(directory, host)


def test_an_entry_is_about_the_issuer_of_the_entry_before_it(
    directory: Path,
    root: Authority,
    other: Authority,
) -> None:
    host = root.issue(HOST, extensions=[lists_signed_by(name(OTHER))])
    found = [entry(root.issue("/CN=first"), issuer=name(ROOT)), entry(host)]
    add(directory, other.crl(entries=found, extension=indirect()), f"{other.hash}.r0")
    assert "revoked by" in refusals(directory, host)


def test_an_entry_about_another_issuer(directory: Path, root: Authority, other: Authority) -> None:
    """The serial number is revoked for the list's own issuer and for a third one."""
    host = root.issue(HOST, extensions=[lists_signed_by(name(OTHER))])
    found = [entry(host), entry(host, issuer=name("/CN=Third")), entry(root.issue("/CN=x"))]
    add(directory, other.crl(entries=found, extension=indirect()), f"{other.hash}.r0")
    assert warnings(directory, host) == ()


def test_a_list_of_an_issuer_that_the_certificate_does_not_name(
    directory: Path,
    root: Authority,
    other: Authority,
) -> None:
    host = root.issue(HOST)
    add(
        directory,
        other.crl(entries=[entry(host, issuer=name(ROOT))], extension=indirect()),
        f"{other.hash}.r0",
    )
    assert warnings(directory, host) == ()


def test_a_certificate_that_only_an_indirect_list_covers(
    directory: Path,
    root: Authority,
    other: Authority,
) -> None:
    (directory / f"{root.hash}.r0").unlink()
    host = root.issue(HOST, extensions=[lists_signed_by(name(OTHER))])
    add(directory, other.crl(extension=indirect()), f"{other.hash}.r0")
    [warning] = warnings(directory, host)
    cause = "its only CRL is of another issuer: it can revoke a certificate, not clear one"
    assert warning == f"{ROOT}: {cause}; run fetch-crl"


# Holds and deltas


def test_a_hold_revokes_until_a_later_delta_removes_it(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, extensions=[freshest()])
    add(directory, root.crl(number=1, entries=[entry(host, reason=HOLD)]), f"{root.hash}.r0")
    assert "revoked by" in refusals(directory, host)
    for last, is_released in ((NOW - 2 * DAY, False), (NOW - DAY, True), (NOW - DAY / 2, True)):
        delta = root.crl(
            number=2,
            last=last,
            entries=[entry(host, reason=REMOVED)],
            extension=x509.DeltaCRLIndicator(1),
        )
        add(directory, delta, f"{root.hash}.r1")
        if is_released:
            assert warnings(directory, host) == ()
        else:
            assert "revoked by" in refusals(directory, host)


def test_a_delta_that_nobody_announces_releases_nothing(directory: Path, root: Authority) -> None:
    """OpenSSL reads it only where the certificate or its list names a place of deltas."""
    host = root.issue(HOST)
    removed, held = [entry(host, reason=REMOVED)], [entry(host, reason=HOLD)]
    delta = root.crl(number=2, entries=removed, extension=x509.DeltaCRLIndicator(1))
    other = add(directory, delta, f"{root.hash}.r1")
    for following in (NOW + DAY, NOW - timedelta(minutes=1)):  # in time, and stale
        base = root.crl(number=1, following=following, entries=held)
        path = add(directory, base, f"{root.hash}.r0")
        assert f"revoked by {ROOT} ({path}, {other})" in refusals(directory, host)


def test_what_openssl_alone_finds_counts_first(directory: Path, root: Authority) -> None:
    """The link below has no list; the one above is on hold, and no delta that counts ends that."""
    sub = root.sub()
    sub.publish(directory)
    held, removed = ([entry(sub.pair, reason=reason)] for reason in (HOLD, REMOVED))
    add(directory, root.crl(number=1, entries=held), f"{root.hash}.r0")
    delta = root.crl(number=2, entries=removed, extension=x509.DeltaCRLIndicator(1))
    add(directory, delta, f"{root.hash}.r1")
    words = "CA /DC=ORG/DC=TEST-GRID/CN=Test Issuing was revoked"
    assert words in refusals(directory, sub.issue(HOST))


def test_what_is_revoked_otherwise_never_comes_back(directory: Path, root: Authority) -> None:
    compromised = x509.ReasonFlags.key_compromise
    host = root.issue(HOST, extensions=[freshest()])
    add(directory, root.crl(number=1, entries=[entry(host, reason=compromised)]), f"{root.hash}.r0")
    removed = [entry(host, reason=REMOVED)]
    delta = root.crl(number=2, entries=removed, extension=x509.DeltaCRLIndicator(1))
    add(directory, delta, f"{root.hash}.r1")
    assert "revoked by" in refusals(directory, host)


def test_a_delta_revokes(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, extensions=[freshest()])
    add(directory, root.crl(number=1), f"{root.hash}.r0")
    delta = root.crl(number=2, entries=[entry(host)], extension=x509.DeltaCRLIndicator(1))
    path = add(directory, delta, f"{root.hash}.r1")
    assert f"({path})" in refusals(directory, host)


def test_a_list_before_the_newest_still_revokes(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    stale = root.crl(last=NOW - 9 * DAY, following=NOW - 2 * DAY, entries=[entry(host)])
    path = add(directory, stale, f"{root.hash}.r1")
    assert f"({path})" in refusals(directory, host)


def freshest() -> x509.FreshestCRL:
    where = x509.UniformResourceIdentifier("http://crl.example.org/delta.crl")
    return x509.FreshestCRL([x509.DistributionPoint([where], None, None, None)])


# Warnings


def test_every_link_has_its_warning(directory: Path, root: Authority) -> None:
    sub = root.sub()
    sub.publish(directory)
    stale = root.crl(last=NOW - 9 * DAY, following=NOW - 2 * DAY)
    path = add(directory, stale, f"{root.hash}.r0")
    assert warnings(directory, sub.issue(HOST)) == (
        "/DC=ORG/DC=TEST-GRID/CN=Test Issuing: no CRL of its issuer is installed; run fetch-crl",
        f"{ROOT}: {path}: the CRL is stale since {NOW - 2 * DAY:%Y-%m-%d %H:%MZ}; run fetch-crl",
    )


def test_a_revoked_ca_is_found_below_a_link_without_a_list(
    directory: Path,
    root: Authority,
) -> None:
    sub = root.sub()
    sub.publish(directory)
    root.revoke(sub.pair)
    add(directory, root.crl(), f"{root.hash}.r0")
    assert "CA /DC=ORG/DC=TEST-GRID/CN=Test Issuing was revoked by" in refusals(
        directory,
        sub.issue(HOST),
    )


def test_the_key_that_signed_the_list_is_revoked(directory: Path, root: Authority) -> None:
    """Then the list proves nothing, though each link by itself is covered."""
    subject, keys = "/DC=ORG/DC=TEST-GRID/CN=Test Issuing", (ec_key("sub"), ec_key("lists"))
    sub, lists_key = (
        Authority(root.issue(subject, ca=True, key=key, extensions=found))
        for key, found in ((key, identifiers(key, root.pair.key)) for key in keys)
    )
    sub.publish(directory, crl=lists_key.crl())
    root.revoke(lists_key.pair)
    add(directory, root.crl(), f"{root.hash}.r0")
    bag = [lists_key.pair.certificate]
    [warning] = warnings(directory, sub.issue(HOST), untrusted=bag)
    assert warning.startswith("/DC=ORG/DC=TEST-GRID/CN=Test Issuing: its CRL: CRL path")
    with pytest.raises(Untrusted, match="cannot be checked: its CRL: CRL path"):
        CADirectory(directory, crls=CRLPolicy.REQUIRE).verify_chain(
            sub.issue(HOST).certificate,
            untrusted=bag,
            at=NOW,
        )


def test_a_list_of_another_scope(directory: Path, root: Authority) -> None:
    scope = indirect(indirect_crl=False, only_contains_ca_certs=True)
    add(directory, root.crl(extension=scope), f"{root.hash}.r0")
    [warning] = warnings(directory, root.issue(HOST))
    assert warning == f"{ROOT}: its CRL: different CRL scope; run fetch-crl"


def test_the_root_itself_needs_no_list(directory: Path, root: Authority) -> None:
    """OpenSSL 3.0 looks for one that covers the root as well; this list is for hosts only."""
    scope = indirect(indirect_crl=False, only_contains_user_certs=True)
    add(directory, root.crl(extension=scope), f"{root.hash}.r0")
    for crls in BOTH:
        trust = CADirectory(directory, crls=crls)
        assert trust.verify_chain(root.issue(HOST).certificate, at=NOW).warnings == ()
        assert trust.verify_chain(root.pair.certificate, at=NOW).warnings == ()


def test_a_delta_without_its_base(directory: Path, root: Authority) -> None:
    delta = root.crl(number=2, extension=x509.DeltaCRLIndicator(1))
    path = add(directory, delta, f"{root.hash}.r0")
    [warning] = warnings(directory, root.issue(HOST))
    assert warning == f"{ROOT}: {path}: the CRL does not cover it; run fetch-crl"


def test_verdicts_change_when_lists_begin_and_end(directory: Path, root: Authority) -> None:
    """One reading of the directory answers for several times, in any order."""
    trust = CADirectory(directory)
    host = root.issue(HOST)
    minute = timedelta(minutes=1)
    for _ in range(2):
        for at, words in (
            (NOW - DAY + minute, ""),
            (NOW + 7 * DAY - minute, ""),
            (NOW + 7 * DAY + minute, "stale since"),
            (NOW, ""),
        ):
            found = "; ".join(trust.verify_chain(host.certificate, at=at).warnings)
            assert (words in found) if words else not found
    early = root.issue(HOST, starts=NOW - 2 * DAY)
    add(directory, root.crl(last=NOW), f"{root.hash}.r0")
    trust = CADirectory(directory)
    assert trust.verify_chain(early.certificate, at=NOW).warnings == ()
    [warning] = trust.verify_chain(early.certificate, at=NOW - minute).warnings
    assert f"{root.hash}.r0: the CRL is valid only from {NOW:%Y-%m-%d %H:%MZ}; run" in warning


def test_a_list_without_an_end_is_never_stale(directory: Path, root: Authority) -> None:
    """RFC 5280 wants a date for the next list, X.509 does not."""
    crl = root.crl()
    assert crl.next_update_utc is not None
    endless = reissue_without_end(root, crl)
    (directory / f"{root.hash}.r0").write_bytes(endless)
    host = root.issue(HOST, ends=NOW + 29 * DAY)
    assert warnings(directory, host, at=NOW + 28 * DAY) == ()


def reissue_without_end(root: Authority, crl: x509.CertificateRevocationList) -> bytes:
    from asn1crypto import crl as asn1
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    found = asn1.CertificateList.load(crl.public_bytes(Encoding.DER))
    del found["tbs_cert_list"]["next_update"]
    body = found["tbs_cert_list"].dump(force=True)
    assert isinstance(root.pair.key, ec.EllipticCurvePrivateKey)
    found["signature"] = root.pair.key.sign(body, ec.ECDSA(hashes.SHA256()))
    return bytes(found.dump(force=True))


def test_signers_of_one_ca_share_a_store(directory: Path, root: Authority) -> None:
    """A list of megabytes is not filled in again for each signer."""
    trust = CADirectory(directory)
    for days in (0, 0, 1, 2):
        trust.verify_chain(root.issue(HOST).certificate, at=NOW + days * DAY)
    assert [len(kept) for kept in trust._revocation._stores.values()] == [1]


@pytest.mark.matrix
def test_many_signers_of_one_ca_share_what_was_read(directory: Path, root: Authority) -> None:
    """A hundred signers more than are remembered, and each verdict is right."""
    trust = CADirectory(directory)
    hosts = [root.issue(HOST, key=rsa_key("host")) for _ in range(1100)]
    root.revoke(hosts[-1])
    add(directory, root.crl(), f"{root.hash}.r0")
    trust = CADirectory(directory)
    for host in hosts[:-1]:
        assert trust.verify_chain(host.certificate, at=NOW).warnings == ()
    with pytest.raises(Untrusted, match="revoked"):
        trust.verify_chain(hosts[-1].certificate, at=NOW)
    assert 0 < len(trust._revocation._cases) <= 1024


# Which list a message names


def test_of_several_lists_the_one_that_helps_most_is_named(
    directory: Path, root: Authority
) -> None:
    """The latest of stale ones, the next of future ones; the ends of its time belong to a list."""
    host = root.issue(HOST)
    for number, days in enumerate((9, 5, 7)):
        stale = root.crl(last=NOW - days * DAY, following=NOW - (days - 2) * DAY)
        add(directory, stale, f"{root.hash}.r{number}")
    [warning] = warnings(directory, host)
    assert f"{root.hash}.r1: the CRL is stale since {NOW - 3 * DAY:%Y-%m-%d %H:%MZ}" in warning
    for number, days in enumerate((3, 1, 2)):
        future = root.crl(last=NOW + days * DAY, following=NOW + 9 * DAY)
        add(directory, future, f"{root.hash}.r{number}")
    [warning] = warnings(directory, host)
    assert f"{root.hash}.r1: the CRL is valid only from {NOW + DAY:%Y-%m-%d %H:%MZ}" in warning


def test_lists_of_another_scope_are_not_called_stale_or_early(
    directory: Path, root: Authority
) -> None:
    """They begin or end at the very moment in question."""
    host = root.issue(HOST)
    scope = indirect(indirect_crl=False, only_contains_ca_certs=True)
    minute = timedelta(minutes=1)
    for (last, following), other, words in (
        (
            (NOW + DAY, NOW + 3 * DAY),
            (NOW, NOW + DAY),
            f"valid only from {NOW + DAY:%Y-%m-%d %H:%MZ}",
        ),
        (
            (NOW - DAY, NOW - minute),
            (NOW - minute, NOW),
            f"stale since {NOW - minute:%Y-%m-%d %H:%MZ}",
        ),
    ):
        path = add(directory, root.crl(last=last, following=following), f"{root.hash}.r0")
        scoped = root.crl(last=other[0], following=other[1], extension=scope)
        add(directory, scoped, f"{root.hash}.r1")
        [warning] = warnings(directory, host)
        assert warning.startswith(f"{ROOT}: {path}: the CRL is {words}; run")


def test_a_list_is_stale_from_the_second_after_its_end(directory: Path, root: Authority) -> None:
    """OpenSSL knows whole seconds: what it says in the last one must not be kept for the next."""
    trust = CADirectory(directory)
    host, end = root.issue(HOST), NOW + 7 * DAY
    trust.verify_chain(host.certificate, at=end + timedelta(milliseconds=500))
    [warning] = trust.verify_chain(host.certificate, at=end + timedelta(seconds=1)).warnings
    assert "stale since" in warning


def test_a_certificate_that_names_two_issuers_of_lists(
    directory: Path, root: Authority, other: Authority
) -> None:
    (directory / f"{root.hash}.r0").unlink()
    named = [x509.DirectoryName(name(one)) for one in (OTHER, "/CN=Third")]
    points = x509.CRLDistributionPoints([x509.DistributionPoint(None, None, None, named)])
    host = root.issue(HOST, extensions=[points])
    add(directory, other.crl(extension=indirect()), f"{other.hash}.r0")
    [warning] = warnings(directory, host)
    assert "its only CRL is of another issuer" in warning


def test_a_hold_between_two_releases_has_ended(directory: Path, root: Authority) -> None:
    """What was released before and held again is released by the later delta."""
    host = root.issue(HOST, extensions=[freshest()])
    held = root.crl(number=2, last=NOW - 2 * DAY, entries=[entry(host, reason=HOLD)])
    add(directory, held, f"{root.hash}.r0")
    for number, days in ((1, 3), (3, 1)):
        delta = root.crl(
            number=number,
            last=NOW - days * DAY,
            entries=[entry(host, reason=REMOVED)],
            extension=x509.DeltaCRLIndicator(1),
        )
        add(directory, delta, f"{root.hash}.r{number}")
    assert warnings(directory, host) == ()
