"""The image data that a frontend names, checked before and while Glance receives them.

They are a file in the image directory, or a stream (`cloudkeeper.backend.stream`). The path of a
file comes from another program. The file is opened first and checked through its descriptor, so
that nobody can exchange it between the check and the upload.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cloudkeeper import formats
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.digests import Digests
from cloudkeeper.backend.image_data import (
    BLOCK,
    ImageBytes,
    algorithm_of,
    check_digest,
    stopping,
    transfer_failure,
    unusable,
)
from cloudkeeper.backend.stream import open_stream
from cloudkeeper.formats import Unusable
from cloudkeeper.model import ImageData, TransferMode

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ZEROS = memoryview(bytes(BLOCK))


class ImageFile:
    """Image data in an open file; every iteration sends them from the beginning.

    ``is_wanted`` is asked before each block.
    """

    is_repeatable = True

    def __init__(
        self,
        descriptor: int,
        data: ImageData,
        *,
        size: int,
        is_wanted: Callable[[], bool],
        algorithm: str,
    ) -> None:
        self._descriptor = descriptor
        self._data = data
        self._size = size
        self._is_wanted = is_wanted
        self._algorithms = sorted({algorithm_of(data) or algorithm, algorithm})
        self.digests: Mapping[str, str] = _NOTHING

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        with Digests(self._algorithms) as digests:
            for block, is_last in self._blocks():
                digests.update(block)
                if is_last:
                    found = digests.finish()
                    check_digest(self._data, found)
                yield block
        self.digests = found

    def digest(self, algorithm: str) -> str:
        """Return the digest of the file by the algorithm that the cloud's Glance uses."""
        if known := self.digests.get(algorithm):
            return known
        digest = hashlib.new(algorithm)
        for block, _ in self._blocks():
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[tuple[bytes | memoryview, bool]]:
        """Yield the blocks of the file, each with whether it is the last."""
        at = hole = 0
        while at < self._size:
            if not self._is_wanted():
                raise stopping(self._data)
            length = min(BLOCK, self._size - at)
            try:
                if at >= hole:
                    hole = self._end_of_hole(at)
                # With an offset of its own: a retry or `digest` does not move a shared position.
                is_hole = at + length <= hole
                block = _ZEROS[:length] if is_hole else os.pread(self._descriptor, length, at)
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                raise transfer_failure(self._data, f"cannot be read: {words}") from error
            if not block:
                cause = f"has become shorter than its {self._size} bytes"
                raise transfer_failure(self._data, cause)
            at += len(block)
            yield block, at == self._size

    def _end_of_hole(self, at: int) -> int:
        """Return where the data after a position begin, which may be at the position itself.

        A raw disk is mostly holes. They are sent and hashed, but not read.
        """
        try:
            return os.lseek(self._descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # No data up to the end, which may have moved.
            return os.fstat(self._descriptor).st_size


@contextlib.contextmanager
def open_image(
    data: ImageData,
    *,
    places: DataPlaces,
    is_wanted: Callable[[], bool],
    algorithm: str = "sha512",
) -> Iterator[ImageBytes]:
    """Open the image data of an appliance.

    ``algorithm`` is that of the digest that Glance computes.

    Raises:
        Failed: they are not at one of the ``places``, have another size than ``data`` states, or
            cannot be read.

    """
    algorithm_of(data)  # raises, before anything is opened
    if data.mode is TransferMode.REMOTE:
        with open_stream(data, places=places, is_wanted=is_wanted, algorithm=algorithm) as stream:
            yield stream
        return
    descriptor = _open_file(data, places.directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise transfer_failure(data, "is not a regular file")
        if not status.st_size or (data.size and status.st_size != data.size):
            cause = f"has {status.st_size} bytes, but the frontend sent {data.size}"
            raise transfer_failure(data, cause)
        _inspect(descriptor, data)
        yield ImageFile(
            descriptor, data, size=status.st_size, is_wanted=is_wanted, algorithm=algorithm
        )
    finally:
        os.close(descriptor)


def _open_file(data: ImageData, directory: Path) -> int:
    """Return a descriptor of the file, which is below the directory."""
    outside = transfer_failure(
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
        raise transfer_failure(
            data,
            f"cannot be opened: {cause.lower()}",
            "check that frontend and backend share the image directory",
        ) from error
    # Again after it is opened: a link may have been exchanged in between.
    if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(directory.resolve()):
        os.close(descriptor)
        raise outside
    return descriptor


def _inspect(descriptor: int, data: ImageData) -> None:
    """Check the headers of the open file, as the frontend has done, or should have.

    Raises:
        Failed: the file has another format than the frontend says, or could name other files.

    """
    path = Path(f"/proc/self/fd/{descriptor}")
    try:
        found = formats.detect(path, declared=data.format)
        if found is not data.format:
            raise transfer_failure(data, f"is {found}, but the frontend sent {data.format}")
        formats.inspect(path, found)
        formats.check_marks(path, found)
    except Unusable as error:
        raise unusable(data, error) from error
