"""Files that a frontend names: complete uploads, and the reasons for none."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.upload import open_image
from cloudkeeper.model import Format, ImageData, TransferMode

DATA = b"0123456789abcdef" * 200_000  # three blocks of 1 MiB and a part of one


def always() -> bool:
    return True


def described(path: Path, *, algorithm: str = "sha512", size: int = len(DATA)) -> ImageData:
    return ImageData(str(path), Format.RAW, hashlib.new(algorithm, DATA).hexdigest(), size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("algorithm", ["sha512", "sha256"])
def test_all_bytes_are_sent_as_often_as_needed(path: Path, algorithm: str) -> None:
    with open_image(
        described(path, algorithm=algorithm), places=DataPlaces(path.parent), is_wanted=always
    ) as file:
        blocks = iter(file)
        next(blocks)
        assert b"".join(file) == DATA
        assert len(file) == len(DATA)
        assert file.digests["sha512"] == hashlib.sha512(DATA).hexdigest()
        assert file.digest("md5") == hashlib.md5(DATA, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("end", [0, 2**20, 70_001])
def test_holes_are_sent_as_zeros(tmp_path: Path, end: int) -> None:
    """A raw disk is mostly holes: before, between and after its data."""
    path, mib = tmp_path / "sparse.raw", 2**20
    with path.open("wb") as file:
        for at in (3 * mib - 5000, 5 * mib, 9 * mib + 4096):
            file.seek(at)
            file.write(DATA[:70_000])
        file.truncate(14 * mib + end)
    content = path.read_bytes()
    assert path.stat().st_blocks * 512 < mib
    data = ImageData(str(path), Format.RAW, hashlib.sha512(content).hexdigest(), len(content))
    with open_image(data, places=DataPlaces(tmp_path), is_wanted=always) as file:
        for _ in range(2):
            assert b"".join(file) == content


def test_a_converted_file_needs_no_checksum_and_no_other_does_without(path: Path) -> None:
    """What is sent is what is hashed; the size is checked as ever."""
    converted = replace(described(path), checksum="", is_converted=True)
    places = DataPlaces(path.parent)
    with open_image(converted, places=places, is_wanted=always) as file:
        assert b"".join(file) == DATA
        assert file.digests == {"sha512": hashlib.sha512(DATA).hexdigest()}
    for refused, words in {
        replace(converted, is_converted=False): "has no SHA-512 or SHA-256",
        replace(converted, mode=TransferMode.REMOTE): "has no SHA-512 or SHA-256",
        replace(converted, checksum="00"): "has no SHA-512 or SHA-256",
        replace(converted, size=1): "but the frontend sent 1",
        replace(converted, checksum="0" * 128): "but the frontend sent 0000000000000000",
    }.items():
        with (
            pytest.raises(Failed, match=words),
            open_image(refused, places=places, is_wanted=always) as file,
        ):
            list(file)


def test_capital_letters_in_a_checksum(path: Path) -> None:
    data = ImageData(str(path), Format.RAW, hashlib.sha512(DATA).hexdigest().upper(), 0)
    with open_image(data, places=DataPlaces(path.parent), is_wanted=always) as file:
        assert b"".join(file) == DATA


@pytest.mark.parametrize("at", [0, len(DATA) - 1])
def test_the_last_block_is_held_back_when_the_checksum_is_wrong(path: Path, at: int) -> None:
    path.write_bytes(DATA[:at] + b"?" + DATA[at + 1 :])
    sent: list[bytes | memoryview] = []
    with open_image(described(path), places=DataPlaces(path.parent), is_wanted=always) as file:
        with pytest.raises(
            Failed, match=r"its sha512 is [0-9a-f]{16}…, but the frontend sent [0-9a-f]{16}…"
        ):
            sent.extend(file)
        assert file.digests == {}
    assert len(b"".join(sent)) < len(DATA)


def test_a_file_that_is_truncated_while_it_is_sent(path: Path) -> None:
    with open_image(described(path), places=DataPlaces(path.parent), is_wanted=always) as file:
        blocks = iter(file)
        next(blocks)
        path.write_bytes(b"")
        with pytest.raises(Failed, match="has become shorter"):
            list(blocks)


def test_an_upload_ends_when_it_is_no_longer_wanted(path: Path) -> None:
    answers = iter([True, True, False])
    with (
        open_image(
            described(path), places=DataPlaces(path.parent), is_wanted=lambda: next(answers)
        ) as file,
        pytest.raises(Failed, match="nothing was stored"),
    ):
        list(file)


def test_a_link_within_the_directory_is_followed_and_one_out_of_it_is_not(
    path: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "link").symlink_to(path)
    (inner / "link").symlink_to(path)
    with open_image(
        described(tmp_path / "link"), places=DataPlaces(tmp_path), is_wanted=always
    ) as file:
        assert b"".join(file) == DATA
    with (
        pytest.raises(Failed, match="is not below the image directory"),
        open_image(described(inner / "link"), places=DataPlaces(inner), is_wanted=always),
    ):
        pass


def test_a_sibling_whose_name_begins_alike_is_outside(path: Path, tmp_path: Path) -> None:
    images = tmp_path / "image"
    images.mkdir()
    with (
        pytest.raises(Failed, match="is not below"),
        open_image(described(path), places=DataPlaces(images), is_wanted=always),
    ):
        pass


def test_an_empty_file_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    data = ImageData(str(tmp_path / "empty"), Format.RAW, "0" * 128, 0)
    with (
        pytest.raises(Failed, match="has 0 bytes"),
        open_image(data, places=DataPlaces(tmp_path), is_wanted=always),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "stated", "words"),
    [
        (b"QFI\xfb" + bytes(3) + b"\2" + bytes(7) + b"\x68", Format.QCOW2, "has a backing file"),
        (b"QFI\xfb" + bytes(3) + b"\2", Format.QCOW2, "its qcow2 header is truncated"),
        (b"QFI\xfb" + bytes(100), Format.RAW, "is qcow2, but the frontend sent raw"),
        (b"QED\0", Format.RAW, "is a QED disk"),
        (b"text without any mark", Format.QCOW2, "has none of the formats"),
    ],
)
def test_the_backend_inspects_what_it_uploads(
    tmp_path: Path, content: bytes, stated: Format, words: str
) -> None:
    """F-M4: whatever the frontend has checked, or has not."""
    path = tmp_path / "image"
    size = 12 if "truncated" in words else 4096
    path.write_bytes(content.ljust(size, b"\0")[: max(size, len(content))])
    checksum = hashlib.sha512(path.read_bytes()).hexdigest()
    data = ImageData(str(path), stated, checksum, path.stat().st_size)
    with (
        pytest.raises(Failed, match=words),
        open_image(data, places=DataPlaces(tmp_path), is_wanted=always),
    ):
        pytest.fail("it was opened")
