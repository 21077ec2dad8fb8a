"""The first bytes of an image that is not on the disk: they hold the headers of some formats."""

from __future__ import annotations

import os
from pathlib import Path

from cloudkeeper.formats.detection import detect, inspect
from cloudkeeper.formats.disk import Unusable
from cloudkeeper.model import Format

START = 2**20
"""Bytes at the beginning of an image that hold all headers of the formats in `STREAMED`."""
STREAMED = frozenset({Format.RAW, Format.QCOW2, Format.VMDK, Format.VDI, Format.ISO})
"""Formats that can be checked while an image passes."""
_FIXED_VHD = {"vhd", "vpc"}


def inspect_start(start: bytes, *, name: str, declared: str = "") -> Format:
    """Return the format of an image by its first `START` bytes, or all of a smaller image.

    The headers are checked for the formats in `STREAMED`; others need the whole file. A fixed VHD
    is one at its end only, so that here the list's ``declared`` decides.

    Raises:
        Unusable: the format is unknown, or a header names another file or is invalid.

    """
    descriptor = os.memfd_create("start", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(start)
        path = Path(f"/proc/self/fd/{descriptor}")
        found = detect(path, declared=declared)
        if found is Format.RAW and declared.lower() in _FIXED_VHD:
            return Format.VHD
        if found in STREAMED:
            inspect(path, found, is_whole=False)
    except Unusable as error:
        raise Unusable(name, error.cause, error.remedy) from None
    finally:
        os.close(descriptor)
    return found
