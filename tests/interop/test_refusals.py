"""F-T4: whatever is accepted has a forged, an altered and a foreign variant that is refused.

The cases come from the tables that the code itself accepts by (forms, kinds of signatures,
digests, curves): who adds to one of them without saying here how such a message is made gets an
error from this file. The openssl program makes the messages.

- *altered*: one letter of the text is another one; once more with the digest in the attributes
  made to fit;
- *forged*: one bit of the signature's value is another one;
- *foreign*: another key signed, with a certificate of the same names and serial number; once more
  with the genuine certificate put in its place.
"""

import base64
import functools
import hashlib
import itertools
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import cms as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.core.trust import cms, smime, strength
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from tests.simulators.authority import DAY, NOW, Authority, Pair, PrivateKey, entry, name, rsa_key

ROOT = "/DC=ORG/DC=TEST-GRID/CN=Test Root"
HOST = "/DC=EU/DC=TEST/CN=host.example.org"
SERIAL = 77
TEXT = b'{"hv:imagelist": {"dc:identifier": "genuine"}}\r\n'
ALTERED = TEXT.replace(b"genuine", b"altered")

FORMS = {
    smime.Form.DETACHED: (),
    smime.Form.OPAQUE: ("-nodetach",),
    smime.Form.PEM: ("-nodetach", "-outform", "PEM"),
    smime.Form.DER: ("-nodetach", "-outform", "DER"),
}
"""How the openssl program is made to write each form."""
SCHEMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rsassa_pkcs1v15": ("rsa", ()),
    "rsassa_pss": ("rsa", ("-keyopt", "rsa_padding_mode:pss")),
    "ecdsa": ("secp256r1", ()),
}
"""Key and options that give each kind of signature."""
_BASE64 = re.compile(rb"\n(MI[A-Za-z0-9+/]+(?:\n[A-Za-z0-9+/]+)*=*)")
ATTRIBUTES: tuple[tuple[str, ...], ...] = ((), ("-noattr",))


@functools.cache
def key_of(kind: str, label: str = "") -> PrivateKey:
    if kind == "rsa":
        return rsa_key(f"refusals {label}")
    curves: list[type[ec.EllipticCurve]] = [
        curve for curve in vars(ec).values() if getattr(curve, "name", None) == kind
    ]
    return ec.generate_private_key(curves[0]())


class World:
    """A CA directory, and a rogue CA of the same name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = Authority.root(ROOT)
        self.rogue = Authority.root(ROOT, key=key_of("secp256r1", "rogue"))
        self.root.publish(path / "certificates", crl=self.root.crl())
        self.trust = CADirectory(path / "certificates", allow_sha1=True)

    def signer(self, kind: str) -> Pair:
        return self.root.issue(HOST, key=key_of(kind), serial=SERIAL)

    def stranger(self, kind: str) -> Pair:
        return self.rogue.issue(HOST, key=key_of(kind, "stranger"), serial=SERIAL)

    def verify(self, message: bytes) -> smime.Verified:
        return smime.verify(
            message,
            trust=self.trust,
            at=NOW,
            max_bytes=100_000,
            allow_sha1=True,
            require_header=False,
            forms=frozenset(smime.Form),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("refusals"))


@dataclass(frozen=True)
class Case:
    form: smime.Form
    kind: str
    digest: str
    options: tuple[str, ...]

    def sign(self, pair: Pair, path: Path) -> bytes:
        certificate, key = map(str, pair.write(path))
        command = ["openssl", "cms", "-sign", "-binary", "-signer", certificate, "-inkey", key]
        command += ["-md", self.digest, *self.options, *FORMS[self.form]]
        made = subprocess.run(command, input=TEXT, capture_output=True, check=True).stdout
        return made if self.form is smime.Form.DER else made.replace(b"\r\n", b"\n")

    def __str__(self) -> str:
        return " ".join((self.form.name, self.kind, self.digest, *self.options))


def cases() -> Iterator[Any]:
    """Every two of form, kind of signature and digest together; with --full, every three."""
    for form, scheme, digest, more in itertools.product(
        smime.Form,
        cms.SCHEMES,
        cms.DIGESTS,
        ATTRIBUTES,
    ):
        kind, options = SCHEMES[scheme]
        is_long = form is not smime.Form.DETACHED and digest != "sha256"
        case = Case(form, kind, digest, (*options, *more))
        yield pytest.param(case, marks=[pytest.mark.matrix] * is_long, id=str(case))
    for curve in sorted(strength.CURVES - {"secp256r1"}):
        yield pytest.param(Case(smime.Form.DETACHED, curve, "sha256", ()), id=curve)
    yield pytest.param(Case(smime.Form.DETACHED, "rsa", "sha1", ()), id="sha1")


def split(form: smime.Form, message: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the CMS structure and what stands before and after it."""
    if form is smime.Form.DER:
        return b"", message, b""
    found = _BASE64.search(message)
    assert found
    return message[: found.start(1)], base64.b64decode(found[1]), message[found.end(1) :]


