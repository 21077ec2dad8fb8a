"""Readers of image headers on altered images: they raise `Unusable` and nothing else.

An image that is still accepted must be one that qemu-img, without a fixed format, finds complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from cloudkeeper import formats
from cloudkeeper.formats import Unusable
from cloudkeeper.frontend.compression import Bounds, decompress, sniff
from cloudkeeper.frontend.conversion import QemuImg
from tests.simulators import disk_images
from tests.simulators.disk_images import DiskImages, archive
from tests.unit.test_image_compression import KINDS

pytestmark = pytest.mark.programs("qemu-img")

# By name, where the headers are: positions and lengths, from the end if negative.
HEADERS = {
    "v3.qcow2": [(0, 112)],
    "extended.qcow2": [(0, 112)],
    "sparse.vmdk": [(0, 80), (512, 400)],
    "stream.vmdk": [(0, 80), (512, 400)],
    "footer.vmdk": [(0, 80), (-1536, 1536)],
    "dynamic.vdi": [(64, 420)],
    "dynamic.vhd": [(0, 90), (512, 800), (-512, 90)],
    "fixed.vhd": [(-512, 90)],
    "dynamic.vhdx": [(0, 8), (0x10000, 80), (0x20000, 80), (0x30000, 96), (3 * 2**20, 192)],
    "image.iso": [(0x8000, 2048)],
    "disk.raw": [(0, 64), (440, 72)],
    "image.ova": [(0, 512), (1024, 512), (1536, 80), (2048, 400)],
    "pax.ova": [(0, 512), (512, 200), (1536, 512)],
}
WORDS = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 8, b"\xff" * 8, b"/", b'"', b"\n", b"RW 1", b"="]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    images = DiskImages(tmp_path_factory.mktemp("seeds"))
    disk = images.read("stream.vmdk")
    made = {
        "footer.vmdk": images.with_footer(),
        "image.iso": disk_images.iso(),
        "image.ova": archive(("a.ovf", b"<Envelope/>"), ("a.vmdk", disk)),
        "pax.ova": archive(("ä.ovf", b"<Envelope/>"), ("ä" * 90 + ".vmdk", disk), layout=2),
    }
    # The headers of a VHDX are in its first 4 MiB; the rest takes the time of writing.
    return {name: (made.get(name) or images.read(name))[: 2**22 + 512] for name in HEADERS}


def altered(seed: bytes, where: list[tuple[int, int]], chance: random.Random) -> bytes:
    """Return an image with one to six changes in its headers, at times cut short."""
    content = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        start, length = chance.choice(where)
        at = start % len(content) + chance.randrange(length)
        word = chance.choice([*WORDS, chance.randbytes(chance.randint(1, 8))])
        content[at : at + len(word)] = word
    if not chance.randrange(8):
        start, length = chance.choice(where)
        del content[start % len(content) + chance.randrange(length) :]
    return bytes(content)


def images(seeds: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(seed)
    for _ in range(count):
        name = chance.choice(list(HEADERS))
        yield name, altered(seeds[name], HEADERS[name], chance)


def accepts(path: Path) -> formats.Disk | None:
    """Return the disk of an image that is accepted, as the frontend does before qemu-img."""
    try:
        found = formats.detect(path, declared="RAW" if path.suffix == ".raw" else "")
        disk = formats.inspect(path, found)
        formats.check_marks(path, found)
    except Unusable:
        return None
    return disk


def start_is_readable(content: bytes) -> None:
    with contextlib.suppress(Unusable):
        formats.inspect_start(content[: formats.START], name="image", declared="RAW")


@pytest.mark.long
def test_altered_headers_raise_unusable_only(seeds: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in images(seeds, 600, 1):
        path = tmp_path / f"image.{name.rpartition('.')[2]}"
        path.write_bytes(content)
        accepts(path)
        start_is_readable(content)


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(8))
def test_accepted_images_are_complete(seeds: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    for number, (name, content) in enumerate(images(seeds, 2000, seed)):
        path = tmp_path / f"image-{number}.{name.rpartition('.')[2]}"
        path.write_bytes(content)
        disk = accepts(path)
        if disk is not None:
            check_complete(path, disk)
        path.unlink()


def check_complete(path: Path, disk: formats.Disk) -> None:
    """Ask qemu-img, by its own detection of formats, whether an image names another file."""
    try:
        QemuImg().virtual_size(disk)
    except Unusable:
        return  # damaged, in a way that is not dangerous
    command = ["qemu-img", "info", "--output=json", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode == 0:
        reported = json.loads(found.stdout)
        details = reported.get("format-specific", {}).get("data", {})
        assert "backing-filename" not in reported, path
        assert "data-file" not in details, path
        assert len(details.get("extents", [1])) == 1, path


@pytest.mark.parametrize("kind", KINDS)
def test_altered_compressed_data(kind: str) -> None:
    chance = random.Random(kind)
    seed = KINDS[kind](os.urandom(2000) + bytes(20000)) * 2
    for _ in range(150):
        data = altered(seed, [(0, 40), (-40, 40), (0, len(seed))], chance)
        found, blocks = sniff(iter([data]))
        try:
            size = sum(map(len, decompress(blocks, found or kind, name="x", bounds=Bounds(2**24))))
        except (Unusable, LocalFailure):
            continue
        assert size <= 2**24
