"""Formats as qemu-img and tar write them, and images that name files qemu-img would open."""

import bz2
import gzip
import io
import os
import struct
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from cloudkeeper.formats import (
    START,
    Disk,
    Marks,
    Unusable,
    check_marks,
    detect,
    inspect,
    inspect_start,
)
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.model import Format

pytestmark = pytest.mark.programs("qemu-img")

SIZE = 4 * 2**20
NONE = "has none of the formats raw, ova, qcow2, vmdk, iso, vdi, vhd, vhdx"


def qemu_img(*arguments: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, cwd=cwd)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disks")
    raw = path / "disk.raw"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + b"data of a disk.." * 1000)
    os.truncate(raw, SIZE)
    make: dict[str, list[str]] = {
        "v2.qcow2": ["qcow2", "-o", "compat=0.10"],
        "v3.qcow2": ["qcow2"],
        "zlib.qcow2": ["qcow2", "-c"],
        "zstd.qcow2": ["qcow2", "-c", "-o", "compression_type=zstd"],
        "extended.qcow2": ["qcow2", "-o", "extended_l2=on"],
        "sparse.vmdk": ["vmdk", "-o", "subformat=monolithicSparse"],
        "stream.vmdk": ["vmdk", "-o", "subformat=streamOptimized"],
        "flat.vmdk": ["vmdk", "-o", "subformat=monolithicFlat"],
        "split.vmdk": ["vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
        "other.vdi": ["vdi"],
        "other.vhdx": ["vhdx"],
    }
    for name, options in make.items():
        qemu_img("convert", "-f", "raw", "-O", *options, raw, path / name)
    qemu_img("create", "-f", "qcow2", "-b", "v3.qcow2", "-F", "qcow2", "backed.qcow2", cwd=path)
    qemu_img("create", "-f", "qcow2", "-o", "data_file=data.raw", "outside.qcow2", "4M", cwd=path)
    qemu_img("create", "-f", "vmdk", "-b", "sparse.vmdk", "-F", "vmdk", "child.vmdk", cwd=path)
    secret = path / "secret"
    secret.write_text("0123456789abcdef")
    qemu_img(
        *("create", "-f", "qcow2", "--object", f"secret,id=s,file={secret}"),
        *("-o", "encrypt.format=aes,encrypt.key-secret=s", path / "secret.qcow2", "4M"),
    )
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *((f"{name}.qcow2", Format.QCOW2) for name in ("v2", "v3", "zlib", "zstd", "extended")),
        *((f"{name}.vmdk", Format.VMDK) for name in ("sparse", "stream")),
        ("disk.raw", Format.RAW),
    ],
)
def test_harmless_images(disks: Path, tmp_path: Path, name: str, wanted: Format) -> None:
    found = detect(disks / name, declared="whatever the list says")
    assert found is wanted
    disk = inspect(disks / name, found)
    assert disk == Disk(disks / name, wanted)
    qemu = QemuImg()
    assert qemu.virtual_size(disk) == SIZE
    assert qemu.needed_bytes(disk) < SIZE
    qemu.convert(disk, Format.QCOW2, tmp_path / "out.qcow2")
    qemu_img("compare", "-f", "raw", "-F", "qcow2", disks / "disk.raw", tmp_path / "out.qcow2")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backed.qcow2", "has a backing file"),
        ("outside.qcow2", "has its data in another file"),
        ("secret.qcow2", "is encrypted"),
        ("flat.vmdk", "is not a VMDK with its data in the same file"),
        ("split.vmdk", "is not a VMDK with its data in the same file"),
        ("child.vmdk", "has a parent disk"),
    ],
)
def test_images_that_depend_on_something_else(disks: Path, name: str, words: str) -> None:
    with pytest.raises(Unusable, match=words):
        inspect(disks / name, detect(disks / name))


def altered(path: Path, into: Path, *changes: tuple[int, bytes]) -> Path:
    content = bytearray(path.read_bytes())
    for position, text in changes:
        content[position : position + len(text)] = text
    into.write_bytes(content)
    return into


