"""A stream-optimised VMDK, written in one pass over a raw disk.

    header         capacity, where the descriptor is; that the directory's place is in the footer
    descriptor     text: identifier, extent, geometry, controller, hardware version
    grains         64 KiB of the disk each, deflated, with a marker; grains of zeros are left out
      table        after each 512 grains of the disk: where they are; left out if there are none
    directory      where the tables are
    footer         the header again, with the place of the directory
    end of stream  a marker of zeros

Source: VMware, "Virtual Disk Format 5.0". qemu-img puts the directory in front and writes neither
footer nor end of stream, and importers that read the file as a stream refuse that.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Protocol

from deploy.ova.virtual_machine import ADAPTER, HARDWARE

GRAIN = 2**16
"""Bytes of the disk that are deflated together."""
_SECTOR = 512
_TABLE = 512
"""Entries of a table of grains."""
_DESCRIPTOR = 20
"""Sectors of the descriptor, which QEMU reads whatever the header says."""
_START = 128
"""Sector of the first grain, as VMware's own programs have it."""
# Magic, version, flags; in sectors: capacity, grain, place and size of the descriptor; entries of a
# table; in sectors: places of the second and of the first directory, size of all that is before
# the grains; whether it was closed badly, four characters that a transfer as text would change,
# kind of compression.
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_VERSION = 3
_FLAGS = 1 | 1 << 16 | 1 << 17
"""The four characters can be tested, grains are compressed, there are markers."""
_AT_END = 2**64 - 1
_GRAIN_MARKER = struct.Struct("<QI")
_MARKER = struct.Struct("<QII496x")
_TABLE_MARK, _DIRECTORY_MARK, _FOOTER_MARK = 1, 2, 3
_HEADS, _TRACK, _MOST_CYLINDERS = 255, 63, 65535
"""Geometry that BIOSes of SCSI controllers show."""
_AHEAD = 8
"""Grains for each thread that wait to be written: the bound of the memory."""


class ByteSink(Protocol):
    """What a disk is written to; nothing is read or moved in it."""

    def write(self, content: bytes, /) -> object:
        """Write all of the content."""


def write(disk: BinaryIO, target: ByteSink, *, name: str) -> int:
    """Write the raw ``disk`` as a VMDK called ``name``; return the bytes of the disk in it.

    They are those of the raw disk, with zeros up to the end of the last grain.
    """
    capacity = -(-os.fstat(disk.fileno()).st_size // GRAIN) * GRAIN // _SECTOR
    out = _Sectors(target)
    out.put(_header(capacity, _AT_END))
    out.put(_descriptor(capacity, name).ljust(_DESCRIPTOR * _SECTOR, b"\0"))
    out.put(bytes((_START - out.written) * _SECTOR))
    directory = [0] * -(-capacity * _SECTOR // (GRAIN * _TABLE))
    deflated = _deflated(_stored(disk))
    for number, grains in itertools.groupby(deflated, key=lambda grain: grain[0] // _TABLE):
        table = [0] * _TABLE
        for at, content in grains:
            table[at % _TABLE] = out.written
            out.put(_GRAIN_MARKER.pack(at * GRAIN // _SECTOR, len(content)) + content)
        directory[number] = out.put_marked(_TABLE_MARK, _entries(table))
    place = out.put_marked(_DIRECTORY_MARK, _entries(directory))
    out.put_marked(_FOOTER_MARK, _header(capacity, place))
    out.put(_MARKER.pack(0, 0, 0))
    return capacity * _SECTOR


class _Sectors:
    """A target that is written in whole sectors."""

    def __init__(self, target: ByteSink) -> None:
        self.written = 0
        self._target = target

    def put(self, content: bytes) -> None:
        padded = content + bytes(-len(content) % _SECTOR)
        self._target.write(padded)
        self.written += len(padded) // _SECTOR

    def put_marked(self, mark: int, content: bytes) -> int:
        """Write content behind its marker; return its sector."""
        self.put(_MARKER.pack(-(-len(content) // _SECTOR), 0, mark))
        place = self.written
        self.put(content)
        return place


def _header(capacity: int, directory: int) -> bytes:
    return _HEADER.pack(
        b"KDMV",
        _VERSION,
        _FLAGS,
        capacity,
        GRAIN // _SECTOR,
        1,
        _DESCRIPTOR,
        _TABLE,
        0,
        directory,
        _START,
        0,
        b"\n \r\n",
        1,
    )


def _descriptor(capacity: int, name: str) -> bytes:
    # The identifiers of the content stand before it: they are those of the name, which has a date.
    content = hashlib.sha256(name.encode()).hexdigest()[:32]
    cylinders = min(capacity // (_HEADS * _TRACK), _MOST_CYLINDERS)
    return f"""\
# Disk DescriptorFile
version=1
CID={content[-8:]}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {capacity} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.adapterType = "{ADAPTER}"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{_HEADS}"
ddb.geometry.sectors = "{_TRACK}"
ddb.longContentID = "{content}"
ddb.virtualHWVersion = "{HARDWARE}"
""".encode()


def _entries(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _stored(disk: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each grain that is not all zeros."""
    zeros = bytes(GRAIN)
    for number in _with_data(disk.fileno()):
        content = os.pread(disk.fileno(), GRAIN, number * GRAIN).ljust(GRAIN, b"\0")
        if content != zeros:
            yield number, content


def _with_data(descriptor: int) -> Iterator[int]:
    """Yield the numbers of the grains outside the holes of a file."""
    number = end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # no data up to the end
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        # Two pieces of data can meet in one grain.
        first, number = max(number, start // GRAIN), -(-end // GRAIN)
        yield from range(first, number)


def _deflated(grains: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield the grains in their order, deflated by as many threads as there are processors."""
    threads = len(os.sched_getaffinity(0))
    ahead: deque[tuple[int, Future[bytes]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number, content in grains:
            ahead.append((number, pool.submit(zlib.compress, content)))
            if len(ahead) > threads * _AHEAD:
                first, deflated = ahead.popleft()
                yield first, deflated.result()
        for number, deflated in ahead:
            yield number, deflated.result()
