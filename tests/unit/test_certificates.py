import os
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import pem
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core.run.errors import LocalFailure
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Untrusted
from tests.simulators.authority import DAY, NOW, Authority, Pair, ec_key, private_pem, rsa_key

HOST = "/DC=EU/DC=TEST/C=ES/O=Hosts/O=Test Site/CN=host.example.org"


def install(directory: Path, pair: Pair) -> tuple[Path, Path]:
    certificate, key = directory / "hostcert.pem", directory / "hostkey.pem"
    for path, content in (
        (certificate, pair.certificate.public_bytes(Encoding.PEM)),
        (key, private_pem(pair.key)),
    ):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.chmod(0o400)
        fresh.replace(path)
    return certificate, key


@pytest.fixture
def pair() -> Pair:
    return Authority.root().issue(HOST)


@pytest.fixture
def files(tmp_path: Path, pair: Pair) -> tuple[Path, Path]:
    return install(tmp_path, pair)


def load(files: tuple[Path, Path]) -> Identity:
    return Identity.load(files[0], key_path=files[1], at=NOW)


@pytest.mark.parametrize("key", [rsa_key("host"), ec_key("host")])
@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_rsa_and_ec_in_both_forms(
    tmp_path: Path, key: object, form: serialization.PrivateFormat
) -> None:
    pair = Authority.root().issue(HOST, key=key)  # type: ignore[arg-type]
    files = install(tmp_path, pair)
    files[1].unlink()
    files[1].write_bytes(pair.key.private_bytes(Encoding.PEM, form, serialization.NoEncryption()))
    files[1].chmod(0o400)
    identity = load(files)
    assert identity.dn == HOST
    assert identity.certificate == pair.certificate
    assert identity.key.private_numbers() == pair.key.private_numbers()


def test_the_rest_of_the_certificate_file_is_its_chain(
    files: tuple[Path, Path], pair: Pair
) -> None:
    sub = Authority.root().sub().pair.certificate
    files[0].chmod(0o600)
    files[0].write_bytes(
        pair.certificate.public_bytes(Encoding.PEM) + sub.public_bytes(Encoding.PEM)
    )
    assert load(files).chain == (sub,)


def test_the_key_is_in_no_representation(files: tuple[Path, Path], pair: Pair) -> None:
    assert "key=" not in repr(load(files)).replace("public_key=", "")
    assert "PrivateKey" not in repr(load(files))


