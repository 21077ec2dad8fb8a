"""Durable changes to the file system.

The order is always the same: write, fsync the file, rename, fsync the directory. If the power
fails after any of these steps, a reader finds the old state or the new one, never a mixture.
Temporary names are fixed, so the next run overwrites the file that a killed run left.

Other programs and people write in the same directories. `open_regular`, `read_regular` and
`listed` never wait for a pipe and follow a link only on request. `listed` returns a line for the
administrator about each name that cannot be used, so that one foreign file blocks nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.core.run.errors import LocalFailure

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the name of the file to an `OSError` of a descriptor, so that a message can show it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path, *, mode: int = 0o750) -> None:
    """Create a directory and its missing parents durably; an existing one keeps its mode."""
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


def write_new(
    path: Path,
    data: bytes | Iterable[bytes],
    *,
    mode: int = 0o640,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a file and fsync it; the caller makes its name durable.

    A file of this name is removed, not opened: a planted link is not followed, and
    ``mode`` applies. ``data`` may come in pieces, so that a large file need not fit in memory.
    ``owner`` are the numbers of user and group; without them, it is this process's.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError:
        path.unlink()
        descriptor = os.open(path, flags, mode)
    with named(path), open(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)  # the change of owner may have cleared bits
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


def write_atomic(
    path: Path,
    data: bytes | Iterable[bytes],
    *,
    mode: int = 0o640,
    owner: tuple[int, int] | None = None,
) -> None:
    """Replace a file; readers see the old content or the new one, also after a power failure.

    With ``owner``, numbers of user and group, no reader ever sees it under another owner.

    A link is replaced, not followed. Writers in one directory wait for each other, so that none
    renames a file that another still writes. Where a directory cannot be locked (NFS), writers of
    the same file must exclude each other.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.is_dir() and not temporary.is_symlink():  # foreign: leave it alone
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # NFS may have no locks
            fcntl.flock(directory, fcntl.LOCK_EX)
        try:
            write_new(temporary, data, mode=mode, owner=owner)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        with named(path.parent):
            os.fsync(directory)
    finally:
        os.close(directory)


# ---------------------------------------------------------------------------------- foreign names


class NotAFile(OSError):
    """The name is not that of a regular file; ``strerror`` says of what it is."""


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Listing:
    """The usable paths of a directory, sorted by name, and a line for each skipped one."""

    paths: tuple[Path, ...] = ()
    skipped: Mapping[Path, LocalFailure] = field(default_factory=dict)


