r"""Distinguished names in the slash form that grid software writes and compares.

APEL's lists of accepted DNs, SSM and signing policies compare such strings byte by byte, so the
form is SSM's, ``/DC=EU/DC=EGI/C=ES/O=Hosts/CN=host``: attributes in the order of the certificate
under OpenSSL's short names, a slash before each attribute also inside a multi-valued RDN, ``/`` in
values not escaped (``CN=host/site.example.org`` is an old name of a service), and characters
beyond ASCII as they are. OpenSSL's ``-nameopt compat`` differs in the last three only. As there,
control characters are written ``\x0A``, so a name cannot break a line of a log or a list.
"""

from __future__ import annotations

import re
import string
from typing import NewType

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

DN = NewType("DN", str)
"""A distinguished name in slash form."""

_SHORT_NAMES: dict[ObjectIdentifier, str] = {
    NameOID.COMMON_NAME: "CN",
    NameOID.COUNTRY_NAME: "C",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.STREET_ADDRESS: "street",
    NameOID.ORGANIZATION_IDENTIFIER: "organizationIdentifier",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.TITLE: "title",
    NameOID.INITIALS: "initials",
    NameOID.GENERATION_QUALIFIER: "generationQualifier",
    NameOID.DN_QUALIFIER: "dnQualifier",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.USER_ID: "UID",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.BUSINESS_CATEGORY: "businessCategory",
    NameOID.POSTAL_ADDRESS: "postalAddress",
    NameOID.POSTAL_CODE: "postalCode",
    NameOID.UNSTRUCTURED_NAME: "unstructuredName",
    NameOID.JURISDICTION_COUNTRY_NAME: "jurisdictionC",
    NameOID.JURISDICTION_LOCALITY_NAME: "jurisdictionL",
    NameOID.JURISDICTION_STATE_OR_PROVINCE_NAME: "jurisdictionST",
    ObjectIdentifier("2.5.4.13"): "description",
    ObjectIdentifier("2.5.4.41"): "name",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BLANKS = re.compile(r"[\t-\r ]+")
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

CanonicalName = tuple[frozenset[tuple[str, str | bytes]], ...]
"""The form of a name in which certificates are compared (RFC 5280 section 7.1)."""


def slash_form(name: x509.Name) -> DN:
    """Return ``name`` in slash form; types without a short name are dotted numbers."""
    parts = (part for rdn in name.rdns for part in rdn)
    return DN("".join(f"/{_type(part.oid)}={_value(part.value)}" for part in parts))


def canonical(name: x509.Name) -> CanonicalName:
    """Return ``name`` in the form by which OpenSSL compares names.

    The encoding of a text, the case of ASCII letters and the number of blanks do not count.
    """
    # The order of attributes within one RDN has no meaning: X.501 defines it as a set.
    rdns = ([(part.oid.dotted_string, _folded(part.value)) for part in rdn] for rdn in name.rdns)
    return tuple(map(frozenset, rdns))


def _folded(value: str | bytes) -> str | bytes:
    if isinstance(value, bytes):
        return value
    # ASCII letters only, as OpenSSL does: str.lower() would also change others.
    return _BLANKS.sub(" ", value.strip("\t\n\v\f\r ")).translate(_LOWER)


def _type(oid: ObjectIdentifier) -> str:
    return _SHORT_NAMES.get(oid, oid.dotted_string)


def _value(value: str | bytes) -> str:
    text = value if isinstance(value, str) else value.decode("latin-1")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02X}", text)
