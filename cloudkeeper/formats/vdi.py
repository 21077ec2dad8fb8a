"""The header of a VDI, VirtualBox's own format; QEMU's block/vdi.c describes it."""

from __future__ import annotations

import struct
from typing import BinaryIO

from cloudkeeper.formats.disk import Unusable, check_virtual_size

MAGIC_AT, MAGIC = 64, b"\x7f\x10\xda\xbe"
# From the magic on, without description and geometry: version, header's length, type; then size of
# a sector and of the disk, size of a block, extra bytes, number of blocks, blocks in the file; then
# four UUIDs, the last two of which name the parent.
_HEADER = struct.Struct("<4sIII4x256x4x4x12xI4xQIIII16s16s32s")
_VERSION, _SECTOR, _BLOCK = 0x00010001, 512, 2**20
_DYNAMIC, _FIXED = 1, 2
_NO_PARENT = bytes(32)


def check_vdi(file: BinaryIO, name: str) -> None:
    """Check the header of the file.

    Raises:
        Unusable: it is invalid, or the disk has a parent.

    """
    file.seek(MAGIC_AT)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise Unusable(name, "its VDI header is truncated")
    _, version, _, kind, sector, size, block, extra, blocks, allocated, _, _, parent = (
        _HEADER.unpack(header)
    )
    if version != _VERSION:
        raise Unusable(name, f"has the unknown VDI version {version:#x}")
    if kind not in (_DYNAMIC, _FIXED) or parent != _NO_PARENT:
        raise Unusable(name, "has a parent disk; an image must be complete")
    check_virtual_size(name, size)
    if sector != _SECTOR or block != _BLOCK or extra or blocks * block < size or allocated > blocks:
        raise Unusable(name, "its VDI header does not describe a complete disk")