def open_regular(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading, without waiting for another process.

    A link is followed with ``follow`` only.

    Raises:
        NotAFile: it is a directory, a link, a pipe, a socket or a device.
        OSError: it does not exist, or cannot be read.

    """
    require_regular(path, path.stat(follow_symlinks=follow))  # opening a device may act on it
    # Without O_NONBLOCK, opening a pipe waits until another process opens it for writing.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    flags |= 0 if follow else os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    try:
        require_regular(path, os.fstat(descriptor))  # it may have been replaced since
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_append(path: Path, flags: int = 0, *, mode: int = 0o640) -> int:
    """Return a descriptor for appending to a log, without waiting for the reader of a pipe.

    Raises:
        OSError: it cannot be opened, or is a pipe that nobody reads.

    """
    flags |= os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    os.set_blocking(descriptor, True)  # else a slow reader of a pipe would cost lines
    return descriptor


def read_regular(path: Path, *, limit: int, follow: bool = False) -> bytes:
    """Return the content of a file.

    Raises:
        NotAFile: it is not a regular file.
        OSError: it does not exist, cannot be read, or has more than ``limit`` bytes.

    """
    with open_regular(path, follow=follow) as file, named(path):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"is longer than {limit} bytes", str(path))
    return data


def listed(
    directory: Path,
    wanted: Callable[[str], object],
    *,
    directories: bool = False,
    follow: bool = False,
    access: int = os.R_OK,
) -> Listing:
    """Return the files, or ``directories``, of a directory whose names ``wanted`` accepts.

    See `checked`.

    Raises:
        OSError: the directory itself cannot be read.

    """
    paths = [directory / name for name in sorted(os.listdir(directory)) if wanted(name)]
    return checked(paths, directories=directories, follow=follow, access=access)


def checked(
    candidates: Iterable[Path],
    *,
    directories: bool = False,
    follow: bool = False,
    access: int = os.R_OK,
) -> Listing:
    """Return those of some paths that are usable files, or ``directories``.

    A path of another kind, or one that this process may not read, is skipped with a line. A path
    that has vanished is ignored: another process has taken it. ``follow`` takes a link for its
    target; ``access`` is the permission that a file must give (`os.access`).
    """
    paths: list[Path] = []
    skipped: dict[Path, LocalFailure] = {}
    for path in candidates:
        try:
            _require_usable(path, directories=directories, follow=follow, access=access)
        except OSError as error:
            if os.path.lexists(path):
                skipped[path] = describe_skipped(path, error)
        else:
            paths.append(path)
    return Listing(tuple(paths), skipped)


def describe_skipped(path: Path, error: OSError, *, consequence: str = "") -> LocalFailure:
    """Return the line about a name that is skipped because of ``error``, with a remedy.

    For a file of the program's own state, ``consequence`` says how the program goes on without it.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return LocalFailure.from_os(error, subject=shown(path))
    word, kind = shell_word(path), _KINDS.get(stat.S_IFMT(status.st_mode), "a file")
    cause = error.strerror or str(error)
    cause = f"skipped: {cause[:1].lower()}{cause[1:]}"
    if isinstance(error, PermissionError) and kind != "a link":
        cause += f" ({kind} of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o})"
        remedy = _permitting(status, word) or LocalFailure.from_os(error).remedy
    else:
        if isinstance(error, NotAFile) or kind == "a link":
            cause = f"skipped: is {kind}" if isinstance(error, NotAFile) else f"{cause} ({kind})"
        flag = "-r " if kind == "a directory" else ""
        remedy = f"{'' if consequence else 'if nobody needs it: '}rm {flag}{word}"
        if error.errno == errno.EIO:
            remedy = "check the disk"
        elif kind == "a device" and not consequence:
            remedy = "name a file in its place"
    return LocalFailure(shown(path), f"{cause}; {consequence}" if consequence else cause, remedy)


def _permitting(status: os.stat_result, word: str) -> str:
    """Return the command that gives this process access; empty if owner and mode give it."""
    if status.st_uid != os.geteuid():
        return f"chown -R {os.geteuid()}:{os.getegid()} {word}"
    is_directory = stat.S_ISDIR(status.st_mode)
    needed = stat.S_IRWXU if is_directory else stat.S_IRUSR | stat.S_IWUSR
    if not needed & ~status.st_mode:
        return ""
    return f"chmod -R u+rwX {word}" if is_directory else f"chmod u+rw {word}"


def describe_unusable(path: Path, error: OSError) -> LocalFailure:
    """Return the failure of a run that needs a path which cannot be used, with a remedy."""
    known = describe_skipped(path, error)
    return LocalFailure(known.subject, known.cause.removeprefix("skipped: "), known.remedy)


def shell_word(path: Path) -> str:
    """Return a path, of any bytes, as one word of a command for bash."""
    text = str(path)
    if text.isprintable():
        return text if _PLAIN_WORD.fullmatch(text) else shlex.quote(text)
    return "$'" + "".join(map(_escaped, os.fsencode(path).decode("utf-8", "surrogateescape"))) + "'"


def shown(path: Path) -> str:
    """Return a path for a message; one that cannot be printed is written as `shell_word`."""
    return str(path) if str(path).isprintable() else shell_word(path)


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _require_usable(path: Path, *, directories: bool, follow: bool, access: int) -> None:
    status = path.stat(follow_symlinks=follow)
    if not directories:
        require_regular(path, status)
    elif not stat.S_ISDIR(status.st_mode):
        raise NotAFile(errno.ENOTDIR, "Is not a directory", str(path))
    needed = os.R_OK | os.X_OK if directories else access
    if not os.access(path, needed, effective_ids=True):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))


def require_regular(path: Path, status: os.stat_result) -> None:
    """Raise `NotAFile` if the status of ``path`` is not that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise NotAFile(errno.EINVAL, f"Is {kind}", str(path))


# ------------------------------------------------------------------------------------------ moves


def overwrite(path: Path, data: bytes) -> None:
    """Replace the content of a regular file in place, on a disk without space for a second copy.

    This is not atomic: a reader may see half of it. The blocks of the file are used again.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with named(path), open(descriptor, "wb", buffering=0) as file:
        require_regular(path, os.fstat(descriptor))
        written = 0
        while written < len(data):
            written += file.write(data[written:])
        file.truncate(len(data))
        os.fsync(descriptor)


def move_new(source: Path, target: Path) -> None:
    """Rename a file within a file system, without replacing another one.

    This is one step: at every moment exactly one of the two names exists. The caller fsyncs the
    directories. On a file system without RENAME_NOREPLACE (NFS) a link is made and the old name
    removed; a crash between the two leaves both names.

    Raises:
        FileExistsError: ``target`` exists.

    """
    result = _renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        os.link(source, target)
        # These are two steps, so the new name must be durable before the old one is removed.
        sync_directory(target.parent)
        source.unlink()
        return
    raise OSError(number, os.strerror(number), str(source), None, str(target))


_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
_renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_renameat2.restype = ctypes.c_int
