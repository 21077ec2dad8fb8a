"""Header and descriptor of a VMDK, as VMware's "Virtual Disk Format 5.0" describes them."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

from cloudkeeper.formats.disk import Unusable, check_virtual_size

MAGIC = b"KDMV"
FOOTER_FAULT = "its VMDK footer is missing or differs from its header"
_SECTOR = 512
# Magic, version, flags; in sectors: capacity, grain size, descriptor's offset and size; entries of
# a table; in sectors: offset of the second and of the first directory of tables.
_HEADER = struct.Struct("<4sIIQQQQIQQ")
# The offset that stands for "as the footer says", and where a footer is, in bytes from the end.
_AT_END, _FOOTER = 2**64 - 1, 1024
# Sectors: the offset of a descriptor, the size that QEMU reads, the size that is accepted here.
#
# QEMU does not take them from the header. A header with another offset would show us a descriptor
# other than the one that QEMU uses.
_DESCRIPTOR, _LEAST_DESCRIPTOR, _MAX_DESCRIPTOR = 1, 20, 40
_TYPES = {"monolithicSparse", "streamOptimized"}
# The only extent of a disk that is one file: sparse, of a name without a directory. What VMware
# exports is read-only, and has the name of a stream in place of the file's.
_EXTENT = re.compile(r'(RW|RDONLY) \d{1,12} SPARSE "[^"/\\\\]+"')
# The fields that such a disk may have; others, such as changeTrackPath, name files.
_FIELD = re.compile(
    r"(version|encoding|CID|parentCID|isNativeSnapshot|createType|parentFileNameHint|ddb\.[\w.]+)"
    r'\s*=\s*"?([^"]*)"?'
)


def check_vmdk(file: BinaryIO, name: str, *, size: int | None) -> None:
    """Check a VMDK of ``size`` bytes that begins at the position of ``file``.

    If ``size`` is None, only its beginning is there, and no footer is checked.

    Raises:
        Unusable: its header is invalid or names other files.

    """
    start = file.tell()
    header = file.read(_SECTOR)
    if not header.startswith(MAGIC) or len(header) < _SECTOR:
        raise Unusable(name, "is not a VMDK with its data in the same file")
    _, _, _, capacity, _, position, length, _, _, directory = _HEADER.unpack_from(header)
    if not capacity or position != _DESCRIPTOR or not 0 < length <= _MAX_DESCRIPTOR:
        raise Unusable(name, "its VMDK header does not describe a complete disk")
    descriptor = file.read(max(length, _LEAST_DESCRIPTOR) * _SECTOR)
    if directory == _AT_END and size is not None:
        # QEMU then uses the footer in place of the header, which cannot be its own footer.
        file.seek(start + max(_SECTOR, size - _FOOTER))
        footer = file.read(_HEADER.size)
        if (
            len(footer) < _HEADER.size
            or _HEADER.unpack(footer)[:-1] != _HEADER.unpack_from(header)[:-1]
        ):
            raise Unusable(name, FOOTER_FAULT)
    text = descriptor.partition(b"\0")[0].decode("latin-1").replace("\r\n", "\n")
    check_virtual_size(name, capacity * _SECTOR)
    fields, extents = _read_descriptor(name, text)
    kind = fields.get("createType", "unknown")
    if kind not in _TYPES:
        raise Unusable(name, f"is a VMDK of type {kind[:40]}, which has several files")
    if fields.get("parentCID", "").lower() != "ffffffff" or "parentFileNameHint" in fields:
        raise Unusable(name, "has a parent disk; an image must be complete")
    if extents != 1:
        raise Unusable(name, f"has {extents} extents; an image must be one file")


def _read_descriptor(name: str, text: str) -> tuple[dict[str, str], int]:
    """Return the fields of a VMDK descriptor and the number of its extents.

    Only known lines are accepted: a program could read another line as an extent in another file.
    """
    fields: dict[str, str] = {}
    extents = 0
    if "\r" in text:
        raise Unusable(name, "its VMDK descriptor has a carriage return within a line")
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        if field := _FIELD.fullmatch(line.strip()):
            fields[field[1]] = field[2].strip()
        elif _EXTENT.fullmatch(line):
            extents += 1
        else:
            raise Unusable(name, f"its VMDK descriptor has the line {line[:60]!r}")
    return fields, extents
