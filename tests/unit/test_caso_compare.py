"""`caso compare`: each cause, from messages as the two programs write them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from caso.cmds import control
from caso.shadow import causes, rows
from caso.shadow.causes import EXPLANATIONS, UNEXPLAINED, Cause, Difference, Evidence
from caso.shadow.directory import Shadow

DAY, HOUR = 86_400, 3600


def at(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())


BORN = at("2026-11-03 10:00:00")
FIRST, SECOND = at("2026-11-10 12:00:00"), at("2026-11-10 13:00:00")
"""The ends of two runs."""


@dataclass(frozen=True)
class Record:
    """A record as a message has it."""

    uuid: str
    wall: int
    start: int = BORN
    end: int = 0
    status: str = "started"
    project: str = "p1"
    vo: str = "ops"
    cores: float = 2
    cpu: int | None = None
    suspended: int = 0

    def text(self) -> str:
        cpu = int(self.wall * self.cores) if self.cpu is None else self.cpu
        return (
            f"CpuCount: {self.cores}\nCpuDuration: {cpu}\nEndTime: {self.end}\nFQAN: {self.vo}\n"
            f"LocalGroupId: {self.project}\nStartTime: {self.start}\nStatus: {self.status}\n"
            f"SuspendDuration: {self.suspended}\nVMUUID: {self.uuid}\nWallDuration: {self.wall}"
        )


def until(uuid: str, moment: int, **more: Any) -> Record:
    """Return the record of a living server, up to the end of a run."""
    return Record(uuid, moment - int(more.get("start", BORN)), **more)


def ended(uuid: str, moment: int, **more: Any) -> Record:
    """Return the record of a server that ended."""
    begin = int(more.get("start", BORN))
    return Record(uuid, moment - begin, end=moment, status="completed", **more)


def spooled(path: Path, *runs: tuple[int, list[Record]]) -> None:
    """Write the messages of runs, each with the moment at which it was made."""
    path.mkdir(parents=True, exist_ok=True)
    for number, (made, records) in enumerate(runs):
        directory = path / f"{made - made % 60:08x}"
        directory.mkdir(exist_ok=True)
        body = "\n%%\n".join(record.text() for record in records)
        text = f"APEL-cloud-message: v0.4\n{body}\n"
        (directory / f"{made:08x}{number:05x}0").write_text(text)


Runs = list[tuple[int, list[Record]]]


def compared(
    path: Path, ours: Runs, theirs: Runs, evidence: Evidence | None = None
) -> dict[tuple[str, str], Difference]:
    spooled(path / "ours", *ours)
    spooled(path / "theirs", *theirs)
    mine = rows.read_ours(path / "ours")
    other = rows.read_theirs(path / "theirs", mine)
    found = list(causes.differences(mine, other, evidence or Evidence()))
    for one in found:
        assert sum(one.wall.values()) == one.ours[0] - one.theirs[0], one
        assert sum(one.cpu.values()) == one.ours[1] - one.theirs[1], one
    return {(one.uuid, one.month): one for one in found}


def run(moment: int, *records: Record) -> tuple[int, list[Record]]:
    """Return a run whose messages come two seconds after the end of its window."""
    return moment + 2, list(records)


def alive(moment: int, *uuids: str) -> tuple[int, list[Record]]:
    return run(moment, *(until(uuid, moment) for uuid in uuids))


def test_equal_records_have_no_cause(tmp_path: Path) -> None:
    both = [alive(FIRST, "a"), run(SECOND, ended("a", SECOND - 60))]
    (one,) = compared(tmp_path, both, both).values()
    assert not one.causes
    assert one.ours == one.theirs == (SECOND - 60 - BORN, 2 * (SECOND - 60 - BORN))


def test_another_cut_is_explained_and_comes_back_in_the_next_month(tmp_path: Path) -> None:
    """cASO makes no record at a month's end; its next month holds the hours after its last run."""
    born, end = at("2026-10-20 00:00:00"), at("2026-10-31 23:59:59")
    last, later = at("2026-10-31 21:00:00"), at("2026-11-01 03:00:00")
    ours = [run(later, until("a", end, start=born), until("a", later, start=born))]
    theirs = [run(last, until("a", last, start=born)), run(later, until("a", later, start=born))]
    found = compared(tmp_path, ours, theirs)
    assert found["a", "2026-10"].wall == {Cause.CUT: end - last}
    assert found["a", "2026-11"].wall == {Cause.CUT: last - end}
    assert found["a", "2026-10"].cpu == {Cause.CUT: 2 * (end - last)}


