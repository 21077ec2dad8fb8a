"""The driver of the kill tests, on a program whose states are known."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.killpoints import Command, KillMatrix, Point

pytestmark = pytest.mark.programs("strace")

CAREFUL = """
import os, sys
if not os.path.exists("done"):
    with open("new", "w") as file:
        file.write("x" * 10)
        os.fsync(file.fileno())
    os.rename("new", "done")
"""
CARELESS = """
import os
if not os.path.exists("done"):
    with open("done", "w") as file:
        file.write("x" * 5)
        file.flush()
        os.fsync(file.fileno())
        file.write("x" * 5)
"""


def matrix(tmp_path: Path, program: str) -> KillMatrix:
    def prepare() -> Command:
        for name in ("new", "done"):
            (tmp_path / name).unlink(missing_ok=True)
        return Command([sys.executable, "-S", "-c", program], cwd=tmp_path)

    def verify() -> None:
        assert (tmp_path / "done").read_text() == "x" * 10

    return KillMatrix(prepare, verify, syscalls=("fsync", "rename"))


def test_a_careful_program_stands_every_kill(tmp_path: Path) -> None:
    careful = matrix(tmp_path, CAREFUL)
    assert careful.points() == [Point("fsync", 1), Point("rename", 1)]
    careful.run(sample=None)


def test_the_call_at_which_the_kill_strikes_is_not_executed(tmp_path: Path) -> None:
    seen: list[set[str]] = []
    careful = matrix(tmp_path, CAREFUL)
    spy = KillMatrix(
        careful.prepare,
        careful.verify,
        between=lambda: seen.append({p.name for p in tmp_path.iterdir()}),
    )
    assert spy.interrupt(Point("rename", 1))
    assert seen == [{"new"}]
    assert not spy.interrupt(Point("rename", 2))


def test_a_careless_program_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="1 of 1 points:\nfsync#1"):
        matrix(tmp_path, CARELESS).run(sample=None)


STARTER = """
import subprocess, sys
child = [sys.executable, "-S", "-c", "import os; os.fsync(os.open('other', 66)); print('other')"]
status = subprocess.run(child).returncode
if status:
    sys.exit(f"child failed ({status})")
"""


@pytest.mark.parametrize("child", ["", r"child failed \(-9\)"])
def test_a_kill_of_a_child_counts_if_the_program_reports_it(tmp_path: Path, child: str) -> None:
    """As happened to qemu-img, whose number of calls differs from run to run."""
    found = replace(matrix(tmp_path, STARTER + CAREFUL), child=child)
    if child:
        assert found.interrupt(Point("fsync", 1))
        return
    with pytest.raises(AssertionError, match="first run: status 1"):
        found.interrupt(Point("fsync", 1))
