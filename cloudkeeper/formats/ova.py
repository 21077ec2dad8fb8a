"""The disk of an OVA: a TAR archive (POSIX ustar) around a description and a VMDK."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cloudkeeper.formats import vmdk
from cloudkeeper.formats.disk import Disk, Unusable
from cloudkeeper.model import Format

# Of a TAR archive; an OVA has a handful.
_MAX_MEMBERS = 100
# Bytes of a long name or of an extended header (pax).
_MAX_HEADER = 2**20


def find_disk(path: Path) -> Disk:
    """Return the only VMDK disk of an OVA.

    Nothing is extracted: qemu-img reads the disk inside the archive, so that the names of members
    cannot write a file.

    Raises:
        Unusable: the archive has no such disk, or several, or is not safe to open.

    """
    end = path.stat().st_size
    disks: list[tarfile.TarInfo] = []
    descriptions = number = 0
    try:
        with (
            path.open("rb") as file,
            _opened(file) as archive,
        ):
            for number, member in enumerate(archive, start=1):
                if number > _MAX_MEMBERS:
                    break
                if not _is_file(path, member):
                    continue
                if member.offset_data + member.size > end:
                    raise Unusable(path.name, "its archive is truncated")
                descriptions += member.name.lower().endswith(".ovf")
                if _is_vmdk(path, member):
                    disks.append(member)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):
        # Absurd numbers in a header raise all but the first.
        raise Unusable(path.name, "its archive cannot be read") from None
    if number > _MAX_MEMBERS or descriptions != 1 or len(disks) != 1:
        contents = f"{descriptions} .ovf and {len(disks)} .vmdk files"
        if number > _MAX_MEMBERS:
            contents = f"more than {_MAX_MEMBERS} members"
        raise Unusable(path.name, f"is not an OVA with one disk: its archive has {contents}")
    (disk,) = disks
    with path.open("rb") as file:
        file.seek(disk.offset_data)
        vmdk.check_vmdk(file, path.name, size=disk.size)
    return Disk(path, Format.VMDK, disk.offset_data, disk.size)


def _is_file(path: Path, member: tarfile.TarInfo) -> bool:
    """Check whether a member counts: no directory, and not the notes that macOS adds to files."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise Unusable(path.name, "its archive holds names that lead out of its directory")
    if member.isdir():
        return False
    if not member.isreg() or member.issparse():
        raise Unusable(path.name, "its archive holds members that are not plain files")
    return not name.name.startswith("._")


def _is_vmdk(path: Path, member: tarfile.TarInfo) -> bool:
    """Check whether a member is a VMDK, by its name or, since names vary, by its mark."""
    if member.name.lower().endswith(".vmdk"):
        return True
    with path.open("rb") as file:
        file.seek(member.offset_data)
        return file.read(len(vmdk.MAGIC)) == vmdk.MAGIC


def _opened(file: BinaryIO) -> tarfile.TarFile:
    headers: Any = _Headers(file)  # has all that tarfile uses of a file
    return tarfile.open(fileobj=headers, mode="r:")


class _Headers:
    """A file for tarfile, which reads a header of any length into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        """Read part of a header.

        Raises:
            tarfile.ReadError: it is too long.

        """
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError
        return self._file.read(size)
