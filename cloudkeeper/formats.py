"""The format of an image file, found in its bytes; its name and ``hv:format`` prove nothing.

Some formats can name other files: a qcow2 its backing file or data file, a VMDK its extents or its
parent. A program that opens such an image reads those files of this host into it. Therefore the
headers are checked here, before any program that follows them opens the file, and such an image is
refused. So is one that carries the mark of a format that it is not said to have: another program,
Glance or the hypervisor, could take it for that.

Frontend and backend both check: the backend does not rely on a program that it does not know.

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

# Bytes; a sparse image of a few bytes can claim any size.
_MAX_VIRTUAL = 2 * 2**40
# Of a TAR archive; an OVA has a handful.
_MAX_MEMBERS = 100
_SECTOR = 512
_QCOW2, _VMDK, _VMDK_TEXT = b"QFI\xfb", b"KDMV", b"# Disk DescriptorFile"
# Magic, version, backing file's offset and length, cluster bits, virtual size, encryption.
_QCOW2_HEADER = struct.Struct(">4sIQIIQI")
_QCOW2_FEATURES, _QCOW2_V3 = slice(72, 80), 3
# Bytes of a header without extensions, by version.
_QCOW2_LENGTHS = {2: 72, _QCOW2_V3: 104}
# Bits of the incompatible features; an unknown one could name another file.
_QCOW2_CORRUPT, _QCOW2_DATA_FILE, _QCOW2_KNOWN = 0b10, 0b100, 0b11111
# Magic, version, flags; in sectors: capacity, grain size, descriptor's offset and size.
_VMDK_HEADER = struct.Struct("<4sIIQQQQ")
# Sectors: the offset of a descriptor, the size that QEMU reads, the size that is accepted here.
#
# QEMU does not take them from the header. A header with another offset would show us a descriptor
# other than the one that QEMU uses.
_VMDK_DESCRIPTOR, _LEAST_DESCRIPTOR, _MAX_DESCRIPTOR = 1, 20, 40
_VMDK_TYPES = {"monolithicSparse", "streamOptimized"}
# The only extent of a disk that is one file: sparse, writable, of a name without a directory.
_VMDK_EXTENT = re.compile(r'RW \d{1,12} SPARSE "[^"/\\\\]+"')
# The fields that such a disk may have; others, such as changeTrackPath, name files.
_VMDK_FIELD = re.compile(
    r"(version|encoding|CID|parentCID|isNativeSnapshot|createType|parentFileNameHint|ddb\.[\w.]+)"
    r'\s*=\s*"?([^"]*)"?'
)
# By format, the names that oslo.utils has for what such a file may look like. A raw disk may have a
# partition table, and an archive has no mark that it knows.
_MARKS = {
    Format.RAW: {"raw", "gpt"},
    Format.OVA: {"raw"},
    Format.QCOW2: {"qcow2"},
    Format.VMDK: {"vmdk"},
}
_BLOCK = 2**20
_TAR_MAGIC, _BOOT_MAGIC = (257, b"ustar"), (510, b"\x55\xaa")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}


class Unusable(ApplianceError):
    """An image file that cannot be used, or must not be."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image that is safe to open.

    It is ``size`` bytes of the file from ``offset`` on; if both are None, the whole file.
    """

    path: Path
    format: Format
    offset: int | None = None
    size: int | None = None


def detect(path: Path, *, declared: str = "") -> Format:
    """Return the format of a file.

    ``declared``, the list's ``hv:format``, only decides whether a file without any mark is raw.

    Raises:
        Unusable: the file has no known format.

    """
    with path.open("rb") as file:
        start = file.read(_SECTOR)
    if start.startswith(_QCOW2):
        return Format.QCOW2
    if start.startswith((_VMDK, _VMDK_TEXT)):
        return Format.VMDK
    if start[_TAR_MAGIC[0] :].startswith(_TAR_MAGIC[1]):
        return Format.OVA
    # A raw disk may begin with any bytes, also with those of an archive; its boot sector decides.
    is_boot_sector = start[_BOOT_MAGIC[0] :].startswith(_BOOT_MAGIC[1])
    for mark, name in _COMPRESSED.items():
        if start.startswith(mark) and not is_boot_sector:
            raise Unusable(
                path.name,
                f"is compressed with {name}, which is not supported",
                "ask the endorser to publish the image as qcow2",
            )
    if is_boot_sector or declared.lower() == Format.RAW:
        return Format.RAW
    listed = f"; the list says {declared[:20]!r}" if declared else ""
    raise Unusable(path.name, f"has none of the formats {', '.join(Format)}{listed}")


def inspect(path: Path, found: Format) -> Disk:
    """Return the disk in a file of the format ``found`` after a check of its headers.

    Raises:
        Unusable: a header names another file or is invalid.

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


