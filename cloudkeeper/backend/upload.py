"""The image file that a frontend names, checked before and while Glance receives it.

The path comes from another program. The file is opened first and checked through its descriptor, so
that nobody can exchange it between the check and the upload.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cloudkeeper import formats
from cloudkeeper.backend.errors import Failed
from cloudkeeper.formats import Unusable
from cloudkeeper.model import ImageData, TransferMode
from cloudkeeper.wire.status import CallStatus

_BLOCK = 2**20
# By the number of hexadecimal digits.
_ALGORITHMS = {128: "sha512", 64: "sha256"}


class ImageFile:
    """Image data in an open file; every iteration sends them from the beginning.

    The last block is sent only after all bytes have been read and their checksum is right: Glance
    discards an upload that is shorter than its Content-Length. ``is_wanted`` is asked before each
    block.
    """

    def __init__(
        self, descriptor: int, data: ImageData, *, size: int, is_wanted: Callable[[], bool]
    ) -> None:
        self._descriptor = descriptor
        self._data = data
        self._size = size
        self._is_wanted = is_wanted
        self.sha512 = ""
        """Of the bytes that were sent; empty until all have been."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        wanted = self._data.checksum.lower()
        digest, sha512 = hashlib.new(_ALGORITHMS[len(wanted)]), hashlib.sha512()
        for block, is_last in self._blocks():
            digest.update(block)
            if digest.name != sha512.name:
                sha512.update(block)
            if is_last and digest.hexdigest() != wanted:
                found = digest.hexdigest()[:16]
                cause = f"its {digest.name} is {found}…, but the frontend sent {wanted[:16]}…"
                raise _failure(self._data, f"{cause}; nothing was stored")
            yield block
        self.sha512 = (digest if digest.name == sha512.name else sha512).hexdigest()

    def digest(self, algorithm: str) -> str:
        """Return the digest of the file by the algorithm that the cloud's Glance uses."""
        digest = hashlib.new(algorithm)
        for block, _ in self._blocks():
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the blocks of the file, each with whether it is the last."""
        at = 0
        while at < self._size:
            if not self._is_wanted():
                raise _failure(
                    self._data, "the frontend or the backend is stopping; nothing was stored"
                )
            try:
                # With an offset of its own: a retry or `digest` does not move a shared position.
                block = os.pread(self._descriptor, min(_BLOCK, self._size - at), at)
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                raise _failure(self._data, f"cannot be read: {words}") from error
            if not block:
                raise _failure(self._data, f"has become shorter than its {self._size} bytes")
            at += len(block)
            yield block, at == self._size


@contextlib.contextmanager
def open_image(
    data: ImageData, *, directory: Path, is_wanted: Callable[[], bool]
) -> Iterator[ImageFile]:
    """Open the image file of an appliance.

    Raises:
        Failed: it is not a regular file below ``directory``, has another size than ``data`` states,
            or cannot be read.

    """
    if data.mode is not TransferMode.LOCAL:
        raise _failure(
            data, "images over HTTP are not supported", "in cloudkeeper.yml, set remote-mode: false"
        )
    if not data.format.is_disk:
        cause = f"{data.format} is an archive, not a disk format"
        raise _failure(
            data, cause, "in cloudkeeper.yml, set formats to disk formats, such as qcow2"
        )
    if len(data.checksum) not in _ALGORITHMS:
        raise _failure(data, "has no SHA-512 or SHA-256, so it cannot be verified")
    outside = _failure(
        data,
        f"is not below the image directory {directory}",
        "set image_dir to the image-dir of the frontend",
    )
    try:
        # Before it is opened: opening a device can have effects.
        if not Path(os.path.realpath(data.location)).is_relative_to(directory.resolve()):
            raise outside
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(data.location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise _failure(
            data,
            f"cannot be opened: {cause.lower()}",
            "check that frontend and backend share the image directory",
        ) from error
    try:
        # Again after it is opened: a link may have been exchanged in between.
        if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(directory.resolve()):
            raise outside
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _failure(data, "is not a regular file")
        if not status.st_size or (data.size and status.st_size != data.size):
            raise _failure(data, f"has {status.st_size} bytes, but the frontend sent {data.size}")
        _inspect(descriptor, data)
        yield ImageFile(descriptor, data, size=status.st_size, is_wanted=is_wanted)
    finally:
        os.close(descriptor)


def _inspect(descriptor: int, data: ImageData) -> None:
    """Check the headers of the open file, as the frontend has done, or should have.

    Raises:
        Failed: the file has another format than the frontend says, or could name other files.

    """
    path = Path(f"/proc/self/fd/{descriptor}")
    try:
        found = formats.detect(path, declared=data.format)
        if found is not data.format:
            raise _failure(data, f"is {found}, but the frontend sent {data.format}")
        formats.inspect(path, found)
        formats.check_marks(path, found)
    except Unusable as error:
        raise _failure(data, error.cause, error.remedy) from error


def _failure(data: ImageData, cause: str, remedy: str = "") -> Failed:
    return Failed(data.location, cause, remedy, status=CallStatus.APPLIANCE_TRANSFER)
