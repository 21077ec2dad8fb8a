"""The header of a qcow2 file, as QEMU's docs/interop/qcow2.txt describes it."""

from __future__ import annotations

import struct
from typing import BinaryIO

from cloudkeeper.formats.disk import Unusable, check_virtual_size

MAGIC = b"QFI\xfb"
# Magic, version, backing file's offset and length, cluster bits, virtual size, encryption.
_HEADER = struct.Struct(">4sIQIIQI")
_FEATURES, _V3 = slice(72, 80), 3
# Bytes of a header without extensions, by version.
_LENGTHS = {2: 72, _V3: 104}
# Bits of the incompatible features; an unknown one could name another file.
_CORRUPT, _DATA_FILE, _KNOWN = 0b10, 0b100, 0b11111


def check_qcow2(file: BinaryIO, name: str) -> None:
    """Check the header at the position of ``file``.

    Raises:
        Unusable: it is invalid or names other files.

    """
    header = file.read(_LENGTHS[_V3])
    if len(header) < _HEADER.size:
        raise Unusable(name, "its qcow2 header is truncated")
    _, version, backing, _, _, virtual, encryption = _HEADER.unpack_from(header)
    if version not in _LENGTHS:
        raise Unusable(name, f"has the unknown qcow2 version {version}")
    if len(header) < _LENGTHS[version]:
        raise Unusable(name, "its qcow2 header is truncated")
    if backing:
        raise Unusable(name, "has a backing file; an image must be complete")
    if encryption:
        raise Unusable(name, "is encrypted")
    check_virtual_size(name, virtual)
    features = int.from_bytes(header[_FEATURES], "big") if version == _V3 else 0
    if features & _DATA_FILE:
        raise Unusable(name, "has its data in another file; an image must be complete")
    if features & _CORRUPT or features & ~_KNOWN:
        raise Unusable(name, f"is marked corrupt, or needs unknown qcow2 features ({features:#x})")