def in_descriptor(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(old, new.ljust(len(old), b"\n"), 1)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("v3.qcow2", (4, struct.pack(">I", 9)), "unknown qcow2 version 9"),
        ("v3.qcow2", (24, struct.pack(">Q", 2**50)), "bytes, the limit is"),
        ("v3.qcow2", (72, struct.pack(">Q", 2)), "is marked corrupt"),
        ("v3.qcow2", (72, struct.pack(">Q", 2**40)), "unknown qcow2 features"),
        ("sparse.vmdk", (12, struct.pack("<Q", 0)), "does not describe a complete disk"),
        ("sparse.vmdk", (12, struct.pack("<Q", 2**50)), "bytes, the limit is"),
        ("sparse.vmdk", (28, struct.pack("<Q", 0)), "does not describe a complete disk"),
    ],
)
def test_forged_headers(
    disks: Path, tmp_path: Path, name: str, change: tuple[int, bytes], words: str
) -> None:
    path = altered(disks / name, tmp_path / name, change)
    with pytest.raises(Unusable, match=words):
        inspect(path, detect(path))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'createType="monolithicSparse"', b'createType="custom"', "of type custom"),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "x"\nRW 1 FLAT "y"', "has the line 'RW 1 FLAT"),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "x"\nRW 1 SPARSE "y"', "has 2 extents"),
        (b'SPARSE "sparse.vmdk"', b'FLAT "/etc/passwd" 0', 'FLAT "/etc/passwd" 0'),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "x"\n RW 1 SPARSE "y"', "has the line ' RW 1 SPARSE"),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "x"\nrw 1 SPARSE "y"', "has the line 'rw 1 SPARSE"),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "../x.vmdk"', "has the line 'RW"),
        (b'SPARSE "sparse.vmdk"', b'SPARSE "x"\nchangeTrackPath="/y"', "line 'changeTrackPath"),
        (b"parentCID=ffffffff", b"parentCID=0badcafe", "has a parent disk"),
    ],
)
def test_forged_descriptors(
    disks: Path, tmp_path: Path, old: bytes, new: bytes, words: str
) -> None:
    """F-M6: only known lines, and one extent in the file itself."""
    text = (disks / "sparse.vmdk").read_bytes()
    assert old in text
    text = text.replace(old, new, 1) if len(new) > len(old) else in_descriptor(old, new)(text)
    (tmp_path / "forged.vmdk").write_bytes(text)
    with pytest.raises(Unusable, match=words):
        inspect(tmp_path / "forged.vmdk", Format.VMDK)


