"""What becomes of an image: uploaded as it is, decompressed, converted, rewritten, or refused."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_utils.imageutils import format_inspector

from appliance.core.run.errors import LocalFailure
from cloudkeeper import formats
from cloudkeeper.formats import Disk, Unusable
from cloudkeeper.frontend.conversion import QemuImg, choose_target
from cloudkeeper.frontend.refused import RefusedImages
from cloudkeeper.frontend.transfer import Workshop
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Format,
    ImageData,
    ImageSource,
    ListId,
    Offer,
)
from tests.simulators import disk_images
from tests.simulators.disk_images import CONTENT, SIZE, DiskImages, archive

pytestmark = pytest.mark.programs("qemu-img")

RAW, QCOW2, VMDK, VDI, ISO, OVA = (
    *(Format.RAW, Format.QCOW2, Format.VMDK),
    *(Format.VDI, Format.ISO, Format.OVA),
)
NO_PARTITIONS = bytes(510) + CONTENT[510:]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DiskImages:
    return DiskImages(tmp_path_factory.mktemp("images"))


class Content:
    """A source with the bytes of one image."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.opened = 0

    @contextlib.contextmanager
    def open(self, _: ImageSource, **__: Any) -> Iterator[tuple[int, Iterator[bytes]]]:
        self.opened += 1
        step = 2**18
        ends = range(0, len(self.content), step)
        yield len(self.content), (self.content[at : at + step] for at in ends)

    def offer(self, declared: str = "", compression: str = "") -> Offer:
        appliance = Appliance(
            ApplianceId("image-1"), ListId("list-1"), attributes={"hv:format": declared}
        )
        digest = f"sha512:{hashlib.sha512(self.content).hexdigest()}"
        source = ImageSource("https://x/image", digest, len(self.content), compression)
        return Offer(appliance, source)


def workshop(directory: Path, *accepted: Format, qemu: QemuImg | None = None) -> Workshop:
    refused = RefusedImages(directory / "refused.json", accepted)
    made = Workshop(directory / "images", accepted, qemu or QemuImg(), refused)
    made.sweep()
    return made


@contextlib.contextmanager
def prepared(
    directory: Path, content: bytes, *accepted: Format, declared: str = ""
) -> Iterator[tuple[ImageData, Path]]:
    source, made = Content(content), workshop(directory, *accepted)
    with made.prepare(source.offer(declared), source) as data:  # type: ignore[arg-type]
        path = Path(data.location)
        sha512 = hashlib.sha512(path.read_bytes()).hexdigest()
        assert data.checksum == ("" if data.is_converted else sha512)
        assert data.size == path.stat().st_size
        assert list(made.directory.iterdir()) == [path]
        yield data, path
    assert list(made.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "accepted", "is_refused", "wanted"),
    [
        (QCOW2, [QCOW2], False, None),
        (RAW, [QCOW2, RAW], False, None),
        (RAW, [QCOW2], False, QCOW2),
        (Format.VHDX, [VMDK, QCOW2], False, VMDK),
        (OVA, [OVA], False, None),
        (OVA, [ISO, VDI], False, VDI),
        (ISO, [QCOW2, ISO], False, None),
        (QCOW2, [RAW, QCOW2], True, QCOW2),  # F-M11: rewritten as it is, not made larger
        (QCOW2, [RAW], True, RAW),
        (RAW, [RAW, VMDK], True, VMDK),
        (RAW, [RAW], True, None),
        (VMDK, [VMDK], True, VMDK),
    ],
)
def test_the_target_of_a_conversion(
    found: Format, accepted: list[Format], is_refused: bool, wanted: Format | None
) -> None:
    assert choose_target(found, accepted, name="x", is_refused=is_refused) is wanted


@pytest.mark.parametrize(
    ("found", "accepted", "words"),
    [
        (ISO, [QCOW2], "is an ISO image, which starts as a CD but not as a disk; in cloudkeeper"),
        (VMDK, [OVA], "cannot be converted to ova, the only accepted format; in cloudkeeper"),
        (QCOW2, [ISO], "cannot be converted to iso, the only accepted format; in cloudkeeper"),
    ],
)
def test_no_target(found: Format, accepted: list[Format], words: str) -> None:
    with pytest.raises(Unusable, match=words):
        choose_target(found, accepted, name="x", is_refused=False)


def glance_takes(path: Path, declared: Format) -> bool:
    """Ask the inspectors of oslo.utils as Glance 33 does."""
    found = format_inspector.detect_file_format(str(path))
    assert found
    try:
        found.safety_check()
    except format_inspector.SafetyCheckFailed:
        return False
    return str(found) == declared or (str(found) == "gpt" and declared == "raw")