def join(form: smime.Form, head: bytes, structure: bytes, tail: bytes) -> bytes:
    if form is smime.Form.DER:
        return structure
    return head + base64.encodebytes(structure).removesuffix(b"\n") + tail


def rebuilt(form: smime.Form, message: bytes, change: Callable[[bytes], bytes]) -> bytes:
    head, structure, tail = split(form, message)
    return join(form, head, change(structure), tail)


def altered(case: Case, message: bytes) -> bytes:
    if case.form is smime.Form.DETACHED:
        return message.replace(b"genuine", b"altered")
    return rebuilt(case.form, message, lambda structure: structure.replace(TEXT, ALTERED))


def altered_with_its_digest(case: Case, message: bytes) -> bytes:
    old, new = (hashlib.new(case.digest, text).digest() for text in (TEXT, ALTERED))
    return rebuilt(case.form, altered(case, message), lambda structure: structure.replace(old, new))


def forged(case: Case, message: bytes) -> bytes:
    return rebuilt(case.form, message, flip_last_bit)


def flip_last_bit(structure: bytes) -> bytes:
    return structure[:-1] + bytes([structure[-1] ^ 1])


def with_certificate(certificate: x509.Certificate) -> Callable[[bytes], bytes]:
    def change(structure: bytes) -> bytes:
        info: Any = asn1.ContentInfo.load(structure)
        genuine = asn1.CertificateChoices.load(certificate.public_bytes(Encoding.DER))
        info["content"]["certificates"] = asn1.CertificateSet([genuine])
        return bytes(info.dump(force=True))

    return change


@pytest.mark.parametrize("case", list(cases()))
def test_messages(world: World, case: Case) -> None:
    pair, stranger = world.signer(case.kind), world.stranger(case.kind)
    message = case.sign(pair, world.path)
    assert world.verify(message).body == TEXT.replace(b"\r\n", b"\n")
    foreign = case.sign(stranger, world.path)
    passed_off = rebuilt(case.form, foreign, with_certificate(pair.certificate))
    variants = [
        altered(case, message),
        altered_with_its_digest(case, message),
        forged(case, message),
        passed_off,
    ]
    for variant in variants:
        assert variant != message
        with pytest.raises(Tampered):
            world.verify(variant)
    with pytest.raises(Untrusted, match="signature failure"):
        world.verify(foreign)
    # The tools above change what they are to change and nothing else.
    same = rebuilt(case.form, message, with_certificate(pair.certificate))
    assert world.verify(same).certificate == pair.certificate


def test_each_message_is_accepted_in_its_form_only(world: World) -> None:
    for form in smime.Form:
        message = Case(form, "rsa", "sha256", ()).sign(world.signer("rsa"), world.path)
        for accepted in smime.Form:
            options: dict[str, Any] = {"trust": world.trust, "at": NOW, "max_bytes": 100_000}
            options |= {"require_header": False, "forms": {accepted}}
            if form is accepted:
                assert smime.verify(message, **options).certificate.serial_number == SERIAL
            else:
                with pytest.raises(Malformed):
                    smime.verify(message, **options)


# Certificates and revocation lists

CA_KEYS = ["rsa", "rsa-pss", *sorted(strength.CURVES)]


def authorities() -> list[tuple[str, str]]:
    """Every kind of key with SHA-256, and all digests with one key of each kind of signature."""
    more = itertools.product(("rsa", "rsa-pss", "secp256r1"), sorted(strength.SIGNATURE_HASHES))
    return sorted({*((kind, "sha256") for kind in CA_KEYS), *more})


