import base64
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import algos, cms
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.core.trust import mime, smime
from appliance.core.trust.ca_directory import CADirectory, CRLPolicy
from appliance.core.trust.errors import Malformed, NoAnchor, Tampered, Untrusted
from tests.simulators.authority import NOW, Authority, Pair, ec_key, rsa_key, serial_zero, sign

pytestmark = pytest.mark.programs("openssl")

HOST = "/DC=EU/DC=TEST/C=ES/O=Hosts/O=Test Site/CN=host.example.org"
TEXT = (
    b"APEL-cloud-message: v0.4\nVMUUID: one\nStatus: completed\n%%\n\nVMUUID: two\nStatus: "
    b"started\n%%\n"
)
LIMIT = 1 << 20


class Workshop:
    """A CA directory and a host whose messages it proves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = Authority.root()
        self.root.publish(path / "certificates", crl=self.root.crl())
        self.host = self.root.issue(HOST)
        self.trust = CADirectory(path / "certificates")

    def sign(
        self, text: bytes, *options: str, pair: Pair | None = None, eol: bytes = b"\n"
    ) -> bytes:
        return sign(text, pair or self.host, *options, directory=self.path, eol=eol)

    def verify(self, message: bytes, **options: Any) -> smime.Verified:
        return smime.verify(message, trust=self.trust, at=NOW, max_bytes=LIMIT, **options)

    def refusal(self, message: bytes, kind: type[Exception] = Malformed, **options: Any) -> str:
        with pytest.raises((Malformed, Untrusted)) as caught:
            self.verify(message, **options)
        assert type(caught.value) is kind, caught.value
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="module")
def message(shop: Workshop) -> bytes:
    return shop.sign(TEXT, "-text")


def test_the_text_and_its_signer(shop: Workshop, message: bytes) -> None:
    found = shop.verify(message)
    assert found.body == TEXT
    assert found.signer == HOST
    assert found.certificate == shop.host.certificate
    assert dict(found.headers) == {"content-type": "text/plain"}
    assert found.warnings == ()


def test_line_ends_of_the_wire_do_not_matter(shop: Workshop, message: bytes) -> None:
    assert shop.verify(message.replace(b"\n", b"\r\n")).body == TEXT


def test_a_body_that_speaks_of_encryption_is_not_encrypted(shop: Workshop) -> None:
    text = b"Content-Type: application/pkcs7-mime\n\napplication/x-pkcs7-mime multipart/mixed\n"
    assert shop.verify(shop.sign(text, "-text")).body == text


@pytest.mark.parametrize(
    ("encoding", "encoded", "plain"),
    [
        ("quoted-printable", "Universit=C3=A9 =\n1\n", "Université 1\n"),
        ("Base64", base64.encodebytes("Université\n".encode()).decode(), "Université\n"),
        ("8bit", "Université\n", "Université\n"),
        ("7bit", "plain\n", "plain\n"),
        ("binary", "plain\n", "plain\n"),
    ],
)
def test_transfer_encodings(shop: Workshop, encoding: str, encoded: str, plain: str) -> None:
    inner = (
        f"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n"
        f"{encoded}"
    )
    found = shop.verify(shop.sign(inner.encode()))
    assert found.body == plain.encode()
    assert found.headers["content-transfer-encoding"] == encoding


@pytest.mark.parametrize(
    ("encoding", "body", "cause"),
    [("x-uuencode", "x", "unknown Content-Transfer-Encoding"), ("base64", "!", "base64")],
)
def test_encodings_that_cannot_be_undone(
    shop: Workshop, encoding: str, body: str, cause: str
) -> None:
    inner = f"Content-Type: text/plain\nContent-Transfer-Encoding: {encoding}\n\n{body}\n"
    assert cause in shop.refusal(shop.sign(inner.encode()))


# The header block inside


@pytest.mark.parametrize(
    "text",
    [
        b"no header here\n",
        TEXT,
        b"VMUUID: one\n\n%%\n",
        b"\n\nbody\n",
        b"",
        b"Content-Type: text/plain\n",
    ],
)
def test_ssm_wants_a_header_block_inside(shop: Workshop, text: bytes) -> None:
    assert "No blank line between message header and body" in shop.refusal(shop.sign(text))


def test_image_lists_have_no_header_block_inside(shop: Workshop) -> None:
    text = b'{\n  "hv:imagelist": {}\n\n}\n'
    found = shop.verify(shop.sign(text), require_header=False)
    assert (found.body, dict(found.headers)) == (text, {})
    found = shop.verify(shop.sign(text, "-text"), require_header=False)
    assert (found.body, dict(found.headers)) == (text, {"content-type": "text/plain"})


def test_folded_headers(shop: Workshop) -> None:
    inner = b"Content-Type: text/plain;\n\tcharset=utf-8\nX-Note: one\n two\n\nbody\n"
    assert shop.verify(shop.sign(inner)).headers == {
        "content-type": "text/plain; charset=utf-8",
        "x-note": "one two",
    }


def test_two_content_headers_are_ambiguous(shop: Workshop) -> None:
    assert "two Content-Type headers" in shop.refusal(
        shop.sign(b"Content-Type: a/b\nContent-Type: c/d\n\nbody\n")
    )


# The frame


def boundary(message: bytes) -> bytes:
    found = re.search(rb'boundary="([^"]+)"', message)
    assert found
    return found[1]


def add_third_part(message: bytes) -> bytes:
    line = b"--" + boundary(message)
    return message.replace(
        line + b"--", line + b"\nContent-Type: text/plain\n\nunsigned\n" + line + b"--"
    )


def swap_parts(message: bytes) -> bytes:
    head, first, second, tail = message.split(b"--" + boundary(message))
    return (b"--" + boundary(message)).join([head, second, first, tail])


FRAMES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "text after": (lambda m: m + b"unsigned\n", "unsigned text after the last part"),
    "third part": (add_third_part, "does not have exactly two parts"),
    "parts swapped": (swap_parts, "not a signature"),
    "no end": (lambda m: m[: m.rindex(b"--" + boundary(m))], "does not have exactly two parts"),
    "broken end": (lambda m: m[: m.rindex(b"--")], "unsigned text after the last part"),
    "mixed": (
        lambda m: m.replace(b"multipart/signed", b"multipart/mixed", 1),
        "its type is multipart/mixed",
    ),
    "opaque": (
        lambda m: m.replace(b"multipart/signed", b"application/pkcs7-mime", 1),
        "not multipart/signed",
    ),
    "PGP": (lambda m: m.replace(b"x-pkcs7-signature", b"pgp-signature", 1), "other than S/MIME"),
    "no boundary": (lambda m: m.replace(b"boundary=", b"limit="), "its boundary is missing"),
    "quoted pair": (lambda m: m.replace(b'boundary="', b'boundary="\\"'), "cannot be read"),
    "two boundaries": (lambda m: m.replace(b"; micalg", b"; boundary=x; micalg"), "cannot be read"),
    "two types": (lambda m: b"Content-Type: text/plain\n" + m, "two Content-Type headers"),
    "no type": (
        lambda m: m.replace(b"Content-Type: multipart", b"X-Type: multipart"),
        "cannot be read",
    ),
    "blank line first": (lambda m: b"\n" + m, "No blank line"),
    "header only": (lambda m: m[: m.index(b"\n\n") + 1], "No blank line"),
    "CR only": (lambda m: m.replace(b"\n", b"\r"), "No blank line"),
    "long header": (lambda m: b"X: " + b"x" * 20_000 + b"\n" + m, "No blank line"),
    "encoding": (
        lambda m: m.replace(b"Encoding: base64", b"Encoding: 7bit"),
        "its signature is not base64",
    ),
    "base64": (lambda m: m.replace(b"MII", b"M!I", 1), "its base64 is invalid"),
    "delimiter inside": (
        lambda m: m.replace(b"VMUUID: two", b"--" + boundary(m) + b" two"),
        "does not have exactly two parts",
    ),
    "delimiter goes on": (
        lambda m: m.replace(boundary(m) + b"\n", boundary(m) + b"x\n"),
        "continues otherwise",
    ),
    "large signature": (
        lambda m: m.replace(b"MII", b"A" * 70_000 + b"MII", 1),
        "larger than 65536",
    ),
}


@pytest.mark.parametrize("case", FRAMES)
def test_frames_that_are_refused(shop: Workshop, message: bytes, case: str) -> None:
    change, cause = FRAMES[case]
    changed = change(message)
    assert changed != message
    assert cause in shop.refusal(changed)


def test_blanks_after_delimiters_and_at_the_end_are_transport(
    shop: Workshop, message: bytes
) -> None:
    assert (
        shop.verify(
            message.replace(boundary(message) + b"\n", boundary(message) + b"  \n") + b"\n\n"
        ).body
        == TEXT
    )


def test_text_before_the_first_part_is_ignored(shop: Workshop, message: bytes) -> None:
    """F-T6: RFC 2046 section 5.1.1."""
    altered = message.replace(
        b"This is an", b"APEL-cloud-message: v0.4\n\nVMUUID: three\nThis is an"
    )
    assert altered != message
    assert shop.verify(altered).body == TEXT


def test_other_headers_above_do_not_matter(shop: Workshop, message: bytes) -> None:
    assert shop.verify(b"Received: from a\nReceived: from b\n" + message).body == TEXT


def test_the_size_is_bounded(shop: Workshop, message: bytes) -> None:
    with pytest.raises(Malformed, match="at most 100 are accepted"):
        smime.verify(message, trust=shop.trust, at=NOW, max_bytes=100)
    size = len(message)
    assert smime.verify(message, trust=shop.trust, at=NOW, max_bytes=size).body == TEXT
    with pytest.raises(Malformed, match=f"it has {size} bytes, at most {size - 1} are accepted"):
        smime.verify(message, trust=shop.trust, at=NOW, max_bytes=size - 1)


# Other forms than two parts

ALL = frozenset(smime.Form)


def change_opaque(shop: Workshop, old: bytes, new: bytes) -> bytes:
    message = shop.sign(TEXT, "-nodetach")
    assert old in message
    return message.replace(old, new, 1)


def test_accounting_comes_in_two_parts_only(shop: Workshop) -> None:
    """An opaque message is what SSM takes for an encrypted one."""
    for options in (
        ["-nodetach"],
        ["-nodetach", "-outform", "PEM"],
        ["-nodetach", "-outform", "DER"],
    ):
        shop.refusal(shop.sign(TEXT, "-text", *options))
    assert shop.verify(shop.sign(TEXT, "-text", "-nodetach"), forms=ALL).body == TEXT


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (
            b"smime-type=signed-data",
            b"smime-type=enveloped-data",
            "enveloped-data, not signed-data",
        ),
        (b"Transfer-Encoding: base64", b"Transfer-Encoding: binary", "its signature is not base64"),
        (b"\n\nMI", b"\n\nM!", "its base64 is invalid"),
        (b"\n\nMI", b"\n\nMA", "structure cannot be read"),
    ],
)
def test_opaque_messages_that_are_refused(
    shop: Workshop, old: bytes, new: bytes, cause: str
) -> None:
    assert cause in shop.refusal(change_opaque(shop, old, new), forms=ALL)


def test_an_opaque_message_need_not_name_its_kind(shop: Workshop) -> None:
    message = change_opaque(shop, b"smime-type=signed-data; ", b"")
    assert shop.verify(message, forms=ALL, require_header=False).body == TEXT
    message = change_opaque(shop, b"application/x-pkcs7-mime", b"application/pkcs7-mime")
    assert shop.verify(message, forms=ALL, require_header=False).body == TEXT


def test_a_header_may_begin_with_the_first_byte_of_der(shop: Workshop, message: bytes) -> None:
    assert shop.verify(b"0-Note: x\n" + message, forms=ALL).body == TEXT


def test_bytes_after_the_structure(shop: Workshop) -> None:
    message = shop.sign(TEXT, "-nodetach", "-outform", "DER")
    assert "structure cannot be read" in shop.refusal(message + b"\0", forms=ALL)


def test_cms_of_another_kind(shop: Workshop) -> None:
    data = cms.ContentInfo({"content_type": "data", "content": TEXT * 9}).dump()
    assert "it is not CMS SignedData" in shop.refusal(data, forms=ALL)


def test_ber_of_indefinite_length(shop: Workshop) -> None:
    message = shop.sign(TEXT, "-nodetach", "-stream", "-outform", "DER")
    assert message.startswith(b"\x30\x80")
    assert shop.verify(message, forms=ALL, require_header=False).body == TEXT


def test_pem_in_both_spellings(shop: Workshop) -> None:
    message = shop.sign(TEXT, "-nodetach", "-outform", "PEM")
    assert b"-----BEGIN PKCS7-----" in message
    for label in (b"PKCS7", b"CMS"):
        spelled = message.replace(b"PKCS7", label)
        assert shop.verify(spelled, forms=ALL, require_header=False).body == TEXT
        crlf = spelled.replace(b"\n", b"\r\n")
        assert shop.verify(crlf, forms=ALL, require_header=False).body == TEXT


def test_pem_that_is_refused(shop: Workshop) -> None:
    message = shop.sign(TEXT, "-nodetach", "-outform", "PEM")
    cases = {
        "its PEM has no end": message[: message.index(b"-----END")],
        "unsigned text after its end": message + b"unsigned\n",
        "its base64 is invalid": message.replace(b"\nMI", b"\nM!"),
        "No blank line": message.replace(b"PKCS7", b"CERTIFICATE"),
    }
    for cause, changed in cases.items():
        assert cause in shop.refusal(changed, forms=ALL)


def test_a_signature_without_its_text(shop: Workshop) -> None:
    for options in (["-outform", "PEM"], ["-outform", "DER"]):
        message = shop.sign(TEXT, *options)
        assert "it has a signature and no text" in shop.refusal(message, forms=ALL)


def test_text_inside_a_detached_signature(shop: Workshop, message: bytes) -> None:
    inside = shop.sign(TEXT, "-nodetach").split(b"\n\n", 1)[1]
    start = message.index(b"MII")
    changed = message[:start] + inside.strip() + message[message.index(b"\n\n", start) :]
    assert "not a detached signature" in shop.refusal(changed)
    assert "not a detached signature" in shop.refusal(changed, forms=ALL)


# Tampering


def test_a_changed_digit(shop: Workshop, message: bytes) -> None:
    found = shop.refusal(message.replace(b"v0.4", b"v0.3"), Tampered)
    assert found == f"{HOST}: the text is not the one that was signed"


def test_the_signature_of_another_text(shop: Workshop, message: bytes) -> None:
    other = shop.sign(TEXT + b"more\n", "-text")
    signature = message[message.index(b"Content-Disposition") :].split(b"\n\n")[1]
    theirs = other[other.index(b"Content-Disposition") :].split(b"\n\n")[1]
    assert "not the one that was signed" in shop.refusal(
        message.replace(signature, theirs), Tampered
    )


# The structure of the signature


def rebuild(message: bytes, change: Callable[[cms.ContentInfo], None]) -> bytes:
    """Change the CMS structure of a message and put it back."""
    head, old = message[: message.index(b"MII")], message[message.index(b"MII") :]
    encoded, tail = old.split(b"\n\n", 1)
    info = cms.ContentInfo.load(base64.b64decode(encoded))
    change(info)
    return head + base64.encodebytes(info.dump(force=True)) + b"\n" + tail


def signer_info(info: cms.ContentInfo) -> cms.SignerInfo:
    return info["content"]["signer_infos"][0]


def two_signers(info: cms.ContentInfo) -> None:
    info["content"]["signer_infos"].append(signer_info(info).copy())


def no_signer(info: cms.ContentInfo) -> None:
    info["content"]["signer_infos"] = cms.SignerInfos([])


def no_certificate(info: cms.ContentInfo) -> None:
    info["content"]["certificates"] = cms.CertificateSet([])


def twice_the_certificate(info: cms.ContentInfo) -> None:
    info["content"]["certificates"].append(info["content"]["certificates"][0].copy())


def attached(info: cms.ContentInfo) -> None:
    info["content"]["encap_content_info"] = {"content_type": "data", "content": TEXT}


def other_kind(info: cms.ContentInfo) -> None:
    info["content"]["encap_content_info"] = {"content_type": "signed_data"}


def weak_digest(info: cms.ContentInfo) -> None:
    signer_info(info)["digest_algorithm"] = algos.DigestAlgorithm({"algorithm": "md5"})


def contradicting_digest(info: cms.ContentInfo) -> None:
    signer_info(info)["signature_algorithm"] = algos.SignedDigestAlgorithm(
        {"algorithm": "sha512_rsa"}
    )


def unknown_scheme(info: cms.ContentInfo) -> None:
    signer_info(info)["signature_algorithm"] = algos.SignedDigestAlgorithm(
        {"algorithm": "sha256_ecdsa"}
    )


def by_key_identifier(info: cms.ContentInfo) -> None:
    signer_info(info)["sid"] = cms.SignerIdentifier("subject_key_identifier", b"12345")


def keep(*kinds: str) -> Callable[[cms.ContentInfo], None]:
    def change(info: cms.ContentInfo) -> None:
        kept = [
            attribute
            for kind in kinds
            for attribute in signer_info(info)["signed_attrs"]
            if attribute["type"].native == kind
        ]
        signer_info(info)["signed_attrs"] = cms.CMSAttributes(
            [attribute.copy() for attribute in kept]
        )

    return change


STRUCTURES: list[tuple[Callable[[cms.ContentInfo], None], type[Exception], str]] = [
    (two_signers, Malformed, "2 signers, exactly one"),
    (no_signer, Malformed, "0 signers, exactly one"),
    (no_certificate, Malformed, "0 times, not once"),
    (twice_the_certificate, Malformed, "2 times, not once"),
    (attached, Malformed, "not a detached signature over plain data"),
    (other_kind, Malformed, "not a signature over plain data"),
    (weak_digest, Untrusted, "its digest is MD5"),
    (contradicting_digest, Malformed, "contradict each other"),
    (unknown_scheme, Untrusted, "not supported with its key"),
    (by_key_identifier, Malformed, "not named by issuer and serial"),
    (keep("content_type"), Malformed, "message_digest is missing"),
    (keep("message_digest"), Malformed, "content_type is missing"),
    (
        keep("content_type", "message_digest", "message_digest"),
        Malformed,
        "message_digest occurs twice",
    ),
    (keep("content_type", "message_digest"), Tampered, "the signature does not match the text"),
]


@pytest.mark.parametrize(("change", "kind", "cause"), STRUCTURES)
def test_structures_that_are_refused(
    shop: Workshop,
    message: bytes,
    change: Callable[[cms.ContentInfo], None],
    kind: type[Exception],
    cause: str,
) -> None:
    assert cause in shop.refusal(rebuild(message, change), kind)


def test_rebuilding_alone_changes_nothing(shop: Workshop, message: bytes) -> None:
    assert shop.verify(rebuild(message, lambda _: None)).body == TEXT


@pytest.mark.parametrize(
    "data", [b"", b"\x30\x80" * 5000, b"\x30\x03\x02\x01\x00", b"\x30" + b"\xff" * 40]
)
def test_bytes_that_are_no_cms(shop: Workshop, message: bytes, data: bytes) -> None:
    encoded = message[message.index(b"MII") :].split(b"\n\n")[0]
    changed = message.replace(encoded, base64.encodebytes(data).rstrip())
    assert "CMS" in shop.refusal(changed)


def test_signed_attributes_passed_off_as_a_text(shop: Workshop, message: bytes) -> None:
    """A signature over attributes would verify a text of the same bytes, which is refused."""
    attributes = b""

    def strip(info: cms.ContentInfo) -> None:
        nonlocal attributes
        attributes = signer_info(info)["signed_attrs"].untag().dump(force=True)
        del signer_info(info)["signed_attrs"]

    stripped = rebuild(message, strip)
    line = b"--" + boundary(stripped) + b"\n"
    head, _, tail = stripped.split(line)
    forged = head + line + attributes + b"\n" + line + tail
    assert "looks like attributes" in shop.refusal(forged, Tampered, require_header=False)


# Signers


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_digests_and_keys(shop: Workshop, digest: str, kind: str) -> None:
    pair = shop.root.issue(HOST, key=rsa_key("host") if kind == "rsa" else ec_key("host"))
    assert shop.verify(shop.sign(TEXT, "-text", "-md", digest, pair=pair)).body == TEXT


def test_sha1_only_by_option(shop: Workshop) -> None:
    signed = shop.sign(TEXT, "-text", "-md", "sha1")
    assert "its digest is SHA1" in shop.refusal(signed, Untrusted)
    assert shop.verify(signed, allow_sha1=True).body == TEXT


@pytest.mark.parametrize("options", [["-noattr"], ["-nosmimecap"]])
def test_fewer_attributes(shop: Workshop, options: list[str]) -> None:
    assert shop.verify(shop.sign(TEXT, "-text", *options)).body == TEXT


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA512()])
def test_pss(shop: Workshop, message: bytes, digest: hashes.HashAlgorithm) -> None:
    key = shop.host.key
    assert isinstance(key, rsa.RSAPrivateKey)
    text = (
        message.split(b"--" + boundary(message))[1]
        .removeprefix(b"\n")
        .removesuffix(b"\n")
        .replace(b"\n", b"\r\n")
    )

    def resign(info: cms.ContentInfo) -> None:
        signer = signer_info(info)
        algorithm = {"algorithm": digest.name}
        signer["digest_algorithm"] = algos.DigestAlgorithm(algorithm)
        parameters = {
            "hash_algorithm": algorithm,
            "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": algorithm},
            "salt_length": 20,
        }
        signer["signature_algorithm"] = algos.SignedDigestAlgorithm(
            {"algorithm": "rsassa_pss", "parameters": parameters}
        )
        del signer["signed_attrs"]
        signer["signature"] = key.sign(
            text, padding.PSS(mgf=padding.MGF1(digest), salt_length=20), digest
        )

    assert shop.verify(rebuild(message, resign)).body == TEXT


def test_parameters_that_no_signature_has(shop: Workshop, message: bytes) -> None:
    """What cryptography cannot even try is refused, not passed over."""

    def spoil(info: cms.ContentInfo) -> None:
        algorithm = {"algorithm": "sha256"}
        parameters = {
            "hash_algorithm": algorithm,
            "mask_gen_algorithm": {"algorithm": "mgf1", "parameters": algorithm},
            "salt_length": -1,
        }
        signer_info(info)["signature_algorithm"] = algos.SignedDigestAlgorithm(
            {"algorithm": "rsassa_pss", "parameters": parameters}
        )

    assert "of an unsupported kind" in shop.refusal(rebuild(message, spoil), Untrusted)


def test_an_unknown_signer(shop: Workshop) -> None:
    rogue = Authority.root("/CN=Rogue").issue(HOST)
    assert "not among the trust anchors" in shop.refusal(
        shop.sign(TEXT, "-text", pair=rogue), NoAnchor
    )


def test_the_certificate_named_by_the_signer_counts(shop: Workshop) -> None:
    """Others in the message may be of better birth; they did not sign."""
    rogue = Authority.root("/CN=Rogue").issue("/CN=rogue")
    signed = sign(TEXT, rogue, "-text", directory=shop.path, more=(shop.host.certificate,))
    assert "/CN=rogue: its issuer /CN=Rogue" in shop.refusal(signed, NoAnchor)


def test_a_stranger_that_cannot_be_read(shop: Workshop) -> None:
    stranger = shop.root.issue("/CN=stranger").certificate
    signed = sign(TEXT, shop.host, "-text", directory=shop.path, more=(stranger,))

    def spoil(info: cms.ContentInfo) -> None:
        certificates = [choice.chosen for choice in info["content"]["certificates"]]
        [spoilt] = [one for one in certificates if one.serial_number == stranger.serial_number]
        spoilt["tbs_certificate"]["version"] = 99

    assert shop.verify(rebuild(signed, spoil)).certificate == shop.host.certificate


def test_a_name_of_the_signer_that_only_openssl_can_read(shop: Workshop) -> None:
    rogue = Authority.root("/CN=Rogue Root").issue(HOST)
    signed = sign(TEXT, rogue, "-nodetach", "-outform", "DER", directory=shop.path)
    value = b"\x0aRogue Root"
    assert signed.count(b"\x0c" + value) == 2  # in the certificate, and where the signer is named
    spoilt = signed.replace(b"\x0c" + value, b"\x07" + value)  # an ObjectDescriptor
    assert "a name in its signer's certificate cannot be read" in shop.refusal(spoilt, forms=ALL)


def test_an_issuer_s_name_that_only_openssl_can_read(shop: Workshop) -> None:
    """Anybody can make such a message; it must not end who verifies it."""
    sub = Authority.root("/CN=Rogue Root").sub("/CN=Rogue Issuing")
    signed = sign(TEXT, sub.issue(HOST), "-text", directory=shop.path, more=(sub.pair.certificate,))
    head, old = signed[: signed.index(b"MII")], signed[signed.index(b"MII") :]
    encoded, tail = old.split(b"\n\n", 1)
    value = b"\x0aRogue Root"
    structure = base64.b64decode(encoded)
    assert structure.count(b"\x0c" + value) == 1
    # an ObjectDescriptor instead of a UTF8String
    spoilt = structure.replace(b"\x0c" + value, b"\x07" + value)
    assert "name cannot be read" in shop.refusal(head + base64.encodebytes(spoilt) + b"\n" + tail)


def test_a_stranger_with_the_same_serial_number(shop: Workshop) -> None:
    serial = shop.host.certificate.serial_number
    stranger = Authority.root("/CN=Rogue").issue("/CN=stranger", serial=serial).certificate
    signed = sign(TEXT, shop.host, "-text", directory=shop.path, more=(stranger,))
    assert shop.verify(signed).certificate == shop.host.certificate


def test_a_signer_with_serial_number_zero(shop: Workshop) -> None:
    for serial in (0, -5):
        signed = shop.sign(TEXT, "-text", pair=serial_zero("/CN=Zero", serial))
        assert "is not positive" in shop.refusal(signed)
    one = shop.root.issue(HOST, serial=1)
    assert shop.verify(shop.sign(TEXT, "-text", pair=one)).certificate == one.certificate


def test_a_revoked_signer_and_a_missing_list(tmp_path: Path) -> None:
    shop = Workshop(tmp_path)
    shop.root.revoke(shop.host)
    message = shop.sign(TEXT, "-text")
    assert shop.verify(message).warnings == ()
    shop.root.publish(tmp_path / "certificates", crl=shop.root.crl())
    assert shop.trust.refresh()
    assert "revoked" in shop.refusal(message, Untrusted)
    next((tmp_path / "certificates").glob("*.r0")).unlink()
    shop.trust.refresh()
    assert "no CRL" in shop.verify(message).warnings[0]
    shop.trust = CADirectory(tmp_path / "certificates", crls=CRLPolicy.REQUIRE)
    assert "cannot be checked" in shop.refusal(message, Untrusted)


def test_a_name_of_a_kilobyte_does_not_reach_a_log(shop: Workshop) -> None:
    rogue = Authority.root("/CN=Rogue").issue("/OU=" + "/OU=".join(["x" * 60] * 30))
    assert "longer than 1024 characters" in shop.refusal(shop.sign(TEXT, "-text", pair=rogue))
    longest = "/OU=" + "/OU=".join(["x" * 60] * 16)
    assert len(longest) == 1024
    signed = shop.sign(TEXT, "-text", pair=shop.root.issue(longest))
    assert shop.verify(signed).signer == longest


# MIME by itself


@pytest.mark.parametrize(
    ("value", "kind", "parameters"),
    [
        ("text/plain", "text/plain", {}),
        (' Text/PLAIN ; Charset=utf-8;x="a; b" ', "text/plain", {"charset": "utf-8", "x": "a; b"}),
        ('multipart/signed; boundary="a b"', "multipart/signed", {"boundary": "a b"}),
    ],
)
def test_content_types(value: str, kind: str, parameters: dict[str, str]) -> None:
    found = mime.parse_content_type(value)
    assert (found.type, dict(found.parameters)) == (kind, parameters)


@pytest.mark.parametrize(
    "value", ["", "text", "text/plain; x", "text/plain; x=1; X=2", "text/plain x=1", 'a/b; x="']
)
def test_broken_content_types(value: str) -> None:
    with pytest.raises(Malformed, match="cannot be read"):
        mime.parse_content_type(value)


@pytest.mark.parametrize("size", [16_382, 16_383])
def test_the_length_of_a_header_is_bounded(size: int) -> None:
    """It and the empty line have 16 KiB."""
    head = b"Content-Type: a/b\nX: "
    text = head + b"x" * (size - len(head)) + b"\n\nbody"
    if size == 16_382:
        headers, body = mime.split_header(text)
        assert (headers["content-type"], body) == ("a/b", b"body")
    else:
        with pytest.raises(Malformed, match="No blank line"):
            mime.split_header(text)


def test_long_headers_with_either_line_end(shop: Workshop) -> None:
    """Twelve kilobytes above an opaque message, as relays add them."""
    opaque = b"X-Relay: a\n" * 1000 + shop.sign(TEXT, "-text", "-nodetach")
    for message in (opaque, opaque.replace(b"\n", b"\r\n")):
        assert shop.verify(message, forms=ALL).body == TEXT


def test_the_first_bytes_of_a_header_are_no_der(shop: Workshop, message: bytes) -> None:
    """A sequence begins with an ASCII zero; its long length is no ASCII."""
    assert shop.verify(b"0: x\n" + message, forms=ALL).body == TEXT
    pem = "é before it\n".encode() + shop.sign(TEXT, "-text", "-nodetach", "-outform", "PEM")
    assert pem[1] >= 0x80
    assert shop.verify(pem, forms=ALL).body == TEXT


def test_two_structures_in_pem(shop: Workshop) -> None:
    message = shop.sign(TEXT, "-text", "-nodetach", "-outform", "PEM")
    assert "unsigned text after its end" in shop.refusal(message + message, forms=ALL)


def test_an_encrypted_message(shop: Workshop) -> None:
    certificate, _ = shop.host.write(shop.path)
    command = ["openssl", "cms", "-encrypt", "-outform", "DER", str(certificate)]
    made = subprocess.run(command, input=TEXT, capture_output=True, check=True).stdout
    assert "it is not CMS SignedData" in shop.refusal(made, forms=ALL)


def test_the_option_for_sha1_is_for_no_other(shop: Workshop, message: bytes) -> None:
    weak = rebuild(message, weak_digest)
    assert "its digest is MD5" in shop.refusal(weak, Untrusted, allow_sha1=True)


def test_a_message_without_a_preamble(shop: Workshop, message: bytes) -> None:
    """The line end before the first delimiter is the header's own."""
    start = message.index(b"\n\n") + 2
    bare = message[:start] + message[message.index(b"--" + boundary(message), start) :]
    assert len(bare) < len(message)
    assert shop.verify(bare).body == TEXT


def test_one_letter_after_the_end(shop: Workshop, message: bytes) -> None:
    end = b"--" + boundary(message) + b"--"
    changed = message.replace(end, end + b"x")
    assert "unsigned text after the last part" in shop.refusal(changed)


def test_the_size_of_a_signature_is_bounded(shop: Workshop, message: bytes) -> None:
    """To 64 KiB with its header, blanks included."""
    line = b"--" + boundary(message)
    start = message.index(line, message.index(line) + 1) + len(line) + 1
    size = message.index(b"\n" + line + b"--", start) - start
    for room in (0, 1):
        blanks = b"\n" * (65_536 - size + room)
        changed = message[: start + size] + blanks + message[start + size :]
        if room:
            assert "larger than 65536" in shop.refusal(changed)
        else:
            assert shop.verify(changed).body == TEXT
