r"""LDIF content records (RFC 2849) and the names of entries in them (RFC 4514).

Values are text. Octets that are not UTF-8 stand in it as surrogate escapes, so that
``value.encode("utf-8", "surrogateescape")`` gives back what was read. Attribute names keep their
spelling; they are compared without case.

Reading goes on after a record that cannot be read: it comes out as `MalformedRecord`, its neighbours as
they are. References to files (``attribute:< file:///…``) are never followed. Change records
(``changetype:``) are not content and come out as `MalformedRecord` too.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap

from appliance.core.run.errors import ApplianceError

WIDTH = 76
"""Longest line written, in characters; longer ones are folded."""

_ATTRIBUTE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*(?:;[A-Za-z0-9-]+)*):(?P<kind>[:<]?) *(?P<value>.*)",
    re.DOTALL,
)
_SAFE = re.compile(r"(?![ :<])[\x20-\x7e]*(?<! )", re.DOTALL)

_RDN_SPECIAL = re.compile(r'["+,;<>\\]|^[ #]| $|[\x00-\x1f\x7f]')
_PLAIN_RDN = re.compile(r"[A-Za-z0-9.-]+=[!$-*\-./0-9:=?-\[\]-~][!#-*\-./0-9:=?-\[\]-~]*")
_TYPE = re.compile(r" *(?P<type>[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)*) *= *")
_TOKEN = re.compile(
    r"\\(?P<octets>[0-9A-Fa-f]{2}(?:\\[0-9A-Fa-f]{2})*)|\\(?P<char>[ \"#+,;<=>\\])|(?P<plain>[^\\\"+,;<>]+)"
)


class LdifError(ApplianceError):
    """A name or a record that is not what the RFCs allow."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: its name and its attributes' values, in order. ``line`` is where it was read, 0 when it was made."""

    dn: str
    attributes: Mapping[str, tuple[str, ...]]
    line: int = field(default=0, compare=False)

    def get(self, name: str) -> tuple[str, ...]:
        """Return an attribute's values, by its name in any case; none when the entry does not have it."""
        if (values := self.attributes.get(name)) is not None:
            return values
        folded = name.lower()
        return next(
            (values for key, values in self.attributes.items() if key.lower() == folded), ()
        )


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment line without its ``#`` and the blanks around it."""

    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """A record that cannot be read: the line where it goes wrong (from 1), and why."""

    line: int
    cause: str


# ----------------------------------------------------------------------------------------------------------
# writing


def write(records: Iterable[Entry | Comment]) -> Iterator[str]:
    """Yield the text of records, each followed by an empty line; lines end in LF, all characters are ASCII."""
    for record in records:
        yield (
            format_entry(record) if isinstance(record, Entry) else format_comment(record.text)
        ) + "\n"


def format_entry(entry: Entry) -> str:
    """Return an entry's lines, each with its line end."""
    lines = [_line("dn", entry.dn)]
    lines += [_line(name, value) for name, values in entry.attributes.items() for value in values]
    return "".join(lines)


def format_comment(text: str) -> str:
    """Return one comment line; blanks and control characters in a row become one blank, other characters escapes."""
    words = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())
    return f"# {words.encode('ascii', 'backslashreplace').decode()}\n"


def _line(name: str, value: str) -> str:
    if _SAFE.fullmatch(value):
        line = f"{name}: {value}"
    else:
        line = f"{name}:: {base64.b64encode(value.encode('utf-8', 'surrogateescape')).decode()}"
    if len(line) <= WIDTH:
        return line + "\n"
    rest = range(WIDTH, len(line), WIDTH - 1)
    return "\n ".join([line[:WIDTH], *(line[start : start + WIDTH - 1] for start in rest)]) + "\n"


# ----------------------------------------------------------------------------------------------------------
# reading


def read(lines: Iterable[bytes]) -> Iterator[Entry | Comment | MalformedRecord]:
    """Yield the records of LDIF as they come; ``lines`` is a binary file, or anything else that yields its lines.

    Lines end in LF or CR LF. Values that are not ASCII are taken as they are, though RFC 2849 wants
    them in base64.
    """
    block: list[tuple[int, str]] = []
    for number, line in _unfolded(lines):
        if line.startswith("#"):
            yield Comment(line[1:].strip(), number)
        elif line:
            block.append((number, line))
        elif block:
            yield from _record(block)
            block = []
    if block:
        yield from _record(block)


def parse(data: bytes) -> list[Entry]:
    """Return all entries of an LDIF text; raises `LdifError` for the first record that cannot be read."""
    entries = []
    for record in read(data.split(b"\n")):
        if isinstance(record, MalformedRecord):
            raise LdifError(f"line {record.line}", record.cause)
        if isinstance(record, Entry):
            entries.append(record)
    return entries


