"""Messages made by the openssl program, judged by it and by us.

Each case states both verdicts. Where they differ, ours is the stricter one and the case says why;
where both accept, text and signer must be the same.
"""

import base64
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from appliance.core.trust import smime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import Malformed, Untrusted
from tests.testbed.pki import Authority, Credential

TEXT = b"APEL-cloud-message: v0.4\nVMUUID: one\nMachineName: x\n%%\n\nVMUUID: two\n%%\n"
PLAIN = b"Content-Type: text/plain\n\n" + TEXT
ROOT, SUB, LONE = (
    f"/DC=EU/DC=EXAMPLE/CN=Interop {kind}" for kind in ("Root", "Issuing", "Uninstalled")
)
LISTLESS, STALE, ROGUE = (
    f"/DC=EU/DC=EXAMPLE/CN=Interop {kind}" for kind in ("Listless", "Stale", "Rogue")
)


class World:
    """A CA directory, signers of every sort, and the openssl program."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificates = path / "certificates"
        root = Authority.create(path / "root", subject=ROOT)
        sub = root.create_subordinate(path / "sub", subject=SUB)
        lone = root.create_subordinate(path / "lone", subject=LONE)
        stale = Authority.create(path / "stale", subject=STALE)
        listless = Authority.create(path / "listless", subject=LISTLESS)
        rogue = Authority.create(path / "rogue", subject=ROGUE)
        impostor = Authority.create(path / "impostor", subject=ROOT)
        now = datetime.now(UTC)
        self.signers = {
            "rsa": root.issue("rsa"),
            "ec": root.issue("ec", key="ec"),
            "sub": sub.issue("sub"),
            "lone": lone.issue("lone"),
            "revoked": root.issue("revoked"),
            "expired": root.issue("expired", not_before=now - timedelta(days=9), days=2),
            "future": root.issue("future", not_before=now + timedelta(days=1)),
            "stale": stale.issue("stale"),
            "listless": listless.issue("listless"),
            "rogue": rogue.issue("rsa"),
            "impostor": impostor.issue("rsa"),
            "outside": root.issue("x", prefix="/DC=EU/DC=ELSEWHERE"),
            "self": Credential(root.certificate, root.directory / "ca.key"),
        }
        root.revoke(self.signers["revoked"])
        root.publish(self.certificates, may_sign=("/DC=EU/DC=EXAMPLE/*",))
        sub.publish(self.certificates)
        stale.publish(self.certificates, crl_days=3, crl_issued=now - timedelta(days=9))
        listless.publish(self.certificates, crl_days=None)
        self.bags = {
            "chain": (lone.certificate,),
            "chain and strangers": (
                rogue.certificate,
                self.signers["ec"].certificate,
                lone.certificate,
            ),
            "strangers": (
                self.signers["ec"].certificate,
                self.signers["rogue"].certificate,
                root.certificate,
            ),
            "rogue root": (rogue.certificate,),
        }
        self.trust = CADirectory(self.certificates, crls=CRLPolicy.REQUIRE)

    def sign(
        self, text: bytes, *options: str, by: str = "rsa", bag: str = "", program: str = "cms"
    ) -> bytes:
        signer = self.signers[by]
        command = [
            "openssl",
            program,
            "-sign",
            "-signer",
            str(signer.certificate),
            "-inkey",
            str(signer.key),
            *options,
        ]
        if bag:
            file = self.path / "bag.pem"
            file.write_bytes(b"".join(certificate.read_bytes() for certificate in self.bags[bag]))
            command += ["-certfile", str(file)]
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout.replace(
            b"\r\n", b"\n"
        )

    def ask_openssl(self, message: bytes) -> tuple[bytes, x509.Certificate] | None:
        """Return the signed part and the signer's certificate, or nothing when openssl refuses."""
        signer, text = self.path / "signer.pem", self.path / "text"
        command = [
            "openssl",
            "cms",
            "-verify",
            "-CApath",
            str(self.certificates),
            "-no-CAfile",
            "-no-CAstore",
        ]
        command += ["-purpose", "any", "-crl_check_all", "-signer", str(signer), "-out", str(text)]
        if subprocess.run(command, input=message, capture_output=True, check=False).returncode:
            return None
        return text.read_bytes().replace(b"\r\n", b"\n"), x509.load_pem_x509_certificate(
            signer.read_bytes()
        )

    def ask_us(self, message: bytes) -> smime.Verified | None:
        try:
            return smime.verify(message, trust=self.trust, at=datetime.now(UTC), max_bytes=1 << 20)
        except (Malformed, Untrusted):
            return None