def test_what_glance_refuses_is_rewritten(images: DiskImages, tmp_path: Path) -> None:
    """F-M11: extended L2 entries."""
    content = images.read("extended.qcow2")
    assert not glance_takes(images.directory / "extended.qcow2", QCOW2)
    with prepared(tmp_path, content, QCOW2) as (data, path):
        assert data.format is QCOW2
        assert glance_takes(path, QCOW2)
        command = ["qemu-img", "info", "--output=json", str(path)]
        reported = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert reported["format-specific"]["data"]["extended-l2"] is False
        images.run("compare", "-f", "raw", "-F", "qcow2", "disk.raw", str(path))


def test_what_glance_takes_is_uploaded_as_it_is(images: DiskImages, tmp_path: Path) -> None:
    """Glance 33 takes compression by zstd; QEMU reads it since 5.1."""
    for name in ("zstd.qcow2", "zlib.qcow2", "v2.qcow2", "snapshot.qcow2"):
        content = images.read(name)
        assert glance_takes(images.directory / name, QCOW2)
        with prepared(tmp_path, content, QCOW2) as (_, path):
            assert path.read_bytes() == content


@pytest.mark.parametrize("content", [NO_PARTITIONS, disk_images.hybrid_record()])
def test_a_raw_disk_with_a_record_that_glance_refuses(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert not glance_takes(tmp_path / "disk", RAW)
    with prepared(tmp_path, content, RAW, QCOW2) as (data, path):
        assert data.format is QCOW2
        assert glance_takes(path, QCOW2)
    # Older versions of Glance take it.
    with prepared(tmp_path, content, RAW) as (data, path):
        assert (data.format, path.read_bytes()) == (RAW, content)


@pytest.mark.parametrize(
    ("make", "accepted", "is_stream"),
    [
        (lambda images: images.read("v3.qcow2"), [QCOW2], True),
        (lambda images: images.read("extended.qcow2"), [QCOW2], False),
        (lambda _: CONTENT, [RAW, QCOW2], True),
        (lambda _: NO_PARTITIONS, [RAW, QCOW2], False),
        (lambda _: NO_PARTITIONS, [RAW], False),
        (lambda images: images.read("fixed.vhd"), [RAW], False),
        (lambda _: gzip.compress(CONTENT), [RAW], False),
        (lambda images: images.read("dynamic.vdi"), [QCOW2], False),
    ],
    ids=["qcow2", "extended", "raw", "record", "only raw", "vhd", "gzip", "vdi"],
)
def test_what_is_converted_becomes_a_file(
    make: Callable[[DiskImages], bytes],
    accepted: list[Format],
    is_stream: bool,
    images: DiskImages,
    tmp_path: Path,
) -> None:
    """The other images go to Glance while they are downloaded."""
    content = make(images)
    # A fixed VHD is one at its end only, so that its list must say it.
    declared = "VHD" if content[-512:].startswith(b"conectix") else ""
    source, made = Content(content), workshop(tmp_path, *accepted)
    with made.prepare(source.offer(declared), source, may_stream=True) as data:  # type: ignore[arg-type]
        assert Path(data.location).is_file() is not is_stream
        assert data.format in accepted


@pytest.mark.parametrize("is_hybrid", [True, False])
def test_an_iso_stays_one(tmp_path: Path, is_hybrid: bool) -> None:
    content = disk_images.iso(is_hybrid=is_hybrid)
    with prepared(tmp_path, content, QCOW2, ISO, declared="ISO") as (data, path):
        assert (data.format, path.read_bytes()) == (ISO, content)
    words = "is an ISO image, which starts as a CD but not as a disk"
    with (
        pytest.raises(Unusable, match=words),
        prepared(tmp_path / "other", content, QCOW2, declared="ISO"),
    ):
        pytest.fail("it was given out")


@pytest.mark.parametrize("into", [RAW, QCOW2, VMDK, VDI])
def test_formats_that_are_written(images: DiskImages, tmp_path: Path, into: Format) -> None:
    content = images.read("dynamic.vhdx")
    with prepared(tmp_path, content, into) as (data, path):
        assert data.format is into
        images.run("compare", "-f", "raw", "-F", into.driver, "disk.raw", str(path))
        # Ours is what the backend accepts.
        assert formats.detect(path, declared=into) is into
        formats.inspect(path, into)
        assert formats.check_marks(path, into) == ""


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_raw_result_is_sparse(images: DiskImages, tmp_path: Path) -> None:
    with prepared(tmp_path, images.read("v3.qcow2"), RAW) as (_, path):
        assert path.read_bytes() == CONTENT
        assert allocated(path) < SIZE // 8
    with prepared(tmp_path, gzip.compress(CONTENT), RAW) as (data, path):
        assert (data.format, path.read_bytes()) == (RAW, CONTENT)
        assert allocated(path) < SIZE // 2


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_compressed_images_are_decompressed(
    images: DiskImages, tmp_path: Path, compression: str
) -> None:
    """Digest and size of the list are those of the compressed bytes."""
    source = Content(gzip.compress(images.read("v3.qcow2")))
    made = workshop(tmp_path, QCOW2)
    with made.prepare(source.offer("RAW", compression), source) as data:  # type: ignore[arg-type]
        assert data.format is QCOW2
        assert Path(data.location).read_bytes() == images.read("v3.qcow2")
        assert data.checksum == hashlib.sha512(images.read("v3.qcow2")).hexdigest()


def test_a_compressed_ova_is_converted(images: DiskImages, tmp_path: Path) -> None:
    content = archive(("a.ovf", b"<Envelope/>"), ("a.vmdk", images.read("stream.vmdk")))
    with prepared(tmp_path, bz2.compress(content), QCOW2) as (_, path):
        images.run("compare", "-f", "raw", "-F", "qcow2", "disk.raw", str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(CONTENT)[:-9], "its gzip data end early"),
        (gzip.compress(CONTENT) + b"x", "has other data behind its gzip data"),
        (gzip.compress(gzip.compress(CONTENT)), "contains gzip data; an image may be compressed"),
        (b"PK\x03\x04" + bytes(999), "is a ZIP archive, which is not supported; ask the endorser"),
    ],
    ids=["truncated", "garbage", "twice", "zip"],
)
def test_compressed_images_that_no_run_can_use_are_fetched_once(
    tmp_path: Path, content: bytes, words: str
) -> None:
    """F-M2: the digest is right, so that the source itself is damaged."""
    source, made = Content(content), workshop(tmp_path, QCOW2)
    for _ in range(2):
        with (
            pytest.raises(Unusable, match=words),
            made.prepare(source.offer(), source),  # type: ignore[arg-type]
        ):
            pytest.fail("it was given out")
    assert source.opened == 1
    assert list(made.directory.iterdir()) == []


