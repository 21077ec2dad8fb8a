"""What an image file is, told by its own bytes; the name and ``hv:format`` of a list prove nothing.

Some formats can point at other files: a qcow2 at a backing file or a data file, a VMDK at extents
or a parent. Whoever opens such an image reads those files of this machine into it, so they are
refused by looking at the headers here, before any program that would follow them has seen the file.
Layouts: QEMU's docs/interop/qcow2.txt; VMware's "Virtual Disk Format 5.0"; POSIX ustar.
"""

from __future__ import annotations

import re
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import ApplianceError
from cloudkeeper.model import Format

_MAX_VIRTUAL = 2 * 2**40
_MAX_MEMBERS = 100
_SECTOR = 512
_QCOW2, _VMDK, _VMDK_TEXT = b"QFI\xfb", b"KDMV", b"# Disk DescriptorFile"
_QCOW2_HEADER = struct.Struct(">4sIQIIQI")
"""Magic, version, backing file's offset and length, cluster bits, virtual size, encryption."""
_QCOW2_FEATURES, _QCOW2_V3 = slice(72, 80), 3
_QCOW2_LENGTHS = {2: 72, _QCOW2_V3: 104}
"""Bytes of a header without extensions, by version (QEMU's docs/interop/qcow2)."""
_QCOW2_CORRUPT, _QCOW2_DATA_FILE, _QCOW2_KNOWN = 0b10, 0b100, 0b11111
_VMDK_HEADER = struct.Struct("<4sIIQQQQ")
"""Magic, version, flags, capacity, grain size, descriptor's offset and size; all but the first three in sectors."""
_VMDK_DESCRIPTOR, _LEAST_DESCRIPTOR, _MAX_DESCRIPTOR = 1, 20, 40
"""Sectors: where a descriptor lies, how much QEMU reads of it, how much is read here. QEMU asks the header for none of
these, so a header that names another place must not lead us past what QEMU sees."""
_VMDK_TYPES = {"monolithicSparse", "streamOptimized"}
_VMDK_EXTENT = re.compile(r"^(?:RW|RDONLY|NOACCESS)\s", re.MULTILINE)
_VMDK_FIELD = re.compile(r'^(createType|parentCID)\s*=\s*"?(\w*)"?\s*$', re.MULTILINE)
_TAR_MAGIC, _BOOT_MAGIC = (257, b"ustar"), (510, b"\x55\xaa")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}


class Unusable(ApplianceError):
    """An image file that cannot or must not be used."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image that may be opened: ``size`` bytes of the file from ``offset`` on; both None: the whole file."""

    path: Path
    format: Format
    offset: int | None = None
    size: int | None = None


def detect(path: Path, *, declared: str = "") -> Format:
    """Return the format of a file. ``declared``, a list's ``hv:format``, decides only what has no mark of its own.

    :raises Unusable: none that is known here
    """
    with path.open("rb") as file:
        start = file.read(_SECTOR)
    if start.startswith(_QCOW2):
        return Format.QCOW2
    if start.startswith((_VMDK, _VMDK_TEXT)):
        return Format.VMDK
    if start[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]):
        return Format.OVA
    is_boot_sector = start[_BOOT_MAGIC[0] :].startswith(_BOOT_MAGIC[1])
    for mark, name in _COMPRESSED.items():
        if start.startswith(mark) and not is_boot_sector:
            raise Unusable(
                path.name,
                f"is compressed by {name}, which is not undone",
                "publish the image as qcow2",
            )
    if is_boot_sector or declared.lower() == Format.RAW:
        return Format.RAW
    told = f"; the list calls it {declared[:20]!r}" if declared else ""
    raise Unusable(path.name, f"is in no format that is known (qcow2, VMDK, OVA, raw){told}")


def inspect(path: Path, found: Format) -> Disk:
    """Return the disk in a file of the format ``found``, when nothing in its headers points outside of it.

    :raises Unusable: it does, or its headers are broken
    """
    match found:
        case Format.QCOW2:
            _check_qcow2(path)
        case Format.VMDK:
            _check_vmdk(path, offset=0)
        case Format.OVA:
            return _find_disk(path)
        case Format.RAW:
            pass
    return Disk(path, found)


