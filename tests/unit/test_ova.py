"""The OVA: order and headers of its archive, its manifest, its description, and what is refused.

The description is judged by the order of elements in DMTF's schema (DSP8023 1.1.1) and by rules
that VMware's ovftool and VirtualBox enforce.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cloudkeeper import formats
from cloudkeeper.frontend.conversion import QemuImg
from cloudkeeper.model import Format
from deploy.ova import archive, verify
from deploy.ova.__main__ import main
from deploy.ova.virtual_machine import OvaError, VirtualMachine
from tests import vmdk_stream

MACHINE = VirtualMachine("13", '1.4.0 <é&">', date(2026, 12, 1))
NAME = "FedCloud-Appliance.Debian.13-2026.12.01"
OVF, MF, VMDK = f"{NAME}.ovf", f"{NAME}.mf", f"{NAME}-disk001.vmdk"
SIZE = 5 * 2**20

Names = dict[str, str]
NAMESPACES: Names = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vssd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
    "vmw": "http://www.vmware.com/schema/ovf",
    "vbox": "http://www.virtualbox.org/ovf/machine",
}
OF = "{http://schemas.dmtf.org/ovf/envelope/1}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a disk with some data in two places."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    with path.open("wb") as file:
        file.write(b"boot loader" * 3000)
        file.seek(3 * 2**20 + 77)
        file.write(bytes(range(256)) * 999)
        file.truncate(SIZE)
    return path


@pytest.fixture(scope="module")
def ova(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive.write(raw, tmp_path_factory.mktemp("ova"), MACHINE)


@pytest.fixture(scope="module")
def unpacked(ova: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "xf", ova], cwd=directory, check=True)
    return directory


@pytest.fixture(scope="module")
def envelope(unpacked: Path) -> ET.Element:
    return ET.parse(unpacked / OVF).getroot()  # noqa: S314  our own


# The archive.


def test_the_order_that_importers_read(ova: Path) -> None:
    done = subprocess.run(["tar", "tf", ova], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines() == [OVF, MF, VMDK]
    assert ova.name == f"{NAME}.ova"
    assert [path.name for path in ova.parent.iterdir()] == [ova.name]


def test_the_archive_is_posix_ustar(ova: Path) -> None:
    content = ova.read_bytes()
    with tarfile.open(ova) as opened:
        members = opened.getmembers()
    for member in members:
        header = content[member.offset : member.offset + 512]
        assert header[257:265] == b"ustar\x0000"
        assert header[156:157] == b"0"  # a file
        assert (member.mode, member.uid, member.gid) == (0o644, 0, 0)
        assert member.mtime == 1796083200  # date -u -d 2026-12-01 +%s
    assert len(content) % 10240 == 0
    assert not any(content[members[-1].offset_data + members[-1].size :][-1024:])


def test_a_pipe_gives_the_disk(ova: Path, tmp_path: Path) -> None:
    """The manual's first command: tar must not seek."""
    command = f"cat '{ova}' | tar x '{VMDK}'"
    subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [VMDK]
    with (tmp_path / VMDK).open("rb") as file:
        found = vmdk_stream.read(file)
    assert sorted(found.grains) == [0, *range(48, 52)]


@pytest.mark.programs("qemu-img")
def test_the_manual_s_two_commands_give_the_disk(ova: Path, raw: Path, tmp_path: Path) -> None:
    """R03; our image source reads the same disk inside the archive."""
    command = f"cat '{ova}' | tar x '{VMDK}' && qemu-img convert -O qcow2 '{VMDK}' disk.qcow2"
    subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, check=True)
    QemuImg().convert(formats.inspect(ova, Format.OVA), Format.RAW, tmp_path / "ours.raw")
    for name in ("disk.qcow2", "ours.raw"):
        subprocess.run(["qemu-img", "compare", "-q", raw, tmp_path / name], check=True)


@pytest.mark.programs("qemu-img")
def test_a_cut_download_gives_no_disk(ova: Path, tmp_path: Path) -> None:
    """A pipe that ends early: tar says so, and qemu-img misses the footer."""
    command = f"head -c 20000 '{ova}' | tar x '{VMDK}'"
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, b"Unexpected EOF in archive" in done.stderr) == (2, True)
    convert = ["qemu-img", "convert", "-O", "qcow2", VMDK, "disk.qcow2"]
    done = subprocess.run(convert, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, b"Could not open" in done.stderr) == (1, True)


