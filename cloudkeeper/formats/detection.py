"""The format of a file, by its bytes, and the check of its headers."""

from __future__ import annotations

from pathlib import Path

from cloudkeeper.formats.disk import Disk, Unusable
from cloudkeeper.formats.ova import find_disk
from cloudkeeper.formats.qcow2 import check_qcow2
from cloudkeeper.formats.vmdk import check_vmdk
from cloudkeeper.model import Format

_SECTOR = 512
_QCOW2, _VMDK, _VMDK_TEXT = b"QFI\xfb", b"KDMV", b"# Disk DescriptorFile"
_TAR_MAGIC, _BOOT_MAGIC = (257, b"ustar"), (510, b"\x55\xaa")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}


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
            with path.open("rb") as file:
                check_qcow2(file, path.name)
        case Format.VMDK:
            with path.open("rb") as file:
                check_vmdk(file, path.name)
        case Format.OVA:
            return find_disk(path)
        case Format.RAW:
            pass
    return Disk(path, found)
