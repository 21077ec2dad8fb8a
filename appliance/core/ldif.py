r"""LDIF content records (RFC 2849) and the names of entries in them (RFC 4514).

Values are texts. Bytes that are not UTF-8 become surrogate escapes, so that
``value.encode("utf-8", "surrogateescape")`` returns the bytes that were read. Names of attributes
keep their spelling and are compared without case.

A record that cannot be read becomes a `MalformedRecord`, and reading continues with the next one.
References to files (``attribute:< file:///…``) are never followed. Change records
(``changetype:``) are not content and become a `MalformedRecord` too.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import starmap
from typing import BinaryIO, NamedTuple

from appliance.core.run.errors import ApplianceError

WIDTH = 76
"""Characters of a line that is written; longer lines are folded."""

_ATTRIBUTE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*(?:;[A-Za-z0-9-]+)*):(?P<kind>[:<]?) *(?P<value>.*)",
    re.DOTALL,
)
_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")
_EMPTY_END = re.compile(rb"\n\r?\n\Z")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
# Attributes that may be in a simple line, and their names in lower case. They come from other
# programs, so there is an end to what is remembered.
_simple_names: dict[str, str] = {}
_MOST_NAMES = 1000
# Bytes that are read at a time, and those of an empty line that two reads may divide.
_CHUNK = 1 << 20
_OVERLAP = 2
_SAFE = re.compile(r"(?![ :<])[\x20-\x7e]*(?<! )", re.DOTALL)

_RDN_SPECIAL = re.compile(r'["+,;<>\\]|^[ #]| $|[\x00-\x1f\x7f]')
_PLAIN_RDN = re.compile(r"[A-Za-z0-9.-]+=[!$-*\-./0-9:=?-\[\]-~][!#-*\-./0-9:=?-\[\]-~]*")
_TYPE = re.compile(r" *(?P<type>[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)*) *= *")
_TOKEN = re.compile(
    r"\\(?P<hex>[0-9A-Fa-f]{2}(?:\\[0-9A-Fa-f]{2})*)"
    r"|\\(?P<char>[ \"#+,;<=>\\])"
    r"|(?P<plain>[^\\\"+,;<>]+)"
)


class LdifError(ApplianceError):
    """A name or a record that the RFCs do not allow."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry: its name and the values of its attributes, in their order.

    ``line`` is the line where it was read, 0 if it was made.
    """

    dn: str
    attributes: Mapping[str, tuple[str, ...]]
    line: int = field(default=0, compare=False)

    def get(self, name: str) -> tuple[str, ...]:
        """Return the values of an attribute, by its name in any case; none if it is absent."""
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
    """A record that cannot be read: the line of the error (from 1), and the cause."""

    line: int
    cause: str


# ------------------------------------------------------------------------------------------------
# writing


def write(records: Iterable[Entry | Comment]) -> Iterator[str]:
    """Yield the text of records, each followed by an empty line, in ASCII with LF at line ends."""
    for record in records:
        yield (
            format_entry(record) if isinstance(record, Entry) else format_comment(record.text)
        ) + "\n"


def format_entry(entry: Entry, *, width: int = WIDTH) -> str:
    """Return an entry's lines, each with its line end; lines longer than ``width`` are folded."""
    lines = [_line("dn", entry.dn, width)]
    for name, values in entry.attributes.items():
        lines += [_line(name, value, width) for value in values]
    return "".join(lines)


def format_comment(text: str) -> str:
    """Return one comment line in ASCII; blanks and controls in a row become one blank."""
    words = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())
    return f"# {words.encode('ascii', 'backslashreplace').decode()}\n"


def _line(name: str, value: str, width: int) -> str:
    if _SAFE.fullmatch(value):
        line = f"{name}: {value}"
    else:
        line = f"{name}:: {base64.b64encode(value.encode('utf-8', 'surrogateescape')).decode()}"
    if len(line) <= width:
        return line + "\n"
    rest = range(width, len(line), width - 1)  # each further line begins with a blank
    return "\n ".join([line[:width], *(line[start : start + width - 1] for start in rest)]) + "\n"


