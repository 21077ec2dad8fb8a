"""Durable changes to the file system.

The order is always the same: write, fsync the file, rename, fsync the directory. After any of these steps the power may
go: what a reader finds is the old state or the new one, never a mixture. Temporary names are fixed, so what a killed
run left behind is overwritten by the next one instead of piling up.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an `OSError` of a descriptor the name of its file: the administrator must read which disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, mode: int = 0o750) -> None:
    """Create a directory and its missing parents durably; one that exists keeps its mode."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, mode=mode)
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if path.is_dir():  # another process was faster
            return
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory", str(path)) from None
    sync_directory(path.parent)


def write_new(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o640) -> None:
    """Write a file and fsync it, in place of whatever stood under this name; its name is not yet durable.

    What stood there is removed, not opened: a link that somebody planted leads nowhere, and ``mode`` counts. ``data``
    may come in pieces, so that a large file need not be in memory.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        path.unlink()
        descriptor = os.open(path, flags, mode)
    with named(path), open(descriptor, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes | Iterable[bytes], *, mode: int = 0o640) -> None:
    """Replace a file; readers see the old content or the new one, also after a power cut. A link is not followed.

    Writers in one directory wait for each other, so that none renames what another is still writing. Where a directory
    cannot be locked (NFS), writers of the same file must exclude each other.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_EX)
        try:
            write_new(temporary, data, mode=mode)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        with named(path.parent):
            os.fsync(directory)
    finally:
        os.close(directory)


def move_new(source: Path, target: Path) -> None:
    """Rename a file of the same file system, refusing to replace: `FileExistsError` when ``target`` exists.

    The move is one step: at every moment exactly one of the two names exists. The caller fsyncs the directories.
    A file system without RENAME_NOREPLACE (NFS) gets link and unlink, where a crash between the two leaves both names.
    """
    result = _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if result == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        os.link(source, target)
        sync_directory(target.parent)  # two steps: the new name must outlast a power cut before the old one goes
        source.unlink()
        return
    raise OSError(number, os.strerror(number), str(source), None, str(target))


_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_renameat2.restype = ctypes.c_int
