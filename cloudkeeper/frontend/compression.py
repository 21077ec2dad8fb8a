"""Compressed layers of registries, decompressed block by block: memory does not grow with them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.answers import BLOCK


class _Reader(Protocol):
    """Decompresses one member of a stream; a file may consist of several."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some data decompress to."""
        ...

    @property
    def rest(self) -> bytes | None:
        """The data behind the end of the member; None before its end."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._reader = zlib.decompressobj(wbits=31)  # 31: with gzip's header and trailer

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            while data and not self._reader.eof:
                yield self._reader.decompress(data, BLOCK)
                data = self._reader.unconsumed_tail
        except zlib.error as error:
            raise ValueError from error

    @property
    def rest(self) -> bytes | None:
        return self._reader.unused_data if self._reader.eof else None


class _Zstandard:
    _PIECE = 64 * 1024
    """Bytes fed at once: the library returns all that they decompress to."""

    def __init__(self) -> None:
        import zstandard  # noqa: PLC0415  start-up is a cost

        self._error = zstandard.ZstdError
        # The window bounds the memory that a stream can ask for.
        self._reader = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        try:
            for start in range(0, len(view), self._PIECE):
                if self._reader.eof:
                    return
                yield self._reader.decompress(view[start : start + self._PIECE])
        except self._error as error:
            raise ValueError from error

    @property
    def rest(self) -> bytes | None:
        return self._reader.unused_data if self._reader.eof else None


_READERS: dict[str, Callable[[], _Reader]] = {"gzip": _Gzip, "zstd": _Zstandard}


def decompress(blocks: Iterable[bytes], kind: str, *, name: str, limit: int) -> Iterator[bytes]:
    """Yield the content of compressed data, at most ``limit`` bytes; ``kind`` is gzip or zstd.

    Raises:
        Unusable: the data are of another kind, end early, or become too large.

    """
    make = _READERS[kind]
    reader, size = make(), 0
    is_begun = False
    for block in blocks:
        data = block
        while data:
            is_begun = True
            try:
                for content in reader.feed(data):
                    size += len(content)
                    if size > limit:
                        words = f"becomes larger than the {limit >> 20} MiB that are free here"
                        raise Unusable(name, words)
                    yield content
            except ValueError:
                raise Unusable(name, f"its layer is not {kind} data") from None
            data = b"" if reader.rest is None else reader.rest
            if reader.rest is not None:
                reader, is_begun = make(), bool(data)
    if is_begun or not size:
        raise Unusable(name, f"its {kind} data end early")