# ------------------------------------------------------------------------------------------------
# reading


def read(lines: Iterable[bytes], *, first: int = 1) -> Iterator[Entry | Comment | MalformedRecord]:
    """Yield the records of LDIF as they come; ``lines`` yields lines, such as a binary file.

    ``first`` is the number of the first line. Lines end in LF or CR LF. Values that are not ASCII
    are accepted as they are, although RFC 2849 requires base64 for them: information providers
    write them so.
    """
    block: list[tuple[int, str]] = []
    for number, line in _unfolded(lines, first):
        if line.startswith("#"):
            yield Comment(line[1:].strip(), number)
        elif line:
            block.append((number, line))
        elif block:
            yield from _record(block)
            block = []
    if block:
        yield from _record(block)


class Block(NamedTuple):
    """The bytes of a record, and where they begin: the offset from 0, the line from 1."""

    offset: int
    line: int
    data: bytes

    def read(self) -> Iterator[Entry | Comment | MalformedRecord]:
        """Yield what `read` yields for these lines: at most one record, and comments."""
        if (entry := self._simple_entry()) is not None:
            return iter((entry,))
        return read(self.data.split(b"\n"), first=self.line)

    def _simple_entry(self) -> Entry | None:
        """Return the entry of a block that needs no careful reader; None if it may need one.

        Nearly all entries need none, which takes a quarter of the time. Each line is
        ``attribute: value``, with an attribute of which `read` has read a value.
        """
        data = self.data
        if not data.startswith(b"dn: ") or b"\n " in data or b"\r" in data:
            return None
        dn, *lines = data.decode("utf-8", "surrogateescape").rstrip("\n").split("\n")
        attributes: dict[str, tuple[str, ...]] = {}
        for line in lines:
            name, separator, value = line.partition(": ")
            if not separator or name not in _simple_names:
                return None
            value = value.lstrip(" ")
            attributes[name] = (*attributes[name], value) if name in attributes else (value,)
        if len({_simple_names[name] for name in attributes}) < len(attributes):
            return None  # two spellings of one name
        return Entry(dn[4:].lstrip(" "), attributes, self.line)


def blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield what the empty lines of a file divide, without reading what it means.

    Reading all blocks gives the same records as reading the file. Their bytes can be compared, so
    that nobody has to read a record twice that has not changed.
    """
    offset, line = 0, 1
    for data in _divided(file):
        skipped = _EMPTY_LINES.match(data)[0]  # type: ignore[index]  # it matches nothing as well
        text = _EMPTY_END.sub(b"\n", data[len(skipped) :])
        if text:
            yield Block(offset + len(skipped), line + skipped.count(b"\n"), text)
        offset += len(data)
        line += data.count(b"\n")


def _divided(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in parts, each of which ends with an empty line, but for the last."""
    rest: list[bytes] = []
    while chunk := file.read(_CHUNK):
        # the end of the part before, where an empty line may begin
        tail = rest.pop() if rest else b""
        if len(tail) > _OVERLAP:
            rest.append(tail[:-_OVERLAP])
            tail = tail[-_OVERLAP:]
        data = tail + chunk
        start = 0
        for found in _EMPTY_LINE.finditer(data):
            yield b"".join([*rest, data[start : found.end()]])
            rest, start = [], found.end()
        rest.append(data[start:])
    if any(rest):
        yield b"".join(rest)


def parse(data: bytes) -> list[Entry]:
    """Return all entries of an LDIF text.

    Raises:
        LdifError: a record cannot be read.

    """
    entries = []
    for record in read(data.split(b"\n")):
        if isinstance(record, MalformedRecord):
            raise LdifError(f"line {record.line}", record.cause)
        if isinstance(record, Entry):
            entries.append(record)
    return entries