@pytest.mark.parametrize(
    ("mode", "is_our_group", "cause"),
    [
        (0o400, True, ""),
        (0o600, True, ""),
        (0o440, True, ""),
        (0o400, False, ""),
        (0o440, False, "open to group "),
        (0o460, False, "open to group "),
        (0o444, True, "open to others (mode 0444)"),
        (0o604, True, "open to others (mode 0604)"),
        (0o402, True, "open to others"),
    ],
)
def test_modes_of_the_key(
    files: tuple[Path, Path],
    mode: int,
    is_our_group: bool,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R09."""
    files[1].chmod(mode)
    if not is_our_group:  # giving the file away would need root, so the program is in another group
        monkeypatch.setattr(os, "getegid", lambda: files[1].stat().st_gid + 1)
    if not cause:
        load(files)
        return
    with pytest.raises(Untrusted) as caught:
        load(files)
    assert cause in str(caught.value)
    assert f"chmod 0400 {files[1]}" in str(caught.value)


def test_a_key_of_another_certificate(files: tuple[Path, Path]) -> None:
    """R09."""
    files[1].chmod(0o600)
    files[1].write_bytes(private_pem(rsa_key("other")))
    with pytest.raises(Untrusted, match="the key does not belong to"):
        load(files)


def test_an_encrypted_key(files: tuple[Path, Path], pair: Pair) -> None:
    files[1].chmod(0o600)
    encryption = serialization.BestAvailableEncryption(b"secret")
    files[1].write_bytes(
        pair.key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    with pytest.raises(Untrusted, match="the key is encrypted"):
        load(files)


def test_a_key_of_another_kind(files: tuple[Path, Path]) -> None:
    files[1].chmod(0o600)
    key = ed25519.Ed25519PrivateKey.generate()
    files[1].write_bytes(private_pem(key))  # type: ignore[arg-type]
    with pytest.raises(Untrusted, match="neither RSA nor EC"):
        load(files)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN X-----\nAAAA\n-----END X-----\n"]
)
def test_files_that_are_something_else(
    files: tuple[Path, Path], index: int, content: bytes
) -> None:
    files[index].chmod(0o600)
    files[index].write_bytes(content)
    with pytest.raises(Malformed) as caught:
        load(files)
    assert str(caught.value).startswith(f"{files[index]}: no ")


@pytest.mark.parametrize("index", [0, 1])
def test_missing_files(files: tuple[Path, Path], index: int) -> None:
    files[index].unlink()
    with pytest.raises(LocalFailure) as caught:
        load(files)
    assert str(caught.value).startswith(f"{files[index]}: No such file")


@pytest.mark.parametrize("index", [0, 1])
def test_files_that_cannot_be_read(files: tuple[Path, Path], index: int) -> None:
    files[index].unlink()
    files[index].mkdir()
    with pytest.raises(LocalFailure) as caught:
        load(files)
    assert str(caught.value).startswith(f"{files[index]}: Is a directory")


@pytest.mark.parametrize(
    ("at", "cause"),
    [(NOW + 31 * DAY, "the certificate expired on"), (NOW - 2 * DAY, "is valid only from")],
)
def test_out_of_its_time(files: tuple[Path, Path], at: object, cause: str) -> None:
    """R09."""
    with pytest.raises(Untrusted, match=cause):
        Identity.load(files[0], key_path=files[1], at=at)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(days=29), "within 30 days"),
        (timedelta(days=13), "within 14 days"),
        (timedelta(days=6), "within 7 days"),
        (timedelta(hours=12), "within 1 day,"),
    ],
)
def test_warnings_before_the_end(files: tuple[Path, Path], left: timedelta, words: str) -> None:
    """D16: weeks before."""
    at = NOW + 30 * DAY - left
    assert words in load(files).expiry_warning(at=at)


def test_no_warning_long_before_the_end(tmp_path: Path) -> None:
    identity = load(install(tmp_path, Authority.root().issue(HOST, ends=NOW + 31 * DAY)))
    assert identity.expiry_warning(at=NOW) == ""
    assert identity.expires_within(31, at=NOW)
    assert not identity.expires_within(30, at=NOW)


def test_a_renewed_pair_is_taken_up(files: tuple[Path, Path], pair: Pair, tmp_path: Path) -> None:
    identity = load(files)
    assert identity.reload_if_changed(at=NOW) is identity
    renewed = Authority.root().issue(HOST, key=rsa_key("renewed"))
    install(tmp_path, renewed)
    assert identity.reload_if_changed(at=NOW).certificate == renewed.certificate
    assert identity.certificate == pair.certificate


def test_a_pair_caught_half_way_is_an_error_and_changes_nothing(
    files: tuple[Path, Path], pair: Pair
) -> None:
    identity = load(files)
    files[0].chmod(0o600)
    files[0].write_bytes(
        Authority.root().issue(HOST, key=rsa_key("renewed")).certificate.public_bytes(Encoding.PEM)
    )
    with pytest.raises(Untrusted, match="does not belong"):
        identity.reload_if_changed(at=NOW)
    assert identity.certificate == pair.certificate


def test_the_first_and_the_last_moment_belong_to_a_certificate(files: tuple[Path, Path]) -> None:
    """RFC 5280 section 4.1.2.5: both included."""
    for at in (NOW - DAY, NOW + 30 * DAY):
        Identity.load(files[0], key_path=files[1], at=at)


def test_a_pair_that_was_rewritten_is_the_same_identity(
    files: tuple[Path, Path], pair: Pair, tmp_path: Path
) -> None:
    """Neither the key object nor when the files were written makes a difference, or is shown."""
    identity = load(files)
    install(tmp_path, pair)
    again = identity.reload_if_changed(at=NOW)
    assert again is not identity
    assert again == identity
    assert repr(again) == repr(identity)


def damaged(key: rsa.RSAPrivateKey, *names: str) -> bytes:
    """Return the file of a key in which the named numbers of its private half are others."""
    data = key.private_bytes(
        Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    for name in names:
        number = getattr(key.private_numbers(), name)
        size = (number.bit_length() + 7) // 8
        assert number.to_bytes(size, "big") in data
        data = data.replace(number.to_bytes(size, "big"), (number ^ 0xF0F0).to_bytes(size, "big"))
    return bytes(pem.armor("RSA PRIVATE KEY", data))


@pytest.mark.parametrize("names", [("p", "d"), ("q", "d"), ("dmp1", "d"), ("iqmp", "d")])
def test_a_damaged_key_is_noticed_before_it_is_used(
    names: tuple[str, ...], files: tuple[Path, Path], pair: Pair
) -> None:
    """Its public half still belongs to the certificate; nobody could verify what it signs."""
    files[1].chmod(0o600)
    files[1].write_bytes(damaged(pair.key, *names))  # type: ignore[arg-type]
    with pytest.raises(Malformed) as caught:
        load(files)
    assert str(caught.value) == (
        f"{files[1]}: the private key is damaged; install the host key again"
    )
