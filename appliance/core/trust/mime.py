"""The part of MIME that S/MIME needs (RFC 2045, 2046, 8551), parsed strictly.

Messages arrive with LF or CRLF at line ends. The hash is over CRLF (`canonical`); programs work
with LF (`with_newlines`). Both conversions are one-to-one, so a reader gets the hashed text only.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from appliance.core.trust.errors import Malformed

NO_BLANK_LINE = "No blank line between message header and body"
"""SSM's message, which APEL's operators know."""

_MAX_HEADER = 16 * 1024
_MAX_SIGNATURE = 64 * 1024
_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*([^\x00-\x08\x0a-\x1f]*)")
_FOLD = re.compile(r"\n[ \t]+")
_TYPE = re.compile(r"\s*([!#-'*+.\w^`{|}~-]+/[!#-'*+.\w^`{|}~-]+)", re.ASCII)
_PEM = re.compile(rb"^-----BEGIN (PKCS7|CMS)-----[ \t]*\r?$", re.MULTILINE)
_PARAMETER = re.compile(
    r"""\s*;\s*([!#-'*+.\w^`{|}~-]+)\s*=\s*(?:"([^"\\]*)"|([^\s";,]+))""",
    re.ASCII,
)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]", re.ASCII)
_SIGNATURE_TYPES = frozenset({"application/pkcs7-signature", "application/x-pkcs7-signature"})
OPAQUE_TYPES = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime"})
"""Types of bodies that are CMS: signed with the text inside, or encrypted."""


@dataclass(frozen=True, slots=True)
class SignedParts:
    """The parts of a detached S/MIME message: the text with LF line ends, a CMS structure."""

    content: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class ContentType:
    """A parsed ``Content-Type``; type and names of parameters in lower case."""

    type: str
    parameters: Mapping[str, str]


def with_newlines(text: bytes) -> bytes:
    """Turn CRLF into LF."""
    # Half a megabyte without CR: 0.01 ms for this search, 0.43 ms for the replacement.
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def canonical(text: bytes) -> bytes:
    """Turn LF into CRLF; ``text`` is the result of `with_newlines`."""
    return text.replace(b"\n", b"\r\n")


def parse_content_type(value: str) -> ContentType:
    """Parse ``type/subtype; name=value; …``.

    Raises:
        Malformed: the text has another form, or a parameter twice.

    """
    unreadable = Malformed("message", "a Content-Type header cannot be read")
    found = _TYPE.match(value)
    if found is None:
        raise unreadable
    parameters: dict[str, str] = {}
    position, end = found.end(), len(value.rstrip())
    while position < end:
        parameter = _PARAMETER.match(value, position)
        if parameter is None or parameter[1].lower() in parameters:
            raise unreadable
        quoted, plain = parameter[2], parameter[3]
        parameters[parameter[1].lower()] = plain if quoted is None else quoted
        position = parameter.end()
    return ContentType(found[1].lower(), MappingProxyType(parameters))


def split_header(text: bytes) -> tuple[Mapping[str, str], bytes]:
    """Split ``text`` (LF line ends) at its first empty line into header fields and body.

    Names are in lower case, and folded lines are joined. The first field of a name counts, except
    that a second ``Content-*`` field of a name is refused.

    Raises:
        Malformed: there is no empty line, or a line that is not a header field, or the block is
            too long.

    """
    head, end, _ = text[:_MAX_HEADER].partition(b"\n\n")
    if not end:
        raise Malformed("message", NO_BLANK_LINE)
    fields: dict[str, str] = {}
    # Latin-1 has a character for each byte, so no header can make the decoding fail.
    for line in _FOLD.sub(" ", head.decode("latin-1")).split("\n"):
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Malformed("message", NO_BLANK_LINE)
        name = found[1].lower()
        if name in fields and name.startswith("content-"):
            raise Malformed("message", f"two {found[1][:40]} headers")
        fields.setdefault(name, found[2].rstrip())
    return MappingProxyType(fields), text[len(head + end) :]


