"""Files that several changes of a run need."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance.core.trust.errors import Tampered
from cloudkeeper.frontend.backend_client import digested
from cloudkeeper.frontend.shared_files import SharedFiles, file_key
from cloudkeeper.frontend.sync import in_groups
from cloudkeeper.model import (
    Appliance,
    ApplianceId,
    Create,
    Format,
    ImageData,
    ImageSource,
    ListId,
    Offer,
)

DIGEST = f"sha256:{'a' * 64}"


def offer(
    digest: str = DIGEST, *, declared: str = "", size: int | None = None, compression: str = ""
) -> Offer:
    attributes = {"hv:format": declared} if declared else {}
    appliance = Appliance(ApplianceId("one"), ListId("list"), attributes=attributes)
    return Offer(appliance, ImageSource("https://user:secret@host/one", digest, size, compression))


class Maker:
    """Makes a file below a directory, and counts how often."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "file"
        self.number = 0

    @contextlib.contextmanager
    def make(self) -> Iterator[ImageData]:
        self.number += 1
        self.path.write_bytes(b"12345")
        try:
            yield ImageData(str(self.path), Format.RAW, "0", 5, received=5)
        finally:
            self.path.unlink()


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (offer(), offer(DIGEST.upper().replace("SHA", "sha")), True),
        (offer(declared="QCOW2"), offer(), True),
        (offer(declared="raw"), offer(declared="RAW"), True),
        (offer(compression="gzip"), offer(), False),
        (offer(declared="raw"), offer(), False),
        (offer(), offer(f"sha256:{'b' * 64}"), False),
        (offer(), offer(f"sha512:{'a' * 64}"), False),
    ],
)
def test_a_file_is_known_by_the_value_of_its_digest(
    one: Offer, other: Offer, *, is_same: bool
) -> None:
    """What a list declares counts for one thing only: a file without marks may be raw."""
    assert (file_key(one) == file_key(other)) is is_same
    shared = SharedFiles()
    shared.expect([one, other])
    assert shared.is_wanted(one) is is_same


def test_a_file_lives_from_the_first_to_the_last_change(tmp_path: Path) -> None:
    shared, maker = SharedFiles(), Maker(tmp_path)
    shared.expect([offer()] * 3)
    for left in (2, 1, 0):
        with shared.file(offer(), maker.make) as data:
            assert Path(data.location).read_bytes() == b"12345"
        assert maker.path.exists() is shared.is_made(offer()) is bool(left)
    assert maker.number == 1


def test_idle_files_make_room(tmp_path: Path) -> None:
    """They are made again when they are wanted; one that is used stays."""
    shared, maker = SharedFiles(), Maker(tmp_path)
    shared.expect([offer()] * 3)
    with shared.file(offer(), maker.make):
        shared.drop_idle()
        assert maker.path.exists()
    assert maker.path.exists()
    shared.drop_idle()
    assert not maker.path.exists()
    for _ in range(2):
        with shared.file(offer(), maker.make):
            assert maker.path.exists()
    assert not maker.path.exists()
    assert maker.number == 2


def test_the_size_that_each_source_states_is_compared(tmp_path: Path) -> None:
    shared, maker = SharedFiles(), Maker(tmp_path)
    shared.expect([offer()] * 3)
    words = "https://host/one: the file with this digest has 5 bytes, the source says 6"
    with (
        pytest.raises(Tampered, match=words) as caught,
        shared.file(offer(size=6), maker.make),
    ):
        pass
    assert "secret" not in str(caught.value)
    for size in (5, None):
        with shared.file(offer(size=size), maker.make) as data:
            assert data.size == 5
    assert maker.number == 1


def test_the_transfers_of_one_file_follow_each_other() -> None:
    """Its file is on the disk for no longer than that."""
    first, second = Create(offer()), Create(offer(f"sha256:{'b' * 64}"))
    again = Create(offer())
    source: list[object] = [object(), object()]
    found = in_groups([(first, source[0]), (second, source[0]), (again, source[1])])  # type: ignore[list-item]
    assert [(id(change), id(one)) for change, one in found] == [
        (id(first), id(source[0])),
        (id(again), id(source[1])),
        (id(second), id(source[0])),
    ]


def test_a_checksum_is_computed_once_for_all_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a converted file: each VO of a backend on another host had it computed again."""
    computed: list[str] = []
    file_digest = hashlib.file_digest

    def spy(file: Any, name: str) -> Any:
        computed.append(name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", spy)
    path = tmp_path / "file"

    @contextlib.contextmanager
    def make() -> Iterator[ImageData]:
        path.write_bytes(b"12345")
        yield ImageData(str(path), Format.RAW, "", 5, is_converted=True)

    shared = SharedFiles()
    shared.expect([offer()] * 8)
    expected = hashlib.sha512(b"12345").hexdigest()

    def use(_: int) -> str:
        with shared.file(offer(), make) as data:
            return digested(data).checksum

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(use, range(8))) == {expected}
    assert computed == ["sha512"]
