"""No order of runs, periods, clocks and losses makes a delivered server-month smaller.

The parts are real: windows, lanes, ledger, staging and spool. The cloud is a list of lives, and the
repository keeps the last record of a server and month, in the order in which SSM sends messages.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from caso.checkpoint import Checkpoints
from caso.kinds import cloud
from caso.kinds.cloud import CloudRecord, ServerStatus
from caso.kinds.months import ExtractionWindow, cuts
from caso.lanes import Advance, Lanes
from caso.ledger.ledger import Ledger
from caso.ledger.model import Origin, Span, Stream
from caso.messengers.batch import Batch
from caso.messengers.ssm import SSM
from caso.rebuild import rebuild
from caso.settings import Period
from caso.windows import ProjectWindows
from tests.wire.test_cloud import SPARE

ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")
STREAM = Stream(ORIGIN, "cloud", "ssm")
BEGIN = datetime(2026, 9, 5, tzinfo=UTC)
DAY = timedelta(days=1)
LIVES = [  # creation and end, in days after BEGIN
    (-40.5, None),
    (0.25, 30.125),
    (3.5, 3.75),
    (20, 58.5),
    (24.999, None),
]
_RECORD = re.compile(r"StartTime: (\d+)\n.*?VMUUID: (\S+)\nWallDuration: (\d+)", re.DOTALL)
_END = re.compile(r"EndTime: (\d+)")

days = st.floats(0.5, 90)
operations = st.one_of(
    st.tuples(st.just("run"), days),  # at that day, so that the clock also goes back
    st.tuples(st.just("period"), days, days),
    st.tuples(st.sampled_from(["lose ledger", "lose lastrun", "copy", "restore", "kill"])),
    st.tuples(st.just("set back"), days),
)


def moment(days_after: float) -> datetime:
    return (BEGIN + days_after * DAY).replace(microsecond=0)


def records(window: ExtractionWindow, now: datetime) -> list[CloudRecord]:
    """Return what a source gives: the months of the servers that lived in the window."""
    found = []
    for number, (first, last) in enumerate(LIVES):
        born, died = moment(first), None if last is None else moment(last)
        if born > now:
            continue
        seen = died if died is not None and died <= now else None
        start = born if window.is_first and (seen is None or seen >= window.start) else window.start
        for cut in cuts(born, seen, ExtractionWindow(start, window.end)):
            found.append(  # noqa: PERF401
                replace(
                    SPARE,
                    vm_uuid=f"server-{number}",
                    start=born,
                    end=cut.until if cut.has_ended else None,
                    wall=cut.until - born,
                    status=ServerStatus.COMPLETED if cut.has_ended else ServerStatus.STARTED,
                )
            )
    return found


@dataclass
class World:
    """A site, and what the repository holds of it."""

    root: Path
    now: datetime = BEGIN
    copies: list[bytes] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.root / "ledger.sqlite"

    def extract(self, *, start: datetime | None = None, to: datetime | None = None) -> None:
        checkpoints = Checkpoints(self.root)
        messenger = SSM((cloud.kind(),), {"cloud": self.root / "spool"}, 3).open(checkpoints)
        selected = cast("Any", SimpleNamespace(project="p1", aliases=("p1",), former=()))
        configuration = cast("Any", SimpleNamespace(period=Period(start, to), since=None))
        end = min(to or self.now, self.now)
        with Ledger(self.path) as ledger:
            ledger.deliveries.reconcile(lambda batch: messenger.is_held(batch.name))
            messenger.recover()
            if ledger.is_lost:
                journal = self.root / "none"
                rebuild(ledger, "ssm", messenger.spools, journal=journal, origin=lambda _: ORIGIN)
                ledger.restored()
            windows = ProjectWindows(configuration, checkpoints, ledger)
            try:
                found = windows.of(selected, {"cloud": [STREAM]}, end=end).get("cloud")
            except LocalFailure:  # a checkpoint in the future: the clock has gone back
                return
            if found is None:
                return
            lanes = Lanes.open(ledger, ORIGIN, [messenger], ["cloud"])
            for record in records(found.window, self.now):
                lanes.add("cloud", record)
            advance = Advance(Span(found.window.start, found.window.end), found.checkpoint)
            reached = found.checkpoint
            lanes.commit(
                {"cloud": advance},
                lambda: checkpoints.later(["p1"], reached) if reached else {},
            )
            assert lanes.failures == []

    def repository(self) -> dict[tuple[str, str], int]:
        found = {}
        for path in sorted((self.root / "spool").glob("????????/*")):
            for text in path.read_text().split("%%"):
                match = _RECORD.search(text)
                assert match is not None
                start, key, wall = match.groups()
                completed = "Status: completed" in text
                end = _END.search(text)
                assert end is not None
                measured = int(end[1]) if completed else int(start) + int(wall)
                month = f"{datetime.fromtimestamp(measured, UTC):%Y-%m}"
                found[key, month] = int(wall)
        return found

    def apply(self, name: str, *values: float) -> None:
        lastrun = self.root / "lastrun.p1"
        simple: dict[str, Callable[[], object]] = {
            "lose ledger": lambda: self.path.unlink(missing_ok=True),
            "lose lastrun": lambda: lastrun.unlink(missing_ok=True),
            "copy": self.copy,
            "restore": lambda: self.copies and self.path.write_bytes(self.copies[0]),
            "kill": self.kill,
        }
        if name in simple:
            simple[name]()
        elif name == "set back":
            if lastrun.exists():
                held = datetime.fromisoformat(lastrun.read_text())
                lastrun.write_text(str(min(held, moment(values[0]))))
        elif name == "run":
            self.now = moment(values[0])
            self.extract()
        else:
            start, to = sorted(map(moment, values))
            if start < min(to, self.now):
                self.extract(start=start, to=to)

    def copy(self) -> None:
        if self.path.exists():
            self.copies.append(self.path.read_bytes())

    def kill(self) -> None:
        """Leave a batch that was committed and neither confirmed nor handed over."""
        commit = Batch.commit

        def commit_and_die(batch: Batch) -> None:
            commit(batch)
            raise KeyboardInterrupt

        with (
            mock.patch.object(Batch, "commit", commit_and_die),
            contextlib.suppress(KeyboardInterrupt),
        ):
            self.extract()


def truth(now: datetime) -> dict[tuple[str, str], int]:
    """Return the seconds of each server up to the end of each of its months."""
    found = {}
    for number, (first, last) in enumerate(LIVES):
        born = moment(first)
        died = now if last is None else min(now, moment(last))
        at = born
        while at <= died:
            following = (at.replace(day=1) + 32 * DAY).replace(day=1, hour=0, minute=0, second=0)
            until = min(died, following - timedelta(seconds=1))
            if until > born:
                found[f"server-{number}", f"{at:%Y-%m}"] = int((until - born).total_seconds())
            at = following
    return found


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@example(steps=[("run", 31.0), ("run", 26.0), ("period", 1.0, 26.0)])
@given(steps=st.lists(operations, min_size=2, max_size=12))
def test_no_delivered_month_shrinks(steps: list[tuple[Any, ...]]) -> None:
    """F-A1, F-A4: and a last run that nothing disturbs leaves the truth."""
    root = Path(tempfile.mkdtemp(prefix="ledger-"))
    try:
        world, before = World(root), dict[tuple[str, str], int]()
        with mock.patch.object(clock, "now", side_effect=lambda: world.now):
            for step in [*steps, ("run", 95.0)]:
                world.apply(*step)
                after = world.repository()
                smaller = {
                    key: (old, after.get(key))
                    for key, old in before.items()
                    if after.get(key, 0) < old
                }
                assert smaller == {}, step
                before = after
            assert before == truth(moment(95.0))
    finally:
        shutil.rmtree(root)
