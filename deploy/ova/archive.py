"""The OVA: a TAR (POSIX ustar) of description, manifest and disk, in this order.

The disk is written straight into the archive, so no other file of its size is made. Description and
manifest stand before it, and need its size and digest: their room is kept, and filled at the end.
"""

from __future__ import annotations

import hashlib
import tarfile
from datetime import UTC, datetime, time
from pathlib import Path
from typing import BinaryIO

from deploy.ova import vmdk
from deploy.ova.descriptor import describe, manifest
from deploy.ova.virtual_machine import OvaError, VirtualMachine

BLOCK = 512
RECORD = 20 * BLOCK
"""Bytes to which an archive is filled up."""
LARGEST = 8**11 - 1
"""Bytes of a file: its size has eleven octal digits in ustar, and importers read no other form."""


def write(raw: Path, directory: Path, machine: VirtualMachine) -> Path:
    """Write the OVA of a machine around a ``raw`` disk into ``directory``; return its path.

    The same disk and machine make the same bytes.

    Raises:
        OvaError: The disk cannot be read, is empty, or is too large for the archive.

    """
    finished = directory / f"{machine.name}.ova"
    unfinished = directory / f".{finished.name}.new"
    try:
        with raw.open("rb", buffering=0) as disk, unfinished.open("wb") as file:
            if not disk.seek(0, 2):
                raise OvaError(f"{raw}: is empty; name the raw disk of the machine")
            _write(disk, file, machine)
        unfinished.rename(finished)
    except OSError as error:
        raise OvaError(f"{error.filename or finished}: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return finished


def _write(disk: BinaryIO, file: BinaryIO, machine: VirtualMachine) -> None:
    room = len(describe(machine, size=LARGEST, capacity=LARGEST * BLOCK).encode())
    names = (f"{machine.name}.ovf", f"{machine.name}.mf", machine.disk)
    lines = len(manifest(dict.fromkeys((names[0], names[2]), "0" * 64)))
    file.seek(3 * BLOCK + padded(room) + padded(lines))
    stored = StoredDisk(file)
    capacity = vmdk.write(disk, stored, name=machine.disk)
    file.write(bytes(-file.tell() % BLOCK + 2 * BLOCK))
    file.write(bytes(-file.tell() % RECORD))
    # Whitespace may follow a document of XML.
    text = describe(machine, size=stored.size, capacity=capacity).encode().ljust(room, b"\n")
    digests = {names[0]: hashlib.sha256(text).hexdigest(), names[2]: stored.digest.hexdigest()}
    file.seek(0)
    for name, content in ((names[0], text), (names[1], manifest(digests).encode())):
        file.write(_header(name, len(content), machine))
        file.write(content.ljust(padded(len(content)), b"\0"))
    file.write(_header(names[2], stored.size, machine))


class StoredDisk:
    """The disk in the archive, with its ``size`` and digest."""

    def __init__(self, file: BinaryIO, *, size: int = 0) -> None:
        self.size = size
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, content: bytes, /) -> None:
        """Write the next bytes of the disk.

        Raises:
            OvaError: The disk is too large for the archive.

        """
        self.size += len(content)
        if self.size > LARGEST:
            words = "the disk has more than 8 GiB when compressed, which no OVA can hold"
            raise OvaError(f"{words}; give the machine a smaller disk")
        self.digest.update(content)
        self._file.write(content)


def padded(size: int) -> int:
    """Return the bytes of the blocks that hold ``size`` bytes."""
    return -(-size // BLOCK) * BLOCK


def _header(name: str, size: int, machine: VirtualMachine) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    member.mtime = int(datetime.combine(machine.day, time(), UTC).timestamp())
    return member.tobuf(tarfile.USTAR_FORMAT)