def _unfolded(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield logical lines with the number of their first physical one."""
    parts: list[bytes] = []
    start = 0
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        if line.startswith(b" ") and parts and parts != [b""]:
            parts.append(line[1:])
            continue
        if parts:
            yield start, b"".join(parts).decode("utf-8", "surrogateescape")
        parts, start = [line], number
    if parts:
        yield start, b"".join(parts).decode("utf-8", "surrogateescape")


def _record(block: list[tuple[int, str]]) -> Iterator[Entry | MalformedRecord]:
    start, dn, attributes = block[0][0], None, dict[str, list[str]]()
    spelling: dict[str, str] = {}
    for number, line in block:
        try:
            name, value = _attribute(line)
        except ValueError as error:
            yield MalformedRecord(number, str(error))
            return
        folded = name.lower()
        if folded == "version" and dn is None and len(spelling) == 0:
            continue
        if (folded == "dn") != (dn is None):
            yield MalformedRecord(
                number, "a second dn: in one record" if dn is not None else "the record has no dn:"
            )
            return
        if folded == "changetype":
            yield MalformedRecord(number, "a change record where entries are expected")
            return
        if dn is None:
            dn, start = value, number
        else:
            attributes.setdefault(spelling.setdefault(folded, name), []).append(value)
    if dn is not None:
        yield Entry(dn, {name: tuple(values) for name, values in attributes.items()}, start)


def _attribute(line: str) -> tuple[str, str]:
    found = _ATTRIBUTE.fullmatch(line)
    if found is None:
        raise ValueError(f"neither 'attribute: value' nor a comment: {line[:40]!r}")
    if found["kind"] == "<":
        raise ValueError(f"{found['name']}: a reference to a file is not followed")
    if not found["kind"]:
        return found["name"], found["value"]
    try:
        octets = base64.b64decode(found["value"].strip(), validate=True)
    except binascii.Error:
        raise ValueError(f"{found['name']}: the value is not base64") from None
    return found["name"], octets.decode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------------------
# names

Rdn = tuple[tuple[str, str], ...]
"""A relative name: attribute type and value, more than one pair when they are joined by ``+``."""


def escape_rdn(value: str) -> str:
    r"""Return an attribute value as it stands in a name (RFC 4514, section 2.4): ``a,b`` becomes ``a\,b``."""
    return _RDN_SPECIAL.sub(lambda found: _escaped(found[0]), value)


def _escaped(character: str) -> str:
    return f"\\{ord(character):02X}" if character < " " or character == "\x7f" else f"\\{character}"


def child(parent_dn: str, attribute: str, value: str) -> str:
    """Return the name of the entry ``attribute=value`` below another one; ``parent_dn`` may be empty."""
    rdn = f"{attribute}={escape_rdn(value)}"
    return f"{rdn},{parent_dn}" if parent_dn else rdn


def parse_dn(dn: str) -> tuple[Rdn, ...]:
    """Return the relative names of a name, the entry's own first, values without escapes; none for the empty name.

    Blanks around ``,``, ``+`` and ``=`` are left out, as RFC 2253 allowed them. Raises `LdifError`.
    """
    rdns: list[Rdn] = []
    pairs: list[tuple[str, str]] = []
    position = 0
    while position < len(dn):
        attribute = _TYPE.match(dn, position)
        if attribute is None:
            raise LdifError(
                dn, f"is not a distinguished name: no 'type=' at character {position + 1}"
            )
        value, position = _value(dn, attribute.end())
        pairs.append((attribute["type"], value))
        separator = dn[position : position + 1]
        position += 1
        if separator == "+":
            continue
        rdns.append(tuple(pairs))
        pairs = []
    if dn and (pairs or (dn.endswith(",") and not _is_escaped(dn, len(dn) - 1))):
        raise LdifError(dn, "is not a distinguished name: ends in a separator")
    return tuple(rdns)


def _value(dn: str, position: int) -> tuple[str, int]:
    """Return the value that begins at ``position`` and the position of the separator after it."""
    if dn.startswith("#", position):
        raise LdifError(
            dn, f"has a value in BER form at character {position + 1}, which is not read here"
        )
    parts: list[str] = []
    length = 0  # up to here trailing blanks are meant, because they are escaped
    while position < len(dn) and dn[position] not in ",+":
        token = _TOKEN.match(dn, position)
        if token is None:
            raise LdifError(
                dn,
                f"is not a distinguished name: unescaped {dn[position]!r} at character {position + 1}",
            )
        position = token.end()
        if token["plain"] is not None:
            parts.append(token["plain"])
            length = max(length, len("".join(parts).rstrip(" ")))
            continue
        octets = token["octets"]
        parts.append(
            bytes.fromhex(octets.replace("\\", "")).decode("utf-8", "surrogateescape")
            if octets
            else token["char"]
        )
        length = len("".join(parts))
    return "".join(parts)[:length], position


def normalise_dn(dn: str) -> str:
    """Return one spelling for all spellings of a name that a directory takes for the same entry.

    Types are folded in case; values too, except those of GLUE 2, which its schema compares exactly.
    Blanks in a row count as one, ``+`` joins in sorted order. Raises `LdifError`.
    """
    parts = dn.split(",")
    if all(map(_PLAIN_RDN.fullmatch, parts)):
        return ",".join(starmap(_normal_pair, (part.split("=", 1) for part in parts)))
    return ",".join("+".join(sorted(starmap(_normal_pair, rdn))) for rdn in parse_dn(dn))


def _normal_pair(attribute: str, value: str) -> str:
    kind = attribute.lower()
    if not (value.isascii() and " " not in value):
        value = " ".join(part for part in unicodedata.normalize("NFKC", value).split(" ") if part)
    return f"{kind}={escape_rdn(value if kind.startswith('glue2') else value.casefold())}"


def parent(dn: str) -> str:
    """Return the name of the entry above, in the same spelling; empty for a name of one part."""
    position = 0
    while (position := dn.find(",", position)) >= 0:
        if not _is_escaped(dn, position):
            return dn[position + 1 :].lstrip(" ")
        position += 1
    return ""


def _is_escaped(dn: str, position: int) -> bool:
    return bool((position - len(dn[:position].rstrip("\\"))) % 2)
