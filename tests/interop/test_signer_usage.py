"""F-T3: whose key may sign a message, by the openssl program's purpose ``smimesign`` and by us."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from appliance.core.trust import smime
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Malformed, Untrusted
from tests.simulators.authority import NOW, Authority, Pair, rsa_key, sign

HOST = "/DC=EU/DC=TEST/CN=host.example.org"
TEXT = b"APEL-cloud-message: v0.4\nVMUUID: one\n%%\n"
BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)
FOR_SIGNATURES = {"digital_signature", "content_commitment"}


USAGES: list[tuple[str, ...] | None] = [
    None,
    *((bit,) for bit in BITS),
    ("key_encipherment", "digital_signature"),
    ("key_cert_sign", "crl_sign"),
    ("data_encipherment", "key_agreement"),
    BITS,
]


def key_usage(bits: tuple[str, ...]) -> x509.KeyUsage:
    chosen = {bit: bit in bits for bit in BITS}
    return x509.KeyUsage(**chosen, encipher_only=False, decipher_only=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Path]:
    authority = Authority.root()
    path = tmp_path_factory.mktemp("usage")
    authority.publish(path / "certificates", crl=authority.crl())
    return authority, path


def openssl_takes(pair: Pair, root: Authority, path: Path) -> bool:
    certificate, _ = pair.write(path)
    anchor, _ = root.pair.write(path)
    command = [
        "openssl",
        "verify",
        "-purpose",
        "smimesign",
        "-CAfile",
        str(anchor),
        str(certificate),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def refusal(pair: Pair, path: Path) -> str:
    message = sign(TEXT, pair, "-text", directory=path)
    trust = CADirectory(path / "certificates")
    try:
        smime.verify(message, trust=trust, at=NOW, max_bytes=100_000)
    except (Malformed, Untrusted) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("bits", USAGES, ids=str)
def test_key_usage(root: tuple[Authority, Path], bits: tuple[str, ...] | None) -> None:
    authority, path = root
    usage = [key_usage(bits)] if bits else []
    pair = authority.issue(HOST, extensions=usage, purposes=())
    expected = bits is None or bool(FOR_SIGNATURES.intersection(bits))
    assert openssl_takes(pair, authority, path) == expected
    found = refusal(pair, path)
    assert not found if expected else "is not for signatures (key usage)" in found


def test_the_certificate_of_a_ca(root: tuple[Authority, Path]) -> None:
    """As the IGTF's CAs have it: the key signs certificates and lists, and no messages."""
    authority, path = root
    usage = key_usage(("key_cert_sign", "crl_sign"))
    pair = authority.issue("/DC=ORG/CN=Sub", ca=True, key=rsa_key("host"), extensions=[usage])
    assert not openssl_takes(pair, authority, path)
    assert "is not for signatures (key usage)" in refusal(pair, path)


def test_grid_hosts_are_for_tls_and_sign_all_the_same(root: tuple[Authority, Path]) -> None:
    """openssl's purpose wants e-mail among those of the certificate; SSM asks for none."""
    authority, path = root
    usage = key_usage(("digital_signature", "key_encipherment"))
    pair = authority.issue(HOST, extensions=[usage])
    assert not openssl_takes(pair, authority, path)
    assert refusal(pair, path) == ""


def test_extensions_that_cannot_be_read(root: tuple[Authority, Path]) -> None:
    authority, path = root
    broken = x509.UnrecognizedExtension(x509.KeyUsage.oid, b"\x04\x00")
    pair = authority.issue(HOST, extensions=[broken])
    assert "extensions of its certificate cannot be read" in refusal(pair, path)
