"""A matrix of good and bad images, each with the verdict that an independent source gives.

Good ones are read by qemu-img in a fixed format and hold the disk that was put in. The bad ones
break a rule of findings F-M5, F-M6 and F-M11 or of the specification of their format.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from cloudkeeper import formats
from cloudkeeper.formats import Disk, Unusable
from cloudkeeper.frontend.compression import Bounds, decompress, sniff
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.model import Format
from tests.simulators import disk_images
from tests.simulators.disk_images import CONTENT, SIZE, DiskImages, archive

pytestmark = pytest.mark.programs("qemu-img")

Make = Callable[[DiskImages], bytes]
OVF = ("disk.ovf", b"<Envelope/>")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DiskImages:
    return DiskImages(tmp_path_factory.mktemp("images"))


def made(name: str) -> Make:
    return lambda images: images.read(name)


def ova(*before: tuple[str, bytes], disk: str = "stream.vmdk", last: bool = True) -> Make:
    def make(images: DiskImages) -> bytes:
        found = ("disk.vmdk", images.read(disk))
        return archive(*(before or (OVF,)), found) if last else archive(found, OVF)

    return make


def with_member(name: str, content: bytes | str = b"x", kind: bytes = b"") -> Make:
    return lambda images: archive(
        OVF, ("disk.vmdk", images.read("sparse.vmdk")), (name, content), kind=kind
    )


GOOD: dict[str, tuple[Make, str, Format]] = {
    **{
        f"{name}.qcow2": (made(f"{name}.qcow2"), "", Format.QCOW2)
        for name in (
            *("v2", "v3", "zlib", "zstd", "small", "large"),
            *("lazy", "metadata", "extended", "snapshot"),
        )
    },
    "declared otherwise.qcow2": (made("v3.qcow2"), "RAW", Format.QCOW2),
    "dirty.qcow2": (
        lambda images: images.altered("v3.qcow2", (72, struct.pack(">Q", 1))),
        "",
        Format.QCOW2,
    ),
    **{
        f"{name}.vmdk": (made(f"{name}.vmdk"), "", Format.VMDK)
        for name in ("sparse", "stream", "compat6")
    },
    "footer.vmdk": (lambda images: images.with_footer(), "", Format.VMDK),
    "descriptor with DOS line ends.vmdk": (
        lambda images: images.described((b'"monolithicSparse"\n', b'"monolithicSparse"\r\n')),
        "",
        Format.VMDK,
    ),
    "exported by VMware.vmdk": (
        lambda images: images.described(
            (b'RW 8192 SPARSE "stream.vmdk"', b'RDONLY 8192 SPARSE "generated-stream.vmdk"'),
            name="stream.vmdk",
        ),
        "",
        Format.VMDK,
    ),
    "dynamic.vdi": (made("dynamic.vdi"), "VDI", Format.VDI),
    "static.vdi": (made("static.vdi"), "", Format.VDI),
    "dynamic.vhd": (made("dynamic.vhd"), "VHD", Format.VHD),
    "fixed.vhd": (made("fixed.vhd"), "VHD", Format.VHD),
    "fixed, declared raw.vhd": (made("fixed.vhd"), "RAW", Format.VHD),
    "dynamic.vhdx": (made("dynamic.vhdx"), "VHDX", Format.VHDX),
    "fixed.vhdx": (made("fixed.vhdx"), "", Format.VHDX),
    "partitions.raw": (lambda _: CONTENT, "", Format.RAW),
    "partitions, declared.raw": (lambda _: CONTENT, "raw", Format.RAW),
    "gpt.raw": (lambda _: disk_images.gpt_disk(), "", Format.RAW),
    "hybrid record.raw": (lambda _: disk_images.hybrid_record(), "", Format.RAW),
    "boot sector without partitions.raw": (
        lambda _: bytes(510) + CONTENT[510:],
        "",
        Format.RAW,
    ),
    "no boot sector.raw": (lambda _: bytes(512) + CONTENT[512:], "RAW", Format.RAW),
    "one sector.raw": (lambda _: CONTENT[:512], "", Format.RAW),
    "odd length.raw": (lambda _: CONTENT[:70000], "", Format.RAW),
    "plain.iso": (lambda _: disk_images.iso(), "ISO", Format.ISO),
    "undeclared.iso": (lambda _: disk_images.iso(), "", Format.ISO),
    "hybrid.iso": (lambda _: disk_images.iso(is_hybrid=True), "ISO", Format.ISO),
    "disk last.ova": (ova(), "OVA", Format.OVA),
    "disk first.ova": (ova(last=False), "", Format.OVA),
    "sparse disk.ova": (ova(disk="sparse.vmdk"), "", Format.OVA),
    "directory.ova": (ova(("./", b""), ("./disk.ovf", b"<Envelope/>")), "", Format.OVA),
    "manifest.ova": (ova(OVF, ("disk.mf", b"SHA1=")), "", Format.OVA),
    "hundred members.ova": (
        ova(OVF, *((f"{number}.txt", b"") for number in range(98))),
        "",
        Format.OVA,
    ),
    "notes of macOS.ova": (
        ova(("._disk.ovf", b"x"), OVF, ("._disk.vmdk", b"x")),
        "",
        Format.OVA,
    ),
    "capitals.ova": (ova(("DISK.OVF", b"<Envelope/>")), "", Format.OVA),
    "GNU long name.ova": (
        lambda images: archive(
            OVF, ("d" * 200 + ".vmdk", images.read("stream.vmdk")), layout=tarfile.GNU_FORMAT
        ),
        "",
        Format.OVA,
    ),
    "pax header.ova": (
        lambda images: archive(
            OVF, ("dïsk" * 40 + ".vmdk", images.read("stream.vmdk")), layout=tarfile.PAX_FORMAT
        ),
        "",
        Format.OVA,
    ),
    "disk of another name.ova": (
        lambda images: archive(OVF, ("box-disk1", images.read("stream.vmdk"))),
        "",
        Format.OVA,
    ),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}
# The cheap ones run in CI.
_ALWAYS = {"v3.qcow2.gz", "sparse.vmdk.bz2", "disk last.ova.xz", "dynamic.vhdx.zst"}
_COMPRESSED = {
    f"{name}.{kind}": (name, kind)
    for name in (
        *("v3.qcow2", "sparse.vmdk", "disk last.ova", "dynamic.vdi"),
        *("dynamic.vhd", "fixed.vhd", "dynamic.vhdx", "partitions.raw", "plain.iso"),
    )
    for kind in COMPRESS
}


def judge(path: Path, declared: str) -> tuple[Format, Disk]:
    """Judge a file as the frontend does."""
    found = formats.detect(path, declared=declared)
    disk = formats.inspect(path, found)
    formats.check_marks(path, found)
    QemuImg().virtual_size(disk)
    return found, disk


def check_good(path: Path, declared: str, wanted: Format, content: bytes) -> None:
    """Judge a good image, and compare its disk with the one that qemu-img was given."""
    found, disk = judge(path, declared)
    assert found is wanted
    result = path.with_suffix(".out")
    QemuImg().convert(disk, Format.RAW, result)
    assert result.read_bytes().rstrip(b"\0") == content.rstrip(b"\0")
    if found is not Format.OVA:
        command = ["qemu-img", "info", "--output=json", "-f", found.driver, str(path)]
        reported = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert reported["virtual-size"] == result.stat().st_size
        assert not reported.get("backing-filename")


def content_of(name: str, images: DiskImages) -> bytes:
    """Return the disk in a good image: `CONTENT`, but for the files that are the disk."""
    if name.endswith((".raw", ".iso")):
        return GOOD[name][0](images)
    return CONTENT


@pytest.mark.parametrize("name", GOOD)
def test_good_images_are_accepted(name: str, images: DiskImages, tmp_path: Path) -> None:
    make, declared, wanted = GOOD[name]
    path = tmp_path / "image"
    path.write_bytes(make(images))
    check_good(path, declared, wanted, content_of(name, images))


@pytest.mark.parametrize(
    "name",
    [
        name if name in _ALWAYS else pytest.param(name, marks=pytest.mark.matrix)
        for name in _COMPRESSED
    ],
)
def test_good_images_are_accepted_compressed(name: str, images: DiskImages, tmp_path: Path) -> None:
    inner, kind = _COMPRESSED[name]
    make, declared, wanted = GOOD[inner]
    path = tmp_path / "image"
    path.write_bytes(unpacked(COMPRESS[kind](make(images))))
    check_good(path, declared, wanted, content_of(inner, images))


def unpacked(content: bytes) -> bytes:
    kind, blocks = sniff(iter([content]))
    assert kind
    return b"".join(decompress(blocks, kind, name="image", bounds=Bounds(2**32)))


def lines(*added: bytes) -> Make:
    """Make a VMDK whose descriptor has more lines behind its extent."""
    end = b'SPARSE "sparse.vmdk"\n'
    return lambda images: images.described((end, end + b"\n".join(added) + b"\n"))


def instead(old: bytes, new: bytes) -> Make:
    return lambda images: images.described((old, new))


def cut(name: str, length: int) -> Make:
    return lambda images: images.read(name)[:length]


def changed(name: str, at: int, layout: str, value: int) -> Make:
    return lambda images: images.altered(name, (at, struct.pack(layout, value)))


def vhdx_items(images: DiskImages) -> Iterator[tuple[int, bytes]]:
    """Yield position and UUID of the entries in the metadata of a VHDX."""
    content = images.read("dynamic.vhdx")
    region = content.index(b"metadata")
    for number in range(int.from_bytes(content[region + 10 : region + 12], "little")):
        start = region + 32 + number * 32
        yield start, content[start : start + 16]


def vhdx_parent(images: DiskImages) -> bytes:
    """Add an entry of a parent."""
    region = images.read("dynamic.vhdx").index(b"metadata")
    *_, (last, _) = vhdx_items(images)
    count = struct.pack("<H", (last - region) // 32 + 1)
    new = b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c"
    return images.altered("dynamic.vhdx", (region + 10, count), (last + 32, new))


def vhdx_flag(images: DiskImages) -> bytes:
    """Set the flag "has a parent" of the file's parameters."""
    content = images.read("dynamic.vhdx")
    parameters = b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b"
    at = next(start for start, found in vhdx_items(images) if found == parameters)
    offset = int.from_bytes(content[at + 16 : at + 20], "little")
    return images.altered(
        "dynamic.vhdx", (content.index(b"metadata") + offset + 4, struct.pack("<I", 2))
    )


