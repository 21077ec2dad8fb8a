"""Whatever the bytes, `verify` returns what was signed or raises one of its two kinds of error."""

import base64
import contextlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.chain import subject_of
from appliance.core.trust.distinguished_name import DN
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from appliance.core.trust.signing_policy import SigningPolicy
from tests.property.examples import examples
from tests.simulators.authority import NOW, Authority, ec_key, sign

pytestmark = pytest.mark.programs("openssl")

TEXT = b"APEL-cloud-message: v0.4\r\nVMUUID: one\n\n%%\n" * 3


class Sample:
    def __init__(self, path: Path, eol: bytes) -> None:
        root = Authority.root()
        root.publish(path / "certificates", crl=root.crl())
        self.trust = CADirectory(path / "certificates", crls=CRLPolicy.REQUIRE)
        host = root.issue("/O=Hosts/CN=host.example.org", key=ec_key("host"))
        self.message = sign(TEXT, host, "-text", directory=path, eol=eol)
        self.opaque = sign(TEXT, host, "-text", "-nodetach", "-outform", "DER", directory=path)
        self.proven = self.verify(self.message)
        line = self.message.index(b"\n------")
        self.start = self.message.index(b"\n", line + 1) + 1
        self.end = self.message.index(eol + b"------", self.start)
        self.signature_start = self.message.index(b"MII")
        self.signature_end = self.message.index(b"------", self.signature_start)

    def verify(self, message: bytes) -> smime.Verified:
        forms = frozenset(smime.Form)
        return smime.verify(message, trust=self.trust, at=NOW, max_bytes=1 << 20, forms=forms)

    def judge(self, message: bytes) -> None:
        """The message is refused, or says exactly what the good one says."""
        try:
            found = self.verify(message)
        except (Malformed, Untrusted):
            return
        assert (found.body, found.signer, found.headers) == (
            self.proven.body,
            self.proven.signer,
            self.proven.headers,
        )


@pytest.fixture(scope="module", params=[b"\n", b"\r\n"], ids=["lf", "crlf"])
def sample(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Sample:
    return Sample(tmp_path_factory.mktemp("trust"), request.param)


@given(st.binary(max_size=2000))
@example(b"Content-Type: multipart/signed\n\n")
def test_any_bytes(sample: Sample, data: bytes) -> None:
    with pytest.raises((Malformed, Untrusted)):
        sample.verify(data)


@pytest.mark.long
def test_every_changed_byte_of_the_signed_part_is_noticed(sample: Sample) -> None:
    assert sample.message[sample.start : sample.end].count(b"VMUUID: one") == 3
    for position in range(sample.start, sample.end):
        original = sample.message[position]
        for value in {
            0,
            10,
            13,
            32,
            ord("-"),
            ord("0"),
            original ^ 1,
            original ^ 0x20,
            original ^ 0x80,
        } - {original}:
            changed = sample.message[:position] + bytes([value]) + sample.message[position + 1 :]
            with pytest.raises((Tampered, Malformed)):
                sample.verify(changed)


@given(st.data())
def test_a_changed_byte_anywhere(sample: Sample, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(sample.message) - 1))
    value = data.draw(st.binary(min_size=1, max_size=1))
    sample.judge(sample.message[:position] + value + sample.message[position + 1 :])


@given(st.data())
def test_slices_moved_doubled_or_lost(sample: Sample, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sample.message)), min_size=3, max_size=3)))
    pieces = [
        sample.message[: cuts[0]],
        sample.message[cuts[0] : cuts[1]],
        sample.message[cuts[1] : cuts[2]],
        sample.message[cuts[2] :],
    ]
    order = data.draw(st.lists(st.integers(0, 3), max_size=6))
    sample.judge(b"".join(pieces[index] for index in order))


def with_signature(sample: Sample, der: bytes) -> bytes:
    encoded = base64.encodebytes(der)
    return (
        sample.message[: sample.signature_start]
        + encoded
        + b"\n"
        + sample.message[sample.signature_end :]
    )


@settings(max_examples=examples(300))
@given(st.data())
def test_changed_bytes_of_the_signature(sample: Sample, data: st.DataObject) -> None:
    der = bytearray(base64.b64decode(sample.message[sample.signature_start : sample.signature_end]))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    sample.judge(with_signature(sample, bytes(der)))


def test_a_name_whose_value_is_a_bit_string(sample: Sample) -> None:
    """cryptography raises TypeError for it, which no receiver may take for a fault of its own."""
    text = b"\x0c\x05Hosts"
    assert text in sample.opaque
    with pytest.raises(Malformed, match="a name in its signer's certificate cannot be read"):
        sample.verify(sample.opaque.replace(text, b"\x03\x05Hosts"))
    host = Authority.root().issue("/O=Hosts/CN=host.example.org").certificate
    der = host.public_bytes(Encoding.DER).replace(text, b"\x03\x05Hosts")
    with pytest.raises(Malformed, match="its subject cannot be read"):
        subject_of(x509.load_der_x509_certificate(der))


def test_an_extension_that_is_twice_in_the_signer_s_certificate(sample: Sample) -> None:
    """cryptography raises an exception of its own kind, which is no ValueError."""
    constraints, purposes = b"\x55\x1d\x13", b"\x55\x1d\x25"
    assert constraints in sample.opaque
    assert purposes in sample.opaque
    with pytest.raises(Malformed, match="the extensions of its certificate cannot be read"):
        sample.verify(sample.opaque.replace(constraints, purposes))


@settings(max_examples=examples(100))
@given(st.data())
def test_changed_bytes_of_an_opaque_message(sample: Sample, data: st.DataObject) -> None:
    der = bytearray(sample.opaque)
    for _ in range(data.draw(st.integers(0, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    encoded = base64.encodebytes(der)
    sample.judge(bytes(der))
    sample.judge(b"-----BEGIN CMS-----\n" + encoded + b"-----END CMS-----\n")
    header = b"Content-Type: application/pkcs7-mime\nContent-Transfer-Encoding: base64\n\n"
    sample.judge(header + encoded)


@given(st.binary(max_size=300))
def test_any_bytes_as_the_signature(sample: Sample, data: bytes) -> None:
    with pytest.raises((Malformed, Untrusted)):
        sample.verify(with_signature(sample, data))


@given(st.text(max_size=200))
def test_any_content_type(value: str) -> None:
    with contextlib.suppress(Malformed):
        assert "/" in mime.parse_content_type(value).type


@given(st.text(max_size=300))
def test_any_signing_policy(text: str) -> None:
    with contextlib.suppress(Untrusted):
        policy = SigningPolicy.parse(text, path=Path("/x/0123abcd.signing_policy"))
        assert not policy.permits(DN("/CN=host"), issuer=DN("/CN=A CA that no text names"))


@given(st.binary(max_size=200))
def test_line_ends_go_and_come_back(text: bytes) -> None:
    plain = mime.with_newlines(text)
    assert mime.with_newlines(mime.canonical(plain)) == plain