def check_marks(path: Path, found: Format) -> None:
    """Refuse a file that has the mark of another format than ``found``, or of several.

    The marks are those that Glance looks for. Some stand at the end of a file, so a file without
    any is read as a whole.

    Raises:
        Unusable: the file has such a mark.

    """
    # Imported here: it takes a tenth of a second.
    from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

    with path.open("rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        try:
            while wrapper.format is None and wrapper.read(_BLOCK):
                pass
            wrapper.close()
            mark = str(wrapper.format)
        except format_inspector.ImageFormatError as error:
            raise Unusable(path.name, f"is ambiguous: {error}") from None
    if mark not in _MARKS[found]:
        raise Unusable(path.name, f"has the mark of {mark}, but is said to be {found}")


def _check_qcow2(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(_QCOW2_LENGTHS[_QCOW2_V3])
    if len(header) < _QCOW2_HEADER.size:
        raise Unusable(path.name, "its qcow2 header is truncated")
    _, version, backing, _, _, virtual, encryption = _QCOW2_HEADER.unpack_from(header)
    if version not in _QCOW2_LENGTHS:
        raise Unusable(path.name, f"has the unknown qcow2 version {version}")
    if len(header) < _QCOW2_LENGTHS[version]:
        raise Unusable(path.name, "its qcow2 header is truncated")
    if backing:
        raise Unusable(path.name, "has a backing file; an image must be complete")
    if encryption:
        raise Unusable(path.name, "is encrypted")
    check_virtual_size(path, virtual)
    features = int.from_bytes(header[_QCOW2_FEATURES], "big") if version == _QCOW2_V3 else 0
    if features & _QCOW2_DATA_FILE:
        raise Unusable(path.name, "has its data in another file; an image must be complete")
    if features & _QCOW2_CORRUPT or features & ~_QCOW2_KNOWN:
        raise Unusable(
            path.name, f"is marked corrupt, or needs unknown qcow2 features ({features:#x})"
        )


def _check_vmdk(path: Path, *, offset: int) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        header = file.read(_SECTOR)
        if not header.startswith(_VMDK) or len(header) < _SECTOR:
            raise Unusable(path.name, "is not a VMDK with its data in the same file")
        _, _, _, capacity, _, position, length = _VMDK_HEADER.unpack_from(header)
        if not capacity or position != _VMDK_DESCRIPTOR or not 0 < length <= _MAX_DESCRIPTOR:
            raise Unusable(path.name, "its VMDK header does not describe a complete disk")
        descriptor = file.read(max(length, _LEAST_DESCRIPTOR) * _SECTOR)
    text = descriptor.split(b"\0", 1)[0].decode("latin-1").replace("\r\n", "\n")
    check_virtual_size(path, capacity * _SECTOR)
    fields, extents = _read_descriptor(path, text)
    kind = fields.get("createType", "unknown")
    if kind not in _VMDK_TYPES:
        raise Unusable(path.name, f"is a VMDK of type {kind[:40]}, which has several files")
    if fields.get("parentCID", "").lower() != "ffffffff" or "parentFileNameHint" in fields:
        raise Unusable(path.name, "has a parent disk; an image must be complete")
    if extents != 1:
        raise Unusable(path.name, f"has {extents} extents; an image must be one file")


def _read_descriptor(path: Path, text: str) -> tuple[dict[str, str], int]:
    """Return the fields of a VMDK descriptor and the number of its extents.

    Only known lines are accepted: a program could read another line as an extent in another file.
    """
    fields: dict[str, str] = {}
    extents = 0
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        if field := _VMDK_FIELD.fullmatch(line.strip()):
            fields[field[1]] = field[2].strip()
        elif _VMDK_EXTENT.fullmatch(line):
            extents += 1
        else:
            raise Unusable(path.name, f"its VMDK descriptor has the line {line[:60]!r}")
    return fields, extents


def _find_disk(path: Path) -> Disk:
    """Return the only VMDK disk of an OVA.

    Nothing is extracted: qemu-img reads the disk inside the archive, so that the names of members
    cannot write a file.
    """
    end = path.stat().st_size
    disks, descriptions, number = [], 0, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive, start=1):
                if number > _MAX_MEMBERS:
                    break
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise Unusable(path.name, "its archive holds members that are not plain files")
                if member.offset_data + member.size > end:
                    raise Unusable(path.name, "its archive is truncated")
                descriptions += member.name.lower().endswith(".ovf")
                if _is_vmdk(path, member):
                    disks.append(Disk(path, Format.VMDK, member.offset_data, member.size))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        # Absurd numbers in a header raise all but the first.
        raise Unusable(path.name, "its archive cannot be read") from None
    if number > _MAX_MEMBERS or descriptions != 1 or len(disks) != 1:
        contents = f"{descriptions} .ovf and {len(disks)} .vmdk files"
        raise Unusable(path.name, f"is not an OVA with one disk: its archive has {contents}")
    _check_vmdk(path, offset=disks[0].offset or 0)
    return disks[0]


def _is_vmdk(path: Path, member: tarfile.TarInfo) -> bool:
    """Check whether a member is a VMDK, by its name or, since names vary, by its mark."""
    if member.name.lower().endswith(".vmdk"):
        return True
    with path.open("rb") as file:
        file.seek(member.offset_data)
        return file.read(len(_VMDK)) == _VMDK


def check_virtual_size(path: Path, size: int) -> None:
    """Refuse a disk that is too large for a server.

    Raises:
        Unusable: the disk is larger than 2 TiB.

    """
    if size > _MAX_VIRTUAL:
        raise Unusable(path.name, f"its disk has {size} bytes, the limit is {_MAX_VIRTUAL}")
