"""Headers, region table and metadata of a VHDX: Microsoft's specification [MS-VHDX].

Checksums are left to qemu-img, which refuses what has a wrong one. It reads the first region table
and, of the two headers, the one with the higher sequence number, and so does this module.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from cloudkeeper.formats.disk import Unusable, check_virtual_size

MAGIC = b"vhdxfile"
_HEADERS, _REGIONS = (0x10000, 0x20000), 0x30000
# Signature, checksum, sequence number, two UUIDs of writes, UUID of the log, versions.
_HEADER = struct.Struct("<4sIQ16s16s16sHH")
_NO_LOG = bytes(16)
# Signature, checksum, number of entries; then each: UUID, offset, length, flags.
_TABLE, _REGION, _IS_REQUIRED = struct.Struct("<4sII4x"), struct.Struct("<16sQII"), 1
# Signature, number of entries; then each: UUID, offset in the region, length, flags.
_METADATA, _ITEM, _IS_REQUIRED_ITEM = struct.Struct("<8s2xH20x"), struct.Struct("<16sIII4x"), 4
_MOST_ENTRIES = 2047
_BAT = "2dc27766-f623-4200-9d64-115e9bfd4a08"
_METADATA_REGION = "8b7ca206-4790-4b9a-b8fe-575f050f886e"
_KNOWN_REGIONS = {_BAT, _METADATA_REGION}
_PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
_VIRTUAL_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
_PARENT = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
# Each disk has these, and one with a parent its locator, too.
_REQUIRED = {
    _PARAMETERS,
    _VIRTUAL_SIZE,
    "beca12ab-b2e6-4523-93ef-c309e000c746",  # identifier of the disk
    "8141bf1d-a96f-4709-ba47-f233a8faab5f",  # logical sector size
    "cda348c7-445d-4471-9cc9-e9885251c556",  # physical sector size
}
_KNOWN = _REQUIRED | {_PARENT}
_HAS_PARENT = 2


def check_vhdx(file: BinaryIO, name: str) -> None:
    """Check the headers of the file.

    Raises:
        Unusable: they are invalid, the disk has a parent, or its last writes are in its log only.

    """
    if _current_log(file, name) != _NO_LOG:
        raise Unusable(
            name,
            "was not closed: its last writes are in its log only",
            "ask the endorser to detach the disk, or to repair it with qemu-img check -r all",
        )
    signature, _, count = _TABLE.unpack(_read(file, _TABLE.size, name, at=_REGIONS))
    regions = dict(_entries(file, _REGION, count, name, needed=(_IS_REQUIRED, _KNOWN_REGIONS)))
    if signature != b"regi" or regions.keys() != _KNOWN_REGIONS:
        raise Unusable(name, "its VHDX region table is damaged or of an unknown kind")
    _check_metadata(file, regions[_METADATA_REGION], name)


def _current_log(file: BinaryIO, name: str) -> bytes:
    """Return the UUID of the log in the current header."""
    found: list[tuple[int, bytes]] = []
    for position in _HEADERS:
        header = _read(file, _HEADER.size, name, at=position)
        signature, _, number, _, _, log, _, version = _HEADER.unpack(header)
        if signature == b"head" and version == 1:
            found.append((number, log))
    if not found:
        raise Unusable(name, "its VHDX headers are damaged or of an unknown version")
    return max(found)[1]


def _check_metadata(file: BinaryIO, start: int, name: str) -> None:
    signature, count = _METADATA.unpack(_read(file, _METADATA.size, name, at=start))
    items = dict(_entries(file, _ITEM, count, name, needed=(_IS_REQUIRED_ITEM, _KNOWN)))
    if signature != b"metadata" or not items.keys() >= _REQUIRED:
        raise Unusable(name, "its VHDX metadata are damaged")
    at = start + items[_PARAMETERS] + 4  # behind the size of a block
    flags = int.from_bytes(_read(file, 4, name, at=at), "little")
    if flags & _HAS_PARENT or _PARENT in items:
        raise Unusable(name, "has a parent disk; an image must be complete")
    if items.keys() - _KNOWN:
        raise Unusable(name, "needs unknown VHDX features")
    at = start + items[_VIRTUAL_SIZE]
    check_virtual_size(name, int.from_bytes(_read(file, 8, name, at=at), "little"))


def _entries(
    file: BinaryIO, layout: struct.Struct, count: int, name: str, *, needed: tuple[int, set[str]]
) -> Iterator[tuple[str, int]]:
    """Yield UUID and offset of the entries at the position of the file.

    They are those that a program must know, by their flag or because they are ``needed`` here.
    """
    if count > _MOST_ENTRIES:
        raise Unusable(name, f"its VHDX table has {count} entries, the limit is {_MOST_ENTRIES}")
    for entry in layout.iter_unpack(_read(file, count * layout.size, name)):
        identifier = str(uuid.UUID(bytes_le=entry[0]))
        if entry[3] & needed[0] or identifier in needed[1]:
            yield identifier, entry[1]


def _read(file: BinaryIO, size: int, name: str, *, at: int | None = None) -> bytes:
    """Return ``size`` bytes from the position ``at``, or from where the last read ended."""
    if at is not None:
        # Not every position is one that a file can have.
        file.seek(min(at, file.seek(0, 2)))
    found = file.read(size)
    if len(found) < size:
        raise Unusable(name, "its VHDX headers are truncated")
    return found
