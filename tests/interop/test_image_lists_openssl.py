"""Image lists that other code has made, and those that openssl signs in each of its forms."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.core.trust.ca_directory import CADirectory
from appliance.core.trust.errors import Malformed, Tampered, Untrusted
from cloudkeeper.frontend import imagelist
from cloudkeeper.model import Endorser
from tests.simulators.image_lists import image, image_list, openssl_accepts, sign
from tests.testbed.pki import AUTHORITY_DN, HOST_DN, Authority, Credential

LISTS = Path(__file__).parent / "image-lists"
AT = datetime(2027, 1, 1, tzinfo=UTC)
"""After the expiry of one sample, within the validity of the others."""


@pytest.fixture(scope="module")
def samples() -> CADirectory:
    return CADirectory(LISTS / "certificates")


def signed_text(name: str) -> Any:
    """Return the text that the openssl program extracts from a list."""
    command = [
        "openssl",
        "smime",
        "-verify",
        "-purpose",
        "any",
        "-CApath",
        str(LISTS / "certificates"),
    ]
    done = subprocess.run([*command, "-in", str(LISTS / name)], capture_output=True, check=True)
    return json.loads(done.stdout)["hv:imagelist"]


@pytest.mark.parametrize("name", ["good.list", "good-crlf.list"])
def test_good_lists_are_accepted(samples: CADirectory, name: str) -> None:
    verified = imagelist.verify((LISTS / name).read_bytes(), trust=samples, at=AT)
    found, warnings = verified.content, verified.warnings
    wanted = signed_text(name)
    assert found.identifier == wanted["dc:identifier"]
    assert (found.vo, found.version, found.refused) == ("ops", "20261101.1", ())
    assert found.endorser == Endorser(
        "/DC=EU/DC=EXAMPLE/C=NL/O=Hosts/O=Example Foundation/CN=lists.example.org",
        "/DC=ORG/DC=EXAMPLE-GRID/CN=Example Sample CA",
    )
    assert found.expires == datetime(2055, 12, 31, 23, 59, 59, tzinfo=UTC)
    for offer, entry in zip(found.offers, wanted["hv:images"], strict=True):
        assert offer.appliance.attributes == entry["hv:image"] | wanted["hv:endorser"]["hv:x509"]
    first = found.offers[0]
    assert (first.appliance.ram, first.appliance.cores) == (2**30, 1)
    assert first.appliance.operating_system == "Linux Debian 12"
    assert first.source.size == 734003200
    assert all("CRL is stale" in warning for warning in warnings)


def test_the_expired_and_the_tampered_list(samples: CADirectory) -> None:
    assert openssl_accepts((LISTS / "expired.list").read_bytes(), LISTS / "certificates")
    with pytest.raises(Untrusted, match="it expired on 2026-03-31"):
        imagelist.verify((LISTS / "expired.list").read_bytes(), trust=samples, at=AT)
    assert not openssl_accepts((LISTS / "tampered.list").read_bytes(), LISTS / "certificates")
    with pytest.raises(Tampered):
        imagelist.verify((LISTS / "tampered.list").read_bytes(), trust=samples, at=AT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority.create(tmp_path_factory.mktemp("authority") / "ca", key="ec")
    made.publish(made.directory / "certificates")
    return made


@pytest.fixture(scope="module")
def signer(authority: Authority) -> Credential:
    return authority.issue("lists.example.org", key="ec")


def document(**changes: Any) -> dict[str, Any]:
    images = [image(1, uri="https://images.example.org/one.qcow2", dc__title="Una imagen añil")]
    return image_list(images, dn=f"{HOST_DN}/CN=lists.example.org", ca=AUTHORITY_DN, **changes)


@pytest.mark.parametrize(
    "options", [[], ["-md", "sha512"], ["-text"], ["-nocerts"], ["-crlfeol"]], ids=str
)
def test_lists_signed_by_openssl(
    authority: Authority, signer: Credential, options: list[str]
) -> None:
    certificates = authority.directory / "certificates"
    trust = CADirectory(certificates)
    message = sign(json.dumps(document(), ensure_ascii=False).encode(), signer, *options)
    # openssl needs the signer as an option then, and this code looks for none.
    if options == ["-nocerts"]:
        with pytest.raises((Malformed, Untrusted)):
            imagelist.verify(message, trust=trust, at=datetime.now(UTC))
        return
    assert openssl_accepts(message, certificates)
    found = imagelist.verify(message, trust=trust, at=datetime.now(UTC)).content
    assert [offer.appliance.title for offer in found.offers] == ["Una imagen añil"]


FORMS = {
    "opaque": ["-nodetach"],
    "opaque, BER": ["-nodetach", "-stream"],
    "opaque, binary": ["-nodetach", "-binary"],
    "opaque, with a header inside": ["-nodetach", "-text"],
    "PEM": ["-nodetach", "-outform", "PEM"],
    "DER": ["-nodetach", "-outform", "DER"],
    "DER, binary": ["-nodetach", "-binary", "-outform", "DER"],
    "BER": ["-nodetach", "-stream", "-outform", "DER"],
}


@pytest.mark.parametrize("program", ["smime", "cms"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_carries_its_text(
    authority: Authority, signer: Credential, form: str, program: str
) -> None:
    """F-T6."""
    command = ["openssl", program, "-sign", "-signer", str(signer.certificate)]
    command += ["-inkey", str(signer.key), *FORMS[form]]
    text = json.dumps(document(), ensure_ascii=False, indent=1).encode()
    message = subprocess.run(command, input=text, capture_output=True, check=True).stdout
    trust = CADirectory(authority.directory / "certificates")
    found = imagelist.verify(message, trust=trust, at=datetime.now(UTC)).content
    assert [offer.appliance.title for offer in found.offers] == ["Una imagen añil"]
    if "-outform" not in FORMS[form]:  # as a server with LF or CRLF line ends hands it out
        turned = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        assert imagelist.verify(turned, trust=trust, at=datetime.now(UTC)).content == found


@pytest.mark.parametrize("options", [[], ["-nodetach"], ["-nodetach", "-outform", "PEM"]], ids=str)
def test_text_outside_of_the_signature(
    authority: Authority, signer: Credential, options: list[str]
) -> None:
    """F-T6: text before the signature is ignored if the form allows it, text after it refused."""
    trust = CADirectory(authority.directory / "certificates")
    message = sign(document(), signer, *options)
    forged = json.dumps(document(dc__identifier="forged")).encode()
    if options != ["-nodetach"]:
        before = forged + b"\n" + message
        if not options:
            before = message.replace(b"This is an", forged + b"\nThis is an")
        assert before != message
        found = imagelist.verify(before, trust=trust, at=datetime.now(UTC)).content
        assert found.identifier == document()["hv:imagelist"]["dc:identifier"]
    with pytest.raises(Malformed):
        imagelist.verify(message + b"\n" + forged + b"\n", trust=trust, at=datetime.now(UTC))


def test_every_altered_byte_of_the_list_is_noticed(
    authority: Authority, signer: Credential
) -> None:
    """Flip single bytes of the signed text: neither verifier accepts, or the text is the same."""
    trust = CADirectory(authority.directory / "certificates")
    message = sign(document(), signer)
    start, end = message.index(b"{"), message.rindex(b"}")
    for position in range(start, end, 37):
        altered = bytearray(message)
        altered[position] ^= 1
        with pytest.raises((Malformed, Untrusted)):
            imagelist.verify(bytes(altered), trust=trust, at=datetime.now(UTC))


def test_a_key_that_is_not_for_signatures(authority: Authority) -> None:
    """The key of the CA may only sign certificates and CRLs."""
    own = Credential(authority.certificate, authority.directory / "ca.key")
    message = sign(image_list([], dn=AUTHORITY_DN, ca=AUTHORITY_DN), own)
    certificates = authority.directory / "certificates"
    reported = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", own.certificate],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Certificate Sign, CRL Sign" in reported.stdout
    assert "Digital Signature" not in reported.stdout
    with pytest.raises(Untrusted, match="is not for signatures"):
        imagelist.verify(message, trust=CADirectory(certificates), at=datetime.now(UTC))


def test_the_e_mail_of_a_name_may_be_spelled_in_two_ways(authority: Authority) -> None:
    own = Authority.create(
        authority.directory / "mail",
        subject="/DC=EU/DC=EXAMPLE/CN=Mail/emailAddress=ca@example.org",
        key="ec",
    )
    own.publish(authority.directory / "mail-certificates", may_sign=())
    one = own.issue("lists.example.org", key="ec")
    trust = CADirectory(authority.directory / "mail-certificates")
    listed = image_list(
        [],
        dn=f"{HOST_DN}/CN=lists.example.org",
        ca="/DC=EU/DC=EXAMPLE/CN=Mail/Email=ca@example.org",
    )
    imagelist.verify(sign(listed, one), trust=trust, at=datetime.now(UTC))
