"""Our messages and openssl's, read by each other and by the steps of SSM 4.0.0's receiver."""

import email
import quopri
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core import clock
from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.certificates import Identity
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from ssm import envelope
from tests.testbed.pki import Authority, Credential

BODIES = [
    b"APEL-cloud-message: v0.4\nVMUUID: 1\n%%\n",
    b"no line end at the end",
    b"CRLF\r\nline\r\nends\r\n",
    b'{"Type":"APEL Public IP message","UsageRecords":["' + b"x" * 200_000 + b'"]}',
    b"application/pkcs7-mime in the text\n\n--\n.\nFrom me\ntrailing blanks  \t\n",
    b"Content: " + b"application/x-pkcs7-mime application/pkcs7-mime; " * 9 + b"\n",
    b"separators \x0b of \x0c pages \x1c files \x1d groups \x1e records\nthat are no line ends\n",
    "Größe: 1\n".encode(),
    "é\r\ra lone\rcarriage return\n".encode() * 30,
    b"a zero \0 byte\n",
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("pki")
    made = Authority.create(directory / "ca")
    made.publish(directory / "certificates")
    return made


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> Path:
    return authority.directory.parent / "certificates"


@pytest.fixture(scope="module", params=["rsa", "ec"])
def credential(request: pytest.FixtureRequest, authority: Authority) -> Credential:
    return authority.issue(f"{request.param}.example.org", key=request.param)


@pytest.fixture(scope="module")
def rsa(authority: Authority) -> Credential:
    return authority.issue("receiver.example.org")


def identity_of(credential: Credential) -> Identity:
    return Identity.load(credential.certificate, key_path=credential.key, at=clock.now())


def openssl(*arguments: object, data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, check=False
    )


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("program", ["smime", "cms"])
def test_openssl_verifies_what_we_sign(
    body: bytes, program: str, credential: Credential, certificates: Path
) -> None:
    message = envelope.sign(body, identity=identity_of(credential))
    checks = ["-verify", "-CApath", certificates, "-crl_check_all", "-purpose", "any"]
    done = openssl(program, *checks, data=message)
    assert b"successful" in done.stderr
    inner = email.message_from_bytes(done.stdout.replace(b"\r\n", b"\n"))
    assert inner.get_content_type() == "text/plain"
    assert inner.get_payload(decode=True) == body.replace(b"\r\n", b"\n")
    assert b"\r" not in message
    tampered = message.replace(b"Content-Type: text/plain", b"Content-Type: text/plane", 1)
    assert b"successful" not in openssl(program, *checks, data=tampered).stderr


@pytest.mark.parametrize("body", BODIES[:8])
def test_the_steps_of_ssm_4_s_receiver(
    body: bytes, credential: Credential, certificates: Path, tmp_path: Path
) -> None:
    """F-S6: SSM decrypts texts that mention the type, and breaks lines before it decodes.

    `openssl smime -pk7out | openssl pkcs7 -print_certs`, `openssl verify`, `openssl smime -verify
    -noverify`.
    """
    message = envelope.sign(body, identity=identity_of(credential)) + b"\n\n"
    assert b"application/pkcs7-mime" not in message
    assert b"application/x-pkcs7-mime" not in message
    _, _, quoted = message.partition(b"quoted-printable\n\n")
    assert max(map(len, quoted.split(b"\n--", 1)[0].split(b"\n"))) <= 76
    pkcs7 = openssl("smime", "-pk7out", data=message).stdout
    signer = openssl("pkcs7", "-print_certs", data=pkcs7).stdout
    assert signer.count(b"BEGIN CERTIFICATE") == 1
    assert b"OK" in openssl("verify", "-CApath", certificates, "-crl_check_all", data=signer).stdout
    done = openssl("smime", "-verify", "-CApath", certificates, "-noverify", data=message)
    assert b"Verification successful" in done.stderr
    lines = done.stdout.decode().replace("\r\n", "\n").strip().splitlines()
    blank = lines.index("")
    headers, text = "\n".join(lines[:blank]), "\n".join(lines[blank + 1 :])
    if "quoted-printable" in headers:
        text = quopri.decodestring(text.encode()).decode()
    assert "base64" not in headers
    assert text.rstrip() == body.decode().replace("\r\n", "\n").rstrip()


@pytest.mark.parametrize("cipher", ["aes128", "aes256"])
def test_openssl_decrypts_what_we_encrypt(cipher: str, rsa: Credential, certificates: Path) -> None:
    identity = identity_of(rsa)
    signed = envelope.sign(BODIES[0], identity=identity)
    message = envelope.encrypt(signed, recipient=identity.certificate, cipher=cipher)
    done = openssl("smime", "-decrypt", "-recip", rsa.certificate, "-inkey", rsa.key, data=message)
    assert done.stdout.replace(b"\r\n", b"\n") == signed
    shown = openssl("cms", "-cmsout", "-print", data=message).stdout
    assert f"aes-{cipher[3:]}-cbc".encode() in shown
    opened = envelope.open_envelope(
        message,
        identity=identity,
        trust=CADirectory(certificates),
        at=clock.now(),
        max_bytes=100_000,
    )
    assert (opened.body, opened.signer) == (BODIES[0], identity.dn)


def test_we_open_what_openssl_signs_and_encrypts(rsa: Credential, certificates: Path) -> None:
    signed = openssl(
        "smime", "-sign", "-text", "-inkey", rsa.key, "-signer", rsa.certificate, data=BODIES[0]
    ).stdout
    message = openssl("smime", "-encrypt", "-aes128", rsa.certificate, data=signed).stdout
    for form in (signed, signed.replace(b"\r\n", b"\n"), message, message.replace(b"\n", b"\r\n")):
        opened = envelope.open_envelope(
            form,
            identity=identity_of(rsa),
            trust=CADirectory(certificates),
            at=clock.now(),
            max_bytes=100_000,
        )
        assert opened.body == BODIES[0]


def test_envelopes_that_cannot_be_opened(
    rsa: Credential, authority: Authority, certificates: Path
) -> None:
    identity, trust = identity_of(rsa), CADirectory(certificates)
    other = identity_of(authority.issue("other.example.org"))
    elliptic = identity_of(authority.issue("elliptic.example.org", key="ec"))
    signed = envelope.sign(b"text\n", identity=identity)

    def opening(message: bytes, who: Identity = identity, max_bytes: int = 100_000) -> None:
        envelope.open_envelope(
            message, identity=who, trust=trust, at=clock.now(), max_bytes=max_bytes
        )

    for_other = envelope.encrypt(signed, recipient=other.certificate, cipher="aes128")
    with pytest.raises(envelope.Undecipherable):
        opening(for_other)
    with pytest.raises(envelope.Undecipherable):
        opening(for_other, elliptic)
    with pytest.raises(envelope.Undecipherable):
        opening(for_other[:-100], other)
    des3 = openssl("smime", "-encrypt", "-des3", rsa.certificate, data=signed).stdout
    with pytest.raises(envelope.Undecipherable):
        opening(des3)
    with pytest.raises(Tampered):
        opening(signed.replace(b"text\n\n", b"next\n\n"))
    with pytest.raises(Malformed):
        opening(signed, max_bytes=100)
    with pytest.raises(Untrusted):
        envelope.check_recipient(elliptic.certificate, subject="server_cert")


@pytest.mark.parametrize(
    ("text", "words"),
    [(b"", "empty"), (b" \r\n\n", "empty"), (b"a\xffb\n", "not UTF-8 text: byte 2")],
)
def test_texts_that_cannot_be_sent(text: bytes, words: str, rsa: Credential) -> None:
    with pytest.raises(envelope.Unsendable, match=words):
        envelope.sign(text, identity=identity_of(rsa))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(min_size=1).filter(str.strip))
def test_any_text_comes_back(text: str, rsa: Credential, certificates: Path) -> None:
    identity = identity_of(rsa)
    message = envelope.sign(text.encode(), identity=identity)
    opened = envelope.open_envelope(
        message,
        identity=identity,
        trust=CADirectory(certificates),
        at=clock.now(),
        max_bytes=1_000_000,
    )
    assert opened.body == text.encode().replace(b"\r\n", b"\n")
    assert (
        b"successful"
        in openssl(
            "smime", "-verify", "-CApath", certificates, "-purpose", "any", data=message
        ).stderr
    )