def _unfolded(lines: Iterable[bytes], first: int) -> Iterator[tuple[int, str]]:
    """Yield unfolded lines, each with the number of its first physical line."""
    parts: list[bytes] = []
    start = 0
    for number, raw in enumerate(lines, start=first):
        line = raw.removesuffix(b"\n").removesuffix(b"\r")
        # A folded line continues the one before, but not an empty one, which ends a record.
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
        # "version: 1" may precede the first record without an empty line (RFC 2849).
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
            if len(_simple_names) < _MOST_NAMES:
                _simple_names[name] = folded
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
        decoded = base64.b64decode(found["value"].strip(), validate=True)
    except binascii.Error:
        raise ValueError(f"{found['name']}: the value is not base64") from None
    return found["name"], decoded.decode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------
# names

Rdn = tuple[tuple[str, str], ...]
"""A relative name: pairs of attribute type and value, several if ``+`` joins them."""


def escape_rdn(value: str) -> str:
    r"""Return an attribute value as names have it, ``a\,b`` for ``a,b`` (RFC 4514, 2.4)."""
    return _RDN_SPECIAL.sub(lambda found: _escaped(found[0]), value)


def _escaped(character: str) -> str:
    return f"\\{ord(character):02X}" if character < " " or character == "\x7f" else f"\\{character}"


def child(parent_dn: str, attribute: str, value: str) -> str:
    """Return the name of the entry ``attribute=value`` below ``parent_dn``, which may be empty."""
    rdn = f"{attribute}={escape_rdn(value)}"
    return f"{rdn},{parent_dn}" if parent_dn else rdn


def parse_dn(dn: str) -> tuple[Rdn, ...]:
    """Return the relative names of a name, the entry's own first, with unescaped values.

    The empty name has none. Blanks around ``,``, ``+`` and ``=`` are dropped; RFC 2253 allowed
    them.

    Raises:
        LdifError: the text is not a name.

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
        raise LdifError(dn, "is not a distinguished name: it ends in a comma or a plus sign")
    return tuple(rdns)


def _value(dn: str, position: int) -> tuple[str, int]:
    """Return the value that begins at ``position`` and the position of the separator after it."""
    if dn.startswith("#", position):
        raise LdifError(
            dn, f"has a value in BER form at character {position + 1}, which is not read here"
        )
    parts: list[str] = []
    length = 0  # of the value with its escaped trailing blanks, which belong to it
    while position < len(dn) and dn[position] not in ",+":
        token = _TOKEN.match(dn, position)
        if token is None:
            place = f"unescaped {dn[position]!r} at character {position + 1}"
            raise LdifError(dn, f"is not a distinguished name: {place}")
        position = token.end()
        if token["plain"] is not None:
            parts.append(token["plain"])
            length = max(length, len("".join(parts).rstrip(" ")))
            continue
        escaped = bytes.fromhex((token["hex"] or "").replace("\\", ""))
        parts.append(token["char"] or escaped.decode("utf-8", "surrogateescape"))
        length = len("".join(parts))
    return "".join(parts)[:length], position


def normalise_dn(dn: str) -> str:
    """Return one spelling for all spellings of a name that mean the same entry in a directory.

    Types are folded in case; values too, except those of GLUE 2, which its schema compares exactly.
    Blanks in a row become one, and ``+`` joins pairs in sorted order.

    Raises:
        LdifError: the text is not a name.

    """
    # Nearly all names have no escapes, and need no parser.
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
    """Return the name of the entry above, as it is spelled; empty for a name of one part."""
    position = 0
    while (position := dn.find(",", position)) >= 0:
        if not _is_escaped(dn, position):
            return dn[position + 1 :].lstrip(" ")
        position += 1
    return ""


def _is_escaped(dn: str, position: int) -> bool:
    return bool((position - len(dn[:position].rstrip("\\"))) % 2)
