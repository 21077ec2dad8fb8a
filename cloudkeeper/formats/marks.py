"""The marks of formats in an image, as Glance looks for them, in a file or in passing blocks.

They are those of the inspectors of oslo.utils. Glance refuses an upload with the mark of another
format than its record has, with those of several formats, or with a feature that its inspector does
not know. An image with such a feature is good, but has to be rewritten by qemu-img.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Any

from cloudkeeper.formats import vhd
from cloudkeeper.formats.disk import Unusable
from cloudkeeper.formats.vmdk import FOOTER_FAULT
from cloudkeeper.model import Format

# By format, the names that oslo.utils has for what such a file may look like. It has none for
# archives, a raw disk may have a partition table ("gpt", also for the older kind), a fixed VHD is a
# raw disk but for its end, and an ISO that also starts from a USB stick has a partition table.
_MARKS = {
    Format.RAW: ({"raw"}, {"gpt"}),
    Format.OVA: ({"raw"},),
    Format.QCOW2: ({"qcow2"},),
    Format.VMDK: ({"vmdk"},),
    Format.ISO: ({"iso"}, {"iso", "gpt"}),
    Format.VDI: ({"vdi"},),
    Format.VHD: ({"vhd"}, {"raw"}, {"gpt"}),
    Format.VHDX: ({"vhdx"},),
}
# Bytes at the start of a file and at its end that hold all marks.
_BLOCK = 2**20


class Marks:
    """Refuses an image that has the mark of another format than ``found``, or of several.

    `feed` every block, and call `finish` before the last one is passed on: some marks stand at the
    end of an image.
    """

    def __init__(self, found: Format, *, name: str) -> None:
        # Imported here: it takes a tenth of a second.
        from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

        # Its log repeats what `objection` says.
        logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)
        self.are_known = False
        """Whether no later block can have another mark."""
        self.objection = ""
        """Why Glance refuses the image as it is, once the marks are known; empty if it does not."""
        self._found, self._name, self._end = found, name, b""
        self._refused = (format_inspector.ImageFormatError, format_inspector.SafetyCheckFailed)
        self._given: deque[bytes] = deque()
        source: Any = iter(self._given.popleft, None)
        self._wrapper = format_inspector.InspectWrapper(source)

    def feed(self, block: bytes | memoryview) -> None:
        """Look at the next block.

        Raises:
            Unusable: the image has the mark of another format.

        """
        tail = bytes(block[-vhd.SIZE :])
        self._end = (self._end + tail)[-vhd.SIZE :]
        if self.are_known:
            return
        self._given.append(bytes(block))
        next(self._wrapper)
        self._judge()

    def finish(self) -> None:
        """Judge an image whose blocks have all been fed.

        Raises:
            Unusable: the image has the mark of another format.

        """
        if not self.are_known:
            self._wrapper.close()
            self._judge()
        if self._found is Format.RAW and vhd.is_fixed(self._end):
            raise Unusable(self._name, f"is {Format.VHD}, but is said to be {Format.RAW}")

    def _judge(self) -> None:
        inspectors: list[Any] | None = self._wrapper.formats
        if inspectors is None:
            return
        self.are_known = True
        seen = {str(each) for each in inspectors}
        if seen not in _MARKS[self._found]:
            listed = " and ".join(sorted(seen))
            if len(seen) > 1:
                raise Unusable(self._name, f"is ambiguous: it has the marks of {listed}")
            raise Unusable(self._name, f"has the mark of {listed}, but is said to be {self._found}")
        # Of two marks Glance takes that of the ISO.
        of_glance = [each for each in inspectors if len(seen) == 1 or str(each) == self._found]
        try:
            of_glance[0].safety_check()
        except self._refused as error:
            failures = getattr(error, "failures", {})
            if "footer" in failures:
                raise Unusable(self._name, FOOTER_FAULT) from None
            self.objection = "; ".join(map(str, failures.values())) or str(error)


def check_marks(path: Path, found: Format) -> str:
    """Return why Glance refuses a file of format ``found`` as it is; empty if it does not.

    Raises:
        Unusable: the file has the mark of another format, or of several.

    """
    marks = Marks(found, name=path.name)
    with path.open("rb") as file:
        marks.feed(file.read(_BLOCK))
        file.seek(max(_BLOCK, path.stat().st_size - _BLOCK))
        marks.feed(file.read(_BLOCK))
    marks.finish()
    return marks.objection
