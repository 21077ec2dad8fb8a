"""The file that a frontend names, as far as it is to be believed: below the image directory, and what it claims to be.

The path comes from another program. The file is opened first and judged afterwards by its
descriptor, so that nothing can be exchanged in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cloudkeeper.backend.errors import Failed
from cloudkeeper.model import Format, ImageData, TransferMode
from cloudkeeper.wire.status import CallStatus

_BLOCK = 2**20
_ALGORITHMS = {128: "sha512", 64: "sha256"}
"""By the number of hexadecimal digits."""


class ImageFile:
    """Image data in an open file, to be sent once or, if the cloud loses a connection, again from the beginning.

    The last block is held back until all bytes have been read and their checksum is the right one:
    without it, Glance keeps nothing. ``is_wanted`` is asked before each block.
    """

    def __init__(
        self, descriptor: int, data: ImageData, *, size: int, is_wanted: Callable[[], bool]
    ) -> None:
        self._descriptor = descriptor
        self._data = data
        self._size = size
        self._is_wanted = is_wanted
        self.sha512 = ""
        """Of the bytes that were sent, once they all have been."""

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
                raise self._failed(
                    f"its {digest.name} is {found}…, not {wanted[:16]}… as told; nothing was stored"
                )
            yield block
        self.sha512 = (digest if digest.name == sha512.name else sha512).hexdigest()

    def digest(self, algorithm: str) -> str:
        """Return the digest of the file by the algorithm that a cloud prefers."""
        digest = hashlib.new(algorithm)
        for block, _ in self._blocks():
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[tuple[bytes, bool]]:
        at = 0
        while at < self._size:
            if not self._is_wanted():
                raise self._failed(
                    "the frontend has gone or the backend is stopping; nothing was stored"
                )
            try:
                block = os.pread(self._descriptor, min(_BLOCK, self._size - at), at)
            except OSError as error:
                raise self._failed(
                    f"cannot be read: {(error.strerror or str(error)).lower()}"
                ) from error
            if not block:
                raise self._failed(f"has become shorter than its {self._size} bytes")
            at += len(block)
            yield block, at == self._size

    def _failed(self, cause: str) -> Failed:
        return Failed(self._data.location, cause, status=CallStatus.APPLIANCE_TRANSFER)


@contextlib.contextmanager
def open_image(
    data: ImageData, *, directory: Path, is_wanted: Callable[[], bool]
) -> Iterator[ImageFile]:
    """Open the file of an appliance.

    :raises Failed: it is not a regular file below ``directory``, not of the told size, or cannot be
    read
    """

    def failed(cause: str, remedy: str = "") -> Failed:
        return Failed(data.location, cause, remedy, status=CallStatus.APPLIANCE_TRANSFER)

    if data.mode is not TransferMode.LOCAL:
        raise failed(
            "images over HTTP are not taken", "set remote-mode to false in cloudkeeper.yml"
        )
    if data.format is Format.OVA:
        raise failed("an OVA is no disk", "set formats to qcow2, raw or vmdk in cloudkeeper.yml")
    if len(data.checksum) not in _ALGORITHMS:
        raise failed("comes without SHA-512 or SHA-256, so it cannot be verified")
    beyond = failed(f"is not below the image directory {directory}", "correct image_dir, if it is")
    try:
        if not Path(os.path.realpath(data.location)).is_relative_to(directory.resolve()):
            raise beyond  # before it is opened: opening a device may have effects
        descriptor = os.open(data.location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise failed(
            f"cannot be opened: {cause.lower()}", "is the image directory the frontend's?"
        ) from error
    try:
        if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(directory.resolve()):
            raise beyond
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise failed("is not a regular file")
        if not status.st_size or (data.size and status.st_size != data.size):
            raise failed(f"has {status.st_size} bytes, not {data.size} as told")
        yield ImageFile(descriptor, data, size=status.st_size, is_wanted=is_wanted)
    finally:
        os.close(descriptor)
