"""From when to when a project is extracted: by the ledger, by cASO's files, and by flags."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from caso.checkpoint import Checkpoints
from caso.kinds.months import BEGINNING
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Span, Stream
from caso.settings import Period
from caso.windows import KindWindow, ProjectWindows, extended

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
ORIGIN = Origin("https://keystone.example.org/v3", "", "p1")
CLOUD, OTHER = Stream(ORIGIN, "cloud", "ssm"), Stream(ORIGIN, "cloud", "logstash")
VOLUMES = Stream(ORIGIN, "storage", "ssm")
SECOND = timedelta(seconds=1)


def day(month: int, number: int, hour: int = 0) -> datetime:
    return datetime(2026, month, number, hour, tzinfo=UTC)


class Project:
    """A project with a ledger and cASO's file."""

    def __init__(self, root: Path) -> None:
        self.ledger = Ledger(root / "ledger.sqlite")
        self.checkpoints = Checkpoints(root)

    def delivered(self, stream: Stream, start: datetime, end: datetime) -> None:
        intent = self.ledger.deliveries.intent("batch", stream)
        intent.seal(Span(start, end), checkpoint=end + SECOND)
        self.ledger.deliveries.confirm("batch")

    def lastrun(self, text: object) -> None:
        self.checkpoints.path("p1").write_text(str(text))

    def windows(
        self,
        *,
        start: datetime | None = None,
        to: datetime | None = None,
        streams: dict[str, list[Stream]] | None = None,
        since: datetime | None = None,
    ) -> dict[str, KindWindow]:
        configuration = SimpleNamespace(period=Period(start, to), since=since)
        selected = SimpleNamespace(project="project p1", aliases=("p1",), former=())
        windows = ProjectWindows(cast("Any", configuration), self.checkpoints, self.ledger)
        wanted = streams or {"cloud": [CLOUD]}
        return windows.of(cast("Any", selected), wanted, end=min(to or NOW, NOW))

    def window(self, **more: Any) -> tuple[datetime, datetime, bool]:
        [found] = self.windows(**more).values()
        return found.window.start, found.window.end, found.moves


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    made = Project(tmp_path)
    yield made
    made.ledger.close()


def test_a_first_window_begins_at_the_beginning(project: Project) -> None:
    [found] = project.windows().values()
    assert found.window.is_first
    assert (found.window.start, found.window.end) == (BEGINNING, NOW)
    assert found.checkpoint == NOW + SECOND
    assert project.window(since=day(10, 1))[0] == day(10, 1)


def test_the_ledger_says_where_to_go_on(project: Project) -> None:
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    assert project.window() == (day(11, 20) + SECOND, NOW, True)
    project.lastrun(day(11, 20) + SECOND)
    assert project.window() == (day(11, 20) + SECOND, NOW, True)


def test_a_file_alone_says_where_to_go_on_and_what_is_not_known(project: Project) -> None:
    project.lastrun(day(11, 20))
    assert project.window() == (day(11, 20), NOW, True)
    [span] = project.ledger.windows.reached(CLOUD).spans
    assert (span.start, span.end, span.is_known) == (BEGINNING, day(11, 20) - SECOND, False)


def test_a_file_that_was_set_back_is_followed(project: Project) -> None:
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    project.lastrun(day(11, 1))
    reader = Ledger(project.ledger.file.path, read_only=True)
    writer, project.ledger = project.ledger, reader
    assert project.window() == (day(11, 1), NOW, True)  # as a dry run sees it
    project.ledger = writer
    assert writer.windows.reached(CLOUD).checkpoint == day(11, 20) + SECOND
    assert project.window() == (day(11, 1), NOW, True)
    # At once: the file moves on as soon as one region has been accounted.
    assert reader.windows.reached(CLOUD).checkpoint == day(11, 1)
    reader.close()


