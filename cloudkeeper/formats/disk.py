"""A disk image that is safe to open, and the error for one that is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import ApplianceError
from cloudkeeper.model import Format

# Bytes; a sparse image of a few bytes can claim any size.
_MAX_VIRTUAL = 2 * 2**40


class Unusable(ApplianceError):
    """An image file that cannot be used, or must not be."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image that is safe to open.

    It is ``size`` bytes of the file from ``offset`` on; if both are None, the whole file.
    """

    path: Path
    format: Format
    offset: int | None = None
    size: int | None = None


def check_virtual_size(name: str, size: int) -> None:
    """Refuse a disk that is empty, or too large for a server.

    Raises:
        Unusable: the disk has no bytes, or more than 2 TiB.

    """
    if not size:
        raise Unusable(name, "its disk is empty")
    if size > _MAX_VIRTUAL:
        raise Unusable(name, f"its disk has {size} bytes, the limit is {_MAX_VIRTUAL}")
