"""The little of ASN.1 that an envelope needs: DER, and the indefinite lengths that frame a stream.

asn1crypto is not used, because hosts do not have it (decision 34).
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

INTEGER, OCTETS, IDENTIFIER, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
INDEFINITE = 0x80
END = b"\0\0"
_LONG = 0x80
_MOST_LENGTH_BYTES = 4


class DamagedBackup(Exception):
    """The bytes end early, or are not the expected structure."""


def encode(tag: int, *contents: bytes) -> bytes:
    """Return an element with a definite length."""
    content = b"".join(contents)
    size = len(content)
    if size < _LONG:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, _LONG | len(length)]) + length + content


def integer(value: int) -> bytes:
    """Return a positive integer."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def identifier(dotted: str) -> bytes:
    """Return an object identifier, such as ``1.2.840.113549``."""
    first, second, *rest = map(int, dotted.split("."))
    return encode(IDENTIFIER, b"".join(map(_base_128, [40 * first + second, *rest])))


def _base_128(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(_LONG | number & 0x7F)
    return bytes(reversed(groups))


class ElementReader:
    """Reads elements from a stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def take(self, count: int) -> bytes:
        """Return so many bytes.

        Raises:
            DamagedBackup: The stream has fewer.

        """
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedBackup("it ends early")
        return data

    def expect(self, wanted: bytes) -> None:
        """Read bytes that must be these.

        Raises:
            DamagedBackup: They are others.

        """
        if self.take(len(wanted)) != wanted:
            raise DamagedBackup("it is not an envelope of a backup")

    def element(self, *, limit: int) -> tuple[int, bytes]:
        """Return tag and content of an element with a definite length of at most ``limit`` bytes.

        Raises:
            DamagedBackup: It is longer, or has no such length.

        """
        tag, length = self.take(2)
        if length > _LONG:
            count = length & ~_LONG
            if count > _MOST_LENGTH_BYTES:
                raise DamagedBackup("an element is too long")
            length = int.from_bytes(self.take(count), "big")
        elif length == INDEFINITE and tag:
            raise DamagedBackup("an element has no length")
        if length > limit:
            raise DamagedBackup("an element is too long")
        return tag, self.take(length)

    def at_end(self) -> bool:
        """Return whether the stream has ended; reads a byte."""
        return not self._file.read(1)


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element in ``data``.

    Raises:
        DamagedBackup: ``data`` is no row of elements.

    """
    return [*_elements(data)]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    file = BytesIO(data)
    reader = ElementReader(file)
    while file.tell() < len(data):
        yield reader.element(limit=len(data))
