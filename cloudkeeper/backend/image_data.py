"""The image data of a call, as it goes to Glance: the rules that hold for a file and a stream.

The last block is sent only after all bytes have been read and their checksum is right: Glance
discards an upload that is shorter than its Content-Length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from appliance.core import hosts
from cloudkeeper.backend.errors import Failed
from cloudkeeper.formats import Unusable
from cloudkeeper.model import ImageData, TransferMode
from cloudkeeper.wire import image_socket
from cloudkeeper.wire.status import CallStatus

BLOCK = 2**20
"""Bytes that are sent at a time."""
# By the number of hexadecimal digits.
_ALGORITHMS = {128: "sha512", 64: "sha256"}


class ImageBytes(Protocol):
    """Image data that Glance can get; see `appliance.core.cloud.glance.Data`."""

    is_repeatable: bool
    """Whether a second iteration sends them again."""
    digests: Mapping[str, str]
    """Of the bytes that were sent, by algorithm; empty until all have been."""

    def __len__(self) -> int:
        """Return the number of bytes."""

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield all bytes from the first one, in blocks; the last one only if all is right."""

    def digest(self, algorithm: str) -> str:
        """Return the digest by the algorithm that the cloud's Glance uses.

        Raises:
            Failed: it is not known, because the bytes are gone.

        """


def algorithm_of(data: ImageData) -> str:
    """Return the algorithm of the checksum; empty for a converted file, which may have none.

    Raises:
        Failed: there is none that would prove the data, or the data are no disk.

    """
    if not data.format.is_disk:
        cause = f"{data.format} is an archive, not a disk format"
        remedy = "in cloudkeeper.yml, set formats to disk formats, such as qcow2"
        raise transfer_failure(data, cause, remedy)
    if data.is_converted and not data.checksum and data.mode is TransferMode.LOCAL:
        return ""
    if len(data.checksum) not in _ALGORITHMS:
        raise transfer_failure(data, "has no SHA-512 or SHA-256, so it cannot be verified")
    return _ALGORITHMS[len(data.checksum)]


def check_digest(data: ImageData, digests: Mapping[str, str]) -> None:
    """Compare the digests of all bytes with the checksum of the call.

    Raises:
        Failed: they differ.

    """
    name, wanted = algorithm_of(data), data.checksum.lower()
    if name and digests[name] != wanted:
        cause = f"its {name} is {digests[name][:16]}…, but the frontend sent {wanted[:16]}…"
        failure = transfer_failure(data, f"{cause}; nothing was stored")
        failure.digests = {name: digests[name]}
        raise failure


def transfer_failure(
    data: ImageData, cause: str, remedy: str = "", *, wants_file: bool = False
) -> Failed:
    """Return the failure of a transfer; its subject is the place of the data, without secrets."""
    status = CallStatus.APPLIANCE_TRANSFER
    return Failed(_subject(data), cause, remedy, status=status, wants_file=wants_file)


def unusable(data: ImageData, error: Unusable) -> Failed:
    """Return the failure for an image that the rules for formats refuse."""
    return transfer_failure(data, error.cause, error.remedy)


def stopping(data: ImageData) -> Failed:
    """Return the failure of an upload that is no longer wanted."""
    return transfer_failure(data, "the frontend or the backend is stopping; nothing was stored")


def _subject(data: ImageData) -> str:
    if path := image_socket.socket_of(data.location):
        return f"stream {path.stem}"
    if data.mode is TransferMode.LOCAL:
        return data.location
    try:
        return f"{hosts.of_url(data.location)}{urlsplit(data.location).path}"
    except ValueError:  # half a bracket
        return "image"