def with_descriptor(
    disk: Path, into: Path, text: bytes, *, header: tuple[int, int], decoy: bytes = b""
) -> Path:
    """Write a VMDK whose header gives ``header`` as first sector and length of its descriptor."""
    content = bytearray(disk.read_bytes())
    content += bytes(-len(content) % 512)
    content[512 : 512 + 20 * 512] = text.ljust(20 * 512, b"\0")
    content[28:44] = struct.pack("<QQ", header[0] or len(content) // 512, header[1])
    into.write_bytes(content + decoy.ljust(20 * 512, b"\0"))
    return into


@pytest.mark.parametrize("way", ["decoy", "second sector"])
def test_a_descriptor_that_qemu_reads_otherwise(disks: Path, tmp_path: Path, way: str) -> None:
    """The header names a harmless descriptor; QEMU reads twenty sectors from the second on."""
    innocent = (disks / "sparse.vmdk").read_bytes()[512 : 512 + 20 * 512].split(b"\0")[0]
    path = tmp_path / "forged.vmdk"
    hint = b'parentFileNameHint="/etc/passwd"\n'
    if way == "decoy":
        with_descriptor(
            disks / "sparse.vmdk", path, innocent + hint, header=(0, 20), decoy=innocent
        )
    else:
        padded = innocent + b"#".ljust(511 - len(innocent), b"#") + b"\n"
        with_descriptor(disks / "sparse.vmdk", path, padded + hint, header=(1, 1))
    reported = subprocess.run(
        ["qemu-img", "info", "-U", path], capture_output=True, text=True, check=False
    ).stdout
    assert "backing file: /etc/passwd" in reported
    with pytest.raises(Unusable, match=r"has a parent disk|does not describe a complete disk"):
        inspect(path, Format.VMDK)


def test_a_disk_that_no_header_limits(tmp_path: Path) -> None:
    path = tmp_path / "huge.raw"
    path.touch()
    os.truncate(path, 2**42)
    with pytest.raises(Unusable, match=f"has {2**42} bytes, the limit is {2**41}"):
        QemuImg().virtual_size(Disk(path, Format.RAW))


def archive(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """Write a TAR of files (bytes) and symbolic links (text: the target)."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
                made.addfile(member)
    return path


@pytest.mark.parametrize(
    "order",
    [("disk.ovf", "disk.vmdk"), ("disk.vmdk", "disk.ovf"), ("a/b/disk.ovf", "./disk.vmdk")],
)
@pytest.mark.parametrize("kind", ["sparse.vmdk", "stream.vmdk"])
def test_the_disk_of_an_ova_is_read_where_it_lies(
    disks: Path, tmp_path: Path, order: tuple[str, str], kind: str
) -> None:
    contents = {"ovf": b"<Envelope/>", "vmdk": (disks / kind).read_bytes()}
    path = archive(
        tmp_path / "a.ova", *((name, contents[name.rpartition(".")[2]]) for name in order)
    )
    assert detect(path) is Format.OVA
    disk = inspect(path, Format.OVA)
    QemuImg().convert(disk, Format.RAW, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == (disks / "disk.raw").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.ova", "out.raw"]


def test_archives_that_are_not_an_ova(disks: Path, tmp_path: Path) -> None:
    vmdk = (disks / "sparse.vmdk").read_bytes()
    cases: dict[str, list[tuple[str, bytes | str]]] = {
        "is not an OVA with one disk: its archive has 1 .ovf and 2 .vmdk": [
            ("a.ovf", b""),
            ("a.vmdk", vmdk),
            ("b.vmdk", vmdk),
        ],
        "is not an OVA with one disk: its archive has 0 .ovf and 1 .vmdk": [("a.vmdk", vmdk)],
        "members that are not plain files": [("a.ovf", b""), ("a.vmdk", "/etc/shadow")],
        "is not an OVA with one disk: its archive has more than 100 members": [
            ("a.ovf", b""),
            *((f"{n}.txt", b"") for n in range(200)),
        ],
        "is not a VMDK with its data in the same file": [
            ("a.ovf", b""),
            ("a.vmdk", b"# Disk DescriptorFile\nRW 1 FLAT"),
        ],
    }
    for words, members in cases.items():
        path = archive(tmp_path / "a.ova", *members)
        with pytest.raises(Unusable, match=words):
            inspect(path, Format.OVA)
    path = archive(tmp_path / "a.ova", ("a.ovf", b""), ("a.vmdk", vmdk))
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(Unusable, match=r"its archive (is truncated|cannot be read)"):
        inspect(path, Format.OVA)


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE]
)
@pytest.mark.parametrize(
    "size", [b"\x80" + b"\x7f" * 11, b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0"]
)
def test_archives_with_impossible_figures(tmp_path: Path, kind: bytes, size: bytes) -> None:
    """Sizes beyond 2**63 and below zero, in members and in headers for members."""
    path = archive(tmp_path / "a.ova", ("a.ovf", b"<Envelope/>"), ("a.vmdk", bytes(1024)))
    header = bytearray(path.read_bytes())
    header[124:136], header[156:157] = size, kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    path.write_bytes(header)
    with pytest.raises(Unusable):
        inspect(path, Format.OVA)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"x" * 999), "contains gzip data; an image may be compressed only once"),
        (bz2.compress(b"x" * 999), "contains bzip2 data; an image may be compressed only once"),
        (b"\0" * 1024, f"{NONE}; the list says 'QCOW2'"),
        (b"", NONE),
        (b"<html>not found</html>", NONE),
    ],
    ids=["gzip", "bzip2", "zeros", "empty", "html"],
)
def test_files_that_are_not_images(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(Unusable, match=words):
        detect(tmp_path / "x", declared="QCOW2")


def test_the_list_decides_about_a_raw_disk_without_boot_sector(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 1024)
    assert detect(tmp_path / "x", declared="RAW") is Format.RAW


def test_qemu_img_is_missing_or_does_not_end(disks: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match="install qemu-utils"):
        QemuImg(tmp_path / "none").virtual_size(Disk(disks / "disk.raw", Format.RAW))
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(Unusable, match="did not end within 1 s"):
        QemuImg(slow, timedelta(seconds=1)).virtual_size(Disk(disks / "disk.raw", Format.RAW))


def test_the_message_of_qemu_img_is_reported(disks: Path) -> None:
    with pytest.raises(
        Unusable, match=r"disk\.raw: qemu-img info failed \(1\): .*not in qcow2 format"
    ):
        QemuImg().virtual_size(Disk(disks / "disk.raw", Format.QCOW2))


def test_qemu_img_may_write_no_more_than_the_disk_holds(disks: Path, tmp_path: Path) -> None:
    greedy = tmp_path / "greedy"
    greedy.write_text(
        '#!/bin/sh\ncase $1 in info) exec qemu-img "$@";; esac\n'
        'head -c 200M /dev/zero >"$OUT" || exit 1\n'
    )
    greedy.chmod(0o755)
    target = tmp_path / "out"
    greedy.write_text(greedy.read_text().replace("$OUT", str(target)))
    with pytest.raises(Unusable, match="qemu-img convert failed"):
        QemuImg(greedy).convert(Disk(disks / "disk.raw", Format.RAW), Format.QCOW2, target)
    assert target.stat().st_size < 100 * 2**20


@pytest.mark.parametrize("length", [4, 8, 40, 103])
def test_a_truncated_qcow2_header_is_refused(disks: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.qcow2"
    cut.write_bytes((disks / "v3.qcow2").read_bytes()[:length])
    with pytest.raises(Unusable, match=r"cut\.qcow2: its qcow2 header is truncated"):
        inspect(cut, Format.QCOW2)


def qcow2_header(version: int, *, length: int, virtual: int = SIZE, features: int = 0) -> bytes:
    """Write the header of an empty image, as QEMU's docs/interop/qcow2 describes it."""
    header = struct.pack(">4sIQIIQI", b"QFI\xfb", version, 0, 0, 16, virtual, 0).ljust(72, b"\0")
    return (header + struct.pack(">Q", features)).ljust(length, b"\0")[:length]


@pytest.mark.parametrize(
    ("version", "length", "virtual", "features"),
    [
        (2, 72, SIZE, 0),  # the shortest headers
        (3, 104, SIZE, 0),
        (3, 104, 2**41, 0),  # the largest disk
        (3, 104, SIZE, 1),  # "dirty": reference counts are rebuilt, data are whole
    ],
)
def test_headers_at_a_limit(
    tmp_path: Path, version: int, length: int, virtual: int, features: int
) -> None:
    path = tmp_path / "x.qcow2"
    path.write_bytes(qcow2_header(version, length=length, virtual=virtual, features=features))
    assert inspect(path, Format.QCOW2) == Disk(path, Format.QCOW2)


@pytest.mark.parametrize(
    ("virtual", "features", "words"),
    [
        (2**41 + 1, 0, f"has {2**41 + 1} bytes, the limit is {2**41}"),
        (SIZE, 2**63, "unknown qcow2 features"),
    ],
)
def test_headers_beyond_a_limit(tmp_path: Path, virtual: int, features: int, words: str) -> None:
    path = tmp_path / "x.qcow2"
    path.write_bytes(qcow2_header(3, length=104, virtual=virtual, features=features))
    with pytest.raises(Unusable, match=words):
        inspect(path, Format.QCOW2)


def descriptor_of(disk: Path) -> bytes:
    return disk.read_bytes()[512 : 512 + 20 * 512].split(b"\0")[0]


@pytest.mark.parametrize("sectors", [1, 40])
def test_descriptors_of_any_usual_length(disks: Path, tmp_path: Path, sectors: int) -> None:
    path, text = tmp_path / "x.vmdk", descriptor_of(disks / "sparse.vmdk")
    with_descriptor(disks / "sparse.vmdk", path, text, header=(1, sectors))
    assert inspect(path, Format.VMDK) == Disk(path, Format.VMDK)


@pytest.mark.parametrize("sectors", [0, 41])
def test_descriptors_of_an_unusual_length(disks: Path, tmp_path: Path, sectors: int) -> None:
    path, text = tmp_path / "x.vmdk", descriptor_of(disks / "sparse.vmdk")
    with_descriptor(disks / "sparse.vmdk", path, text, header=(1, sectors))
    with pytest.raises(Unusable, match="does not describe a complete disk"):
        inspect(path, Format.VMDK)


def test_bytes_after_a_descriptor_are_not_read(disks: Path, tmp_path: Path) -> None:
    """QEMU reads twenty sectors: a parent named in the next one has no effect."""
    path, text = tmp_path / "x.vmdk", descriptor_of(disks / "sparse.vmdk")
    with_descriptor(disks / "sparse.vmdk", path, text.ljust(20 * 512, b"\n"), header=(1, 20))
    altered(path, path, (21 * 512, b'parentFileNameHint="/etc/passwd"\n'))
    assert inspect(path, Format.VMDK) == Disk(path, Format.VMDK)


def test_a_vmdk_of_two_tib_is_the_largest(disks: Path, tmp_path: Path) -> None:
    path = altered(disks / "sparse.vmdk", tmp_path / "x.vmdk", (12, struct.pack("<Q", 2**32)))
    assert inspect(path, Format.VMDK) == Disk(path, Format.VMDK)


def test_long_words_of_others_are_shortened(disks: Path, tmp_path: Path) -> None:
    text = descriptor_of(disks / "sparse.vmdk").replace(b"monolithicSparse", b"x" * 50)
    with_descriptor(disks / "sparse.vmdk", tmp_path / "x.vmdk", text, header=(1, 20))
    with pytest.raises(Unusable, match=f"of type {'x' * 40},"):
        inspect(tmp_path / "x.vmdk", Format.VMDK)
    (tmp_path / "x").write_bytes(b"no image")
    with pytest.raises(Unusable, match=f"the list says '{'y' * 20}'"):
        detect(tmp_path / "x", declared="y" * 30)


def ova(path: Path, disk: bytes, *, members: int = 2) -> Path:
    """Write an OVA of so many members; the last one is the disk."""
    others = [(f"{number}.txt", b"") for number in range(members - 2)]
    return archive(path, ("a.ovf", b""), *others, ("a.vmdk", disk))


def padded(disk: bytes) -> bytes:
    return disk + bytes(-len(disk) % 512)


def test_an_ova_may_have_a_hundred_members(disks: Path, tmp_path: Path) -> None:
    disk = (disks / "sparse.vmdk").read_bytes()
    assert inspect(ova(tmp_path / "a.ova", disk, members=100), Format.OVA).size == len(disk)
    with pytest.raises(Unusable, match="is not an OVA with one disk"):
        inspect(ova(tmp_path / "b.ova", disk, members=101), Format.OVA)


def test_an_archive_that_ends_before_its_last_member_is_truncated(
    disks: Path, tmp_path: Path
) -> None:
    disk = padded((disks / "sparse.vmdk").read_bytes())
    path = ova(tmp_path / "a.ova", disk)
    end = path.read_bytes().rindex(disk) + len(disk)
    os.truncate(path, end)
    assert inspect(path, Format.OVA).size == len(disk)
    os.truncate(path, end - 1)
    with pytest.raises(Unusable, match="its archive is truncated"):
        inspect(path, Format.OVA)


def test_an_archive_with_a_broken_header(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.ova", ("a.ovf", b""))
    altered(path, path, (0, b"other name"))
    with pytest.raises(Unusable, match="its archive cannot be read"):
        inspect(path, Format.OVA)


MARKS = {
    "vdi": b"<<< Oracle VM VirtualBox Disk Image >>>\n" + bytes(24) + b"\x7f\x10\xda\xbe",
    "vhdx": b"vhdxfile",
    "luks": b"LUKS\xba\xbe\x00\x01",
    "qed": b"QED\0",
}


@pytest.mark.parametrize("name", MARKS)
def test_other_formats_are_not_raw(tmp_path: Path, name: str) -> None:
    """F-M5: declared RAW, as the list says; the mark counts."""
    path = tmp_path / "declared.raw"
    path.write_bytes(MARKS[name].ljust(2**20, b"\0"))
    with pytest.raises(Unusable, match=r"is a QED disk|is an encrypted LUKS|header|VDI version"):
        inspect(path, detect(path, declared="RAW"))
    with pytest.raises(Unusable, match=f"has the mark of {name}, but is said to be raw"):
        check_marks(path, Format.RAW)


@pytest.mark.parametrize("name", ["vhdx", "vpc", "vdi", "qed"])
def test_disks_of_qemu_in_other_formats_are_not_raw(tmp_path: Path, name: str) -> None:
    """F-M5: qemu-img makes them."""
    path = tmp_path / "declared.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", name, path, "8M"], check=True)
    with pytest.raises(Unusable, match=r"but is said to be raw|is ambiguous"):
        check_marks(path, Format.RAW)


@pytest.mark.parametrize(("name", "found"), [("v3.qcow2", Format.QCOW2), ("disk.raw", Format.RAW)])
def test_a_disk_that_is_also_an_iso_is_ambiguous(
    disks: Path, tmp_path: Path, name: str, found: Format
) -> None:
    """F-M5: hybrids, which boot as either."""
    content = bytearray((disks / name).read_bytes().ljust(2**20, b"\0"))
    content[0x8000:0x8006] = b"\x01CD001"
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Unusable, match=r"is ambiguous|has the mark of iso"):
        check_marks(path, found)


