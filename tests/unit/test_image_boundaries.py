"""Headers of disks and archives at their limits and one step beyond them.

The images are laid out by hand after the specifications of their formats; for those with a verdict
of QEMU, the last test asks qemu-img whether it agrees.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cloudkeeper.backend.image_data import BLOCK
from cloudkeeper.formats import START, Disk, Unusable, detect, inspect, inspect_start
from cloudkeeper.model import Format
from tests.simulators.disk_headers import (
    ITEMS,
    MIB,
    NOWHERE,
    REGIONS,
    REQUIRED_ITEM,
    SECTOR,
    vdi,
    vhd,
    vhd_footer,
    vhdx,
    vhdx_header,
    vhdx_items,
    vhdx_table,
    vmdk,
    vmdk_descriptor,
    vmdk_end,
    vmdk_header,
)
from tests.simulators.disk_images import archive

Make = Callable[[], bytes]
LOCATOR = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c"
OTHER = "11111111-2222-3333-4444-555555555555"
LOG = b"l" * 16
OVF = ("disk.ovf", b"<Envelope/>")
BEYOND = 2**41 + 1


def fixed(data: bytes, *, size: int = MIB) -> bytes:
    return data + vhd_footer(size=size, kind=2, position=NOWHERE)


def item(name: str, content: bytes = b"x" * 16, flags: int = 0) -> tuple[str, bytes, int]:
    return (name, content, flags)


def parameters(flags: int) -> bytes:
    return vhdx_items(item(ITEMS[0][0], struct.pack("<II", MIB, flags), 4), *ITEMS[1:])


def virtual_size(size: int) -> bytes:
    return vhdx_items(ITEMS[0], item(ITEMS[1][0], struct.pack("<Q", size), 6), *ITEMS[2:])


def without_item(number: int) -> Make:
    return lambda: vhdx(metadata=vhdx_items(*ITEMS[:number], *ITEMS[number + 1 :]))


def cut(make: Make, length: int) -> Make:
    return lambda: make()[:length]


def ending_with(number: int) -> bytes:
    """Return a VHDX that ends with one of its items."""
    items = vhdx_items(*ITEMS[:number], *ITEMS[number + 1 :], ITEMS[number])
    return vhdx(metadata=items, length=0)


# The verdict of QEMU, too.
GOOD: dict[str, tuple[Make, Format]] = {
    "dynamic.vhd": (vhd, Format.VHD),
    "blocks of a sector.vhd": (lambda: vhd(block=SECTOR), Format.VHD),
    "header elsewhere.vhd": (lambda: vhd(position=1024), Format.VHD),
    "table up to the footer.vhd": (lambda: vhd(size=256 * MIB), Format.VHD),
    "more blocks than disk.vhd": (lambda: vhd(entries=3), Format.VHD),
    "reserved byte behind the locators.vhd": (lambda: vhd(changes={768: b"x"}), Format.VHD),
    "fixed.vhd": (lambda: fixed(bytes(MIB)), Format.VHD),
    "fixed, with room.vhd": (lambda: fixed(bytes(MIB + SECTOR)), Format.VHD),
    "dynamic.vdi": (vdi, Format.VDI),
    "static.vdi": (lambda: vdi(kind=2, allocated=4), Format.VDI),
    "more blocks than disk.vdi": (lambda: vdi(blocks=5), Format.VDI),
    "two TiB.vdi": (lambda: vdi(size=2**41, blocks=2**21).ljust(9 * MIB, b"\xff"), Format.VDI),
    "sparse.vmdk": (vmdk, Format.VMDK),
    "dynamic.vhdx": (vhdx, Format.VHDX),
    "first header damaged.vhdx": (lambda: vhdx(first=b"x" * 80), Format.VHDX),
    "second header damaged.vhdx": (lambda: vhdx(second=b"x" * 80), Format.VHDX),
    "older header with a log.vhdx": (lambda: vhdx(second=vhdx_header(log=LOG)), Format.VHDX),
    "no header, but a log.vhdx": (
        lambda: vhdx(first=vhdx_header(number=9, log=LOG, signature=b"bead")),
        Format.VHDX,
    ),
    "other version with a log.vhdx": (
        lambda: vhdx(first=vhdx_header(number=9, log=LOG, version=2)),
        Format.VHDX,
    ),
    "blocks stay allocated.vhdx": (lambda: vhdx(metadata=parameters(1)), Format.VHDX),
    "optional region.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, (OTHER, 8 * MIB, 2))),
        Format.VHDX,
    ),
    "optional item.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, item(OTHER, flags=3))),
        Format.VHDX,
    ),
    "item without its flag.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS[:4], (*ITEMS[4][:2], 0))),
        Format.VHDX,
    ),
    "as many regions as fit.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, count=2047)),
        Format.VHDX,
    ),
    "as many items as fit.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, count=2047)),
        Format.VHDX,
    ),
    "with a footer.vmdk": (
        lambda: vmdk(directory=NOWHERE) + vmdk_end(vmdk_header()),
        Format.VMDK,
    ),
}
# Cut behind what is looked at, or larger than their tables of blocks.
OWN_GOOD: dict[str, tuple[Make, Format]] = {
    "header only.vdi": (cut(vdi, 456), Format.VDI),
    "parameters last.vhdx": (lambda: ending_with(0), Format.VHDX),
    "size last.vhdx": (lambda: ending_with(1), Format.VHDX),
    "two TiB.vhdx": (lambda: vhdx(metadata=virtual_size(2**41)), Format.VHDX),
}
DAMAGED = "second VHD header is missing or damaged"
INCOMPLETE = "does not describe a complete disk"
BAD: dict[str, tuple[Make, Format, str]] = {
    "blocks of half a sector.vhd": (lambda: vhd(block=256), Format.VHD, INCOMPLETE),
    "blocks of no power of two.vhd": (lambda: vhd(block=3 * MIB), Format.VHD, INCOMPLETE),
    "fewer blocks than disk.vhd": (lambda: vhd(entries=1), Format.VHD, INCOMPLETE),
    "header beyond the file.vhd": (cut(vhd, 1536), Format.VHD, "footer is missing"),
    "header of another kind.vhd": (lambda: vhd(cookie=b"dxsparse"), Format.VHD, DAMAGED),
    "sectors of 1 KiB.vdi": (lambda: vdi(sector=1024), Format.VDI, INCOMPLETE),
    "blocks of 2 MiB.vdi": (lambda: vdi(block=2 * MIB), Format.VDI, INCOMPLETE),
    "fewer blocks than disk.vdi": (lambda: vdi(blocks=3), Format.VDI, INCOMPLETE),
    "link.vdi": (lambda: vdi(link=bytes(15) + b"x"), Format.VDI, "has a parent disk"),
    "parent.vdi": (lambda: vdi(parent=bytes(15) + b"x"), Format.VDI, "has a parent disk"),
    "version 1.0.vdi": (lambda: vdi(version=0x10000), Format.VDI, "unknown VDI version 0x10000"),
    "cut in its header.vmdk": (cut(vmdk, 511), Format.VMDK, "not a VMDK with its data"),
    "no descriptor.vmdk": (cut(vmdk, 512), Format.VMDK, "VMDK of type unknown"),
    "no headers.vhdx": (
        lambda: vhdx(first=vhdx_header(version=2), second=vhdx_header(version=0)),
        Format.VHDX,
        "headers are damaged or of an unknown version",
    ),
    "region table of another kind.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, signature=b"rega")),
        Format.VHDX,
        "region table is damaged",
    ),
    "no blocks.vhdx": (
        lambda: vhdx(table=vhdx_table(REGIONS[1])),
        Format.VHDX,
        "region table is damaged",
    ),
    "no metadata.vhdx": (
        lambda: vhdx(table=vhdx_table(REGIONS[0])),
        Format.VHDX,
        "region table is damaged",
    ),
    "required region.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, (OTHER, 8 * MIB, 1))),
        Format.VHDX,
        "region table is damaged or of an unknown kind",
    ),
    "metadata of another kind.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, signature=b"metadate")),
        Format.VHDX,
        "metadata are damaged",
    ),
    "required item.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, item(OTHER, flags=REQUIRED_ITEM))),
        Format.VHDX,
        "needs unknown VHDX features",
    ),
    **{
        f"without item {number}.vhdx": (
            without_item(number),
            Format.VHDX,
            "metadata are damaged",
        )
        for number in range(len(ITEMS))
    },
    "too many items.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, count=2048)),
        Format.VHDX,
        "table has 2048 entries, the limit is 2047",
    ),
    "too many regions.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, count=2048)),
        Format.VHDX,
        "table has 2048 entries, the limit is 2047",
    ),
    "parent.vhdx": (lambda: vhdx(metadata=parameters(2)), Format.VHDX, "has a parent disk"),
    "table into the footer.vhd": (
        lambda: vhd(size=256 * MIB, entries=129, table_bytes=SECTOR),
        Format.VHD,
        INCOMPLETE,
    ),
    "both footers point nowhere.vhd": (
        lambda: vhd_footer(position=NOWHERE) + bytes(1024) + vhd_footer(position=NOWHERE),
        Format.VHD,
        DAMAGED,
    ),
    "both footers point to the end.vhd": (
        lambda: vhd_footer(position=2048) + bytes(1024) + vhd_footer(position=2048),
        Format.VHD,
        DAMAGED,
    ),
    "footer only.vhd": (lambda: fixed(b""), Format.VHD, INCOMPLETE),
    "less data than disk.vhd": (lambda: fixed(bytes(MIB - 1)), Format.VHD, INCOMPLETE),
    "its header for a footer.vmdk": (
        lambda: vmdk(directory=NOWHERE)[:1023],
        Format.VMDK,
        "footer is missing or differs",
    ),
    "parent, blocks stay allocated.vhdx": (
        lambda: vhdx(metadata=parameters(3)),
        Format.VHDX,
        "has a parent disk",
    ),
    "no byte.vhdx": (lambda: vhdx(metadata=virtual_size(0)), Format.VHDX, "is empty"),
    "more than two TiB.vhdx": (
        lambda: vhdx(metadata=virtual_size(BEYOND)),
        Format.VHDX,
        f"has {BEYOND} bytes, the limit is {2**41}",
    ),
    "table of many regions, cut.vhdx": (
        lambda: vhdx(table=vhdx_table(*REGIONS, count=2047))[: 0x30000 + 2047 * 32 + 15],
        Format.VHDX,
        "headers are truncated",
    ),
    "magic only.vdi": (cut(vdi, 68), Format.VDI, "header is truncated"),
    "magic only.vmdk": (cut(vmdk, 4), Format.VMDK, "not a VMDK with its data"),
    **{
        f"cut at {length:#x}.vhdx": (
            cut(vhdx, length),
            Format.VHDX,
            "headers are truncated",
        )
        for length in (8, 0x10000, 0x1004F, 0x2004F, 0x3000F, 0x3004F, MIB, MIB + 31, MIB + 191)
    },
}
# QEMU opens these: it follows parents, knows no limit, and reads what is missing as zeros.
OWN_BAD: dict[str, tuple[Make, Format, str]] = {
    "header nowhere.vhd": (
        lambda: vhd() + vhd_footer(position=NOWHERE),
        Format.VHD,
        "two VHD footers differ",
    ),
    "header with another checksum.vhd": (
        lambda: vhd().replace(b"cxsparse\xff", b"cxsparse\xfe"),
        Format.VHD,
        DAMAGED,
    ),
    **{
        f"byte {at} of the header.vhd": (
            partial(vhd, changes={at: b"x"}),
            Format.VHD,
            "has a parent disk",
        )
        for at in (40, 55, 576, 767)
    },
    "differencing.vhd": (partial(vhd, kind=4), Format.VHD, "has a parent disk"),
    **{
        f"type {kind}.vhd": (partial(vhd, kind=kind), Format.VHD, f"of the unknown type {kind}")
        for kind in (0, 1, 5)
    },
    "footer with another checksum.vhd": (
        lambda: bytes(MIB) + vhd_footer(kind=2)[:-1] + b"x",
        Format.VHD,
        "footer is missing or damaged",
    ),
    "data like a footer.vhd": (lambda: fixed(vhd().ljust(MIB)), Format.VHD, INCOMPLETE),
    "more than two TiB.vdi": (
        lambda: vdi(size=BEYOND, blocks=2**21 + 1),
        Format.VDI,
        f"has {BEYOND} bytes, the limit is {2**41}",
    ),
    "no byte.vdi": (lambda: vdi(size=0), Format.VDI, "is empty"),
    "extra bytes.vdi": (lambda: vdi(extra=1), Format.VDI, INCOMPLETE),
    "more in the file than blocks.vdi": (lambda: vdi(allocated=5), Format.VDI, INCOMPLETE),
    **{
        f"type {kind}.vdi": (partial(vdi, kind=kind), Format.VDI, "has a parent disk")
        for kind in (0, 3, 4)
    },
    "no extent.vmdk": (
        lambda: vmdk(vmdk_descriptor(extent="")),
        Format.VMDK,
        "has 0 extents",
    ),
    "parent in a late sector.vmdk": (
        lambda: vmdk(
            vmdk_descriptor().ljust(25 * SECTOR, "\n") + 'parentFileNameHint="/x"\n', sectors=40
        ),
        Format.VMDK,
        "has a parent disk",
    ),
    "footer with another second directory.vmdk": (
        lambda: vmdk(directory=NOWHERE) + vmdk_end(vmdk_header(second=23)),
        Format.VMDK,
        "footer is missing or differs",
    ),
    "carriage return.vmdk": (
        lambda: vmdk(vmdk_descriptor('#\rRW 1 FLAT "/x" 0')),
        Format.VMDK,
        "has a carriage return within a line",
    ),
    "a long line.vmdk": (
        lambda: vmdk(vmdk_descriptor("x" * 70)),
        Format.VMDK,
        f"has the line '{'x' * 60}'",
    ),
    "log of the first header.vhdx": (
        lambda: vhdx(first=vhdx_header(number=2, log=LOG)),
        Format.VHDX,
        "last writes are in its log only",
    ),
    "log of the second header.vhdx": (
        lambda: vhdx(second=vhdx_header(number=3, log=bytes(15) + b"x")),
        Format.VHDX,
        "last writes are in its log only",
    ),
    "parameters cut.vhdx": (lambda: ending_with(0)[:-1], Format.VHDX, "headers are truncated"),
    "size cut.vhdx": (lambda: ending_with(1)[:-1], Format.VHDX, "headers are truncated"),
    "no byte.vhd": (lambda: vhd(size=0, entries=1), Format.VHD, "is empty"),
    "cut in its header.vdi": (cut(vdi, 455), Format.VDI, "header is truncated"),
    "parent locator.vhdx": (
        lambda: vhdx(metadata=vhdx_items(*ITEMS, item(LOCATOR, flags=REQUIRED_ITEM))),
        Format.VHDX,
        "has a parent disk",
    ),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", GOOD | OWN_GOOD)
def test_headers_at_their_limits(name: str, tmp_path: Path) -> None:
    make, wanted = (GOOD | OWN_GOOD)[name]
    path = written(tmp_path / name, make())
    assert detect(path) is wanted
    assert inspect(path, wanted) == Disk(path, wanted)


@pytest.mark.parametrize("name", BAD | OWN_BAD)
def test_headers_beyond_their_limits(name: str, tmp_path: Path) -> None:
    make, found, words = (BAD | OWN_BAD)[name]
    path = written(tmp_path / name, make())
    with pytest.raises(Unusable, match=words):
        inspect(path, found)


@pytest.mark.programs("qemu-img")
@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_qemu_has_the_same_limits(name: str, tmp_path: Path) -> None:
    make, found = GOOD[name] if name in GOOD else BAD[name][:2]
    path = written(tmp_path / "image", make())
    command = ["qemu-img", "info", "-f", found.driver, str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode == 0) is (name in GOOD), done.stderr


def test_marks_of_two_formats_are_reported(tmp_path: Path) -> None:
    content = bytearray(b"QFI\xfb".ljust(SECTOR, b"\0"))
    content[64:68] = b"\x7f\x10\xda\xbe"
    path = written(tmp_path / "x", bytes(content))
    with pytest.raises(Unusable, match="is ambiguous: it has the marks of qcow2 and vdi"):
        detect(path)


@pytest.mark.parametrize("declared", ["VHD", "vhd", "vpc"])
def test_a_fixed_vhd_is_raw_at_its_start(declared: str) -> None:
    start = fixed(bytes(510) + b"\x55\xaa" + bytes(MIB))[:MIB]
    assert inspect_start(start, name="x", declared=declared) is Format.VHD
    assert inspect_start(start, name="x", declared="img") is Format.RAW
    assert inspect_start(vmdk(), name="x", declared=declared) is Format.VMDK


def test_the_footer_of_a_vmdk_is_not_in_its_start() -> None:
    assert inspect_start(vmdk(directory=NOWHERE), name="x") is Format.VMDK


def test_the_first_block_of_an_upload_holds_the_first_bytes() -> None:
    block = vmdk().ljust(BLOCK, b"\0")
    assert inspect_start(block[:START], name="x") is Format.VMDK
    assert len(block[:START]) == START


def test_a_look_at_the_first_bytes_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    inspect_start(vmdk(), name="x")
    with pytest.raises(Unusable):
        inspect_start(b"x", name="x")
    assert len(os.listdir("/proc/self/fd")) == before


def ova(path: Path, disk: bytes, *others: tuple[str, bytes]) -> Path:
    return written(path, archive(OVF, ("disk.vmdk", disk), *others))


def test_a_disk_with_a_footer_in_an_archive(tmp_path: Path) -> None:
    disk = vmdk(directory=NOWHERE)
    path = ova(tmp_path / "a.ova", disk + vmdk_end(vmdk_header()), ("notes.txt", b"x" * 2000))
    assert inspect(path, Format.OVA).size == len(disk) + 3 * SECTOR
    ova(path, disk + vmdk_end(vmdk_header(capacity=9)))
    with pytest.raises(Unusable, match="its VMDK footer is missing or differs"):
        inspect(path, Format.OVA)


@pytest.mark.parametrize("name", ["/x", "../x", "a/../x", "a/.."])
def test_names_that_lead_out_of_an_archive(tmp_path: Path, name: str) -> None:
    path = ova(tmp_path / "a.ova", vmdk(), (name, b""))
    with pytest.raises(Unusable, match="names that lead out of its directory"):
        inspect(path, Format.OVA)


def test_directories_in_an_archive_are_no_files(tmp_path: Path) -> None:
    path = ova(tmp_path / "a.ova", vmdk(), ("old.ovf/", b""), ("old.vmdk/", b""))
    assert inspect(path, Format.OVA).format is Format.VMDK


def test_what_is_wrong_with_an_archive_of_a_hundred_members(tmp_path: Path) -> None:
    others = [(f"{number}.txt", b"") for number in range(99)]
    path = written(tmp_path / "a.ova", archive(("a.vmdk", vmdk()), *others))
    with pytest.raises(Unusable, match=r"its archive has 0 \.ovf and 1 \.vmdk files"):
        inspect(path, Format.OVA)


def with_extended_header(path: Path, content: bytes) -> Path:
    """Write an OVA that begins with an extended header (pax, POSIX.1-2001)."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    padding = bytes(-len(content) % 512)
    return written(
        path,
        header.tobuf(tarfile.USTAR_FORMAT) + content + padding + archive(OVF, ("x.vmdk", vmdk())),
    )


