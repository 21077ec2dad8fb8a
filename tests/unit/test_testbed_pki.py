"""The throw-away authority, judged by the openssl program."""

from __future__ import annotations

import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.testbed.pki import HOST_DN, Authority, Credential, Digest, KeyKind

pytestmark = pytest.mark.programs("openssl")


def openssl(*arguments: str | Path, check: bool = True) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


def verify(
    credential: Credential, trusted: Path, *options: str, untrusted: Path | None = None
) -> str:
    more = ["-untrusted", str(untrusted)] if untrusted else []
    return openssl(
        "verify",
        "-x509_strict",
        "-CApath",
        trusted,
        *options,
        *more,
        credential.certificate,
        check=False,
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "root", key="ec")


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    return tmp_path / "certificates"


@pytest.mark.parametrize("ca_key", ["rsa", "ec"])
@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_issued_certificate_verifies_with_its_crl(
    tmp_path: Path, trusted: Path, ca_key: KeyKind, key: KeyKind
) -> None:
    authority = Authority.create(tmp_path / "root", key=ca_key)
    host = authority.issue("host.example.org", key=key)
    authority.publish(trusted)
    for purpose in ("sslserver", "sslclient"):
        assert verify(host, trusted, "-crl_check_all", "-purpose", purpose).endswith(": OK\n")


def test_files_of_the_directory_have_the_names_that_openssl_makes(
    authority: Authority, trusted: Path
) -> None:
    authority.publish(trusted)
    published = {path.name for path in trusted.iterdir()}
    alone = trusted.parent / "rehashed"
    alone.mkdir()
    (alone / "any.pem").write_bytes(authority.certificate.read_bytes())
    openssl("rehash", alone)
    (name,) = [path.name for path in alone.iterdir() if path.name != "any.pem"]
    digest = name.removesuffix(".0")
    assert published == {name, f"{digest}.r0", f"{digest}.signing_policy"}


def test_name_is_that_of_a_grid_host(authority: Authority) -> None:
    host = authority.issue("host.example.org")
    shown = openssl("x509", "-noout", "-subject", "-nameopt", "compat", "-in", host.certificate)
    assert shown.strip().removeprefix("subject=").strip() == f"{HOST_DN}/CN=host.example.org"


def test_signing_policy_names_the_authority_as_openssl_does(
    authority: Authority, trusted: Path
) -> None:
    authority.publish(trusted)
    shown = openssl(
        "x509", "-noout", "-subject", "-nameopt", "compat", "-in", authority.certificate
    )
    subject = shown.strip().removeprefix("subject=").strip()
    (policy,) = trusted.glob("*.signing_policy")
    assert f"access_id_CA  X509    '{subject}'" in policy.read_text().splitlines()


def test_names_and_addresses_are_checked_by_tls_clients(
    authority: Authority, trusted: Path
) -> None:
    host = authority.issue("Robot", hosts=("localhost", "127.0.0.1"))
    authority.publish(trusted)
    assert verify(host, trusted, "-verify_hostname", "localhost").endswith(": OK\n")
    assert verify(host, trusted, "-verify_ip", "127.0.0.1").endswith(": OK\n")
    assert (
        "hostname mismatch"
        in verify(host, trusted, "-verify_hostname", "other.example.org").lower()
    )


def test_revoked_certificate_is_refused_and_its_neighbour_is_not(
    authority: Authority, trusted: Path
) -> None:
    good, bad = authority.issue("good.example.org"), authority.issue("bad.example.org")
    authority.revoke(bad)
    authority.publish(trusted)
    assert "certificate revoked" in verify(bad, trusted, "-crl_check")
    assert verify(good, trusted, "-crl_check").endswith(": OK\n")


def test_revocation_survives_opening_the_authority_again(
    authority: Authority, trusted: Path
) -> None:
    bad = authority.issue("bad.example.org")
    Authority.open(authority.directory).revoke(bad)
    Authority.open(authority.directory).publish(trusted)
    assert "certificate revoked" in verify(bad, trusted, "-crl_check")


def test_stale_crl_and_no_crl(authority: Authority, trusted: Path) -> None:
    host = authority.issue("host.example.org")
    authority.publish(trusted, crl_days=None)
    assert "unable to get certificate CRL" in verify(host, trusted, "-crl_check")
    authority.publish(trusted, crl_days=1, crl_issued=datetime.now(UTC) - timedelta(days=3))
    assert "CRL has expired" in verify(host, trusted, "-crl_check")


def test_certificate_of_a_subordinate_needs_both_authorities(
    authority: Authority, tmp_path: Path, trusted: Path
) -> None:
    issuing = authority.create_subordinate(
        tmp_path / "issuing", subject="/DC=EU/DC=EXAMPLE/CN=Issuing"
    )
    host = issuing.issue("host.example.org", key="ec")
    authority.publish(trusted)
    assert "unable to get local issuer" in verify(host, trusted)
    assert verify(host, trusted, untrusted=issuing.certificate).endswith(": OK\n")
    issuing.publish(trusted)
    assert verify(host, trusted, "-crl_check_all").endswith(": OK\n")


def test_expired_and_future_certificates(authority: Authority, trusted: Path) -> None:
    now = datetime.now(UTC)
    expired = authority.issue("old.example.org", not_before=now - timedelta(days=9), days=8)
    future = authority.issue("new.example.org", not_before=now + timedelta(days=1))
    authority.publish(trusted)
    assert "certificate has expired" in verify(expired, trusted)
    assert "certificate is not yet valid" in verify(future, trusted)


@pytest.mark.parametrize("digest", ["sha384", "sha512"])
def test_digest_of_the_signature_is_as_asked(authority: Authority, digest: Digest) -> None:
    host = authority.issue("host.example.org", digest=digest)
    assert (
        f"ecdsa-with-{digest}"
        in openssl("x509", "-noout", "-text", "-in", host.certificate).lower()
    )


def test_same_subject_twice_is_numbered(
    authority: Authority, tmp_path: Path, trusted: Path
) -> None:
    other = Authority.create(tmp_path / "other", key="ec")
    hosts = [each.issue("host.example.org") for each in (authority, other)]
    for each in (authority, other, authority):
        each.publish(trusted)
    assert {path.name.rpartition(".")[2] for path in trusted.iterdir()} == {
        "0",
        "1",
        "r0",
        "r1",
        "signing_policy",
    }
    for host in hosts:
        assert verify(host, trusted).endswith(": OK\n")


def test_key_belongs_to_the_certificate_and_to_its_owner_only(authority: Authority) -> None:
    first, second = authority.issue("host.example.org"), authority.issue("host.example.org")
    assert first != second
    for host in (first, second):
        assert stat.S_IMODE(host.key.stat().st_mode) == 0o400
        assert openssl("pkey", "-pubout", "-in", host.key) == openssl(
            "x509", "-pubkey", "-noout", "-in", host.certificate
        )


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Authority.open(tmp_path)
