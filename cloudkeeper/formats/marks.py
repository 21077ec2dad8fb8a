"""The marks of formats in an image, as Glance looks for them, in a file or in passing blocks."""

from __future__ import annotations

import io
from pathlib import Path

from cloudkeeper.formats.disk import Unusable
from cloudkeeper.model import Format

# By format, the names that oslo.utils has for what such a file may look like. A raw disk may have a
# partition table, and an archive has no mark that it knows.
_MARKS = {
    Format.RAW: {"raw", "gpt"},
    Format.OVA: {"raw"},
    Format.QCOW2: {"qcow2"},
    Format.VMDK: {"vmdk"},
}
_BLOCK = 2**20


class Marks:
    """Refuses an image that has the mark of another format than ``found``, or of several.

    `feed` every block, and call `finish` before the last one is passed on: some marks stand at the
    end of an image.
    """

    def __init__(self, found: Format, *, name: str) -> None:
        # Imported here: it takes a tenth of a second.
        from oslo_utils.imageutils import format_inspector  # noqa: PLC0415

        self.are_known = False
        """Whether no later block can have another mark."""
        self._found, self._name = found, name
        self._ambiguous = format_inspector.ImageFormatError
        self._given = io.BytesIO()
        self._wrapper = format_inspector.InspectWrapper(self._given)

    def feed(self, block: bytes | memoryview) -> None:
        """Look at the next block.

        Raises:
            Unusable: the image has the mark of another format.

        """
        if self.are_known:
            return
        self._given.seek(0)
        self._given.truncate()
        self._given.write(block)
        self._given.seek(0)
        self._wrapper.read(-1)
        self._judge()

    def finish(self) -> None:
        """Judge an image whose blocks have all been fed.

        Raises:
            Unusable: the image has the mark of another format.

        """
        if not self.are_known:
            self._wrapper.close()
            self._judge()

    def _judge(self) -> None:
        try:
            mark = self._wrapper.format
        except self._ambiguous as error:
            raise Unusable(self._name, f"is ambiguous: {error}") from None
        self.are_known = mark is not None
        if mark is not None and str(mark) not in _MARKS[self._found]:
            raise Unusable(self._name, f"has the mark of {mark}, but is said to be {self._found}")


def check_marks(path: Path, found: Format) -> None:
    """Refuse a file that has the mark of another format than ``found``, or of several.

    Raises:
        Unusable: the file has such a mark.

    """
    marks = Marks(found, name=path.name)
    with path.open("rb") as file:
        while not marks.are_known and (block := file.read(_BLOCK)):
            marks.feed(block)
    marks.finish()