def test_hours_before_the_first_month_count_for_neither(tmp_path: Path) -> None:
    born = at("2025-01-01 00:00:00")
    both = [run(FIRST, until("a", FIRST, start=born))]
    (one,) = compared(tmp_path, both, both).values()
    assert one.ours[0] == FIRST - at("2026-11-01 00:00:00")


def test_a_server_that_caso_leaves_out(tmp_path: Path) -> None:
    """CASO's usage list ends at 1000 servers; the others of the project are there."""
    ours = [alive(FIRST, "a", "b"), alive(SECOND, "a", "b")]
    theirs = [alive(FIRST, "a", "b"), alive(SECOND, "a")]
    found = compared(tmp_path, ours, theirs)
    assert found["b", "2026-11"].wall == {Cause.MISSING: SECOND - FIRST}
    assert not found["a", "2026-11"].causes


def test_an_end_that_caso_does_not_report(tmp_path: Path) -> None:
    end = FIRST + 900
    ours = [alive(FIRST, "a", "b"), run(SECOND, until("a", SECOND), ended("b", end))]
    theirs = [alive(FIRST, "a", "b"), alive(SECOND, "a")]
    found = compared(tmp_path, ours, theirs)
    assert found["b", "2026-11"].wall == {Cause.MISSING: 900}


def test_an_end_that_no_later_run_reports_is_missing_in_any_month(tmp_path: Path) -> None:
    """The next run of cASO is in another month; the record would be of the month of the end."""
    end, later = at("2026-11-30 20:00:00"), at("2026-12-01 08:00:00")
    both = [until("a", FIRST), until("b", FIRST)]
    ours = [run(FIRST, *both), run(later, until("a", later), ended("b", end))]
    found = compared(tmp_path, ours, [run(FIRST, *both), run(later, until("a", later))])
    assert found["b", "2026-11"].wall == {Cause.MISSING: end - FIRST}
    swapped = compared(
        tmp_path / "swapped", [run(FIRST, *both), run(later, until("a", later))], ours
    )
    assert swapped["b", "2026-11"].wall == {Cause.OURS_MISSING: FIRST - end}


def test_a_run_of_caso_without_the_project(tmp_path: Path) -> None:
    other = [until("c", FIRST, project="p2"), until("c", SECOND, project="p2")]
    ours = [alive(FIRST, "a"), alive(SECOND, "a"), run(FIRST, other[0]), run(SECOND, other[1])]
    theirs = [run(FIRST, until("a", FIRST), other[0]), run(SECOND, other[1])]
    found = compared(tmp_path, ours, theirs)
    assert found["a", "2026-11"].wall == {Cause.LOST_RUN: SECOND - FIRST}


def test_a_project_that_caso_does_not_account_is_not_explained(tmp_path: Path) -> None:
    ours = [run(FIRST, until("a", FIRST), until("c", FIRST, project="p2"))]
    found = compared(tmp_path, ours, [alive(FIRST, "a")])
    assert found["c", "2026-11"].causes == {Cause.THEIR_PROJECT}
    assert not found["c", "2026-11"].is_explained


def test_nothing_is_missing_before_caso_has_run(tmp_path: Path) -> None:
    found = compared(tmp_path, [alive(FIRST, "a")], [])
    assert found["a", "2026-11"].causes == {Cause.CUT}


@pytest.mark.parametrize("shift", [4 * HOUR, 5 * HOUR, -HOUR, -5 * HOUR - 1800])
def test_a_host_in_another_time_zone(shift: int, tmp_path: Path) -> None:
    """B7: start and end are shifted, durations are right; the month may be another one."""
    born, end = at("2026-10-20 00:00:00"), at("2026-10-31 23:59:59")
    near = end - HOUR // 2 if shift > 0 else end + HOUR // 2
    ours = [
        run(near, *(until(uuid, min(near, end), start=born) for uuid in "ab")),
        run(near, *(until(uuid, near, start=born) for uuid in "ab")),
    ]
    theirs = [
        run(near, *(Record(uuid, near - born, start=born + shift) for uuid in "ab")),
    ]
    found = compared(tmp_path, ours, theirs)
    assert Cause.TIME_ZONE in found["a", "2026-10"].causes | found["a", "2026-11"].causes
    assert all(one.is_explained for one in found.values())


