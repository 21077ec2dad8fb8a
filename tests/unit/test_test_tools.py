"""The tools around the tests: rules of the house, what is quick, and runs that go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import house

TOP = Path(__file__).parents[2]
CASES = """
import pytest, subprocess
def test_good(): pass
def test_bad(): assert False
@pytest.mark.timed
def test_timed(): pass
@pytest.mark.long
def test_long(): pass
@pytest.mark.programs("no-such-program")
def test_missing(): pass
def test_unnamed(): subprocess.run(["openssl", "version"])
"""


def test_each_breach_of_the_house_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(house, "_TOP", tmp_path)
    for name, text in (
        ("caso/one.py", '"""Docstrings may tell."""\nMESSAGE = "told you"\nclass Twice: ...\n'),
        ("ssm/verb.py", 'TYPE = "application/octet-stream"\nclass Twice: ...\n'),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert house.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "caso/one.py:2: 'told' in a message: use a plainer word",
        "ssm/verb.py:1: ssm/verb.py: a file is named for what it does",
        "ssm/verb.py:2: class Twice is defined 2 times, also in caso/one.py:3",
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with the plugins and `CASES`."""
    for name in ("tests/__init__.py", "tests/needs.py", "tests/resume.py", "pyproject.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((TOP / name).read_bytes())
    (tmp_path / "tests/unit").mkdir()
    (tmp_path / "tests/unit/test_cases.py").write_text(CASES)
    return tmp_path


def run(checkout: Path, *words: str) -> tuple[int, str]:
    without = ("cacheprovider", "hypothesispytest", "pytest_httpserver")
    plugins = [word for name in without for word in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, *words]
    shown = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return shown.returncode, shown.stdout + shown.stderr


def test_a_quick_run_counts_what_it_leaves_and_names_no_program_silently(checkout: Path) -> None:
    status, shown = run(checkout, "-p", "tests.needs", "--quick")
    assert status == 1
    assert "Left to scripts/test: 2 tests of these folders" in shown
    assert "mark this test with pytest.mark.programs('openssl')" in shown
    assert "2 failed, 2 passed, 2 deselected" in shown


def test_a_short_run_leaves_long_tests_to_the_full_one(checkout: Path) -> None:
    _, shown = run(checkout, "-p", "tests.needs", "--quick", "--short", "-k", "good or long")
    assert "Left to scripts/test: 1 tests of these folders" in shown
    assert "1 passed, 5 deselected" in shown


def test_who_is_not_root_runs_no_test_that_needs_it(checkout: Path) -> None:
    (checkout / "tests/unit/test_cases.py").write_text(
        "import pytest\n@pytest.mark.root\ndef test_root(): assert False\ndef test_any(): pass\n"
    )
    (checkout / "conftest.py").write_text("import os\nos.geteuid = lambda: 65534\n")
    status, shown = run(checkout, "-p", "tests.needs", "--prepare", "tests/unit")
    assert (status, "1 passed, 1 deselected" in shown) == (0, True), shown
    assert "Left to root: 1 tests; for them, run this as root." in shown


@pytest.mark.long
def test_a_run_goes_on_where_the_last_one_ended(checkout: Path, tmp_path: Path) -> None:
    words = ("-p", "tests.resume", "--passed", str(tmp_path / "passed"), "-k", "good or bad")
    status, shown = run(checkout, *words, "--within", "-1")
    assert (status, "the time is over before tests/unit" in shown) == (75, True)
    assert not (tmp_path / "passed").exists()
    status, shown = run(checkout, *words)
    assert (status, "1 failed, 1 passed, 4 deselected" in shown) == (1, True), shown
    status, shown = run(checkout, *words)
    assert (status, "1 failed, 5 deselected" in shown) == (1, True), shown
