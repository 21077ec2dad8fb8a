import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier
from OpenSSL import crypto

from appliance.core.trust.distinguished_name import canonical, slash_form
from tests.simulators.authority import Authority, name

pytestmark = pytest.mark.programs("openssl")


def openssl_form(subject: x509.Name) -> str:
    """How the openssl program writes the subject of a certificate in its compatible form."""
    pem = Authority.root().issue(subject).certificate.public_bytes(Encoding.PEM)
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "compat"]
    line = subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode()
    return line.removeprefix("subject=").removesuffix("\n")


def ssm_form(subject: x509.Name) -> str:
    """How SSM writes it: the components that pyOpenSSL finds, each behind a slash."""
    certificate = crypto.X509.from_cryptography(Authority.root().issue(subject).certificate)
    with pytest.warns(DeprecationWarning, match="get_subject"):
        components = certificate.get_subject().get_components()
    return "".join(f"/{kind.decode()}={value.decode()}" for kind, value in components)


def attribute(oid: ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(oid, value, _validate=False)


# numbers of Russian agencies, a bit string
NOT_NAMES = {"INN", "OGRN", "SNILS", "X500_UNIQUE_IDENTIFIER"}
NAMED = [oid for label, oid in vars(NameOID).items() if label.isupper() and label not in NOT_NAMES]


@pytest.mark.parametrize(
    "oid", [*NAMED, ObjectIdentifier("2.5.4.13"), ObjectIdentifier("1.3.6.1.4.1.99999.1")]
)
def test_every_attribute_type_is_named_as_openssl_names_it(oid: ObjectIdentifier) -> None:
    subject = x509.Name([attribute(NameOID.DOMAIN_COMPONENT, "EU"), attribute(oid, "NL")])
    assert slash_form(subject) == openssl_form(subject)


def test_a_host_name_of_egi() -> None:
    """R08: the form in which GOCDB knows a host."""
    text = "/DC=EU/DC=EGI/C=ES/O=Hosts/O=TestOrg/CN=host.example.org"
    assert slash_form(name(text)) == text == openssl_form(name(text)) == ssm_form(name(text))


def test_attributes_of_one_rdn_get_a_slash_each() -> None:
    rdn = x509.RelativeDistinguishedName(
        [attribute(NameOID.COMMON_NAME, "a"), attribute(NameOID.USER_ID, "b")]
    )
    subject = x509.Name(
        [x509.RelativeDistinguishedName([attribute(NameOID.COUNTRY_NAME, "NL")]), rdn]
    )
    assert slash_form(subject) == ssm_form(subject) == "/C=NL/CN=a/UID=b"


def test_a_slash_in_a_value_stays() -> None:
    subject = x509.Name([attribute(NameOID.COMMON_NAME, "host/site.example.org")])
    assert slash_form(subject) == ssm_form(subject) == "/CN=host/site.example.org"


@pytest.mark.parametrize("value", ["two\nlines", "\x1b[31mred", "tab\there", "\x7f", "quote'\"\\"])
def test_control_characters_are_escaped_as_openssl_does(value: str) -> None:
    subject = x509.Name([attribute(NameOID.COMMON_NAME, value)])
    assert slash_form(subject) == openssl_form(subject)


def test_letters_beyond_ascii_are_written_as_ssm_writes_them() -> None:
    subject = x509.Name([attribute(NameOID.ORGANIZATION_NAME, "Université")])
    assert slash_form(subject) == ssm_form(subject) == "/O=Université"


def bits(value: bytes) -> x509.Name:
    kind = NameOID.X500_UNIQUE_IDENTIFIER
    return x509.Name([x509.NameAttribute(kind, value, _type=_ASN1Type.BitString)])


def test_a_bit_string_in_a_name() -> None:
    """The one type of attribute that is no text: openssl has a name for it, and leaves out its
    first byte, the number of unused bits.
    """
    [ours, theirs] = [one(bits(b"\x00ab")) for one in (slash_form, openssl_form)]
    assert ours == theirs.replace("x500UniqueIdentifier=", "2.5.4.45=\\x00")


def test_names_that_differ_in_a_bit_string_only() -> None:
    assert canonical(bits(b"\x00a")) == canonical(bits(b"\x00a"))
    assert canonical(bits(b"\x00a")) != canonical(bits(b"\x00b"))