def _check_qcow2(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(_QCOW2_LENGTHS[_QCOW2_V3])
    if len(header) < _QCOW2_HEADER.size:
        raise Unusable(path.name, "its qcow2 header is cut off")
    _, version, backing, _, _, virtual, encryption = _QCOW2_HEADER.unpack_from(header)
    if version not in _QCOW2_LENGTHS:
        raise Unusable(path.name, f"is qcow2 of the unknown version {version}")
    if len(header) < _QCOW2_LENGTHS[version]:
        raise Unusable(path.name, "its qcow2 header is cut off")
    if backing:
        raise Unusable(path.name, "has a backing file; an image must be complete")
    if encryption:
        raise Unusable(path.name, "is encrypted")
    check_virtual_size(path, virtual)
    features = int.from_bytes(header[_QCOW2_FEATURES], "big") if version == _QCOW2_V3 else 0
    if features & _QCOW2_DATA_FILE:
        raise Unusable(path.name, "keeps its data in another file; an image must be complete")
    if features & _QCOW2_CORRUPT or features & ~_QCOW2_KNOWN:
        raise Unusable(
            path.name, f"is marked corrupt, or needs unknown features of qcow2 ({features:#x})"
        )


def _check_vmdk(path: Path, *, offset: int) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        header = file.read(_SECTOR)
        if not header.startswith(_VMDK) or len(header) < _SECTOR:
            raise Unusable(
                path.name, "is a VMDK description of disks in other files, or none at all"
            )
        _, _, _, capacity, _, position, length = _VMDK_HEADER.unpack_from(header)
        if not capacity or position != _VMDK_DESCRIPTOR or not 0 < length <= _MAX_DESCRIPTOR:
            raise Unusable(path.name, "its VMDK header describes no complete disk")
        descriptor = file.read(max(length, _LEAST_DESCRIPTOR) * _SECTOR)
    text = descriptor.split(b"\0", 1)[0].decode("latin-1").replace("\r\n", "\n")
    check_virtual_size(path, capacity * _SECTOR)
    fields = dict(_VMDK_FIELD.findall(text))
    if fields.get("createType") not in _VMDK_TYPES:
        raise Unusable(
            path.name,
            f"is a VMDK of type {fields.get('createType', 'unknown')[:40]}, not of one file",
        )
    if fields.get("parentCID", "").lower() != "ffffffff" or "parentFileNameHint" in text:
        raise Unusable(path.name, "has a parent disk; an image must be complete")
    if len(_VMDK_EXTENT.findall(text)) != 1:
        raise Unusable(path.name, "has several extents; an image must be one file")


def _find_disk(path: Path) -> Disk:
    """Return the one VMDK disk of an OVA; nothing is unpacked, so names of members lead nowhere."""
    end = path.stat().st_size
    disks, descriptions, number = [], 0, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive, start=1):
                if number > _MAX_MEMBERS:
                    break
                if not member.isreg() or member.issparse():
                    raise Unusable(path.name, "its archive holds something other than plain files")
                if member.offset_data + member.size > end:
                    raise Unusable(path.name, "its archive is cut off")
                descriptions += member.name.lower().endswith(".ovf")
                if member.name.lower().endswith(".vmdk"):
                    disks.append(Disk(path, Format.VMDK, member.offset_data, member.size))
    except (
        tarfile.TarError,
        ValueError,
        OverflowError,
        RecursionError,
    ):  # the latter: of figures in its headers
        raise Unusable(path.name, "its archive cannot be read") from None
    if number > _MAX_MEMBERS or descriptions != 1 or len(disks) != 1:
        raise Unusable(
            path.name,
            f"is no OVA of one disk: {descriptions} .ovf and {len(disks)} .vmdk files in it",
        )
    _check_vmdk(path, offset=disks[0].offset or 0)
    return disks[0]


def check_virtual_size(path: Path, size: int) -> None:
    """Refuse a disk that no server could have.

    :raises Unusable: it is larger than 2 TiB
    """
    if size > _MAX_VIRTUAL:
        raise Unusable(path.name, f"its disk has {size} bytes, at most {_MAX_VIRTUAL} are accepted")