def test_the_formats_that_are_accepted_have_their_own_marks(disks: Path) -> None:
    for path in sorted(disks.iterdir()):
        try:
            found = detect(path, declared="RAW" if path.suffix == ".raw" else "")
            inspect(path, found)
        except Unusable:
            continue
        check_marks(path, found)


def test_a_header_of_any_length_takes_no_memory(tmp_path: Path) -> None:
    """tarfile reads an extended header as a whole, and a sparse file may be one."""
    path = tmp_path / "a.ova"
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 2**32
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 2**33)
    tracemalloc.start()
    try:
        with pytest.raises(Unusable, match="its archive cannot be read"):
            inspect(path, Format.OVA)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_names_in_an_ova_are_decoration(disks: Path, tmp_path: Path) -> None:
    """F-M9: a directory, as `tar c .` writes one, and a disk of another name."""
    path = tmp_path / "a.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        made.addfile(folder)
        for name, content in (("./a.ovf", b"<Envelope/>"), ("./a.disk", disks / "stream.vmdk")):
            text = content if isinstance(content, bytes) else content.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(text)
            made.addfile(member, io.BytesIO(text))
    disk = inspect(path, Format.OVA)
    QemuImg().convert(disk, Format.RAW, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == (disks / "disk.raw").read_bytes()


@pytest.mark.parametrize("name", ["v2.qcow2", "v3.qcow2", "zstd.qcow2", "disk.raw", "stream.vmdk"])
def test_an_image_is_judged_by_its_first_bytes_and_as_it_passes(disks: Path, name: str) -> None:
    content = (disks / name).read_bytes()
    found = inspect_start(content[:START], name=name, declared="raw")
    assert found is detect(disks / name, declared="raw")
    marks = Marks(found, name=name)
    for at in range(0, len(content), 65536):
        marks.feed(memoryview(content)[at : at + 65536])
    marks.finish()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("backed.qcow2", "has a backing file"),
        ("outside.qcow2", "has its data in another file"),
        ("child.vmdk", "has a parent disk"),
        ("flat.vmdk", "is not a VMDK with its data in the same file"),
    ],
)
def test_first_bytes_that_name_another_file_are_refused(disks: Path, name: str, words: str) -> None:
    content = (disks / name).read_bytes()
    with pytest.raises(Unusable, match=f"^the image: {words}"):
        inspect_start(content[:START], name="the image")


def test_an_archive_is_recognised_by_its_first_bytes(disks: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.ova"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(disks / "stream.vmdk", arcname="one.vmdk")
    assert inspect_start(path.read_bytes()[:1024], name="x") is Format.OVA


def test_a_mark_beyond_the_first_block_is_seen(disks: Path) -> None:
    """The ISO's mark stands at 32 KiB; the blocks are smaller than that."""
    content = bytearray((disks / "disk.raw").read_bytes())
    content[0x8000:0x8006] = b"\x01CD001"
    marks = Marks(Format.RAW, name="x")

    def pass_by() -> None:
        for at in range(0, len(content), 4096):
            marks.feed(bytes(content[at : at + 4096]))
        marks.finish()

    with pytest.raises(Unusable, match="iso"):
        pass_by()