def test_a_file_that_is_ahead_leaves_the_ledger_s_time(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """cASO has run meanwhile, or the ledger is an older copy."""
    project.delivered(CLOUD, day(10, 1), day(11, 10))
    project.lastrun(day(11, 20))
    with caplog.at_level(logging.WARNING):
        assert project.window() == (day(11, 10) + SECOND, NOW, True)
    assert "accounted up to 2026-11-20 00:00:00+00:00, but its ledger knows no more" in caplog.text
    assert [span.is_known for span in project.ledger.windows.reached(CLOUD).spans] == [True, False]
    # What the ledger does not know counts for the end of a window all the same.
    assert project.window(start=day(10, 1), to=day(11, 12))[1] == day(11, 20) - SECOND


def test_a_file_that_a_run_for_volumes_alone_has_moved_is_no_other_program_s(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """After a run with ``--extractor cinder``."""
    project.delivered(CLOUD, day(10, 1), day(11, 10))
    project.delivered(VOLUMES, day(10, 1), day(11, 20))
    project.lastrun(day(11, 20) + SECOND)
    with caplog.at_level(logging.WARNING):
        found = project.windows(streams={"cloud": [CLOUD], "storage": [VOLUMES]})
    assert caplog.text == ""
    assert found["cloud"].window.start == day(11, 10) + SECOND
    assert [span.is_known for span in project.ledger.windows.reached(CLOUD).spans] == [True]


def test_a_broken_file_does_not_matter_when_the_ledger_knows(project: Project) -> None:
    """F-A11."""
    project.lastrun("")
    with pytest.raises(LocalFailure, match="has no time from which to go on"):
        project.windows()
    assert project.window(start=day(10, 1))[0] == day(10, 1)
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    assert project.window()[0] == day(11, 20) + SECOND


def test_each_kind_has_a_window_of_its_own(project: Project) -> None:
    """A source that failed for a week holds back its own kinds only."""
    project.delivered(CLOUD, day(10, 1), day(11, 22, 8))
    project.delivered(VOLUMES, day(10, 1), day(11, 15))
    project.lastrun(day(11, 15) + SECOND)  # the least of them
    found = project.windows(streams={"cloud": [CLOUD], "storage": [VOLUMES]})
    assert found["cloud"].window.start == day(11, 22, 8) + SECOND
    assert found["storage"].window.start == day(11, 15) + SECOND


def test_a_kind_begins_at_the_least_of_its_messengers(project: Project) -> None:
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    project.delivered(OTHER, day(10, 1), day(11, 2))
    project.lastrun(day(11, 2) + SECOND)
    assert project.window(streams={"cloud": [CLOUD, OTHER]})[0] == day(11, 2) + SECOND


def test_a_new_messenger_begins_where_the_file_is(project: Project) -> None:
    """As in cASO, where all of them share the file."""
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    project.lastrun(day(11, 20) + SECOND)
    assert project.window(streams={"cloud": [CLOUD, OTHER]})[0] == day(11, 20) + SECOND
    assert project.ledger.windows.reached(OTHER).spans == ()


def test_nothing_to_do_is_no_window(project: Project) -> None:
    project.delivered(CLOUD, day(10, 1), NOW)
    assert project.windows() == {}


@pytest.mark.parametrize(
    ("to", "end"),
    [
        (day(10, 31), day(11, 1) - SECOND),  # F-A1: midnight of the last day
        (day(10, 31, 23), day(11, 1) - SECOND),
        (day(11, 1) - SECOND, day(11, 1) - SECOND),
        (day(11, 3), day(11, 20)),  # the month that goes on: as far as it was delivered
        (day(11, 20), day(11, 20)),
        (day(11, 21), day(11, 21)),  # further than before
    ],
)
def test_a_window_inside_a_delivered_month_is_extended(
    project: Project, to: datetime, end: datetime
) -> None:
    project.delivered(CLOUD, day(9, 1), day(11, 20))
    assert project.window(start=day(10, 1), to=to)[:2] == (day(10, 1), end)


def test_no_window_is_extended_beyond_the_present(project: Project) -> None:
    """A clock was ahead: a server that lives now may end before the time that was delivered."""
    project.delivered(CLOUD, day(9, 1), day(11, 28))
    assert project.window(start=day(10, 1), to=day(11, 3))[1] == NOW
    assert project.window(start=day(10, 1), to=NOW)[1] == NOW


def test_the_end_of_a_window() -> None:
    assert extended(day(10, 31), []) == day(10, 31)
    assert extended(day(10, 31), [day(11, 20), day(9, 1)]) == day(11, 1) - SECOND
    assert extended(day(12, 5), [datetime(2027, 3, 1, tzinfo=UTC)]) == day(12, 31, 23) + timedelta(
        minutes=59, seconds=59
    )


def test_a_window_after_a_gap_moves_no_checkpoint(project: Project) -> None:
    project.delivered(CLOUD, day(10, 1), day(11, 10))
    assert project.window(start=day(11, 15)) == (day(11, 15), NOW, False)
    assert project.window(start=day(11, 5)) == (day(11, 5), NOW, True)
    # There is no gap if it begins at the checkpoint.
    begin = day(11, 10) + SECOND
    assert project.window(start=begin) == (begin, NOW, True)


def test_months_that_were_purged_are_not_delivered_again(project: Project) -> None:
    """Nothing is known of their amounts, so the guard could not protect them."""
    old = Stream(ORIGIN, "cloud", "ssm")
    intent = project.ledger.deliveries.intent("old", old)
    intent.add(b"", [LedgerRow("a", Month(202401), 1, NOW, "vo")])
    intent.seal(Span(datetime(2024, 1, 1, tzinfo=UTC), day(11, 20)), checkpoint=day(11, 20))
    project.ledger.deliveries.confirm("old")
    early = datetime(2024, 1, 15, tzinfo=UTC)
    assert project.window(start=early)[0] == early
    project.ledger.retention.purge(NOW)
    assert project.window(start=early)[0] == datetime(2024, 11, 1, tzinfo=UTC)
    # What was delivered begins with the first month that is kept.
    kept = Stream(Origin(ORIGIN.keystone, "", "p2"), "cloud", "ssm")
    project.delivered(kept, datetime(2024, 11, 1, tzinfo=UTC), day(11, 20))
    assert project.window(start=early, streams={"cloud": [kept]})[0] == early
    project.delivered(OTHER, day(11, 1), day(11, 20))  # one of two is enough
    streams = {"cloud": [CLOUD, OTHER]}
    assert project.window(start=early, streams=streams)[0] == datetime(2024, 11, 1, tzinfo=UTC)
    assert project.window(start=early, streams={"cloud": [OTHER]})[0] == early


def test_a_time_in_the_future_stops_the_project_until_the_file_has_another(
    project: Project,
) -> None:
    """F-A4: a clock was ten days ahead for one run; then somebody writes the right time."""
    project.delivered(CLOUD, day(10, 1), day(12, 2))
    path = project.checkpoints.path("p1")
    with pytest.raises(LocalFailure) as found:
        project.windows()
    assert str(found.value).startswith(
        f"{path}: is missing, and the ledger has the time 2026-12-02T00:00:01+00:00, which is in"
        " the future; check this host's clock, or correct the time"
    )
    project.lastrun(day(12, 2) + SECOND)
    with pytest.raises(LocalFailure, match=r"lastrun.p1: has the time 2026-12-02"):
        project.windows()
    project.lastrun(day(11, 22))
    assert project.window() == (day(11, 22), NOW, True)


def test_what_was_never_delivered_is_extracted_however_old_it_is(project: Project) -> None:
    """A project was not selected for longer than the ledger keeps months."""
    old = datetime(2024, 3, 10, tzinfo=UTC)
    project.delivered(CLOUD, datetime(2024, 1, 1, tzinfo=UTC), old)
    project.delivered(OTHER, datetime(2024, 1, 1, tzinfo=UTC), day(11, 20))
    project.ledger.retention.purge(NOW)
    assert project.window() == (old + SECOND, NOW, True)
    assert project.window(streams={"cloud": [CLOUD, OTHER]}) == (old + SECOND, NOW, True)
    # A person has set the file back into the time that was purged.
    project.lastrun(datetime(2024, 2, 1, tzinfo=UTC))
    for _ in range(2):  # the ledger follows the file
        assert project.window()[0] == datetime(2024, 11, 1, tzinfo=UTC)


def test_a_purge_by_a_wrong_clock_stops_no_project(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.delivered(CLOUD, day(10, 1), day(11, 20))
    monkeypatch.setattr(clock, "now", lambda: NOW + timedelta(days=800))
    project.ledger.retention.purge(clock.now())
    monkeypatch.setattr(clock, "now", lambda: NOW)
    assert project.window() == (day(11, 20) + SECOND, NOW, True)


def test_a_new_messenger_takes_nothing_from_the_others(project: Project) -> None:
    """The file is missing, or speaks of other regions; the new one has no checkpoint."""
    project.delivered(VOLUMES, day(9, 1), day(10, 15))
    new = Stream(ORIGIN, "storage", "logstash")
    streams = {"storage": [VOLUMES, new]}
    [found] = project.windows(streams=streams).values()
    assert (found.window.start, found.window.is_first, found.moves) == (BEGINNING, True, True)
    assert found.window.of_present().start == day(10, 15) + SECOND
    [alone] = project.windows(streams={"storage": [new]}).values()
    assert alone.window.of_present().start == day(11, 1)
    # What exists on a date, and what the other one lacks.
    assert project.window(streams=streams, since=day(11, 10))[0] == day(10, 15) + SECOND
    assert project.window(streams=streams, since=day(10, 1))[0] == day(10, 1)
    # After a gap, the checkpoint of the one that has it stays.
    assert project.window(streams=streams, start=day(11, 2)) == (day(11, 2), NOW, False)
    assert project.window(streams=streams, start=day(10, 2)) == (day(10, 2), NOW, True)