def split_signed(message: bytes) -> SignedParts:
    """Return the parts of a message whose top header says ``multipart/signed``.

    Text before the first part is for readers without MIME (RFC 2046 section 5.1.1) and ignored.
    Text after the last part is refused, because it would look like a part of the signed text.

    Raises:
        Malformed: it has another type, not exactly two parts, text after them, or a second part
            that is not a signature.

    """
    headers, body = split_header(with_newlines(message))
    kind = parse_content_type(headers.get("content-type", ""))
    if kind.type != "multipart/signed":
        raise Malformed(
            "message",
            f"its type is {kind.type[:40]}, not multipart/signed",
            "sign it with a detached signature",
        )
    if kind.parameters.get("protocol", "").lower() not in _SIGNATURE_TYPES:
        raise Malformed("message", "it is signed by a protocol other than S/MIME")
    boundary = kind.parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise Malformed("message", "its boundary is missing or invalid")
    # The line end before the first delimiter may be the one of the empty line.
    pieces = (b"\n" + body).split(b"\n--" + boundary.encode("ascii"), 4)
    if len(pieces) != 4:  # noqa: PLR2004 - preamble, text, signature, epilogue
        raise Malformed("message", "it does not have exactly two parts")
    _preamble, content, signature, epilogue = pieces
    if not epilogue.startswith(b"--") or epilogue[2:].strip():
        raise Malformed("message", "unsigned text after the last part")
    return SignedParts(_after_delimiter(content), _read_signature(_after_delimiter(signature)))


def is_opaque(message: bytes) -> bool:
    """Check whether the top header of ``message`` names a body that is CMS.

    Raises:
        Malformed: it has no header that can be read.

    """
    headers, _ = split_header(with_newlines(message))
    return parse_content_type(headers.get("content-type", "")).type in OPAQUE_TYPES


def read_opaque(message: bytes) -> bytes:
    """Return the CMS structure that is the body of a message of one of `OPAQUE_TYPES`.

    Raises:
        Malformed: its header names other data than signed ones, or its body is not base64.

    """
    headers, body = split_header(with_newlines(message))
    kind = parse_content_type(headers.get("content-type", "")).parameters.get("smime-type", "")
    if kind.lower() not in {"", "signed-data"}:
        raise Malformed("message", f"its smime-type is {kind[:40]}, not signed-data")
    return _decode_signature(headers, body)


def is_pem(message: bytes) -> bool:
    """Check whether a CMS structure in PEM begins in ``message``."""
    return _PEM.search(message) is not None


def read_pem(message: bytes) -> bytes:
    """Return the CMS structure of a message in PEM.

    As in `split_signed`, text before it is ignored and text after it is refused.

    Raises:
        Malformed: its beginning or end is missing, text follows it, or its base64 is invalid.

    """
    _preamble, kind, body = [*_PEM.split(message, 1), b"", b""][:3]
    body, end, rest = body.partition(b"-----END %b-----" % kind)
    if not end:
        raise Malformed("message", "its PEM has no end")
    if rest.strip():
        raise Malformed("message", "unsigned text after its end")
    return _decode_base64(with_newlines(body))


def decode_transfer(body: bytes, *, encoding: str) -> bytes:
    """Decode a ``Content-Transfer-Encoding``; ``body`` has LF line ends.

    Raises:
        Malformed: the encoding is unknown, or base64 is invalid.

    """
    match encoding.lower():
        case "" | "7bit" | "8bit" | "binary":
            return body
        case "quoted-printable":  # mail libraries choose it for texts beyond ASCII
            return binascii.a2b_qp(body)
        case "base64":
            return _decode_base64(body)
        case other:
            raise Malformed("message", f"unknown Content-Transfer-Encoding {other[:40]}")


def _after_delimiter(piece: bytes) -> bytes:
    rest, newline, part = piece.partition(b"\n")
    if not newline or rest.strip(b" \t"):
        raise Malformed("message", "a line begins like its boundary but continues otherwise")
    return part


def _read_signature(part: bytes) -> bytes:
    if len(part) > _MAX_SIGNATURE:
        raise Malformed("message", f"its signature part is larger than {_MAX_SIGNATURE} bytes")
    headers, body = split_header(part)
    if parse_content_type(headers.get("content-type", "")).type not in _SIGNATURE_TYPES:
        raise Malformed("message", "its second part is not a signature")
    return _decode_signature(headers, body)


def _decode_signature(headers: Mapping[str, str], body: bytes) -> bytes:
    if headers.get("content-transfer-encoding", "").lower() != "base64":
        raise Malformed("message", "its signature is not base64")
    return _decode_base64(body)


def _decode_base64(body: bytes) -> bytes:
    try:
        # Without strict_mode, characters outside the alphabet are skipped: hidden content.
        return binascii.a2b_base64(body.translate(None, b" \t\n"), strict_mode=True)
    except ValueError:
        raise Malformed("message", "its base64 is invalid") from None
