"""Footer and header of a VHD: Microsoft's "Virtual Hard Disk Image Format Specification".

A fixed disk is its plain data and a footer behind them. A dynamic one begins with a copy of the
footer, followed by a second header.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from cloudkeeper.formats.disk import Unusable, check_virtual_size

MAGIC = b"conectix"
SIZE = 512
"""Bytes of a footer."""
# Magic, features, version, offset of the second header, creator and times, size of the disk,
# geometry, type, checksum.
_FOOTER = struct.Struct(">8sIIQ16x8xQ4xII")
_CHECKSUM = slice(64, 68)
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
# Magic, offset of the next header and of the table, version, entries, size of a block, checksum,
# UUID of the parent.
_DYNAMIC_HEADER = struct.Struct(">8sQQIIII16s")
_DYNAMIC_SIZE, _DYNAMIC_MAGIC = 1024, b"cxsparse"
_DYNAMIC_CHECKSUM, _LOCATORS = slice(36, 40), slice(576, 768)
_ENTRY = 4


def is_fixed(end: bytes) -> bool:
    """Check whether the last bytes of a file are the footer of a disk."""
    return end[-SIZE:].startswith(MAGIC) and _has_checksum(end[-SIZE:], _CHECKSUM)


def check_vhd(file: BinaryIO, name: str) -> None:
    """Check footer and header of the file.

    Raises:
        Unusable: they are invalid, or the disk has a parent.

    """
    length = file.seek(0, 2)
    file.seek(max(0, length - SIZE))
    footer = file.read(SIZE)
    file.seek(0)
    start = file.read(SIZE)
    if not is_fixed(footer):
        raise Unusable(name, "its VHD footer is missing or damaged; the file may be truncated")
    _, _, _, position, size, kind, _ = _FOOTER.unpack_from(footer)
    if kind == _DIFFERENCING:
        raise Unusable(name, "has a parent disk; an image must be complete")
    check_virtual_size(name, size)
    if kind not in (_FIXED, _DYNAMIC):
        raise Unusable(name, f"is a VHD of the unknown type {kind}")
    if kind == _FIXED:
        # A program that looks at the start would take it for a dynamic disk.
        if start.startswith(MAGIC) or size > length - SIZE:
            raise Unusable(name, "its VHD footer does not describe a complete disk")
        return
    if start != footer:
        raise Unusable(name, "its two VHD footers differ; the file may be truncated")
    file.seek(min(position, length))
    _check_dynamic(file.read(_DYNAMIC_SIZE), name, size=size, length=length)


def _check_dynamic(header: bytes, name: str, *, size: int, length: int) -> None:
    is_whole = len(header) == _DYNAMIC_SIZE and header.startswith(_DYNAMIC_MAGIC)
    if not is_whole or not _has_checksum(header, _DYNAMIC_CHECKSUM):
        raise Unusable(name, "its second VHD header is missing or damaged")
    _, _, table, _, entries, block, _, parent = _DYNAMIC_HEADER.unpack_from(header)
    if any(parent) or any(header[_LOCATORS]):
        raise Unusable(name, "has a parent disk; an image must be complete")
    is_power = block >= SIZE and block.bit_count() == 1
    table_end = table + entries * _ENTRY
    if not is_power or entries * block < size or table_end > length - SIZE:
        raise Unusable(name, "its VHD header does not describe a complete disk")


def _has_checksum(part: bytes, where: slice) -> bool:
    """Check the one's complement of the sum of all bytes but those of the checksum itself."""
    total = sum(part) - sum(part[where])
    return int.from_bytes(part[where], "big") == ~total & 0xFFFFFFFF