@dataclass(frozen=True)
class Case:
    make: Callable[[World], bytes]
    openssl: bool
    ours: bool
    body: bytes = TEXT


def accepted(make: Callable[[World], bytes], body: bytes = TEXT) -> Case:
    return Case(make, openssl=True, ours=True, body=body)


def refused(make: Callable[[World], bytes]) -> Case:
    return Case(make, openssl=False, ours=False)


def stricter(make: Callable[[World], bytes]) -> Case:
    return Case(make, openssl=True, ours=False)


def encoded(encoding: str, body: bytes) -> bytes:
    header = f"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n"
    return header.encode() + body


def replace_once(message: bytes, old: bytes, new: bytes) -> bytes:
    assert message.count(old) >= 1
    return message.replace(old, new, 1)


def third_part(message: bytes) -> bytes:
    line = message[message.index(b"\n\n--") + 2 :].split(b"\n", 1)[0]
    return message.replace(
        line + b"--", line + b"\nContent-Type: text/plain\n\nunsigned\n" + line + b"--"
    )


def flip_last_bit(message: bytes) -> bytes:
    start = message.index(b"MII")
    text, tail = message[start:].split(b"\n\n", 1)
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1  # the end of the signature's value
    return message[:start] + base64.encodebytes(bytes(data)) + b"\n" + tail


UTF8 = "MachineName: Université\n".encode()

