import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core.run.errors import ExitStatus, LocalFailure
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.distinguished_name import DN
from appliance.core.trust.errors import Malformed, Untrusted
from appliance.core.trust.strength import check_signature_hash
from tests import foreign
from tests.simulators.authority import (
    DAY,
    NOW,
    Authority,
    Pair,
    PrivateKey,
    ec_key,
    identifiers,
    name,
    rsa_key,
    serial_zero,
)

pytestmark = pytest.mark.programs("openssl")

HOST = "/DC=EU/DC=TEST/C=ES/O=Hosts/O=Test Site/CN=host.example.org"


@pytest.fixture
def root() -> Authority:
    return Authority.root()


@pytest.fixture
def directory(tmp_path: Path, root: Authority) -> Path:
    path = tmp_path / "certificates"
    root.publish(path, crl=root.crl())
    return path


def refusal(
    directory: Path, pair: Pair, *, at: datetime = NOW, crls: CRLPolicy = CRLPolicy.WARN
) -> str:
    with pytest.raises(Untrusted) as caught:
        CADirectory(directory, crls=crls).verify_chain(pair.certificate, at=at)
    assert caught.value.status is ExitStatus.NOTHING
    return str(caught.value)


# Chains


def test_a_host_certificate_of_the_root(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    proven = CADirectory(directory).verify_chain(host.certificate, at=NOW)
    assert proven.subject == HOST
    assert proven.certificates == (host.certificate, root.pair.certificate)
    assert proven.warnings == ()


def test_the_intermediate_may_lie_in_the_directory(directory: Path, root: Authority) -> None:
    sub = root.sub()
    sub.publish(directory, crl=sub.crl())
    host = sub.issue(HOST)
    proven = CADirectory(directory).verify_chain(host.certificate, at=NOW)
    assert proven.certificates == (host.certificate, sub.pair.certificate, root.pair.certificate)


def test_the_intermediate_may_come_along(directory: Path, root: Authority) -> None:
    sub = root.sub()
    trust = CADirectory(directory, crls=CRLPolicy.OFF)
    host = sub.issue(HOST)
    bag = [sub.issue("/CN=bystander").certificate, sub.pair.certificate]
    assert len(trust.verify_chain(host.certificate, untrusted=bag, at=NOW).certificates) == 3
    assert "not among the trust anchors" in refusal(directory, host)


def test_a_root_that_comes_along_is_not_believed(directory: Path) -> None:
    rogue = Authority.root("/CN=Rogue", key=ec_key("rogue"))
    with pytest.raises(
        Untrusted, match=r"not among the trust anchors in .*; install the IGTF trust anchors"
    ):
        CADirectory(directory).verify_chain(
            rogue.issue(HOST).certificate, untrusted=[rogue.pair.certificate], at=NOW
        )


def test_a_ca_of_the_same_name_with_another_key(directory: Path) -> None:
    rogue = Authority.root(key=ec_key("rogue"))
    assert "signature failure" in refusal(directory, rogue.issue(HOST))


def test_a_self_signed_certificate(directory: Path) -> None:
    assert "not among the trust anchors" in refusal(directory, Authority.root("/CN=Self").pair)


def test_a_host_is_no_ca(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    forged = Authority(host).issue("/CN=victim")
    with pytest.raises(Untrusted, match=r"CA /DC=EU.*invalid CA"):
        CADirectory(directory, crls=CRLPolicy.OFF).verify_chain(
            forged.certificate, untrusted=[host.certificate], at=NOW
        )


def test_an_intermediate_without_its_root(tmp_path: Path, root: Authority) -> None:
    sub = root.sub()
    sub.publish(tmp_path / "certificates")
    assert "not among the trust anchors" in refusal(tmp_path / "certificates", sub.issue(HOST))


def test_too_many_helpers(directory: Path, root: Authority) -> None:
    host, bag = root.issue(HOST).certificate, [root.pair.certificate] * 16
    assert CADirectory(directory).verify_chain(host, untrusted=bag, at=NOW).subject == HOST
    with pytest.raises(Untrusted, match="17 certificates came with it"):
        CADirectory(directory).verify_chain(
            root.issue(HOST).certificate, untrusted=[root.pair.certificate] * 17, at=NOW
        )


def test_a_renewed_root_takes_the_place_of_the_expired_one(tmp_path: Path) -> None:
    key = ec_key("renewed")
    subject = "/DC=ORG/CN=Renewed Root"
    new = Authority.root(subject, key=key)
    old = Authority(new.issue(subject, ca=True, key=key, starts=NOW - 9 * DAY, ends=NOW - 8 * DAY))
    directory = tmp_path / "certificates"
    old.publish(directory, number=0)
    new.publish(directory, number=1)
    host = new.issue(HOST)
    assert (
        CADirectory(directory).verify_chain(host.certificate, at=NOW).certificates[-1]
        == new.pair.certificate
    )


# Validity at the stated time


@pytest.mark.parametrize(
    ("at", "cause"),
    [
        (NOW + 31 * DAY, "its certificate expired on 20"),
        (NOW - timedelta(hours=9), "its certificate is valid only from 20"),
    ],
)
def test_validity_at_the_stated_time(
    directory: Path, root: Authority, at: datetime, cause: str
) -> None:
    host = root.issue(HOST, starts=NOW - timedelta(hours=1))
    assert cause in refusal(directory, host, at=at, crls=CRLPolicy.OFF)
    CADirectory(directory).verify_chain(host.certificate, at=NOW)


def test_one_directory_answers_for_several_times(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    trust = CADirectory(directory, crls=CRLPolicy.OFF)
    for _ in range(2):
        trust.verify_chain(host.certificate, at=NOW)
        with pytest.raises(Untrusted, match="expired"):
            trust.verify_chain(host.certificate, at=NOW + 31 * DAY)


def test_an_expired_intermediate_is_named(directory: Path, root: Authority) -> None:
    sub = root.sub(ends=NOW - timedelta(hours=1))
    sub.publish(directory)
    cause = refusal(directory, sub.issue(HOST))
    assert (
        "CA /DC=ORG/DC=TEST-GRID/CN=Test Issuing expired on "
        f"{NOW - timedelta(hours=1):%Y-%m-%d %H:%MZ}" in cause
    )


def test_the_time_may_come_in_any_zone(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, ends=NOW + timedelta(minutes=30))
    at = NOW.astimezone(tz=datetime.strptime("+0200", "%z").tzinfo)
    CADirectory(directory).verify_chain(host.certificate, at=at)


# Strength


def test_a_short_rsa_key(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, key=rsa_key("short", 1024))
    assert "has an RSA key of 1024 bits" in refusal(directory, host)


def test_a_short_ec_key(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, key=ec.generate_private_key(ec.SECP192R1()))
    assert "has an EC key on secp192r1, a curve that is not accepted" in refusal(directory, host)


def test_another_kind_of_key(directory: Path, root: Authority) -> None:
    host = root.issue(HOST, key=ed25519.Ed25519PrivateKey.generate())  # type: ignore[arg-type]
    assert "has a key that is neither RSA nor EC" in refusal(directory, host)


def test_sha1_only_by_option(directory: Path, root: Authority, tmp_path: Path) -> None:
    host, at = root.issue_with("sha1", HOST, directory=tmp_path), datetime.now(UTC)
    assert isinstance(host.certificate.signature_hash_algorithm, hashes.SHA1)
    assert f"{HOST} is signed with SHA1" in refusal(directory, host, at=at)
    CADirectory(directory, allow_sha1=True).verify_chain(host.certificate, at=at)


def test_md5_never(directory: Path, tmp_path: Path) -> None:
    root = Authority.root("/CN=Old", key=rsa_key("old"))
    root.publish(directory)
    host = root.issue_with("md5", HOST, directory=tmp_path)
    with pytest.raises(Untrusted, match="signed with MD5"):
        CADirectory(directory, allow_sha1=True).verify_chain(host.certificate, at=datetime.now(UTC))


# Revocation


def test_a_revoked_certificate(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    root.revoke(host)
    root.publish(directory, crl=root.crl())
    for policy in (CRLPolicy.WARN, CRLPolicy.REQUIRE):
        assert "its certificate was revoked by /DC=ORG/DC=TEST-GRID/CN=Test Root" in refusal(
            directory, host, crls=policy
        )
    CADirectory(directory, crls=CRLPolicy.OFF).verify_chain(host.certificate, at=NOW)


def test_a_revoked_intermediate(directory: Path, root: Authority) -> None:
    sub = root.sub()
    sub.publish(directory, crl=sub.crl())
    root.revoke(sub.pair)
    root.publish(directory, crl=root.crl())
    assert "CA /DC=ORG/DC=TEST-GRID/CN=Test Issuing was revoked" in refusal(
        directory, sub.issue(HOST)
    )


def test_a_missing_crl(directory: Path, root: Authority) -> None:
    (directory / f"{root.hash}.r0").unlink()
    host = root.issue(HOST)
    assert "no CRL of its issuer is installed; run fetch-crl" in refusal(
        directory, host, crls=CRLPolicy.REQUIRE
    )
    warnings = CADirectory(directory).verify_chain(host.certificate, at=NOW).warnings
    assert warnings == (
        "/DC=ORG/DC=TEST-GRID/CN=Test Root: no CRL of its issuer is installed; run fetch-crl",
    )
    assert (
        CADirectory(directory, crls=CRLPolicy.OFF).verify_chain(host.certificate, at=NOW).warnings
        == ()
    )


def test_a_stale_crl_still_revokes(directory: Path, root: Authority) -> None:
    good, bad = root.issue(HOST), root.issue(HOST)
    root.revoke(bad)
    root.publish(directory, crl=root.crl(last=NOW - 9 * DAY, following=NOW - 2 * DAY))
    assert "revoked" in refusal(directory, bad)
    assert "the CRL is stale since" in refusal(directory, good, crls=CRLPolicy.REQUIRE)
    [warning] = CADirectory(directory).verify_chain(good.certificate, at=NOW).warnings
    assert f"stale since {NOW - 2 * DAY:%Y-%m-%d %H:%MZ}" in warning


@pytest.mark.parametrize(
    "extension",
    [
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        x509.DeltaCRLIndicator(3),
        x509.IssuingDistributionPoint(
            None,
            None,
            only_contains_user_certs=False,
            only_contains_ca_certs=True,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        ),
    ],
)
def test_a_crl_that_openssl_does_not_use_still_revokes_what_it_lists(
    directory: Path, root: Authority, extension: x509.ExtensionType
) -> None:
    good, bad = root.issue(HOST), root.issue(HOST)
    root.revoke(bad)
    root.publish(directory, crl=root.crl(extension=extension))
    assert "was revoked by" in refusal(directory, bad)
    [warning] = CADirectory(directory).verify_chain(good.certificate, at=NOW).warnings
    assert "CRL" in warning
    assert "cannot be checked" in refusal(directory, good, crls=CRLPolicy.REQUIRE)


def test_a_crl_from_the_future(directory: Path, root: Authority) -> None:
    root.publish(directory, crl=root.crl(last=NOW + DAY))
    assert "the CRL is valid only from" in refusal(
        directory, root.issue(HOST), crls=CRLPolicy.REQUIRE
    )


def test_a_crl_of_somebody_else_counts_as_missing(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    root.revoke(host)
    root.publish(directory, crl=root.crl(key=ec_key("rogue")))
    [warning] = CADirectory(directory).verify_chain(host.certificate, at=NOW).warnings
    assert (
        f"no CRL of its issuer can be used: {directory}/{root.hash}.r0: not signed by this CA"
        in warning
    )
    assert "cannot be checked" in refusal(directory, host, crls=CRLPolicy.REQUIRE)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"]
)
def test_a_broken_crl_counts_as_missing(directory: Path, root: Authority, content: bytes) -> None:
    (directory / f"{root.hash}.r0").write_bytes(content)
    [warning] = CADirectory(directory).verify_chain(root.issue(HOST).certificate, at=NOW).warnings
    assert (
        f"can be used: {directory}/{root.hash}.r0: not a CRL that can be read; run fetch-crl"
        in warning
    )


def test_a_crl_in_der(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    root.revoke(host)
    (directory / f"{root.hash}.r0").write_bytes(root.crl().public_bytes(Encoding.DER))
    assert "revoked" in refusal(directory, host)


def test_the_newer_of_two_crls_counts(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    old = root.crl(last=NOW - 9 * DAY, following=NOW - 2 * DAY)
    root.revoke(host)
    root.publish(directory, crl=root.crl())
    (directory / f"{root.hash}.r1").write_bytes(old.public_bytes(Encoding.PEM))
    assert "revoked" in refusal(directory, host, crls=CRLPolicy.REQUIRE)
    assert CADirectory(directory, crls=CRLPolicy.REQUIRE).verify_chain(
        root.issue(HOST).certificate, at=NOW
    )


def test_the_crl_of_a_ca_that_lies_under_another_hash_too(directory: Path, root: Authority) -> None:
    """IGTF's bundles carry every file under two hashes; fetch-crl may write one of them only."""
    shutil.copy(directory / f"{root.hash}.0", directory / "0123abcd.0")
    (directory / f"{root.hash}.r0").unlink()
    host = root.issue(HOST)
    root.revoke(host)
    (directory / "0123abcd.r0").write_bytes(root.crl().public_bytes(Encoding.PEM))
    assert "revoked" in refusal(directory, host)


# Signing policy


def test_a_name_outside_the_policy(directory: Path, root: Authority) -> None:
    root.publish(directory, policy="/DC=EU/DC=TEST/*")
    CADirectory(directory).verify_chain(root.issue(HOST).certificate, at=NOW)
    cause = refusal(directory, root.issue("/DC=EU/DC=OTHER/CN=host"))
    assert (
        f"its certificate lies outside the names that {directory / root.hash}.signing_policy lets"
        in cause
    )


def test_no_policy_no_bound(directory: Path, root: Authority) -> None:
    (directory / f"{root.hash}.signing_policy").unlink()
    CADirectory(directory).verify_chain(root.issue("/CN=anything").certificate, at=NOW)


def test_a_broken_policy_refuses_with_its_line(directory: Path, root: Authority) -> None:
    (directory / f"{root.hash}.signing_policy").write_text("access_id_CA X509 '/CN=x'\nnonsense\n")
    assert f"{root.hash}.signing_policy:2: " in refusal(directory, root.issue(HOST))


def test_an_unreadable_policy_permits_nothing(directory: Path, root: Authority) -> None:
    path = directory / f"{root.hash}.signing_policy"
    path.unlink()
    path.mkdir()
    assert "lies outside" in refusal(directory, root.issue(HOST))
    assert CADirectory(directory).problems == (f"{path}: cannot be read: Is a directory",)


def test_the_policy_binds_an_intermediate_that_came_along(directory: Path, root: Authority) -> None:
    root.publish(directory, policy="/DC=EU/DC=TEST/*")
    sub = root.sub()
    host = sub.issue(HOST)
    with pytest.raises(
        Untrusted, match="CA /DC=ORG/DC=TEST-GRID/CN=Test Issuing lies outside the names"
    ):
        CADirectory(directory).verify_chain(
            host.certificate, untrusted=[sub.pair.certificate], at=NOW
        )
    sub.publish(directory)  # installed: now it is an anchor of its own
    CADirectory(directory).verify_chain(host.certificate, at=NOW)


def test_the_policy_of_an_intermediate_binds_what_it_signs(
    directory: Path, root: Authority
) -> None:
    sub = root.sub()
    sub.publish(directory, policy="/DC=EU/DC=TEST/*")
    assert "lies outside" in refusal(directory, sub.issue("/CN=outside"))


def test_a_renewed_key_is_bound_by_the_policy_of_its_ca(tmp_path: Path) -> None:
    """F-T1: accepted though the policy does not list the CA itself, wherever the policy lies."""
    subject, directory = "/DC=ORG/DC=TEST-GRID/CN=Test Root", tmp_path / "certificates"
    old, new = ec_key(subject), ec_key("renewed")

    def issue(by: Authority, name_: str, key: PrivateKey, *, ca: bool = False) -> Authority:
        found = identifiers(key, by.pair.key)
        return Authority(by.issue(name_, key=key, ca=ca, extensions=found))

    root = issue(Authority.root(subject), subject, old, ca=True)
    root.publish(directory, policy="/DC=EU/DC=TEST/*")
    for suffix in ("0", "signing_policy"):
        (directory / f"{root.hash}.{suffix}").rename(directory / f"0123abcd.{suffix}")
    renewed = issue(root, subject, new, ca=True)
    trust, bag = CADirectory(directory, crls=CRLPolicy.OFF), [renewed.pair.certificate]
    host = issue(renewed, HOST, rsa_key("host")).pair.certificate
    assert len(trust.verify_chain(host, untrusted=bag, at=NOW).certificates) == 3
    outside = issue(renewed, "/DC=EU/DC=OTHER/CN=host", rsa_key("host")).pair.certificate
    with pytest.raises(Untrusted, match="its certificate lies outside the names"):
        trust.verify_chain(outside, untrusted=bag, at=NOW)


# The directory itself


def empty(path: Path) -> None:
    path.mkdir()


def without_certificates(path: Path) -> None:
    path.mkdir()
    (path / "0123abcd.0").write_text("no certificate\n")
    (path / "README").write_text("hello\n")


def a_file(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize("make", [lambda _: None, empty, without_certificates, a_file])
def test_a_directory_that_holds_no_trust(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "certificates"
    make(path)
    with pytest.raises(LocalFailure) as caught:
        CADirectory(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "install the IGTF trust anchors" in str(caught.value)


def test_a_broken_certificate_does_not_take_the_others_down(
    directory: Path, root: Authority
) -> None:
    (directory / "0123abcd.0").write_text(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (directory / "89abcdef.0").symlink_to("nowhere")
    trust = CADirectory(directory)
    trust.verify_chain(root.issue(HOST).certificate, at=NOW)
    assert trust.problems == (
        f"{directory / '0123abcd.0'}: cannot be read: not PEM",
        f"{directory / '89abcdef.0'}: cannot be read: No such file or directory",
    )


@pytest.mark.parametrize("suffix", [".0", ".r0", ".signing_policy"])
def test_nothing_in_the_directory_blocks(
    tmp_path: Path, root: Authority, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pipes, sockets, devices, links that lead nowhere or to themselves: one line each, once."""
    directory = tmp_path / "certificates"
    root.publish(directory, crl=root.crl())
    made = foreign.make(tmp_path / "foreign")
    names = [f"{number:08x}{suffix}" for number in range(len(made))]
    for one, name_ in zip(made, names, strict=True):
        one.rename(directory / name_)
    trust = CADirectory(directory)
    for _ in range(2):
        assert trust.verify_chain(root.issue(HOST).certificate, at=NOW).warnings == ()
        (directory / f"{root.hash}.0").touch()
        assert trust.refresh()
    named = [name_ for name_ in names if any(name_ in line for line in trust.problems)]
    assert named == names
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == len(names)
    assert all(line.endswith("; replace or remove it") for line in lines)


@pytest.mark.root
def test_files_that_may_not_be_read(root: Authority) -> None:
    with foreign.open_to_all() as path:
        directory = path / "certificates"
        root.publish(directory, crl=root.crl())
        (directory / "0123abcd.0").write_bytes((directory / f"{root.hash}.0").read_bytes())
        (directory / "0123abcd.0").chmod(0o600)
        code = "from appliance.core.trust.ca_directory import CADirectory, Path\n"
        code += f"print(CADirectory(Path({str(directory)!r})).problems)\n"
        printed = foreign.as_nobody(code, modules="appliance.core.trust.ca_directory")
    assert printed == f"('{directory}/0123abcd.0: cannot be read: Permission denied',)\n"


CLOSED: dict[str, tuple[str, int, str]] = {
    "directory": ("certificates", 0o700, "the CA directory cannot be read"),
    "names only": ("certificates", 0o744, "no CA certificate (HASH.0) can be read in this dir"),
    "above": ("", 0o700, "the CA directory cannot be read"),
}
"""What is closed to others, its mode and the message."""
ABOVE = "check owner and mode of the file and of the directories above it"


@pytest.mark.root
@pytest.mark.parametrize("kind", CLOSED)
def test_a_directory_that_may_not_be_read(root: Authority, kind: str) -> None:
    """One line with a remedy that works; anchors that are installed need no installation."""
    closed, mode, words = CLOSED[kind]
    with foreign.open_to_all() as path:
        directory = path / "closed" / "certificates"
        directory.parent.mkdir()
        root.publish(directory, crl=root.crl())
        (path / "closed" / closed).chmod(mode)
        with foreign.acting_as_nobody(), pytest.raises(LocalFailure) as caught:
            CADirectory(directory)
        line = str(caught.value)
        assert line.startswith(f"{directory}: {words}")
        assert ": Permission denied; " in line
        mend = f"let every user read it: chmod -R a+rX {directory}"
        assert line.partition("; ")[2] == (mend if closed else ABOVE)
        subprocess.run(["chmod", "-R", "a+rX", path / "closed" / closed], check=True)
        with foreign.acting_as_nobody():
            assert CADirectory(directory).problems == ()


@pytest.mark.root
def test_certificates_that_may_not_be_read(root: Authority) -> None:
    with foreign.open_to_all() as path:
        root.publish(path, crl=root.crl())
        (path / f"{root.hash}.0").chmod(0o600)
        with foreign.acting_as_nobody(), pytest.raises(LocalFailure) as caught:
            CADirectory(path)
        assert str(caught.value) == (
            f"{path}: no CA certificate (HASH.0) can be read in this directory: Permission denied;"
            f" let every user read it: chmod -R a+rX {path}"
        )


def test_files_of_any_size(directory: Path, root: Authority) -> None:
    for name_ in ("0123abcd.0", "0123abcd.r0", f"{root.hash}.signing_policy"):
        with (directory / name_).open("ab") as file:
            file.truncate(65 * 2**20)
    assert "lies outside" in refusal(directory, root.issue(HOST))
    problems = CADirectory(directory).problems
    assert [problem.count("longer than") for problem in problems] == [1, 1, 1]


def test_twenty_broken_files_have_their_lines(
    directory: Path, root: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        (directory / f"{number:08x}.0").write_text("nonsense\n")
    CADirectory(directory)
    assert [record.getMessage() for record in caplog.records] == [
        f"{directory}/{number:08x}.0: cannot be read: not PEM; replace or remove it"
        for number in range(20)
    ]


def test_a_thousand_files_with_broken_ones(
    directory: Path, root: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A bounded number of lines, and the good ones count."""
    pem = root.pair.certificate.public_bytes(Encoding.PEM)
    for number in range(250):
        (directory / f"{number:08x}.0").write_bytes(pem)
        (directory / f"{number:08x}.1").write_bytes(pem[: number % len(pem)])
        (directory / f"{number:08x}.r0").write_bytes(pem)
        (directory / f"{number:08x}.signing_policy").write_text("nonsense\n")
    root.revoke(bad := root.issue(HOST))
    (directory / "00000007.r0").write_bytes(root.crl().public_bytes(Encoding.PEM))
    trust = CADirectory(directory)
    # the policies lie beside our CA as well
    with pytest.raises(Untrusted, match="signing_policy:1"):
        trust.verify_chain(bad.certificate, at=NOW)
    for path in directory.glob("00*.signing_policy"):
        path.unlink()
    assert trust.refresh()
    with pytest.raises(Untrusted, match="revoked"):
        trust.verify_chain(bad.certificate, at=NOW)
    assert trust.verify_chain(root.issue(HOST).certificate, at=NOW).warnings == ()
    assert len(trust.problems) == 250 + 249
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 * 21
    assert lines[20] == f"{directory}: 230 more files cannot be used"


def test_a_root_with_serial_number_zero(tmp_path: Path) -> None:
    """Old grid CAs have one."""
    zero = Authority(serial_zero("/CN=Zero"))
    zero.publish(tmp_path / "certificates")
    host = zero.issue(HOST)
    assert (
        len(
            CADirectory(tmp_path / "certificates")
            .verify_chain(host.certificate, at=datetime.now(UTC))
            .certificates
        )
        == 2
    )


def test_refresh_sees_a_new_crl(directory: Path, root: Authority) -> None:
    host = root.issue(HOST)
    trust = CADirectory(directory)
    trust.verify_chain(host.certificate, at=NOW)
    assert not trust.refresh()
    root.revoke(host)
    fresh = directory / "fresh"
    fresh.write_bytes(root.crl().public_bytes(Encoding.PEM))
    fresh.replace(directory / f"{root.hash}.r0")
    trust.verify_chain(host.certificate, at=NOW)  # not yet seen
    assert trust.refresh()
    with pytest.raises(Untrusted, match="revoked"):
        trust.verify_chain(host.certificate, at=NOW)
    assert not trust.refresh()


def test_refresh_sees_a_file_written_in_place(directory: Path, root: Authority) -> None:
    trust = CADirectory(directory)
    path = directory / f"{root.hash}.signing_policy"
    path.write_text(path.read_text())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert trust.refresh()


def test_a_failed_refresh_keeps_the_anchors(directory: Path, root: Authority) -> None:
    trust = CADirectory(directory)
    directory.rename(directory.with_name("away"))
    with pytest.raises(LocalFailure):
        trust.refresh()
    trust.verify_chain(root.issue(HOST).certificate, at=NOW)
    directory.with_name("away").rename(directory)


def test_the_bundle_serves_tls(directory: Path, root: Authority) -> None:
    sub = root.sub()
    sub.publish(directory)
    bundle = CADirectory(directory).tls_bundle()
    context = ssl.create_default_context(cadata=bundle)
    subjects = {
        x509.load_der_x509_certificate(der).subject
        for der in context.get_ca_certs(binary_form=True)
    }
    assert subjects == {root.pair.certificate.subject, name("/DC=ORG/DC=TEST-GRID/CN=Test Issuing")}


def test_a_signature_of_a_kind_that_has_no_digest(root: Authority) -> None:
    """Ed25519: cryptography names none."""
    key = ed25519.Ed25519PrivateKey.generate()
    host = root.issue(HOST).certificate
    builder = x509.CertificateBuilder(
        host.issuer, host.subject, host.public_key(), 1,
        host.not_valid_before_utc, host.not_valid_after_utc,
    )  # fmt: skip
    odd = builder.sign(key, None)
    with pytest.raises(Untrusted, match="is signed with an unsupported algorithm"):
        check_signature_hash(odd, subject=DN(HOST), allow_sha1=True)


def test_links_in_the_directory_are_followed(
    tmp_path: Path, directory: Path, root: Authority
) -> None:
    """As in IGTF's bundles, and in distributions that link to the files of a package."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in directory.iterdir():
        (linked / file.name).symlink_to(file)
    trust = CADirectory(linked, crls=CRLPolicy.REQUIRE)
    assert trust.verify_chain(root.issue(HOST).certificate, at=NOW).warnings == ()
    assert trust.problems == ()


def test_a_certificate_whose_names_cannot_be_read(directory: Path, root: Authority) -> None:
    """Its subject's type is an ObjectDescriptor: OpenSSL does not mind, nobody can write it."""
    data = root.issue("/CN=odd name").certificate.public_bytes(Encoding.DER)
    value = b"\x08odd name"
    assert data.count(b"\x0c" + value) == 1
    odd = x509.load_der_x509_certificate(data.replace(b"\x0c" + value, b"\x07" + value))
    with pytest.raises(Malformed, match="certificate: its subject cannot be read"):
        CADirectory(directory).verify_chain(odd, at=NOW)


def test_a_certificate_that_openssl_cannot_read(directory: Path, root: Authority) -> None:
    """Its issuer is a number, which cryptography passes over unless it is asked for the name."""
    data = root.issue(HOST).certificate.public_bytes(Encoding.DER)
    value = b"\x09Test Root"
    assert data.count(b"\x0c" + value) == 1
    odd = x509.load_der_x509_certificate(data.replace(b"\x0c" + value, b"\x02" + value))
    with pytest.raises(Malformed, match=f"{HOST}: OpenSSL cannot read its certificates"):
        CADirectory(directory).verify_chain(odd, at=NOW)
