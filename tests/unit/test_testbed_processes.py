"""Processes of the test bed: found, stopped, and never mistaken for somebody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.core.run.errors import Unavailable
from tests.testbed import patience, processes
from tests.testbed.patience import Patience, until
from tests.testbed.processes import Records

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(60)"
)
PARENT = (
    "import subprocess, time; subprocess.Popen(['sleep', '60']); "
    "print('parent', flush=True); time.sleep(60)"
)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "run")
    yield records
    records.kill("it")


def start(records: Records, *command: str, until: str = "") -> Path:
    output = records.directory.parent / "output"
    records.start("it", command=command, output=output)
    deadline = time.monotonic() + 10
    while until not in output.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return output


def is_living(pid: int) -> bool:
    """Ask the kernel; a zombie, which nobody may have reaped, does not count."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_started_process_is_found_by_another_object_until_it_is_stopped(records: Records) -> None:
    start(records, "sleep", "60")
    found = Records(records.directory).find("it")
    assert found
    deadline = time.monotonic() + 10
    while Path(f"/proc/{found.pid}/cmdline").read_bytes() != b"sleep\x0060\x00":
        assert time.monotonic() < deadline
    records.stop(["it"])
    assert records.find("it") is None
    assert not is_living(found.pid)


def test_deaf_process_is_killed_after_a_while(records: Records) -> None:
    start(records, sys.executable, "-c", DEAF, until="deaf")
    begin = time.monotonic()
    records.stop(["it"], seconds=0.5)
    assert time.monotonic() - begin >= 0.5
    assert records.find("it") is None


def test_children_end_with_it(records: Records) -> None:
    start(records, sys.executable, "-c", PARENT, until="parent")
    found = records.find("it")
    assert found
    members = found.session
    assert len(members) == 2
    records.kill("it")
    assert not any(is_living(member.pid) for member in members)


def test_recycled_pid_is_left_alone(records: Records) -> None:
    start(records, "sleep", "60")
    record = records.directory / "it"
    ours = records.find("it")
    assert ours
    # the kernel tells start times in ticks: the stranger's is another one
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        fields = record.read_text().split(" ")
        fields[1] = str(stranger.pid)  # the stranger has the pid, but not the start time
        record.write_text(" ".join(fields))
        assert records.find("it") is None
        records.stop(["it"])
        records.kill("it")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        os.kill(ours.pid, signal.SIGKILL)


def test_record_from_before_a_reboot_is_nobody(records: Records) -> None:
    start(records, "sleep", "60")
    ours = records.find("it")
    assert ours
    record = records.directory / "it"
    record.write_text("00000000-0000-0000-0000-000000000000 " + record.read_text().split(" ", 1)[1])
    assert records.find("it") is None
    os.kill(ours.pid, signal.SIGKILL)


@pytest.mark.long
def test_a_slow_start_is_waited_for_as_long_as_it_is_at_work(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H13: for any time; a fixed limit lost the whole run on a loaded machine."""
    monkeypatch.setattr(processes, "_AT_WORK", 0.05)
    records.start(
        "it",
        command=["sh", "-c", "while :; do :; done"],
        output=records.directory.parent / "output",
    )
    begin = time.monotonic()
    records.await_ready("it", ready=lambda: records.cpu_seconds("it") > 1.3, remedy="", idle=0.8)
    assert time.monotonic() - begin > 1.0


@pytest.mark.timed
def test_a_start_that_does_nothing_or_never_ends_is_given_up(records: Records) -> None:
    """F-H13: and says how long it did nothing."""
    start(records, "sleep", "60")
    with pytest.raises(
        Unavailable, match=r"not ready within 1 s, the last 1 s of them without progress"
    ):
        records.await_ready("it", ready=lambda: False, remedy="", idle=0.6)
    records.kill("it")
    records.start(
        "it",
        command=["sh", "-c", "while :; do :; done"],
        output=records.directory.parent / "output",
    )
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="not ready within"):
        records.await_ready("it", ready=lambda: False, remedy="", idle=60, ceiling=0.5)
    assert time.monotonic() - begin < 30
    with pytest.raises(Unavailable, match="ended at its start"):
        records.await_ready("other", ready=lambda: False, remedy="")


def test_progress_is_whatever_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the test's: a sleep of a busy machine is longer than the patience."""
    now = 0.0
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: now))
    seen = iter("aabbc" + "c" * 1000)
    waiting = Patience(lambda: next(seen), idle=5)
    looks = 0
    while not waiting.is_over():
        looks += 1
        now += 3
    assert looks == 5


def test_the_rest_between_two_looks_is_twice_as_long_as_a_look() -> None:
    looks: list[tuple[float, float]] = []

    def look() -> bool:
        begin = time.monotonic()
        time.sleep(0.05)
        looks.append((begin, time.monotonic()))
        return len(looks) == 4

    assert until(look, seconds=600)
    for (begin, end), (following, _) in pairwise(looks):
        assert following - end >= min(2 * (end - begin), 1)


def test_a_wait_ends_without_what_it_waits_for() -> None:
    looks = count()
    assert not until(lambda: next(looks) < 0, seconds=0)
    assert next(looks) == 1