def test_a_time_zone_alone_moves_nothing(tmp_path: Path) -> None:
    theirs = [run(FIRST, *(Record(uuid, FIRST - BORN, start=BORN - HOUR) for uuid in "ab"))]
    found = compared(tmp_path, [alive(FIRST, "a", "b")], theirs)
    assert not any(one.causes for one in found.values())


def test_a_later_run_of_caso_that_took_hours_back(tmp_path: Path) -> None:
    """CASO with --extract-to in the past replaces its own record."""
    ours = [alive(SECOND, "a", "b")]
    theirs = [alive(SECOND, "a", "b"), (SECOND + 60, [until("a", FIRST), until("b", FIRST)])]
    found = compared(tmp_path, ours, theirs)
    assert found["a", "2026-11"].wall == {Cause.TAKEN_BACK: SECOND - FIRST}


def test_a_start_at_the_launch(tmp_path: Path) -> None:
    theirs = [run(FIRST, *(until(uuid, FIRST, start=BORN + 77) for uuid in "ab"))]
    found = compared(tmp_path, [alive(FIRST, "a", "b")], theirs)
    assert found["a", "2026-11"].wall == {Cause.START: 77}


def test_suspended_time(tmp_path: Path) -> None:
    """A site may count it apart; the record still reaches to the end of the run."""
    ours = run(FIRST, until("a", FIRST), Record("b", FIRST - BORN - 500, suspended=500))
    found = compared(tmp_path, [ours], [alive(FIRST - 60, "a", "b")])
    assert found["b", "2026-11"].wall == {Cause.CUT: 60, Cause.SUSPENDED: -500}


def test_a_server_that_was_never_launched(tmp_path: Path) -> None:
    """B13: cASO ends it at its creation, and a second is the least that it prints."""
    never = Record("n", 1, end=BORN, status="error", cpu=1)
    found = compared(tmp_path, [alive(FIRST, "a")], [run(FIRST, until("a", FIRST), never)])
    one = found["n", "2026-11"]
    assert (one.wall, one.theirs) == ({Cause.NEVER_LAUNCHED: -1}, (1, 1))
    assert one.is_explained


def test_a_server_that_was_deleted_without_a_launch(tmp_path: Path) -> None:
    """CASO counts its whole life; the shadow has noted that it was never launched."""
    theirs = [run(FIRST, until("a", FIRST), ended("n", FIRST - 900))]
    evidence = Evidence(unlaunched=frozenset({"n", "a"}))
    found = compared(tmp_path, [alive(FIRST, "a")], theirs, evidence)
    assert found["n", "2026-11"].wall == {Cause.NEVER_LAUNCHED: BORN - FIRST + 900}
    assert found["n", "2026-11"].is_explained
    found = compared(tmp_path, [alive(FIRST, "a")], theirs)
    assert found["n", "2026-11"].causes == {Cause.OURS_MISSING}


def test_a_server_that_was_launched_after_a_run_of_caso(tmp_path: Path) -> None:
    never = Record("n", 1, end=BORN, cpu=1)
    theirs = [run(BORN + 5, never, until("a", BORN + 5)), alive(FIRST, "n", "a")]
    found = compared(tmp_path, [alive(FIRST, "n", "a")], theirs)
    assert not found["n", "2026-11"].causes


def test_a_server_that_ended_before_the_shadow(tmp_path: Path) -> None:
    """Our first window looks five minutes back."""
    ours = [run(FIRST, until("a", FIRST), ended("b", SECOND - 2 * HOUR))]
    evidence = Evidence(begun=SECOND - 2 * HOUR + 100)
    found = compared(tmp_path, ours, [alive(FIRST, "a")], evidence)
    assert found["b", "2026-11"].causes == {Cause.BEFORE}


