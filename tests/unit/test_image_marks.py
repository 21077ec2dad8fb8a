"""Marks of formats in files and passing blocks, with the verdicts of oslo.utils."""

from __future__ import annotations

import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from oslo_utils.imageutils import format_inspector

from cloudkeeper.formats import Marks, Unusable, check_marks
from cloudkeeper.model import Format
from tests.simulators import disk_images
from tests.simulators.disk_headers import NOWHERE, vhd_footer, vmdk, vmdk_end, vmdk_header
from tests.simulators.disk_images import CONTENT

MIB = 2**20
FIXED_VHD = CONTENT + vhd_footer(kind=2, position=NOWHERE)
WITHOUT_PARTITIONS = bytes(510) + b"\x55\xaa" + bytes(MIB)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def in_blocks(content: bytes, size: int, *, found: Format) -> Marks:
    marks = Marks(found, name="x")
    for at in range(0, len(content), size):
        marks.feed(memoryview(content)[at : at + size])
    marks.finish()
    return marks


def oslo_verdict(path: Path) -> dict[str, Any]:
    """Return the failures that the inspector of oslo.utils reports, by the name of the check."""
    found = format_inspector.detect_file_format(str(path))
    assert found is not None
    with pytest.raises(format_inspector.SafetyCheckFailed) as caught:
        found.safety_check()
    return caught.value.failures


@pytest.mark.parametrize("length", [512, MIB, MIB + 512, 2 * MIB, len(CONTENT)])
def test_a_fixed_vhd_is_not_raw(tmp_path: Path, length: int) -> None:
    content = CONTENT[:length] + vhd_footer(size=length, kind=2, position=NOWHERE)
    with pytest.raises(Unusable, match="is vhd, but is said to be raw"):
        check_marks(written(tmp_path / "x", content), Format.RAW)
    assert check_marks(tmp_path / "x", Format.VHD) == ""
    assert check_marks(written(tmp_path / "x", content[:-1]), Format.RAW) == ""


@pytest.mark.parametrize("size", [500, 511, 512, 65536, MIB, len(FIXED_VHD)])
def test_a_footer_that_is_cut_by_blocks_is_seen(size: int) -> None:
    with pytest.raises(Unusable, match="is vhd, but is said to be raw"):
        in_blocks(FIXED_VHD[-2 * MIB :], size, found=Format.RAW)
    assert in_blocks(FIXED_VHD, size, found=Format.VHD).are_known


def test_the_reason_of_glance_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "x", WITHOUT_PARTITIONS)
    (reason,) = map(str, oslo_verdict(path).values())
    assert check_marks(path, Format.RAW) == reason == "GPT MBR has no partitions defined"
    assert check_marks(written(path, CONTENT), Format.RAW) == ""


def test_a_boot_record_of_an_iso_is_not_judged(tmp_path: Path) -> None:
    """Glance stores it as an ISO, for which oslo.utils has no check."""
    content = bytearray(disk_images.iso())
    content[510:512] = b"\x55\xaa"
    path = written(tmp_path / "x", bytes(content))
    with path.open("rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        while wrapper.read(4096):
            pass
    assert sorted(map(str, wrapper.formats or [])) == ["gpt", "iso"]
    assert check_marks(path, Format.ISO) == ""


def test_two_marks_are_both_reported(tmp_path: Path) -> None:
    content = bytearray(b"QFI\xfb".ljust(MIB, b"\0"))
    content[0x8000:0x8006] = b"\x01CD001"
    with pytest.raises(Unusable, match="x: is ambiguous: it has the marks of iso and qcow2"):
        check_marks(written(tmp_path / "x", bytes(content)), Format.QCOW2)


def test_another_mark_is_reported(tmp_path: Path) -> None:
    path = written(tmp_path / "x", disk_images.iso())
    with pytest.raises(Unusable, match="x: has the mark of iso, but is said to be qcow2"):
        check_marks(path, Format.QCOW2)


def test_the_marker_of_a_footer(tmp_path: Path) -> None:
    disk = vmdk(directory=NOWHERE)
    path = written(tmp_path / "x", disk + vmdk_end(vmdk_header()))
    assert check_marks(path, Format.VMDK) == ""
    written(path, disk + vmdk_end(vmdk_header(), marker=1))
    assert list(oslo_verdict(path)) == ["footer"]
    with pytest.raises(Unusable, match="its VMDK footer is missing or differs"):
        check_marks(path, Format.VMDK)


def test_the_marker_of_a_footer_behind_the_first_block(tmp_path: Path) -> None:
    disk = vmdk(directory=NOWHERE).ljust(3 * MIB, b"\0")
    path = written(tmp_path / "x", disk + vmdk_end(vmdk_header(), marker=1))
    with pytest.raises(Unusable, match="its VMDK footer is missing or differs"):
        check_marks(path, Format.VMDK)


@pytest.mark.parametrize("sizes", [[8192, 100, 4096, 20381], [1, 32768, MIB], [40000, 10]])
def test_blocks_may_have_any_sizes(sizes: list[int]) -> None:
    """The mark of an ISO is found at its place, wherever the blocks end."""
    rest = disk_images.iso()
    marks = Marks(Format.ISO, name="x")
    for size in [*sizes, len(rest)]:
        marks.feed(rest[:size])
        rest = rest[size:]
    marks.finish()
    assert marks.are_known


def test_marks_are_known_before_the_end() -> None:
    """Once all inspectors of oslo.utils have seen their places."""
    marks = Marks(Format.RAW, name="x")
    known = []
    for part in (CONTENT[:1024], CONTENT[1024:]):
        marks.feed(part)
        known.append(marks.are_known)
    assert known == [False, True]


def test_the_inspectors_do_not_write_into_our_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger(format_inspector.__name__).setLevel(logging.NOTSET)
    path = written(tmp_path / "x", WITHOUT_PARTITIONS)
    oslo_verdict(path)
    assert "has no partitions" in caplog.text
    caplog.clear()
    check_marks(path, Format.RAW)
    assert caplog.text == ""


def test_only_the_ends_of_a_large_file_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "x", CONTENT)
    os.truncate(path, 64 * MIB)
    tracemalloc.start()
    try:
        assert check_marks(path, Format.RAW) == ""
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
