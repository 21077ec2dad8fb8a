"""Compressed images, decompressed piece by piece: memory does not grow with them.

A list or a registry may offer an image as gzip, bzip2, xz or zstd, recognised by its first bytes;
digest and size of the source are those of the compressed bytes. Data may consist of several members
and end with zeros, as the tools themselves allow.

A few bytes can stand for gigabytes. No piece of content is larger than `BLOCK`, the dictionary of a
stream is limited, and content stops at the free space, at the largest disk, and at a ratio that no
image of use has.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from appliance.core.download.answers import BLOCK
from appliance.core.run.errors import LocalFailure
from cloudkeeper.formats import Unusable, check_virtual_size, compression_of

_ZEROS = bytes(BLOCK)
# Bytes of compressed data that a library gets at once, at most.
_PIECE = 64 * 1024
# Bytes of a dictionary or window: the most that xz -9 and zstd --ultra --long use by default.
_DICTIONARY = 2**27
# What the libraries of xz and zstd say then.
_TOO_LARGE = re.compile("[Mm]emory")
# Bytes by which every kind is known.
_MARK = 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of decompressed content: ``room`` bytes are free for what is not zeros.

    Content of more than ``small`` bytes may be ``ratio`` times as large as the compressed data.
    """

    room: int
    small: int = 2**30
    ratio: int = 1000

    def check(self, size: int, stored: int, consumed: int, name: str) -> None:
        """Check ``size`` bytes of content, ``stored`` without zeros, from ``consumed`` bytes.

        Raises:
            Unusable: they are more than a disk may have, or than the ratio allows.
            LocalFailure: they are more than what is free.

        """
        check_virtual_size(name, max(size, 1))
        if size > self.small and size > self.ratio * consumed:
            raise Unusable(
                name, f"expands to more than {self.ratio} times its size, as no disk image does"
            )
        if stored > self.room:
            words = f"its content needs more than the {self.room >> 20} MiB that are free"
            raise LocalFailure(name, words, "free some space; the next run retries")


def sniff(blocks: Iterable[bytes]) -> tuple[str, Iterator[bytes]]:
    """Return the kind by which data are compressed, empty for none, and all their blocks."""
    unread = iter(blocks)
    start = b""
    for block in unread:
        start += block
        if len(start) >= _MARK:
            break
    return compression_of(start), itertools.chain([start], unread)


def decompress(blocks: Iterable[bytes], kind: str, *, name: str, bounds: Bounds) -> Iterator[bytes]:
    """Yield the content of compressed data of a ``kind``: gzip, bzip2, xz or zstd.

    Raises:
        Unusable: the data are of another kind, damaged, end early, or become too large.
        LocalFailure: they become larger than what is free.

    """
    source, members = _Source(blocks), 0
    size = stored = 0
    try:
        while not members or not source.is_finished():
            if compression_of(source.peek(_MARK)) != kind:
                fault = (
                    f"has other data behind its {kind} data" if members else f"is not {kind} data"
                )
                raise Unusable(name, fault)
            for content in _MEMBERS[kind](source):
                size += len(content)
                stored += len(content) if content != _ZEROS[: len(content)] else 0
                bounds.check(size, stored, source.consumed, name)
                yield content
            members += 1
    except _EndsEarlyError:
        raise Unusable(name, f"its {kind} data end early") from None
    except _DamagedError as error:
        if _TOO_LARGE.search(str(error.__cause__)):
            words = f"its {kind} data need more than {_DICTIONARY >> 20} MiB of memory"
            raise Unusable(name, words, "ask the endorser for a smaller dictionary") from None
        raise Unusable(name, f"its {kind} data are damaged") from None


class _EndsEarlyError(Exception):
    """Compressed data end within a member."""


class _DamagedError(Exception):
    """Compressed data are invalid, or need too much memory."""