def vhdx_log(images: DiskImages) -> bytes:
    """Name a log in both headers."""
    return images.altered("dynamic.vhdx", (0x10030, b"x" * 16), (0x20030, b"x" * 16))


def elsewhere(images: DiskImages) -> bytes:
    """Put the descriptor behind the disk, and another one where QEMU looks."""
    content = bytearray(images.read("sparse.vmdk"))
    content += bytes(-len(content) % 512)
    innocent = bytes(content[512 : 512 + 20 * 512])
    content[28:36] = struct.pack("<Q", len(content) // 512)
    content[512 : 512 + 20] = b'parentFileNameHint="'
    return bytes(content) + innocent


def other_footer(images: DiskImages) -> bytes:
    """Give the footer, which QEMU uses, another size than the header."""
    return images.with_footer((12, struct.pack("<Q", 2**31)))


TEXT_VMDK = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n'
BAD: dict[str, tuple[Make, str, str]] = {
    # qcow2
    "header of 4 bytes.qcow2": (cut("v3.qcow2", 4), "", "header is truncated"),
    "header of 71 bytes.qcow2": (cut("v3.qcow2", 71), "", "header is truncated"),
    "header of 103 bytes.qcow2": (cut("v3.qcow2", 103), "", "header is truncated"),
    "backing file.qcow2": (made("backed.qcow2"), "", "has a backing file"),
    "data file.qcow2": (made("outside.qcow2"), "", "has its data in another file"),
    "encrypted.qcow2": (made("secret.qcow2"), "", "is encrypted"),
    "LUKS inside.qcow2": (changed("v3.qcow2", 32, ">I", 2), "", "is encrypted"),
    "corrupt.qcow2": (changed("v3.qcow2", 72, ">Q", 2), "", "is marked corrupt"),
    "unknown feature.qcow2": (changed("v3.qcow2", 72, ">Q", 32), "", "unknown qcow2 features"),
    "version 1.qcow": (made("old.qcow"), "", "unknown qcow2 version 1"),
    "version 4.qcow2": (changed("v3.qcow2", 4, ">I", 4), "", "unknown qcow2 version 4"),
    "two TiB and a byte.qcow2": (changed("v3.qcow2", 24, ">Q", 2**41 + 1), "", "the limit is"),
    "no byte.qcow2": (changed("v3.qcow2", 24, ">Q", 0), "", "its disk is empty"),
    "with the mark of an ISO.qcow2": (
        lambda images: images.altered("v3.qcow2", (0x8000, b"\x01CD001\x01")),
        "",
        "is ambiguous",
    ),
    "with a boot sector.qcow2": (
        lambda images: images.altered("v3.qcow2", (510, b"\x55\xaa")),
        "",
        "is ambiguous",
    ),
    "with the mark of a VDI.qcow2": (
        lambda images: images.altered("v3.qcow2", (64, b"\x7f\x10\xda\xbe")),
        "",
        "is ambiguous",
    ),
    "with the mark of an archive.qcow2": (
        lambda images: images.altered("v3.qcow2", (257, b"ustar")),
        "",
        "is ambiguous",
    ),
    # VMDK, F-M6
    "text only.vmdk": (
        lambda _: TEXT_VMDK + b'RW 8192 FLAT "/etc/passwd" 0\n',
        "",
        "is not a VMDK with its data in the same file",
    ),
    "text only, declared raw.vmdk": (
        lambda _: (b'version=1\ncreateType="monolithicFlat"\nRW 1 FLAT "/x" 0\n').ljust(600),
        "RAW",
        "has the mark of vmdk",
    ),
    "flat.vmdk": (made("flat.vmdk"), "", "is not a VMDK with its data in the same file"),
    "split.vmdk": (made("split.vmdk"), "", "is not a VMDK with its data in the same file"),
    "header of 100 bytes.vmdk": (
        cut("sparse.vmdk", 100),
        "",
        "is not a VMDK with its data in the same file",
    ),
    "parent.vmdk": (made("child.vmdk"), "", "has a parent disk"),
    "parent by its number.vmdk": (
        instead(b"parentCID=ffffffff", b"parentCID=0badcafe"),
        "",
        "has a parent disk",
    ),
    "parent by its name.vmdk": (lines(b'parentFileNameHint="/x"'), "", "has a parent disk"),
    "absolute extent.vmdk": (
        instead(b'"sparse.vmdk"', b'"/etc/passwd"'),
        "",
        "its VMDK descriptor has the line",
    ),
    "extent above.vmdk": (
        instead(b'"sparse.vmdk"', b'"../x.vmdk"'),
        "",
        "its VMDK descriptor has the line",
    ),
    "flat extent.vmdk": (
        instead(b'SPARSE "sparse.vmdk"', b'FLAT "/etc/passwd" 0'),
        "",
        'FLAT "/etc/passwd" 0',
    ),
    "second extent.vmdk": (lines(b'RW 8192 SPARSE "y"'), "", "has 2 extents"),
    "second extent, indented.vmdk": (lines(b' RW 8192 SPARSE "y"'), "", "has the line ' RW"),
    "second extent, small letters.vmdk": (lines(b'rw 8192 SPARSE "y"'), "", "has the line 'rw"),
    "second extent, mixed case.vmdk": (lines(b'Rw 8192 SPARSE "y"'), "", "has the line 'Rw"),
    "second extent, tab.vmdk": (lines(b'RW\t8192 SPARSE "y"'), "", "has the line"),
    "second extent, two spaces.vmdk": (lines(b'RW  8192 SPARSE "y"'), "", "has the line"),
    "second extent, read only.vmdk": (lines(b'RDONLY 8192 FLAT "y"'), "", "has the line"),
    "second extent, read only and sparse.vmdk": (
        lines(b'RDONLY 8192 SPARSE "y"'),
        "",
        "has 2 extents",
    ),
    "extent without access.vmdk": (instead(b"RW 8192", b"NOACCESS 8192"), "", "has the line"),
    "second extent behind a CR.vmdk": (
        lines(b'#\rRW 1 FLAT "/x" 0'),
        "",
        "has a carriage return within a line",
    ),
    "change track.vmdk": (lines(b'changeTrackPath="/x"'), "", "has the line 'changeTrackPath"),
    "custom type.vmdk": (instead(b"monolithicSparse", b"custom"), "", "is a VMDK of type custom"),
    "descriptor elsewhere.vmdk": (elsewhere, "", "does not describe a complete disk"),
    "other footer.vmdk": (other_footer, "", "its VMDK footer is missing or differs"),
    "without its footer.vmdk": (
        lambda images: images.with_footer()[:-1536],
        "",
        "its VMDK footer is missing or differs",
    ),
    "seSparse.vmdk": (
        lambda _: b"\xbe\xba\xfe\xca\0\0\0\0".ljust(4096, b"\0"),
        "RAW",
        "is a VMDK of type seSparse",
    ),
    "of ESX.vmdk": (lambda _: b"COWD".ljust(4096, b"\0"), "RAW", "is a VMDK of type COWD"),
    # OVA
    "absolute name.ova": (with_member("/etc/cron.d/x"), "", "lead out of its directory"),
    "name above.ova": (with_member("a/../../x"), "", "lead out of its directory"),
    "symbolic link.ova": (with_member("x", "/etc/shadow"), "", "not plain files"),
    "hard link.ova": (with_member("x", b"", tarfile.LNKTYPE), "", "not plain files"),
    "character device.ova": (with_member("x", b"", tarfile.CHRTYPE), "", "not plain files"),
    "block device.ova": (with_member("x", b"", tarfile.BLKTYPE), "", "not plain files"),
    "named pipe.ova": (with_member("x", b"", tarfile.FIFOTYPE), "", "not plain files"),
    "two disks.ova": (
        lambda images: archive(
            OVF, ("a.vmdk", images.read("stream.vmdk")), ("b.vmdk", images.read("sparse.vmdk"))
        ),
        "",
        "has 1 .ovf and 2 .vmdk files",
    ),
    "no disk.ova": (lambda _: archive(OVF), "", "has 1 .ovf and 0 .vmdk files"),
    "no description.ova": (
        lambda images: archive(("disk.vmdk", images.read("stream.vmdk"))),
        "",
        "has 0 .ovf and 1 .vmdk files",
    ),
    "two descriptions.ova": (ova(OVF, ("b.ovf", b"")), "", "has 2 .ovf and 1 .vmdk files"),
    "101 members.ova": (
        ova(OVF, *((f"{number}.txt", b"") for number in range(99))),
        "",
        "more than 100 members",
    ),
    "flat disk.ova": (
        lambda _: archive(OVF, ("disk.vmdk", TEXT_VMDK)),
        "",
        "is not a VMDK with its data in the same file",
    ),
    "truncated.ova": (
        lambda images: archive(OVF, ("disk.vmdk", images.read("stream.vmdk")))[:9000],
        "",
        "its archive is truncated",
    ),
    "disk with a parent.ova": (
        lambda images: archive(OVF, ("disk.vmdk", images.read("child.vmdk"))),
        "",
        "has a parent disk",
    ),
    # VDI
    "header of 100 bytes.vdi": (cut("dynamic.vdi", 100), "", "VDI header is truncated"),
    "version 2.vdi": (changed("dynamic.vdi", 68, "<I", 2), "", "unknown VDI version 0x2"),
    "differencing.vdi": (changed("dynamic.vdi", 76, "<I", 4), "", "has a parent disk"),
    "parent.vdi": (changed("dynamic.vdi", 440, "<I", 1), "", "has a parent disk"),
    "link.vdi": (changed("dynamic.vdi", 424, "<I", 1), "", "has a parent disk"),
    "huge.vdi": (changed("dynamic.vdi", 368, "<Q", 2**42), "", "the limit is"),
    "more disk than blocks.vdi": (
        changed("dynamic.vdi", 368, "<Q", 2**30),
        "",
        "does not describe a complete disk",
    ),
    # VHD
    "differencing.vhd": (
        lambda images: images.dynamic_vhd((60, struct.pack(">I", 4))),
        "",
        "has a parent disk",
    ),
    "unknown type.vhd": (
        lambda images: images.dynamic_vhd((60, struct.pack(">I", 6))),
        "",
        "unknown type 6",
    ),
    "parent.vhd": (
        lambda images: images.dynamic_vhd((40, b"x" * 16), second=True),
        "",
        "has a parent disk",
    ),
    "parent locator.vhd": (
        lambda images: images.dynamic_vhd((576, b"W2ku"), second=True),
        "",
        "has a parent disk",
    ),
    "huge.vhd": (
        lambda images: images.dynamic_vhd((48, struct.pack(">Q", 2**42))),
        "",
        "the limit is",
    ),
    "wrong checksum.vhd": (changed("dynamic.vhd", -100, ">I", 1), "", "is missing or damaged"),
    "footers that differ.vhd": (changed("dynamic.vhd", 100, ">I", 1), "", "two VHD footers differ"),
    "truncated.vhd": (
        lambda images: images.read("dynamic.vhd")[:-700],
        "",
        "footer is missing or damaged; the file may be truncated",
    ),
    # VHDX
    "truncated.vhdx": (cut("dynamic.vhdx", 0x20000), "", "VHDX headers are truncated"),
    "parent locator.vhdx": (vhdx_parent, "", "has a parent disk"),
    "parent flag.vhdx": (vhdx_flag, "", "has a parent disk"),
    "not closed.vhdx": (vhdx_log, "", "last writes are in its log only"),
    "no headers.vhdx": (
        lambda images: images.altered("dynamic.vhdx", (0x10000, b"x"), (0x20000, b"x")),
        "",
        "VHDX headers are damaged",
    ),
    "metadata beyond any file.vhdx": (
        changed("dynamic.vhdx", 0x30000 + 16 + 32 + 16, "<Q", 2**62),
        "",
        "VHDX headers are truncated",
    ),
    "no regions.vhdx": (
        lambda images: images.altered("dynamic.vhdx", (0x30000, b"x")),
        "",
        "region table is damaged",
    ),
    # others
    "declared raw.iso": (lambda _: disk_images.iso(), "RAW", "has the mark of iso"),
    "hybrid, declared raw.iso": (
        lambda _: disk_images.iso(is_hybrid=True),
        "RAW",
        "has the mark of iso",
    ),
    "truncated descriptor.iso": (
        lambda _: disk_images.iso()[:0x8010],
        "",
        "has the mark of raw, but is said to be iso",
    ),
    "QED": (made("disk.qed"), "RAW", "is a QED disk"),
    "LUKS": (
        lambda _: b"LUKS\xba\xbe\0\1".ljust(4096, b"\0"),
        "RAW",
        "is an encrypted LUKS volume",
    ),
    "Parallels": (made("disk.parallels"), "RAW", "is a Parallels disk"),
    "empty": (lambda _: b"", "", "has none of the formats"),
    "empty, declared.raw": (lambda _: b"", "RAW", "has 0 bytes"),
    "one byte.raw": (lambda _: b"x", "RAW", "has 1 bytes"),
    "511 bytes.raw": (lambda _: bytes(511), "RAW", "has 511 bytes"),
    "zeros, undeclared": (lambda _: bytes(4096), "", "has none of the formats"),
    "page of an error": (lambda _: b"<html>not found</html>" * 99, "", "none of the formats"),
    "zip": (lambda _: b"PK\x03\x04".ljust(4096, b"\0"), "RAW", "is a ZIP archive"),
    "7z": (lambda _: b"7z\xbc\xaf\x27\x1c".ljust(4096, b"\0"), "", "is a 7-Zip archive"),
    "gzip inside": (lambda _: gzip.compress(CONTENT), "RAW", "may be compressed only once"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused(name: str, images: DiskImages, tmp_path: Path) -> None:
    make, declared, words = BAD[name]
    path = tmp_path / "image"
    path.write_bytes(make(images))
    with pytest.raises(Unusable, match=words):
        judge(path, declared)


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["luks.qcow2", "disk.luks"])
def test_encrypted_images_are_refused(name: str, images: DiskImages, tmp_path: Path) -> None:
    """F-M5: as qemu-img makes them, which takes seconds."""
    path = tmp_path / "image"
    path.write_bytes(images.read(name))
    with pytest.raises(Unusable, match=r"is encrypted|is an encrypted"):
        judge(path, "RAW")


def test_the_matrix_is_large_enough() -> None:
    assert len(GOOD) >= 35
    assert len(BAD) >= 75
    assert len(CONTENT) == SIZE