def test_the_manifest_has_the_digests(unpacked: Path) -> None:
    """The form that ovftool reads: ``SHA256(name)= digest``, no blank before the bracket."""
    found = re.findall(r"SHA256\(([^)]*)\)= ([0-9a-f]{64})\n", (unpacked / MF).read_text())
    assert len((unpacked / MF).read_text().splitlines()) == 2
    sums = "".join(f"{digest}  {name}\n" for name, digest in found)
    command = ["sha256sum", "--check", "--strict", "--quiet"]
    subprocess.run(command, input=sums, text=True, check=True, cwd=unpacked)
    assert [name for name, _ in found] == [OVF, VMDK]


def test_the_same_disk_makes_the_same_bytes(ova: Path, raw: Path, tmp_path: Path) -> None:
    assert archive.write(raw, tmp_path, MACHINE).read_bytes() == ova.read_bytes()


def test_a_description_of_any_length_has_its_room(tmp_path: Path) -> None:
    """Wherever the numbers, which are known last, move a border of blocks."""
    (tmp_path / "disk.raw").write_bytes(b"x")
    for length in range(0, 260, 6):
        machine = VirtualMachine("13", "1" * length, MACHINE.day)
        verify.check(archive.write(tmp_path / "disk.raw", tmp_path, machine))


def test_an_earlier_file_is_replaced(ova: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / ova.name).write_bytes(b"earlier")
    archive.write(raw, tmp_path, MACHINE)
    assert (tmp_path / ova.name).read_bytes() == ova.read_bytes()


def test_cloudkeeper_reads_it(ova: Path) -> None:
    """Our image source takes the archive, and finds the disk and its footer."""
    assert formats.detect(ova, declared="") is Format.OVA
    disk = formats.inspect(ova, Format.OVA)
    with tarfile.open(ova) as opened:
        member = opened.getmember(VMDK)
    assert (disk.format, disk.offset) == (Format.VMDK, member.offset_data)
    assert formats.check_marks(ova, Format.OVA) == ""


def test_glance_takes_the_disk(unpacked: Path) -> None:
    """oslo.utils compares footer and header, as Glance does."""
    assert formats.detect(unpacked / VMDK, declared="") is Format.VMDK
    formats.inspect(unpacked / VMDK, Format.VMDK)
    assert formats.check_marks(unpacked / VMDK, Format.VMDK) == ""


# The description.

SECTIONS = ("AnnotationSection", "ProductSection", "OperatingSystemSection")
ORDER = {
    "Envelope": ("References", "DiskSection", "NetworkSection", "VirtualSystem"),
    "References": ("File",),
    "DiskSection": ("Info", "Disk"),
    "NetworkSection": ("Info", "Network"),
    "VirtualSystem": ("Info", "Name", *SECTIONS, "VirtualHardwareSection"),
    "AnnotationSection": ("Info", "Annotation"),
    "ProductSection": ("Info", "Product", "Version", "FullVersion", "Property"),
    "Property": ("Label", "Description"),
    "OperatingSystemSection": ("Info", "Description", "OSType"),
    "VirtualHardwareSection": ("Info", "System", "Item"),
}


def test_elements_are_in_the_order_of_the_schema(envelope: ET.Element) -> None:
    for element in envelope.iter():
        names = [child.tag.partition("}")[2] for child in element]
        kind = element.tag.partition("}")[2]
        if kind in {"Item", "System"}:  # by the alphabet, as in CIM's schemas
            assert names == sorted(set(names))
        elif kind in ORDER:
            assert names == sorted(names, key=ORDER[kind].index)
            assert set(names) == set(ORDER[kind])


def test_attributes_have_their_namespace(envelope: ET.Element) -> None:
    """Attributes of the schema are qualified; a bare one is not found by importers."""
    for element in envelope.iter():
        assert all(name.startswith("{") for name in element.attrib), element.attrib


