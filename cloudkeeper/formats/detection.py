"""The format of a file, by its bytes, and the check of its headers."""

from __future__ import annotations

from pathlib import Path

from cloudkeeper.formats import vdi, vhd, vhdx, vmdk
from cloudkeeper.formats.compressed import compression_of
from cloudkeeper.formats.disk import Disk, Unusable, check_virtual_size
from cloudkeeper.formats.ova import find_disk
from cloudkeeper.formats.qcow2 import MAGIC as QCOW2_MAGIC
from cloudkeeper.formats.qcow2 import check_qcow2
from cloudkeeper.model import Format

# Bytes at the start of a file by which its format is known; the last are the mark of an ISO.
_START = 0x8006
_SECTOR = 512
_MARKS = (
    (0, (QCOW2_MAGIC,), Format.QCOW2),
    (0, (vmdk.MAGIC, b"# Disk DescriptorFile"), Format.VMDK),
    (0, (vhd.MAGIC,), Format.VHD),
    (0, (vhdx.MAGIC,), Format.VHDX),
    (vdi.MAGIC_AT, (vdi.MAGIC,), Format.VDI),
    (257, (b"ustar",), Format.OVA),
    (0x8001, (b"CD001", b"NSR02", b"NSR03"), Format.ISO),
)
_BOOT_AT, _BOOT_MAGIC = 510, b"\x55\xaa"
# What is refused by name.
_UNSUPPORTED = {
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf'\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x04\x22\x4d\x18": "an LZ4 file",
    b"QED\0": "a QED disk",
    b"LUKS\xba\xbe": "an encrypted LUKS volume",
    b"COWD": "a VMDK of type COWD",
    b"\xbe\xba\xfe\xca\0\0\0\0": "a VMDK of type seSparse",
    b"WithoutFreeSpace": "a Parallels disk",
    b"WithouFreSpacExt": "a Parallels disk",
}


def detect(path: Path, *, declared: str = "") -> Format:
    """Return the format of a file.

    ``declared``, the list's ``hv:format``, decides only whether a file without any mark is raw; an
    ISO that is declared raw is refused.

    Raises:
        Unusable: the file has no known format, or the marks of two.

    """
    with path.open("rb") as file:
        start = file.read(_START)
        file.seek(max(0, path.stat().st_size - vhd.SIZE))
        end = file.read(vhd.SIZE)
    return _recognise(start, end, name=path.name, declared=declared)


def _recognise(start: bytes, end: bytes, *, name: str, declared: str) -> Format:
    is_said_raw = declared.lower() == Format.RAW
    found = [each for at, marks, each in _MARKS if start[at:].startswith(marks)]
    if len(found) > 1:
        raise Unusable(name, f"is ambiguous: it has the marks of {' and '.join(found)}")
    if found == [Format.ISO] and is_said_raw:
        raise Unusable(name, "has the mark of iso, but is said to be raw")
    if found:
        return found[0]
    _check_unsupported(start, name)
    if vhd.is_fixed(end):
        return Format.VHD
    if is_said_raw or start[_BOOT_AT:].startswith(_BOOT_MAGIC):
        return Format.RAW
    listed = f"; the list says {declared[:20]!r}" if declared else ""
    raise Unusable(name, f"has none of the formats {', '.join(Format)}{listed}")


def _check_unsupported(start: bytes, name: str) -> None:
    if kind := compression_of(start):
        raise Unusable(name, f"contains {kind} data; an image may be compressed only once")
    for mark, description in _UNSUPPORTED.items():
        if start.startswith(mark):
            advice = "ask the endorser to publish the image as qcow2"
            raise Unusable(name, f"is {description}, which is not supported", advice)


def inspect(path: Path, found: Format, *, is_whole: bool = True) -> Disk:
    """Return the disk in a file of the format ``found`` after a check of its headers.

    If it is not ``is_whole``, what stands at the end of a file is not checked.

    Raises:
        Unusable: a header names another file or is invalid.

    """
    if found is Format.OVA:
        return find_disk(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        match found:
            case Format.QCOW2:
                check_qcow2(file, path.name)
            case Format.VMDK:
                vmdk.check_vmdk(file, path.name, size=size if is_whole else None)
            case Format.VDI:
                vdi.check_vdi(file, path.name)
            case Format.VHD:
                vhd.check_vhd(file, path.name)
            case Format.VHDX:
                vhdx.check_vhdx(file, path.name)
            case Format.RAW | Format.ISO:
                if size < _SECTOR:
                    raise Unusable(path.name, f"has {size} bytes, less than a sector of a disk")
                check_virtual_size(path.name, size)
    return Disk(path, found)
