"""Limits of transfers: bytes a second, room on disk, and those of one server."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.core import retry
from appliance.core.run.errors import LocalFailure
from cloudkeeper.frontend import amounts
from cloudkeeper.frontend.bandwidth import Bandwidth
from cloudkeeper.frontend.disk_room import DiskRoom

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("50M", 50 * MIB),
        ("50 MiB/s", 50 * MIB),
        ("1.5G", 3 * 2**29),
        ("2t", 2**41),
        (" 10k ", 10 * 2**10),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert amounts.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1e9", "50 Mbit/s", "1,5G", "50MM", "\u0665M", "0x10"]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of bytes"):
        amounts.parse(text)


class Clock:
    """A clock that pauses advance; what each of them waits is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waits = 100.0, list[float]()
        monkeypatch.setattr(retry, "_sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_download_gets_no_more_than_the_limit(clock: Clock) -> None:
    bandwidth, block = Bandwidth(2 * MIB, clock=clock), bytes(MIB)
    assert len(list(bandwidth.limited(itertools.repeat(block, 12)))) == 12
    # The bucket holds a second's tokens, so 10 of 12 MiB are waited for.
    assert clock.now == pytest.approx(105.0)


def test_tokens_are_not_saved_for_more_than_a_second(clock: Clock) -> None:
    bandwidth, block = Bandwidth(MIB, clock=clock), bytes(MIB)
    clock.now += 3600
    list(bandwidth.limited([block, block]))
    assert clock.waits == [pytest.approx(1.0)]


def test_downloads_share_the_limit(clock: Clock) -> None:
    bandwidth, block = Bandwidth(MIB, clock=clock), bytes(MIB)
    one, two = (bandwidth.limited(itertools.repeat(block)) for _ in range(2))
    for _ in range(5):
        next(one)
        next(two)
    assert clock.now == pytest.approx(109.0)


def test_without_a_limit_nothing_waits(clock: Clock) -> None:
    list(Bandwidth(clock=clock).limited([bytes(MIB)] * 100))
    assert clock.waits == []


def test_threads_share_the_limit_by_a_real_clock() -> None:
    bandwidth = Bandwidth(8 * MIB)
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: list(bandwidth.limited([bytes(MIB)] * 3)), range(4)))
    assert time.monotonic() - began > 0.45  # 12 MiB, of which 8 are there at once


def fill(path: Path, mib: int) -> Path:
    path.write_bytes(b"x" * (mib * MIB))
    return path


def test_a_quota_counts_our_files_and_no_others(tmp_path: Path) -> None:
    room = DiskRoom(tmp_path, 10 * MIB)
    fill(tmp_path / "of-somebody.qcow2", 20)
    fill(tmp_path / "cloudkeeper-a.download.part", 4)
    assert room.free() == 6 * MIB
    room.check("cloudkeeper-b", 6 * MIB)
    with pytest.raises(LocalFailure) as failure:
        room.check("cloudkeeper-b", 7 * MIB)
    assert str(failure.value) == (
        f"{tmp_path}: 7 MiB are needed, 6 MiB are free (image-dir-quota: 10 MiB); free some space "
        "or raise image-dir-quota; the next run retries"
    )


def test_what_a_running_transfer_still_needs_is_not_free_for_another(tmp_path: Path) -> None:
    room = DiskRoom(tmp_path, 10 * MIB)
    with room.holding("cloudkeeper-a", 8 * MIB):
        with (
            pytest.raises(LocalFailure, match=r"3 MiB are needed, 10 MiB are free, of which other"),
            room.holding("cloudkeeper-b", 3 * MIB),
        ):
            pytest.fail("it was given out")
        fill(tmp_path / "cloudkeeper-a.download.part", 8)  # what is written counts once
        with room.holding("cloudkeeper-b", 2 * MIB):
            pass
    (tmp_path / "cloudkeeper-a.download.part").unlink()
    with room.holding("cloudkeeper-b", 10 * MIB):
        pass


def test_a_conversion_needs_room_beside_its_source(tmp_path: Path) -> None:
    room = DiskRoom(tmp_path, 10 * MIB)
    with room.holding("cloudkeeper-a", 4 * MIB):
        fill(tmp_path / "cloudkeeper-a.download.part", 4)
        with room.adding("cloudkeeper-a", 6 * MIB), pytest.raises(LocalFailure):
            room.check("cloudkeeper-b", MIB)
        with (
            pytest.raises(LocalFailure, match="7 MiB are needed, 6 MiB"),
            room.adding("cloudkeeper-a", 7 * MIB),
        ):
            pytest.fail("it was given out")
        room.check("cloudkeeper-b", 6 * MIB)


def test_a_part_that_is_there_is_not_needed_again(tmp_path: Path) -> None:
    room = DiskRoom(tmp_path, 10 * MIB)
    fill(tmp_path / "cloudkeeper-a.download.part", 6)
    with room.holding("cloudkeeper-a", 10 * MIB):
        pass


def test_the_free_space_counts_without_a_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a reserve for other programs."""

    class Usage:
        free = 100 * MIB

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    room = DiskRoom(tmp_path)
    assert room.free() == 36 * MIB
    with pytest.raises(LocalFailure, match="37 MiB are needed, 36 MiB are free; free some space"):
        room.check("cloudkeeper-a", 37 * MIB)


def test_only_one_of_two_transfers_gets_the_room(tmp_path: Path) -> None:
    """Both ask at the same time."""
    room, both = DiskRoom(tmp_path, 10 * MIB), threading.Barrier(2)

    def ask(name: str) -> bool:
        both.wait()
        try:
            with room.holding(name, 6 * MIB):
                both.wait()
                return True
        except LocalFailure:
            both.wait()
            return False

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(ask, ["cloudkeeper-a", "cloudkeeper-b"])) == [False, True]