def test_a_resized_server(tmp_path: Path) -> None:
    """B14: whoever runs after the resize charges the new cores for the whole life."""
    ours = [run(FIRST, until("a", FIRST), until("b", FIRST, cores=4))]
    found = compared(tmp_path, ours, [alive(FIRST - 60, "a", "b")])
    one = found["b", "2026-11"]
    assert one.wall == {Cause.CUT: 60}
    assert one.cpu == {Cause.CUT: 240, Cause.FLAVOR: 2 * (FIRST - 60 - BORN)}


def test_a_resized_server_that_we_count_part_by_part(tmp_path: Path) -> None:
    """Ours has 2 cores for an hour and 8 since then, as its ledger has seen."""
    cpu = 2 * HOUR + 8 * (FIRST - BORN - HOUR)
    ours = [run(FIRST, until("a", FIRST), until("b", FIRST, cores=8, cpu=cpu))]
    theirs = [run(FIRST, until("a", FIRST), until("b", FIRST, cores=8))]
    found = compared(tmp_path, ours, theirs, Evidence(resized=frozenset({"b"})))
    assert found["b", "2026-11"].cpu == {Cause.FLAVOR: -6 * HOUR}
    unseen = compared(tmp_path, ours, theirs)
    assert unseen["b", "2026-11"].cpu == {Cause.FIGURES: -6 * HOUR}


def test_a_deleted_flavor(tmp_path: Path) -> None:
    """B8: cASO prints a second of CPU time."""
    theirs = [run(FIRST, until("a", FIRST), until("b", FIRST, cpu=1))]
    found = compared(tmp_path, [alive(FIRST, "a", "b")], theirs)
    assert found["b", "2026-11"].cpu == {Cause.DELETED_FLAVOR: 2 * (FIRST - BORN) - 1}


def test_decimal_cores(tmp_path: Path) -> None:
    theirs = [run(FIRST - 61, *(until(uuid, FIRST - 61, cores=1.5) for uuid in "ab"))]
    ours = [run(FIRST, *(until(uuid, FIRST, cores=1.5) for uuid in "ab"))]
    assert compared(tmp_path, ours, theirs)["a", "2026-11"].causes == {Cause.CUT}


def test_our_record_in_the_quarantine(tmp_path: Path) -> None:
    both = alive(FIRST, "a", "b")
    evidence = Evidence(set_aside=frozenset({("b", "2026-11")}))
    found = compared(tmp_path, [alive(FIRST, "a")], [both], evidence)
    assert found["b", "2026-11"].causes == {Cause.SET_ASIDE}


# -- what nobody has explained


def test_a_server_that_we_leave_out(tmp_path: Path) -> None:
    found = compared(tmp_path, [alive(FIRST, "a")], [alive(FIRST, "a", "b")])
    assert found["b", "2026-11"].wall == {Cause.OURS_MISSING: BORN - FIRST}
    assert not found["b", "2026-11"].is_explained


def test_a_project_that_we_do_not_account(tmp_path: Path) -> None:
    theirs = [run(FIRST, until("a", FIRST), until("b", FIRST, project="p2"))]
    found = compared(tmp_path, [alive(FIRST, "a")], theirs)
    assert found["b", "2026-11"].causes == {Cause.PROJECT}


def test_different_ends(tmp_path: Path) -> None:
    for number, moment in enumerate((FIRST - 300, FIRST - 900)):
        ours = [run(FIRST, until("a", FIRST), ended("b", FIRST - 600))]
        theirs = [run(FIRST, until("a", FIRST), ended("b", moment))]
        found = compared(tmp_path / str(number), ours, theirs)
        assert found["b", "2026-11"].causes == {Cause.END}


def test_a_record_that_ends_at_no_run(tmp_path: Path) -> None:
    """A wrong duration does not pass as the cut of a run that nobody has seen."""
    wrong = FIRST - 2 * DAY
    theirs = [run(FIRST, until("a", FIRST), until("b", wrong))]
    found = compared(tmp_path / "theirs", [alive(FIRST, "a", "b")], theirs)
    assert found["b", "2026-11"].causes == {Cause.NO_RUN}
    ours = [run(FIRST, until("a", FIRST), until("b", FIRST + 2 * DAY))]
    found = compared(tmp_path / "ours", ours, [alive(FIRST, "a", "b")])
    assert found["b", "2026-11"].causes == {Cause.NO_RUN}


