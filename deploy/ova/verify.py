"""Verification of an OVA after a transfer: whether it is complete, and each byte is as it was made.

This finds damage. It does not say who has made the file: for that, verify the signature of the
checksums that are published with it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from deploy.ova.archive import BLOCK, RECORD, padded
from deploy.ova.virtual_machine import OvaError

_ENDS = [".ovf", ".mf", ".vmdk"]
_LINE = re.compile(r"SHA256\(([^()/]+)\)= ([0-9a-f]{64})")
_LONGEST = 2**20
"""Bytes of a manifest; ours has two lines."""
_AGAIN = "download it again"


def check(path: Path) -> None:
    """Check that a file is a complete OVA as `archive.write` makes it, and unchanged.

    Raises:
        OvaError: It is not.

    """
    try:
        with path.open("rb") as file:
            _check(path, file)
    except OSError as error:
        raise OvaError(f"{path}: {error.strerror}") from None


def _check(path: Path, file: BinaryIO) -> None:
    members = _members(path, file)
    if [PurePosixPath(member.name).suffix for member in members] != _ENDS:
        names = ", ".join(member.name for member in members) or "nothing"
        _refuse(path, f"holds {names} and not a description, a manifest and a disk")
    end = members[-1].offset_data + padded(members[-1].size)
    whole, size = -(-(end + 2 * BLOCK) // RECORD) * RECORD, file.seek(0, 2)
    if size != whole:
        _refuse(path, f"is {'truncated' if size < whole else 'too long'}: {size} bytes of {whole}")
    wanted = _manifest(path, file, members[1])
    for member in (members[0], members[2]):
        if _digest(file, member) != wanted.get(member.name):
            words = "its SHA-256 is not the one of the manifest"
            _refuse(path, f"{member.name} in it is damaged: {words}")
    for member, end in zip(members, [*(each.offset for each in members[1:]), size], strict=True):
        file.seek(member.offset_data + member.size)
        if any(file.read(end - file.tell())):
            _refuse(path, f"is damaged behind {member.name}")


def _members(path: Path, file: BinaryIO) -> list[tarfile.TarInfo]:
    """Return the first members of an archive; what is behind the last one is not looked at."""
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  the file is the caller's
        found = [archive.next() for _ in _ENDS]
    except tarfile.TarError:
        _refuse(path, "is not an OVA, or its beginning is damaged or truncated")
    return [member for member in found if member is not None]


def _manifest(path: Path, file: BinaryIO, member: tarfile.TarInfo) -> dict[str, str]:
    if member.size > _LONGEST:
        _refuse(path, f"{member.name} in it is not a manifest")
    file.seek(member.offset_data)
    lines = file.read(member.size).decode("utf-8", "replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    return {line[1]: line[2] for line in found if line}


def _digest(file: BinaryIO, member: tarfile.TarInfo) -> str:
    digest, left = hashlib.sha256(), member.size
    file.seek(member.offset_data)
    while block := file.read(min(left, 2**20)):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _refuse(path: Path, words: str) -> NoReturn:
    raise OvaError(f"{path}: {words}; {_AGAIN}")