@pytest.mark.parametrize("length", [0, 2**20])
def test_the_longest_and_the_shortest_extended_header(tmp_path: Path, length: int) -> None:
    comment = b"%d comment=" % length
    content = (comment.ljust(length - 1, b"x") + b"\n")[:length]
    path = with_extended_header(tmp_path / "a.ova", content)
    listed = subprocess.run(["tar", "tf", path], capture_output=True, check=True)
    assert listed.stdout.split() == [b"disk.ovf", b"x.vmdk"]
    assert inspect(path, Format.OVA).format is Format.VMDK


def test_an_extended_header_that_is_too_long(tmp_path: Path) -> None:
    length = 2**20 + 1
    content = (b"%d comment=" % length).ljust(length - 1, b"x") + b"\n"
    path = with_extended_header(tmp_path / "a.ova", content)
    with pytest.raises(Unusable, match="its archive cannot be read"):
        inspect(path, Format.OVA)


@pytest.mark.parametrize(("length", "words"), [(511, "has 511 bytes, less"), (BEYOND, "limit is")])
def test_a_raw_disk_beyond_its_limits(tmp_path: Path, length: int, words: str) -> None:
    path = written(tmp_path / "x", b"")
    os.truncate(path, length)
    with pytest.raises(Unusable, match=words):
        inspect(path, detect(path, declared="raw"))


@pytest.mark.parametrize("length", [SECTOR, 2**41])
def test_a_raw_disk_at_its_limits(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "x", b"")
    os.truncate(path, length)
    assert detect(path, declared="raw") is Format.RAW
    assert inspect(path, Format.RAW) == Disk(path, Format.RAW)


def test_what_stands_at_the_start_decides(tmp_path: Path) -> None:
    """A VHD that has lost its footer, and an ISO, whose mark is not in the first sector."""
    assert detect(written(tmp_path / "x", vhd()[:-1])) is Format.VHD
    start = bytes(0x8001) + b"CD001"
    assert detect(written(tmp_path / "x", start)) is Format.ISO
    with pytest.raises(Unusable, match="has the mark of iso, but is said to be raw"):
        detect(tmp_path / "x", declared="RAW")
    with pytest.raises(Unusable, match="has none of the formats"):
        detect(written(tmp_path / "x", start[1:]))
