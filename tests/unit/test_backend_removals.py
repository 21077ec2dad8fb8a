"""The backend's own limit of removals, over calls, runs, days and wrong clocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from cloudkeeper.backend.errors import Failed
from cloudkeeper.backend.removals import RemovalMemory, RemovalPolicy, RunRemovals
from cloudkeeper.model import ListId

LIST = ListId("7c1d2e3f-0000-4000-8000-00000000000a")
MEMORY = '{"boot": "b", "at": "2026-11-30", "uptime": %s, "lists": %s}'
CONFIRMED, LIMITED = RemovalPolicy.CONFIRMED, RemovalPolicy.LIMITED


FIRST = clock.Uptime("first", timedelta(days=3))


@dataclass
class Machine:
    """The clocks of a machine: the calendar's, which anyone may set, and that of its uptime."""

    at: datetime = datetime(2026, 11, 30, 12, tzinfo=UTC)
    up: clock.Uptime = FIRST

    def wait(self, length: timedelta) -> None:
        self.at += length
        self.up = clock.Uptime(self.up.boot, self.up.length + length)

    def boot(self, *, after: timedelta) -> None:
        self.at += after
        self.up = clock.Uptime(f"{self.up.boot} and next", timedelta(seconds=9))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return the machine of the backend; its time passes when a test says so."""
    made = Machine()
    monkeypatch.setattr(clock, "now", lambda: made.at)
    monkeypatch.setattr(clock, "uptime", lambda: made.up)
    return made


def run(
    path: Path,
    *,
    there: int = 8,
    allowance: int = 0,
    policy: RemovalPolicy = CONFIRMED,
    memory: RemovalMemory | None = None,
) -> RunRemovals:
    """Return a run of a backend that has just started, or of one that has a ``memory``."""
    memory = memory or RemovalMemory(path / "removals.json")
    made = RunRemovals(memory, policy=policy, allowance=allowance)
    made.expect([LIST] * there + [ListId("other")] * 100)
    return made


def images(*numbers: int) -> list[str]:
    return [f"ops image-{number}" for number in numbers]


@pytest.mark.parametrize(
    ("there", "removed", "allowance", "is_allowed"),
    [(3, 3, 0, True), (4, 4, 0, False), (6, 3, 0, True), (8, 4, 0, True), (8, 5, 0, False),
     (9, 5, 0, False), (8, 5, 5, True), (8, 6, 5, False), (0, 0, 0, True)],
)  # fmt: skip
def test_no_more_than_half_and_no_more_than_three(
    tmp_path: Path, there: int, removed: int, allowance: int, *, is_allowed: bool
) -> None:
    at_once = run(tmp_path / "a", there=there, allowance=allowance)
    one_by_one = run(tmp_path / "b", there=there, allowance=allowance)
    if is_allowed:
        at_once.allow(LIST, images(*range(removed)))
        for number in range(removed):
            one_by_one.allow(LIST, images(number))
        return
    with pytest.raises(Failed, match=f"{removed} of its {there} images would be removed"):
        at_once.allow(LIST, images(*range(removed)))
    for number in range(removed - 1):
        one_by_one.allow(LIST, images(number))
    with pytest.raises(Failed):
        one_by_one.allow(LIST, images(removed))


@pytest.mark.usefixtures("machine")
def test_a_peer_that_begins_run_after_run_passes_no_limit(tmp_path: Path) -> None:
    """F-M4: each run sees fewer images, and its half would be new."""
    left = 8
    for number in range(8):
        try:
            run(tmp_path, there=left).allow(LIST, images(number))
            left -= 1
        except Failed:
            pass
    assert left == 4


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_day_later_the_limit_is_new(
    tmp_path: Path, machine: Machine, *, is_restarted: bool
) -> None:
    """Whether or not the service is restarted at each run."""
    memory = None if is_restarted else RemovalMemory(tmp_path / "removals.json")
    run(tmp_path, memory=memory).allow(LIST, images(1, 2, 3, 4))
    machine.wait(timedelta(hours=23))
    with pytest.raises(Failed, match="5 of its 8 images would be removed within a day"):
        run(tmp_path, there=4, memory=memory).allow(LIST, images(5))
    machine.wait(timedelta(hours=2))
    run(tmp_path, there=4, memory=memory).allow(LIST, images(5, 6, 7))


def test_a_removal_that_is_repeated_counts_once(tmp_path: Path, machine: Machine) -> None:
    for _ in range(5):
        run(tmp_path).allow(LIST, images(1, 2, 3, 4))
        machine.wait(timedelta(hours=1))


@pytest.mark.parametrize("days", [1, 2, 4000, -4000])
@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_clock_that_is_set_frees_nothing_and_holds_nothing(
    tmp_path: Path, machine: Machine, *, days: int, is_restarted: bool
) -> None:
    """ADR 41: a day forward used to empty the memory; time that has passed still does."""
    memory = None if is_restarted else RemovalMemory(tmp_path / "removals.json")
    run(tmp_path, memory=memory).allow(LIST, images(1, 2, 3, 4))
    machine.at += timedelta(days=days)
    with pytest.raises(Failed):
        run(tmp_path, memory=memory).allow(LIST, images(5))
    machine.wait(timedelta(hours=12))
    machine.at -= timedelta(days=days)
    with pytest.raises(Failed):
        run(tmp_path, memory=memory).allow(LIST, images(5))
    machine.wait(timedelta(hours=13))
    run(tmp_path, memory=memory).allow(LIST, images(5))


def test_a_restart_of_the_machine_counts_for_six_hours_at_most(
    tmp_path: Path, machine: Machine
) -> None:
    """Its clock may come up with any time; each restart is counted once."""
    run(tmp_path).allow(LIST, images(1, 2, 3, 4))
    for days in (4000, -4000, 4000):
        machine.boot(after=timedelta(days=days))
        for _ in range(3):
            with pytest.raises(Failed):
                run(tmp_path).allow(LIST, images(5))
    machine.wait(timedelta(hours=11))
    with pytest.raises(Failed):
        run(tmp_path).allow(LIST, images(5))
    machine.wait(timedelta(hours=2))
    run(tmp_path).allow(LIST, images(5))


@pytest.mark.usefixtures("machine")
def test_what_an_administrator_confirms_leaves_the_limit_as_it_was(tmp_path: Path) -> None:
    run(tmp_path, allowance=8).allow(LIST, images(*range(8)))
    run(tmp_path).allow(LIST, images(11, 12, 13))
    with pytest.raises(Failed):
        run(tmp_path).allow(LIST, images(14, 15))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (CONFIRMED, "to confirm that, run: cloudkeeper sync --allow-remove 5"),
        (
            LIMITED,
            "set removals = confirmed in [DEFAULT] of cloudkeeper-os.conf and restart it, then run",
        ),
        (RemovalPolicy.NONE, "removals = none: nothing is removed or hidden"),
    ],
)
def test_the_remedy_is_one_that_works(tmp_path: Path, policy: RemovalPolicy, words: str) -> None:
    with pytest.raises(Failed) as refused:
        run(tmp_path, policy=policy).allow(LIST, images(*range(5)))
    assert words in str(refused.value)
    # A frontend cannot lift the limit of a configuration that does not let it.
    again = run(tmp_path, policy=policy, allowance=5)
    if policy is CONFIRMED:
        again.allow(LIST, images(*range(5)))
    else:
        with pytest.raises(Failed):
            again.allow(LIST, images(*range(5)))


def test_the_last_refusal_of_a_run_names_the_whole_number(tmp_path: Path) -> None:
    asking, lines = run(tmp_path, there=6), []
    for number in range(6):
        try:
            asking.allow(LIST, images(number))
        except Failed as error:
            lines.append(str(error))
    assert lines[-1].endswith("--allow-remove 6")


def test_removals_that_cannot_be_noted_are_not_made(tmp_path: Path) -> None:
    asking = run(tmp_path / "state")
    (tmp_path / "state").write_text("a file in place of the directory")
    with pytest.raises(LocalFailure):
        asking.allow(LIST, images(1))


@pytest.mark.parametrize(
    "content",
    [
        '{"x": [1]}',
        "[" * 100_000,
        "null",
        MEMORY % ("1", '{"x": {"there": 1e999, "removed": {}}}'),
        MEMORY % ("1e999", "{}"),
        MEMORY % ('"soon"', "{}"),
        MEMORY % ("1", '{"x": {"there": 1, "removed": {"a": "b"}}}'),
    ],
)
def test_an_unreadable_memory_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (tmp_path / "removals.json").write_text(content)
    run(tmp_path).allow(LIST, images(1))
    assert [one.getMessage() for one in caplog.records] == [
        f"{tmp_path}/removals.json: has unreadable contents; the removals of the last day are lost"
    ]