def item(envelope: ET.Element, kind: int) -> dict[str, str]:
    """Return the fields of the only item of a type."""
    items = [
        {child.tag.partition("}")[2]: child.text or "" for child in element}
        for element in envelope.iter(f"{OF}Item")
    ]
    (found,) = [each for each in items if each["ResourceType"] == str(kind)]
    return found


def the(envelope: ET.Element, path: str) -> ET.Element:
    found = envelope.findall(path, NAMESPACES)
    assert len(found) == 1, path
    return found[0]


Rule = Callable[[ET.Element, Path], bool]


def field(path: str, name: str) -> Callable[[ET.Element], str]:
    return lambda envelope: the(envelope, path).get(f"{OF}{name}", "")


FILE = field("ovf:References/ovf:File", "href")
DISK = field("ovf:DiskSection/ovf:Disk", "capacity")
RULES: dict[str, Rule] = {
    "the file is in the archive": lambda it, at: (at / FILE(it)).is_file(),
    "the file's size is right": lambda it, at: (
        int(field("ovf:References/ovf:File", "size")(it)) == (at / VMDK).stat().st_size
    ),
    "the disk is in the file": lambda it, _: (
        field("ovf:DiskSection/ovf:Disk", "fileRef")(it)
        == field("ovf:References/ovf:File", "id")(it)
    ),
    "the machine has the disk": lambda it, _: (
        item(it, 17)["HostResource"]
        == f"ovf:/disk/{field('ovf:DiskSection/ovf:Disk', 'diskId')(it)}"
    ),
    "the capacity is in bytes": lambda it, _: int(DISK(it)) == SIZE,
    "the format is stream-optimised": lambda it, _: field("ovf:DiskSection/ovf:Disk", "format")(
        it
    ).endswith("/specifications/vmdk.html#streamOptimized"),
    "the disk is at the SCSI controller": lambda it, _: (
        item(it, 17)["Parent"] == item(it, 6)["InstanceID"]
    ),
    "the CD drive is at the IDE controller": lambda it, _: (
        item(it, 15)["Parent"] == item(it, 5)["InstanceID"]
    ),
    "a CD brings the properties": lambda it, _: (
        field(".//ovf:VirtualHardwareSection", "transport")(it) == "iso"
    ),
    "the drive is empty": lambda it, _: "HostResource" not in item(it, 15),
    "the network is declared": lambda it, _: (
        item(it, 10)["Connection"] == field("ovf:NetworkSection/ovf:Network", "name")(it)
    ),
    "both hypervisors have the card": lambda it, _: item(it, 10)["ResourceSubType"] == "E1000",
    "two processors": lambda it, _: item(it, 3)["VirtualQuantity"] == "2",
    "2 GiB of memory": lambda it, _: (
        (item(it, 4)["VirtualQuantity"], item(it, 4)["AllocationUnits"]) == ("2048", "byte * 2^20")
    ),
    "Debian, 64 bits, in CIM": lambda it, _: (
        field(".//ovf:OperatingSystemSection", "id")(it) == "96"
    ),
    "Debian, 64 bits, in VirtualBox": lambda it, _: the(it, ".//vbox:OSType").text == "Debian_64",
    "identifiers occur once": lambda it, _: (
        len({each.text for each in it.findall(".//rasd:InstanceID", NAMESPACES)})
        == len(it.findall(".//ovf:Item", NAMESPACES))
    ),
    "the version is written as it is": lambda it, _: (
        the(it, ".//ovf:Version").text == MACHINE.version
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_importers(envelope: ET.Element, unpacked: Path, rule: str) -> None:
    assert RULES[rule](envelope, unpacked)


def test_description_and_disk_agree_on_the_hardware(envelope: ET.Element, unpacked: Path) -> None:
    """Importers compare controller and hardware version of the two."""
    with (unpacked / VMDK).open("rb") as file:
        disk = vmdk_stream.read(file)
    assert item(envelope, 6)["ResourceSubType"] == disk.fields["ddb.adapterType"]
    family = the(envelope, ".//vssd:VirtualSystemType").text
    assert family == f"vmx-{disk.fields['ddb.virtualHWVersion']}"
    assert disk.header.capacity * 512 == SIZE


def test_cloud_init_s_properties(envelope: ET.Element) -> None:
    """Those that its data source OVF reads; none has a secret as its default."""
    found = {
        each.get(f"{OF}key"): (each.get(f"{OF}userConfigurable"), each.get(f"{OF}value"))
        for each in envelope.findall(".//ovf:Property", NAMESPACES)
    }
    empty = ("true", "")
    assert found.pop("instance-id") == ("true", "id-ovf")
    assert found == {"hostname": empty, "public-keys": empty, "user-data": empty}


# What is refused.


def test_a_disk_of_more_than_eight_gib() -> None:
    """Eleven octal digits are all that ustar has for a size."""
    stored = archive.StoredDisk(io.BytesIO(), size=8 * 2**30 - 3)
    stored.write(b"12")
    with pytest.raises(OvaError, match=r"^the disk has more than 8 GiB when compressed"):
        stored.write(b"3")
    member = tarfile.TarInfo("disk")
    member.size = 8 * 2**30 - 1
    member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("raw_disk", "directory", "words"),
    [
        ("missing.raw", "", r"/missing\.raw: No such file or directory$"),
        ("empty.raw", "", r"/empty\.raw: is empty; name the raw disk of the machine$"),
        ("full.raw", "missing", r"/missing/\.FedCloud.*: No such file or directory$"),
        ("", "", ": Is a directory$"),
    ],
)
def test_what_no_ova_is_made_of(tmp_path: Path, raw_disk: str, directory: str, words: str) -> None:
    (tmp_path / "empty.raw").write_bytes(b"")
    (tmp_path / "full.raw").write_bytes(b"x")
    with pytest.raises(OvaError, match=words):
        archive.write(tmp_path / raw_disk, tmp_path / directory, MACHINE)
    assert {path.name for path in tmp_path.iterdir()} == {"empty.raw", "full.raw"}


def changed(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def swapped(content: bytes) -> bytes:
    """Put the disk first."""
    made = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for member in reversed(old.getmembers()):
            new.addfile(member, old.extractfile(member))
    return made.getvalue()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "is not an OVA, or its beginning is damaged or truncated"),
    "a page of a web server": (lambda _: b"<html>" * 999, "is not an OVA, or its beginning"),
    "the end of the description": (lambda content: content[:3000], "its beginning is damaged"),
    "half": (lambda content: content[: len(content) // 2], r"is truncated: \d+ bytes of \d+"),
    "the last byte": (lambda content: content[:-1], r"is truncated: \d+ bytes of \d+"),
    "more": (lambda content: content + bytes(512), r"is too long: \d+ bytes of \d+"),
    "a name": (changed(3), "is not an OVA, or its beginning is damaged"),
    "the description": (changed(2000), r"\.ovf in it is damaged: its SHA-256 is not the one"),
    "behind the description": (changed(6143), r"is damaged behind .*\.ovf"),
    "the manifest": (changed(6700), r"\.ovf in it is damaged: its SHA-256 is not the one"),
    "the disk": (changed(-15000), r"disk001\.vmdk in it is damaged: its SHA-256 is not the one"),
    "the end": (changed(-2), r"is damaged behind .*disk001\.vmdk"),
    "the order": (swapped, rf"holds {VMDK}, {MF}, {OVF} and not a description, a manifest"),
}


def test_verify_accepts_what_was_written(ova: Path) -> None:
    verify.check(ova)


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_refuses(ova: Path, tmp_path: Path, damage: str) -> None:
    change, words = DAMAGE[damage]
    bad = tmp_path / ova.name
    content = ova.read_bytes()
    bad.write_bytes(change(content))
    with pytest.raises(OvaError, match=f"^{re.escape(str(bad))}: .*{words}.*; download it again$"):
        verify.check(bad)


def test_the_command_line(
    raw: Path,
    ova: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1796083200")
    monkeypatch.setattr("sys.argv", ["ova", str(raw), "--into", str(tmp_path)])
    assert main() == 0
    assert capsys.readouterr().out == f"{tmp_path / ova.name}\n"
    monkeypatch.setattr("sys.argv", ["ova", "--verify", str(tmp_path / ova.name)])
    assert main() == 0
    (tmp_path / ova.name).write_bytes(b"")
    assert main() == 2
    words = "is not an OVA, or its beginning is damaged or truncated; download it again"
    assert capsys.readouterr().err == f"ova: {tmp_path / ova.name}: {words}\n"