def test_another_vo_is_not_explained(tmp_path: Path) -> None:
    theirs = [run(FIRST, until("a", FIRST, vo="biomed"))]
    (one,) = compared(tmp_path, [alive(FIRST, "a")], theirs).values()
    assert one.causes == {Cause.VO}
    assert not one.is_explained


def test_cpu_time_that_is_no_product(tmp_path: Path) -> None:
    theirs = [run(FIRST, until("a", FIRST, cpu=12345))]
    (one,) = compared(tmp_path, [alive(FIRST, "a")], theirs).values()
    assert one.causes == {Cause.FIGURES}


def test_each_cause_has_words() -> None:
    assert set(EXPLANATIONS) == set(Cause)
    assert set(Cause) > UNEXPLAINED


# -- the verb


def verb(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *flags: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["caso", "compare", *flags])
    status = control.main()
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def shadowed(path: Path, ours: Runs, theirs: Runs) -> Path:
    shadow = Shadow(path)
    spooled(shadow.spool("cloud"), *ours)
    spooled(shadow.theirs, *theirs)
    note: Mapping[str, Any] = {"begun": "", "checkpoints": {}, "present": []}
    (path / "shadow.json").write_text(json.dumps(note))
    return path


def test_the_verb_says_what_nobody_has_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [alive(FIRST, "a"), alive(SECOND, "a")]
    path = shadowed(tmp_path, runs, [alive(FIRST, "a", "b"), alive(FIRST + 600, "a")])
    status, text, _ = verb(capsys, monkeypatch, "--directory", str(path), "--all")
    assert status == 1
    assert "NOT EXPLAINED: ours-missing, 1 servers and months" in text
    assert (
        "2026-11 b of project p1: ours up to nothing, cASO's up to 2026-11-10 12:00:00:"
        " ours-missing" in text
    )
    assert text.splitlines()[-1] == "1 of 2 servers and months have an unexplained difference"
    status, text, _ = verb(capsys, monkeypatch, "--directory", str(path), "--json")
    found = json.loads(text)
    assert (status, found["unexplained"], found["only_caso"]) == (1, 1, 1)
    assert found["differences"][0]["wall_causes"] == {"cut": 3000}


def test_the_verb_compares_a_period(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shadowed(tmp_path, [alive(FIRST, "a")], [alive(FIRST, "a", "b")])
    flags = "--directory", str(path)
    status, text, _ = verb(capsys, monkeypatch, *flags, "--to", "2026-10")
    assert status == 0
    assert text.endswith("neither side has records in this period\n")
    with pytest.raises(SystemExit) as ended_with:
        verb(capsys, monkeypatch, *flags, "--from", "October")
    assert ended_with.value.code == 2


def test_without_a_message_of_caso_nothing_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that is faster than the shadow takes all of them away."""
    path = shadowed(tmp_path, [alive(FIRST, "a"), alive(SECOND, "a")], [])
    status, text, _ = verb(capsys, monkeypatch, "--directory", str(path))
    assert status == 1
    assert (
        "no message of cASO was kept: after its next run, and before the sender's: caso shadow"
        " --only-keep" in text.splitlines()
    )
    assert "equal or explained" not in text


def test_records_that_cannot_be_read_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad record costs itself, also one with a time out of range."""
    broken = replace(until("b", FIRST), start=2**70)
    runs = [alive(FIRST, "a")]
    path = shadowed(tmp_path, runs, [run(FIRST, until("a", FIRST), broken)])
    status, text, _ = verb(capsys, monkeypatch, "--directory", str(path))
    assert status == 1
    assert "1 records of cASO's cannot be read and are not compared" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_a_damaged_shadow_is_one_line(
    content: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shadowed(tmp_path, [], [])
    (tmp_path / "shadow.json").write_text(content)
    status, _, error = verb(capsys, monkeypatch, "--directory", str(tmp_path))
    assert status == 3
    word = f"{tmp_path}/shadow.json: is damaged; begin a new shadow: rm -r {tmp_path}"
    assert error == f"caso: {word}\n"
