"""Messages split between their records into smaller messages of the same form.

    APEL-…-message: vX.Y            a header line, records separated by lines ``%%``
    {"UsageRecords": […], …}        JSON
    <…UsageRecords>…</…>            XML: StAR, CAR

The bytes of a record never change; the text around the records is repeated in every part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.parsers import expat

# Records of APEL's text formats: cloud, individual, summary and others.
_HEADER = re.compile(rb"APEL(?:-[a-z]+)+-message: v[0-9]+\.[0-9]+[ \t]*\n")
_SEPARATOR = re.compile(rb"^%%[ \t]*(?:\n|\Z)", re.MULTILINE)
_RECORDS = "UsageRecords"
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a message, and the bytes before, between and after them."""

    head: bytes
    records: tuple[bytes, ...]
    separator: bytes
    tail: bytes

    def message(self, records: Sequence[bytes]) -> bytes:
        """Return a message of some of the records."""
        return self.head + self.separator.join(records) + self.tail

    def grouped(self, *, budget: int, weight: Callable[[bytes], int]) -> Iterator[bytes]:
        """Yield messages of consecutive records, as many as ``budget`` bytes allow in each.

        ``weight`` returns the bytes that a piece counts. A record above the budget gets a message
        of its own.
        """
        frame = weight(self.head) + weight(self.tail)
        group: list[bytes] = []
        total = frame
        for record in self.records:
            added = weight(record) + weight(self.separator)
            if group and total + added > budget:
                yield self.message(group)
                group, total = [], frame
            group.append(record)
            total += added
        if group:
            yield self.message(group)


def take_apart(text: bytes) -> Records | None:
    """Return the records of a message (LF line ends); None when its form is unknown."""
    if _HEADER.match(text):
        return _of_text(text)
    begin = text.lstrip()[:1]
    if begin == b"{":
        return _of_json(text)
    return _of_xml(text) if begin == b"<" else None


def halves(text: bytes) -> list[bytes]:
    """Return two or more parts of about half the size of a message (LF line ends).

    The list is empty when the message cannot be cut.
    """
    records = take_apart(text)
    if records is None:
        return []
    size = sum(map(len, records.records)) // 2
    parts = list(records.grouped(budget=size + len(records.head) + len(records.tail), weight=len))
    return parts if len(parts) > 1 else []


def _of_text(text: bytes) -> Records:
    head, _, rest = text.partition(b"\n")
    records = _SEPARATOR.split(rest)
    tail = b""
    if len(records) > 1 and not records[-1].strip():
        tail = b"%%\n" + records.pop()
    return Records(head + b"\n", tuple(records), b"%%\n", tail)


def _of_json(text: bytes) -> Records | None:
    try:
        decoded = text.decode("utf-8")
        spans = _find_array(decoded)
    except (ValueError, IndexError, RecursionError):
        return None
    if not spans:
        return None
    records = tuple(decoded[begin:end].encode() for begin, end in spans)
    return Records(decoded[: spans[0][0]].encode(), records, b",", decoded[spans[-1][1] :].encode())


def _find_array(text: str) -> list[tuple[int, int]]:
    """Return begin and end of each record in the outermost object; empty without records.

    Raises:
        ValueError: it is no JSON object.

    """
    decoder = json.JSONDecoder()
    spans: list[tuple[int, int]] = []
    position = _expect(text, 0, "{")
    while True:
        name, position = decoder.raw_decode(text, _skip(text, position))
        position = _skip(text, _expect(text, position, ":"))
        # Only the first such array: JSON allows a name twice, and the repository reads one.
        if name == _RECORDS and text[position] == "[" and not spans:
            spans, position = _find_elements(text, position + 1, decoder)
        else:
            _, position = decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            break
        position = _expect(text, position, ",")
    if text[position + 1 :].strip():
        raise ValueError("text after the object")
    return spans


def _find_elements(
    text: str, position: int, decoder: json.JSONDecoder
) -> tuple[list[tuple[int, int]], int]:
    """Return begin and end of each element of an array, and where the array ends."""
    spans: list[tuple[int, int]] = []
    position = _skip(text, position)
    while text[position : position + 1] != "]":
        if spans:
            position = _skip(text, _expect(text, position, ","))
        _, end = decoder.raw_decode(text, position)
        spans.append((position, end))
        position = _skip(text, end)
    return spans, position + 1


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _expect(text: str, position: int, word: str) -> int:
    position = _skip(text, position)
    if not text.startswith(word, position):
        raise ValueError(f"no {word!r}")
    return position + len(word)


class _NoRecordsError(Exception):
    """The document has another form."""


def _of_xml(text: bytes) -> Records | None:
    found = _Elements()
    try:
        spans = found.read(text)
    except (expat.ExpatError, _NoRecordsError):
        return None
    if not spans:
        return None
    records = tuple(text[begin:end] for begin, end in spans)
    return Records(text[: spans[0][0]], records, b"\n", text[spans[-1][1] :])


class _Elements:
    """A parser that finds where the children of the root element begin and end, in bytes."""

    def __init__(self) -> None:
        self._depth = 0
        self._spans: list[tuple[int, int]] = []
        self._begin = -1
        self._is_closed = True
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.DefaultHandler = self._other

    def read(self, text: bytes) -> list[tuple[int, int]]:
        """Return the spans; raise `expat.ExpatError` or `_NoRecordsError`."""
        self._parser.Parse(text, True)
        return self._spans

    def _close(self) -> None:
        # expat reports where things begin, not where they end: the next one begins at the end.
        if not self._is_closed:
            self._spans.append((self._begin, self._parser.CurrentByteIndex))
            self._is_closed = True

    def _start(self, name: str, _attributes: object) -> None:
        self._close()
        if self._depth == 0 and not name.endswith(_RECORDS):
            raise _NoRecordsError
        if self._depth == 1:
            self._begin = self._parser.CurrentByteIndex
        self._depth += 1

    def _end(self, _name: str) -> None:
        self._close()
        self._depth -= 1
        self._is_closed = self._depth != 1

    def _other(self, _data: str) -> None:
        self._close()

    def _refuse(self, *_: object) -> None:
        raise _NoRecordsError  # a document type may define entities that expand without limit
