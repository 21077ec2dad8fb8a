"""The format of an image file, found in its bytes; its name and ``hv:format`` prove nothing.

Some formats can name other files: a qcow2 its backing file or data file, a VMDK its extents or its
parent, a VDI, VHD or VHDX its parent. A program that opens such an image reads those files of this
host into it. Therefore the headers are checked here, before any program that follows them opens the
file, and such an image is refused. So is one that carries the mark of a format that it is not said
to have: another program, Glance or the hypervisor, could take it for that.

Frontend and backend both check: the backend does not rely on a program that it does not know.
"""

from cloudkeeper.formats.compressed import compression_of
from cloudkeeper.formats.detection import detect, inspect
from cloudkeeper.formats.disk import Disk, Unusable, check_virtual_size
from cloudkeeper.formats.marks import Marks, check_marks
from cloudkeeper.formats.start import START, STREAMED, inspect_start

__all__ = [
    "START",
    "STREAMED",
    "Disk",
    "Marks",
    "Unusable",
    "check_marks",
    "check_virtual_size",
    "compression_of",
    "detect",
    "inspect",
    "inspect_start",
]