def script(path: Path, text: str) -> QemuImg:
    path.write_text(f'#!/bin/sh\ncase $1 in info|measure) exec qemu-img "$@";; esac\n{text}\n')
    path.chmod(0o755)
    return QemuImg(path)


def test_a_conversion_that_is_killed_leaves_nothing(images: DiskImages, tmp_path: Path) -> None:
    qemu = script(tmp_path / "killed", 'for target; do :; done; echo x >"$target"; kill -9 $$')
    source, made = Content(images.read("v3.qcow2")), workshop(tmp_path, RAW, qemu=qemu)
    with (
        pytest.raises(Unusable, match=r"qemu-img convert failed \(-9\)"),
        made.prepare(source.offer(), source),  # type: ignore[arg-type]
    ):
        pytest.fail("it was given out")
    assert list(made.directory.iterdir()) == []


def test_a_conversion_that_fills_the_disk(images: DiskImages, tmp_path: Path) -> None:
    """It is not the image's fault, so that the next run retries."""
    words = "qemu-img: error while writing: No space left on device"
    qemu = script(tmp_path / "full", f"echo '{words}' >&2; exit 1")
    images.read("v3.qcow2")
    disk = Disk(images.directory / "v3.qcow2", QCOW2)
    with pytest.raises(LocalFailure, match="became full during a conversion; free some space"):
        qemu.convert(disk, RAW, tmp_path / "out")


def test_qemu_img_gets_no_environment_and_limits(images: DiskImages, tmp_path: Path) -> None:
    report = tmp_path / "report"
    qemu = script(tmp_path / "nosy", f'{{ env; ulimit -a; }} >"{report}"; exit 1')
    with pytest.raises(Unusable):
        qemu.convert(Disk(images.directory / "disk.raw", RAW), QCOW2, tmp_path / "out")
    text = report.read_text()
    named = {line.partition("=")[0] for line in text.splitlines() if "=" in line}
    assert named <= {"PATH", "LC_ALL", "MALLOC_ARENA_MAX", "PWD", "OLDPWD", "SHLVL", "_"}
    limits = dict(line.rsplit(None, 1) for line in text.splitlines() if "=" not in line)
    found = {name.split("(")[0].strip(): value for name, value in limits.items()}
    assert int(found["coredump"]) == 0
    assert 0 < int(found["vmemory"]) <= 2**21
    assert int(found["time"]) <= 600
    assert 0 < int(found["file"]) * 512 <= SIZE * 1.02 + 64 * 2**20


@pytest.mark.timed
def test_detection_takes_less_than_a_millisecond(images: DiskImages) -> None:
    images.read("dynamic.vhdx")
    began = time.process_time()
    for _ in range(100):
        formats.detect(images.directory / "dynamic.vhdx")
    assert time.process_time() - began < 0.1
