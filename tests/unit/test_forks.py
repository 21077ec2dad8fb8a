"""Forks of pytest: each test runs once, rows stay together, and a fork that ends loses nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

TOP = Path(__file__).resolve().parents[2]
NOTES = """
import os, time, pytest
def note(name):
    with open("ran", "a") as file:
        file.write(f"{os.getpid()} {name}\\n")
"""
SHARED = (
    NOTES
    + """
@pytest.mark.parametrize("number", range(40))
def test_shared(number, tmp_path):
    note(f"shared {tmp_path}")
    time.sleep(0.01)
"""
)
ROW = (
    NOTES
    + """
@pytest.mark.cloud
@pytest.mark.parametrize("number", range(3))
def test_row(number):
    note("cloud")
    time.sleep(0.01)
def test_bad():
    print("seen by nobody else")
    note("bad")
    assert False
"""
)
OF_THE_CLOUD = (
    NOTES
    + """
from tests import needs
pytestmark = pytest.mark.KIND
@pytest.mark.vm
@pytest.mark.container
def test_machine():
    note("KIND machine")
@pytest.mark.container
@pytest.mark.parametrize("number", range(3))
def test_container(number):
    note("KIND container")
@pytest.mark.parametrize("number", range(4))
def test_cloud(number, request):
    note(f"KIND {needs.is_beside_the_cloud(request.config)}")
"""
)
OF_THE_ENGINE = (
    NOTES
    + """
pytestmark = [pytest.mark.container, *MARKS]
@pytest.mark.parametrize("number", range(10))
def test_both_at_once(number):
    note("MINE")
    for _ in range(1000):
        with open("ran") as file:
            if " OTHERS" in file.read():
                return
        time.sleep(0.02)
    assert False
"""
)
ENDS = ["container"] * 3 + ["machine"]
ENDING = (
    NOTES
    + """
def test_before():
    note("before")
def test_ending():
    os._exit(0)
def test_left():
    note("left")
"""
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with the plugins and no tests."""
    for name in ("tests/__init__.py", "tests/needs.py", "tests/forks.py", "pyproject.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((TOP / name).read_bytes())
    (tmp_path / "tests/unit").mkdir()
    (tmp_path / "tests/e2e").mkdir()
    return tmp_path


def run(checkout: Path, *words: str) -> tuple[int, str]:
    without = ("cacheprovider", "hypothesispytest", "pytest_httpserver")
    plugins = [word for name in without for word in ("-p", f"no:{name}")]
    plugins += ["-p", "tests.needs", "-p", "tests.forks"]
    command = [sys.executable, "-m", "pytest", *plugins, "--forks", "2", *words]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def ran(checkout: Path) -> dict[str, list[str]]:
    """Return what each process has run, in its order."""
    found = defaultdict(list)
    for line in (checkout / "ran").read_text().splitlines():
        process, _, name = line.partition(" ")
        found[process].append(name)
    return found


def test_each_test_runs_once_and_a_row_in_one_process(checkout: Path) -> None:
    (checkout / "tests/unit/test_shared.py").write_text(SHARED)
    (checkout / "tests/e2e/test_one.py").write_text(ROW)
    (checkout / "tests/e2e/test_two.py").write_text(ROW)
    status, shown = run(checkout)
    assert (status, "2 failed, 46 passed" in shown) == (1, True), shown
    assert len(re.findall("^seen by nobody else$", shown, re.MULTILINE)) == 2
    processes = ran(checkout)
    names = [name for all_of_one in processes.values() for name in all_of_one]
    assert len(names) == len({name for name in names if "shared" in name}) + 6 + 2 == 48
    assert len(processes) == 2
    assert all(any("shared" in name for name in of_one) for of_one in processes.values())
    (row,) = [of_one for of_one in processes.values() if "cloud" in of_one]
    assert row[:6] == ["cloud"] * 6


def rows(checkout: Path) -> dict[str, list[str]]:
    """Return what the tests of each row have noted, in their order."""
    found = defaultdict(list)
    for names in ran(checkout).values():
        for name in names:
            kind, _, noted = name.partition(" ")
            found[kind].append(noted)
    return found


def test_rows_have_clouds_of_their_own_and_end_with_what_needs_the_engine(checkout: Path) -> None:
    for kind in ("glance", "cloud", "unnamed"):
        (checkout / f"tests/e2e/test_{kind}.py").write_text(OF_THE_CLOUD.replace("KIND", kind))
    status, shown = run(checkout)
    assert (status, "24 passed" in shown) == (0, True), shown
    without = ["False"] * 4 + ENDS
    assert rows(checkout) == {"cloud": without, "glance": ["True"] * 4 + ENDS, "unnamed": without}
    (checkout / "ran").unlink()
    run(checkout, "--forks", "1")
    assert set(rows(checkout)["glance"]) == {"False", *ENDS}


def test_what_names_no_container_runs_beside_what_does(checkout: Path) -> None:
    for mine, others, marks in (
        ("sites", "images", "[]"),
        ("images", "sites", "[pytest.mark.unnamed]"),
    ):
        text = OF_THE_ENGINE.replace("MINE", mine).replace("OTHERS", others)
        (checkout / f"tests/e2e/test_{mine}.py").write_text(text.replace("MARKS", marks))
    status, shown = run(checkout, "-x")
    assert (status, "20 passed" in shown) == (0, True), shown


def test_a_fork_that_ends_fails_the_run_and_the_others_go_on(checkout: Path) -> None:
    (checkout / "tests/e2e/test_ending.py").write_text(ENDING)
    (checkout / "tests/unit/test_shared.py").write_text(SHARED)
    status, shown = run(checkout)
    assert (status, "2 failed, 41 passed" in shown) == (1, True), shown
    assert re.findall(r"FAILED \S+::(\w+)", shown) == ["test_ending", "test_left"]
    assert shown.count("\nthe process that had to run it has ended\n") == 2


def test_a_run_that_is_to_end_at_the_first_failure(checkout: Path) -> None:
    (checkout / "tests/e2e/test_one.py").write_text(ROW)
    (checkout / "tests/unit/test_shared.py").write_text(SHARED.replace("40", "4000"))
    status, shown = run(checkout, "-x")
    assert (status, "stopping after 1 failures" in shown) == (1, True), shown
    assert sum(len(of_one) for of_one in ran(checkout).values()) < 1000
