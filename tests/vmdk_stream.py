"""A reader of stream-optimised VMDK after VMware's "Virtual Disk Format 5.0", to test a writer.

It goes forward only, as importers do that read from a network: what stands at the end is compared
with what came by.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

SECTOR = 512
_AT_END = 2**64 - 1


@dataclass
class VmdkHeader:
    """Fields of a header, in its order."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    entries: int
    second_directory: int
    directory: int
    overhead: int
    unclean: int
    characters: bytes
    compression: int

    @classmethod
    def read(cls, content: bytes) -> VmdkHeader:
        assert not any(content[79:])
        return cls(*struct.unpack_from("<4sIIQQQQIQQQB4sH", content))


@dataclass
class VmdkStream:
    """What a stream has brought; ``grains`` by number."""

    header: VmdkHeader
    descriptor: str
    grains: dict[int, bytes] = field(default_factory=dict)
    tables: int = 0

    @property
    def fields(self) -> dict[str, str]:
        return dict(re.findall(r'^([\w.]+) ?= ?"?([^"\n]*)"?$', self.descriptor, re.MULTILINE))


def read(file: BinaryIO) -> VmdkStream:
    """Read a disk, and check every part of it."""
    header = VmdkHeader.read(file.read(SECTOR))
    _check_header(header)
    text = file.read(header.descriptor_size * SECTOR)
    descriptor, _, rest = text.partition(b"\0")
    assert not any(rest)
    found = VmdkStream(header, descriptor.decode("ascii"))
    gap = file.read(header.overhead * SECTOR - file.tell())
    assert not any(gap)
    _Walk(file, found).go()
    assert file.read() == b""
    return found


def _check_header(header: VmdkHeader) -> None:
    assert header.magic == b"KDMV"
    assert header.version == 3
    assert header.flags == 0x30001  # line ends, compressed, markers
    assert header.capacity % header.grain == 0
    assert (header.grain, header.entries) == (128, 512)
    assert (header.descriptor, header.second_directory) == (1, 0)
    assert header.directory == _AT_END
    assert header.overhead % header.grain == 0
    assert (header.unclean, header.characters, header.compression) == (0, b"\n \r\n", 1)


class _Walk:
    """The markers, one after the other."""

    def __init__(self, file: BinaryIO, found: VmdkStream) -> None:
        self._file, self._found = file, found
        self._since: dict[int, int] = {}
        """Sectors of the grains that no table has listed yet."""
        self._tables: dict[int, int] = {}
        self._directory = 0
        self._is_open = True

    def go(self) -> None:
        steps = {1: self._table, 2: self._read_directory, 3: self._footer, 0: self._end}
        while self._is_open:
            sector, left = divmod(self._file.tell(), SECTOR)
            assert left == 0
            start = self._file.read(SECTOR)
            value, size, kind = struct.unpack_from("<QII", start)
            if size:
                self._grain(sector, value, size, start)
            else:
                assert not any(start[16:])
                steps[kind](value)

    def _grain(self, sector: int, value: int, size: int, start: bytes) -> None:
        content = start[12:] + self._file.read(-(-(12 + size) // SECTOR) * SECTOR - SECTOR)
        assert not any(content[size:])
        number, left = divmod(value, self._found.header.grain)
        assert left == 0
        assert number > max(self._found.grains, default=-1)
        grain = zlib.decompress(content[:size])
        assert len(grain) == self._found.header.grain * SECTOR
        assert any(grain)  # zeros are left out
        self._found.grains[number] = grain
        self._since[number] = sector

    def _entries(self, sectors: int) -> tuple[int, ...]:
        return struct.unpack(f"<{sectors * 128}I", self._file.read(sectors * SECTOR))

    def _table(self, sectors: int) -> None:
        assert sectors == 4
        sector = self._file.tell() // SECTOR
        (number,) = {grain // 512 for grain in self._since}
        wanted = tuple(self._since.get(number * 512 + at, 0) for at in range(512))
        assert self._entries(sectors) == wanted
        self._tables[number] = sector
        self._found.tables += 1
        self._since = {}

    def _read_directory(self, sectors: int) -> None:
        assert not self._since
        self._directory = self._file.tell() // SECTOR
        tables = -(-self._found.header.capacity // (128 * 512))
        assert sectors == -(-tables // 128)
        wanted = tuple(self._tables.get(number, 0) for number in range(sectors * 128))
        assert self._entries(sectors) == wanted

    def _footer(self, sectors: int) -> None:
        assert sectors == 1
        footer = VmdkHeader.read(self._file.read(SECTOR))
        assert footer.directory == self._directory > 0
        footer.directory = _AT_END
        assert footer == self._found.header
        self._directory = -1

    def _end(self, value: int) -> None:
        assert value == 0
        assert self._directory == -1  # after the footer
        self._is_open = False
