"""Records in a directory that was spooldir before: no run would send them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from caso.former_spool import left_behind
from caso.ledger.ledger import Ledger


def lines(root: Path, present: Path) -> list[str]:
    """Return what a run reports; each run opens the ledger anew."""
    with Ledger(root / "ledger.sqlite") as ledger:
        return [str(one) for one in left_behind(ledger, present)]


def record(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a record")
    return place


def test_records_of_a_former_spooldir_are_reported_until_they_are_moved(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"a place {number}" for number in (1, 2, 3))
    waiting = record(first / "waiting/logstash/p1.cloud")
    aside = record(first / "quarantine/x.txt")
    assert lines(tmp_path, first) == []
    for _ in range(2):  # each run reports them, with the way to the present directory
        assert len(lines(tmp_path, second)) == 2
    found = lines(tmp_path, third)
    assert [line.partition(": ")[0] for line in found] == [str(aside.parent), str(waiting.parent)]
    for line in found:
        subprocess.run(line.partition("; they are not sent; ")[2], shell=True, check=True)  # noqa: S602
    assert lines(tmp_path, third) == []
    assert (third / "waiting/logstash/p1.cloud").read_text() == "a record"
    assert (third / "quarantine/x.txt").read_text() == "a record"


def test_newer_records_of_the_same_project_are_not_overwritten(tmp_path: Path) -> None:
    former, present = tmp_path / "former", tmp_path / "present"
    record(former / "waiting/logstash/p1.cloud")
    lines(tmp_path, former)
    newer = record(present / "waiting/logstash/p1.cloud")
    newer.write_text("a later record")
    (line,) = lines(tmp_path, present)
    subprocess.run(line.partition("; they are not sent; ")[2], shell=True, check=False)  # noqa: S602
    assert newer.read_text() == "a later record"
    assert lines(tmp_path, present) == [line]


def test_a_directory_that_is_not_mounted_is_looked_at_again(tmp_path: Path) -> None:
    former, present = tmp_path / "former", tmp_path / "present"
    record(former / "waiting/logstash/p1.cloud")
    lines(tmp_path, former)
    former.rename(tmp_path / "away")
    assert lines(tmp_path, present) == []
    (tmp_path / "away").rename(former)
    assert len(lines(tmp_path, present)) == 1
    assert len(lines(tmp_path, former)) == 0  # spooldir was set back
    shutil.rmtree(former)
    assert lines(tmp_path, present) == []