CASES = {
    "RSA": accepted(lambda w: w.sign(TEXT, "-text")),
    "RSA, CRLF": accepted(lambda w: w.sign(TEXT, "-text").replace(b"\n", b"\r\n")),
    "RSA, smime as SSM calls it": accepted(lambda w: w.sign(TEXT, "-text", program="smime")),
    "RSA, SHA-384": accepted(lambda w: w.sign(TEXT, "-text", "-md", "sha384")),
    "RSA, SHA-512": accepted(lambda w: w.sign(TEXT, "-text", "-md", "sha512")),
    "RSA-PSS": accepted(lambda w: w.sign(TEXT, "-text", "-keyopt", "rsa_padding_mode:pss")),
    "EC": accepted(lambda w: w.sign(TEXT, "-text", by="ec")),
    "EC, CRLF": accepted(lambda w: w.sign(TEXT, "-text", by="ec").replace(b"\n", b"\r\n")),
    "EC, SHA-512": accepted(lambda w: w.sign(TEXT, "-text", "-md", "sha512", by="ec")),
    "streamed (BER)": accepted(lambda w: w.sign(TEXT, "-text", "-stream")),
    "no attributes": accepted(lambda w: w.sign(TEXT, "-text", "-noattr")),
    "binary, CRLF in the text": accepted(
        lambda w: w.sign(PLAIN.replace(b"\n", b"\r\n"), "-binary")
    ),
    "no newline at the end": accepted(lambda w: w.sign(TEXT[:-1], "-text"), TEXT[:-1]),
    "empty body": accepted(lambda w: w.sign(b"", "-text"), b""),
    "large": accepted(lambda w: w.sign(TEXT * 5000, "-text"), TEXT * 5000),
    "quoted-printable": accepted(
        lambda w: w.sign(encoded("quoted-printable", b"MachineName: Universit=C3=A9\n")), UTF8
    ),
    "base64": accepted(lambda w: w.sign(encoded("base64", base64.encodebytes(UTF8))), UTF8),
    "8 bit": accepted(lambda w: w.sign(encoded("8bit", UTF8)), UTF8),
    "body speaks of encryption": accepted(
        lambda w: w.sign(b"application/pkcs7-mime\n", "-text"), b"application/pkcs7-mime\n"
    ),
    "sub-CA in the directory": accepted(lambda w: w.sign(TEXT, "-text", by="sub")),
    "strangers in the bag": accepted(lambda w: w.sign(TEXT, "-text", bag="strangers")),
    "sub-CA nowhere": refused(lambda w: w.sign(TEXT, "-text", by="lone")),
    "sub-CA in the bag, without its CRL": refused(
        lambda w: w.sign(TEXT, "-text", by="lone", bag="chain")
    ),
    "text changed": refused(
        lambda w: replace_once(w.sign(TEXT, "-text"), b"VMUUID: two", b"VMUUID: twx")
    ),
    "inner header changed": refused(
        lambda w: replace_once(w.sign(TEXT, "-text"), b"text/plain", b"text/html")
    ),
    "line end lost": refused(
        lambda w: replace_once(w.sign(TEXT, "-text"), b"one\nMachine", b"oneMachine")
    ),
    "signature changed": refused(lambda w: flip_last_bit(w.sign(TEXT, "-text"))),
    "signature of another text": refused(
        lambda w: (
            w.sign(TEXT, "-text").split(b"MII")[0]
            + b"MII"
            + w.sign(b"x", "-text").split(b"MII", 1)[1]
        )
    ),
    "certificates left out": refused(lambda w: w.sign(TEXT, "-text", "-nocerts")),
    "revoked": refused(lambda w: w.sign(TEXT, "-text", by="revoked")),
    "expired": refused(lambda w: w.sign(TEXT, "-text", by="expired")),
    "not yet valid": refused(lambda w: w.sign(TEXT, "-text", by="future")),
    "CRL missing": refused(lambda w: w.sign(TEXT, "-text", by="listless")),
    "CRL stale": refused(lambda w: w.sign(TEXT, "-text", by="stale")),
    "unknown CA": refused(lambda w: w.sign(TEXT, "-text", by="rogue")),
    "unknown CA in the bag": refused(lambda w: w.sign(TEXT, "-text", by="rogue", bag="rogue root")),
    "CA of the same name": refused(lambda w: w.sign(TEXT, "-text", by="impostor")),
    "not signed": refused(lambda _: PLAIN),
    "empty": refused(lambda _: b""),
    "SHA-1 (weak)": stricter(lambda w: w.sign(TEXT, "-text", "-md", "sha1")),
    "outside the signing policy (openssl knows none)": stricter(
        lambda w: w.sign(TEXT, "-text", by="outside")
    ),
    "no header block inside (SSM wants one)": stricter(lambda w: w.sign(TEXT)),
    "opaque (SSM takes it for encrypted)": stricter(lambda w: w.sign(TEXT, "-text", "-nodetach")),
    "named by key identifier (not by issuer and serial)": stricter(
        lambda w: w.sign(TEXT, "-text", "-keyid", by="self")
    ),
    "text after the end (unsigned)": stricter(lambda w: w.sign(TEXT, "-text") + b"unsigned\n"),
    "text before the first part (unsigned, ignored)": accepted(
        lambda w: replace_once(
            w.sign(TEXT, "-text"), b"This is an", b"APEL-cloud-message: v0.4\nThis is an"
        )
    ),
    "third part (unsigned)": refused(lambda w: third_part(w.sign(TEXT, "-text"))),
    "two signers (whose message is it?)": stricter(
        lambda w: w.sign(
            TEXT,
            "-text",
            "-signer",
            str(w.signers["ec"].certificate),
            "-inkey",
            str(w.signers["ec"].key),
        )
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("interop"))


@pytest.mark.parametrize("name", CASES)
def test_verdicts(world: World, name: str) -> None:
    case = CASES[name]
    message = case.make(world)
    theirs, ours = world.ask_openssl(message), world.ask_us(message)
    assert (theirs is not None, ours is not None) == (case.openssl, case.ours)
    if theirs and ours:
        text, signer = theirs
        assert ours.certificate == signer
        assert ours.body == case.body
        assert text.endswith(case.body) or "content-transfer-encoding" in ours.headers


def test_an_intermediate_of_the_bag_is_a_hint(world: World) -> None:
    """Without CRL checks, both accept a chain through the certificates of the message."""
    trust = CADirectory(world.certificates, crls=CRLPolicy.WARN)
    for bag in ("chain", "chain and strangers"):
        message = world.sign(TEXT, "-text", by="lone", bag=bag)
        found = smime.verify(message, trust=trust, at=datetime.now(UTC), max_bytes=1 << 20)
        assert found.signer.endswith("/CN=lone")
        assert any("no CRL" in warning for warning in found.warnings)
        command = [
            "openssl",
            "cms",
            "-verify",
            "-CApath",
            str(world.certificates),
            "-purpose",
            "any",
        ]
        assert (
            subprocess.run(command, input=message, capture_output=True, check=False).returncode == 0
        )