class _Source:
    """Compressed data, read in pieces of any size."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer, self._at = b"", 0
        self.consumed = 0

    def peek(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or what is left of them, without taking them."""
        while len(self._buffer) - self._at < size:
            block = next(self._blocks, None)
            if block is None:
                break
            self._buffer, self._at = self._buffer[self._at :] + block, 0
        return self._buffer[self._at : self._at + size]

    def exactly(self, size: int) -> bytes:
        """Take ``size`` bytes.

        Raises:
            _EndsEarlyError: fewer are left.

        """
        found = self.peek(size)
        if len(found) < size:
            raise _EndsEarlyError
        self._at += size
        self.consumed += size
        return found

    def pieces(self) -> Iterator[bytes]:
        """Take all that is left, in pieces; small ones first, because members may be small.

        Raises:
            _EndsEarlyError: at the end.

        """
        size = 1024
        while self.peek(1):
            yield self.exactly(min(size, len(self._buffer) - self._at))
            size = min(2 * size, _PIECE)
        raise _EndsEarlyError

    def give_back(self, size: int) -> None:
        """Take back the last bytes of the last piece."""
        self._at -= size
        self.consumed -= size

    def is_finished(self) -> bool:
        """Check whether at most zeros are left, and skip them."""
        while self.peek(1) == b"\0":
            piece = self.exactly(min(_PIECE, len(self._buffer) - self._at))
            self.give_back(len(piece.lstrip(b"\0")))
        return not self.peek(1)


def _gzip(source: _Source) -> Iterator[bytes]:
    reader = zlib.decompressobj(wbits=31)  # 31: with gzip's header and trailer
    pieces = source.pieces()
    try:
        while not reader.eof:
            data = next(pieces)
            while data and not reader.eof:
                yield reader.decompress(data, BLOCK)
                data = reader.unconsumed_tail
    except zlib.error as error:
        raise _DamagedError from error
    source.give_back(len(reader.unused_data))


def _bzip2(source: _Source) -> Iterator[bytes]:
    return _buffered(bz2.BZ2Decompressor(), source)


def _xz(source: _Source) -> Iterator[bytes]:
    return _buffered(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY), source)


def _buffered(
    reader: bz2.BZ2Decompressor | lzma.LZMADecompressor, source: _Source
) -> Iterator[bytes]:
    pieces = source.pieces()
    while not reader.eof:
        data = next(pieces) if reader.needs_input else b""
        try:
            content = reader.decompress(data, BLOCK)
        except (OSError, ValueError, lzma.LZMAError) as error:
            raise _DamagedError from error
        yield content
    source.give_back(len(reader.unused_data))


# Of RFC 8878: lengths of a frame's fields by the flags of its descriptor, and of its parts.
_IDENTIFIERS, _SIZES = (0, 1, 2, 4), (0, 2, 4, 8)
_IS_SINGLE, _HAS_CHECKSUM = 0x20, 0x04
_SKIPPABLE = b"\x2a\x4d\x18"
_RAW, _RUN, _COMPRESSED = 0, 1, 2
_LARGEST_BLOCK = 128 * 1024


def _zstandard(source: _Source) -> Iterator[bytes]:
    """Yield the content of a frame, block by block.

    The library returns all that its input decompresses to, and a block of four bytes can stand for
    128 KiB. It gets one block at a time.
    """
    import zstandard  # noqa: PLC0415  start-up is a cost

    magic = source.exactly(4)
    if magic.endswith(_SKIPPABLE):
        left = int.from_bytes(source.exactly(4), "little")
        while left:
            left -= len(source.exactly(min(left, _PIECE)))
        return
    descriptor = source.exactly(1)
    flags = descriptor[0]
    is_single = bool(flags & _IS_SINGLE)
    size = _SIZES[flags >> 6] or int(is_single)
    fields = source.exactly((not is_single) + _IDENTIFIERS[flags & 3] + size)
    reader = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY).decompressobj()
    try:
        yield reader.decompress(magic + descriptor + fields)
        is_last = False
        while not is_last:
            head = source.exactly(3)
            is_last, length = _block(int.from_bytes(head, "little"))
            yield reader.decompress(head + source.exactly(length))
        if flags & _HAS_CHECKSUM:
            yield reader.decompress(source.exactly(4))
    except zstandard.ZstdError as error:
        raise _DamagedError from error


def _block(head: int) -> tuple[bool, int]:
    """Return whether a block is the last one of its frame, and the bytes that follow its header."""
    kind, size = head >> 1 & 3, head >> 3
    if kind not in (_RAW, _RUN, _COMPRESSED) or size > _LARGEST_BLOCK:
        raise _DamagedError
    return bool(head & 1), 1 if kind == _RUN else size


_MEMBERS: dict[str, Callable[[_Source], Iterator[bytes]]] = {
    "gzip": _gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "zstd": _zstandard,
}
