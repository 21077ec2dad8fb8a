"""The archive of a backup: a tar, compressed by zstd, encrypted, written and read as a stream."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from appliance.admin.backup import envelope, manifest
from appliance.admin.backup.der import DamagedBackup
from appliance.admin.backup.envelope import Envelope, Recipient, Unlock
from appliance.admin.backup.manifest import Manifest
from appliance.core import files
from appliance.core.run.errors import LocalFailure, Unavailable, UsageError

PREFIX = "files"
"""The directory of the tar that stands for the root of an appliance."""
_COMPRESSED = b"\x28\xb5\x2f\xfd"
_WINDOW = 2**27
_COMPRESSED_PIECE = 2**12
"""Bytes that are decompressed together: a small one limits what it can become."""
_OTHER_COPY = "take another copy of the backup"


class _Output(Protocol):
    def write(self, data: bytes, /) -> int: ...


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[BinaryIO]:
    """Give a file of mode 0600 that gets its name when the block has ended without a fault.

    Raises:
        OSError: It cannot be written, or the name is taken; nothing is left.

    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with files.named(path), open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        files.move_new(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    files.sync_directory(path.parent)


@dataclass(slots=True)
class _Hashed:
    """A file that is read once, with its digest."""

    file: BinaryIO
    path: Path
    left: int
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(self.left if count < 0 else min(count, self.left))
        if not data and self.left and count:
            raise LocalFailure(self.path, "became shorter while it was read", "run this again")
        self.left -= len(data)
        self.digest.update(data)
        return data


class ArchiveWriter:
    """Adds files to an archive."""

    def __init__(self, output: _Output) -> None:
        # "w|": a stream, so that nothing is ever changed behind the end.
        stream = _as_binary(output)
        self._tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.digests: dict[str, str] = {}
        self.size = 0

    def add(self, name: str, path: Path, *, content: Path | None = None) -> None:
        """Add a directory or a file with its access; ``content`` is a copy to read in its place.

        Raises:
            OSError: It cannot be read, or has vanished.

        """
        status = path.stat()
        member = tarfile.TarInfo(f"{PREFIX}{name}")
        member.mode, member.mtime = status.st_mode & 0o7777, int(status.st_mtime)
        member.uid, member.gid = status.st_uid, status.st_gid
        if path.is_dir():
            member.type = tarfile.DIRTYPE
            self._tar.addfile(member)
            return
        with files.open_regular(content or path, follow=True) as file:
            member.size = os.fstat(file.fileno()).st_size
            hashed = _Hashed(file, path, member.size)
            self._tar.addfile(member, _as_binary(hashed))
        self.digests[name] = hashed.digest.hexdigest()
        self.size += member.size

    def close(self, last: Manifest) -> None:
        """Add the manifest, and end the archive."""
        data = last.as_bytes()
        member = tarfile.TarInfo(manifest.NAME)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.close()


def _as_binary(stream: object) -> BinaryIO:
    return stream  # type: ignore[return-value]  # tarfile needs read and write alone


@contextlib.contextmanager
def written(path: Path, recipients: Sequence[Recipient]) -> Iterator[ArchiveWriter]:
    """Give the writer of a new backup; without ``recipients`` it is not encrypted.

    Raises:
        UsageError: The file exists.

    """
    if os.path.lexists(path):
        raise UsageError(path, "exists", "name a new file, such as one with the date")
    with unfinished(path) as file:
        sealed = Envelope(file, recipients) if recipients else None
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        output = compressor.stream_writer(_as_binary(sealed or file), closefd=False)
        yield ArchiveWriter(output)
        output.close()  # type: ignore[no-untyped-call]
        if sealed:
            sealed.close()


# ---------------------------------------------------------------------------------------- reading


class _Pulled(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _decompressed(source: BinaryIO) -> Iterator[bytes]:
    """Yield the text of one zstd frame, to its very end.

    Raises:
        DamagedBackup: It is truncated, or something follows.

    """
    frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    while piece := source.read(_COMPRESSED_PIECE):
        if frame.eof:
            raise DamagedBackup("something follows its end")
        yield frame.decompress(piece)
    if not frame.eof:
        raise DamagedBackup("it ends early")
    if frame.unused_data:
        raise DamagedBackup("something follows its end")


Take = Callable[[str, tarfile.TarInfo, BinaryIO], None]
"""Takes a directory or a file: its path on an appliance, its access, and its content."""


def is_encrypted(path: Path) -> bool:
    """Return whether a backup is encrypted.

    Raises:
        Unavailable: The file is no backup.
        OSError: It cannot be read.

    """
    with files.open_regular(path, follow=True) as file:
        head = file.read(len(envelope.BEGINNING))
    if head.startswith(_COMPRESSED):
        return False
    if head != envelope.BEGINNING:
        raise Unavailable(path, "is not a backup of an appliance", "name the file of one")
    return True


def read(path: Path, unlock: Unlock | None, take: Take) -> Manifest:
    """Read a backup to its end, give each file to ``take``, and return the manifest.

    Nothing that ``take`` got is authentic before this returns.

    Raises:
        Unavailable: It is truncated or altered, or encrypted to other keys.

    """
    with files.open_regular(path, follow=True) as file:
        try:
            return _read(path, file, unlock, take)
        except (
            DamagedBackup,
            zstandard.ZstdError,
            tarfile.TarError,
            EOFError,
            ValueError,
        ) as error:
            words = " ".join(str(error).split())
            raise Unavailable(path, f"is truncated or altered ({words})", _OTHER_COPY) from error


def _read(path: Path, file: BinaryIO, unlock: Unlock | None, take: Take) -> Manifest:
    source: BinaryIO = file
    if unlock is not None:
        pieces = envelope.opened(file, unlock)
        if pieces is None:
            raise Unavailable(
                path, "is encrypted to other keys", "name the key of one of its certificates"
            )
        source = io.BufferedReader(_Pulled(pieces))
    plain = io.BufferedReader(_Pulled(_decompressed(source)))
    last: Manifest | None = None
    found: dict[str, str] = {}
    with tarfile.open(fileobj=plain, mode="r|") as tar:
        for member in tar:
            if last is not None:
                raise DamagedBackup("something follows its manifest")
            if member.name == manifest.NAME:
                last = _manifest(tar, member)
            else:
                _give(tar, member, take, found)
    while plain.read(2**16):
        pass
    if last is None:
        raise DamagedBackup("it ends early")
    if last.digests != found:
        raise DamagedBackup("its files are not those of its manifest")
    return last


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Manifest:
    content = tar.extractfile(member)
    if content is None or member.size > manifest.LIMIT:
        raise DamagedBackup("it has no manifest")
    return manifest.parse(content.read())


def _give(tar: tarfile.TarFile, member: tarfile.TarInfo, take: Take, found: dict[str, str]) -> None:
    name = member.name.removeprefix(PREFIX)
    if not member.name.startswith(f"{PREFIX}/") or not (member.isreg() or member.isdir()):
        raise DamagedBackup("it has a file of another kind")
    content = tar.extractfile(member) if member.isreg() else io.BytesIO()
    if content is None:
        raise DamagedBackup("it has a file of another kind")
    hashed = _Hashed(_as_binary(content), Path(name), member.size)
    take(name, member, _as_binary(hashed))
    if member.isreg():
        while hashed.read(2**16):
            pass
        if name in found:
            raise DamagedBackup(f"it has {name} twice")
        found[name] = hashed.digest.hexdigest()