@dataclass
class Issuer:
    """A CA that signs with a certain kind of key over a certain digest."""

    kind: str
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512
    key: PrivateKey

    @property
    def options(self) -> dict[str, Any]:
        if self.kind != "rsa-pss":
            return {}
        return {"rsa_padding": padding.PSS(padding.MGF1(self.digest), padding.PSS.DIGEST_LENGTH)}

    def certificate(self, subject: str, key: Any, *, is_ca: bool) -> x509.Certificate:
        constraints = x509.BasicConstraints(ca=is_ca, path_length=None)
        return (
            x509.CertificateBuilder(name(ROOT), name(subject), key, SERIAL, NOW - DAY, NOW + DAY)
            .add_extension(constraints, critical=True)
            .sign(self.key, self.digest, **self.options)
        )

    def crl(self, *revoked: x509.RevokedCertificate) -> x509.CertificateRevocationList:
        builder = x509.CertificateRevocationListBuilder(name(ROOT), NOW - DAY, NOW + DAY)
        for one in revoked:
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self.key, self.digest, **self.options)


def issuer(kind: str, digest: str, label: str) -> Issuer:
    algorithms: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512]
    algorithms = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    return Issuer(kind, algorithms[digest], key_of("rsa" if kind == "rsa-pss" else kind, label))


@pytest.mark.parametrize(("kind", "digest"), authorities())
def test_certificates(tmp_path: Path, kind: str, digest: str) -> None:
    genuine, rogue = (issuer(kind, digest, label) for label in ("genuine ca", "rogue ca"))
    root = Authority(
        Pair(genuine.certificate(ROOT, genuine.key.public_key(), is_ca=True), genuine.key),
    )
    root.publish(tmp_path / "certificates")
    trust = CADirectory(tmp_path / "certificates", crls=CRLPolicy.OFF)
    public = key_of("rsa").public_key()
    host = genuine.certificate(HOST, public, is_ca=False)
    assert trust.verify_chain(host, at=NOW).subject == HOST
    data = host.public_bytes(Encoding.DER)
    variants = [
        x509.load_der_x509_certificate(flip_last_bit(data)),
        x509.load_der_x509_certificate(data.replace(b"host.example", b"h0st.example")),
        rogue.certificate(HOST, public, is_ca=False),
    ]
    for variant in variants:
        assert variant != host
        with pytest.raises(Untrusted, match="signature failure"):
            trust.verify_chain(variant, at=NOW)


@pytest.mark.parametrize(("kind", "digest"), authorities())
def test_revocation_lists(tmp_path: Path, kind: str, digest: str) -> None:
    """A good list clears a certificate or revokes it; a list that is not the CA's does neither."""
    directory = tmp_path / "certificates"
    genuine, rogue = (issuer(kind, digest, label) for label in ("genuine ca", "rogue ca"))
    root = Authority(
        Pair(genuine.certificate(ROOT, genuine.key.public_key(), is_ca=True), genuine.key),
    )
    host = Pair(genuine.certificate(HOST, key_of("rsa").public_key(), is_ca=False), key_of("rsa"))
    other = Authority.root(ROOT).issue("/CN=other", serial=SERIAL + 1)
    root.publish(directory)
    path = directory / f"{root.hash}.r0"

    def verify(crl: bytes, crls: CRLPolicy) -> tuple[str, ...]:
        path.write_bytes(crl)
        return CADirectory(directory, crls=crls).verify_chain(host.certificate, at=NOW).warnings

    clean, revoking = (genuine.crl(entry(one)).public_bytes(Encoding.DER) for one in (other, host))
    assert verify(clean, CRLPolicy.REQUIRE) == ()
    with pytest.raises(Untrusted, match="was revoked by"):
        verify(revoking, CRLPolicy.WARN)
    serial = b"\x02\x01" + bytes([SERIAL])
    assert revoking.count(serial) == 1
    not_the_cas = [
        flip_last_bit(revoking),
        flip_last_bit(clean),
        revoking.replace(serial, b"\x02\x01\x05"),
        rogue.crl(entry(host)).public_bytes(Encoding.DER),
        rogue.crl().public_bytes(Encoding.DER),
    ]
    for crl in not_the_cas:
        [warning] = verify(crl, CRLPolicy.WARN)
        assert "not signed by this CA" in warning
        with pytest.raises(Untrusted, match="cannot be checked: no CRL of its issuer can be used"):
            verify(crl, CRLPolicy.REQUIRE)


def test_the_kinds_of_keys_are_those_of_this_file() -> None:
    kinds = {kind for kind, _verify in cms.SCHEMES.values()}
    assert kinds == {rsa.RSAPublicKey, ec.EllipticCurvePublicKey}
