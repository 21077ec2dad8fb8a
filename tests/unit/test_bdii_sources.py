"""Providers as programs: what of their output is taken, and that nothing of them outlives their time."""

import resource
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from bdii import sources
from bdii.sources import Answer

ENTRY = "dn: GLUE2GroupID=x,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: x\n\n"


def ask(tmp_path: Path, *scripts: str, timeout: float = 10, before: tuple[Answer, ...] = ()) -> list[Answer]:
    directory = tmp_path / "provider"
    directory.mkdir(exist_ok=True)
    for number, script in enumerate(scripts):
        (directory / f"p{number}").write_text(f"#!/bin/sh\n{script}\n")
        (directory / f"p{number}").chmod(0o755)
    found = sources.of_directories(tmp_path / "ldif", directory, timeout=timedelta(seconds=timeout), limit=1_000_000)
    return sources.ask(found, before={a.source: a for a in before}, scratch=tmp_path, stop=threading.Event())


@pytest.mark.parametrize(
    ("script", "count", "failed", "problem"),
    [
        (f"printf '{ENTRY}'", 1, set(), ""),
        (f"printf '{ENTRY}# failed: ops\n'; exit 1", 1, {"ops"}, "provider/p0: VO ops could not be read"),
        (f"printf '{ENTRY}# failed: ops\n'; exit 2", None, set(), "provider/p0: failed with status 2"),
        (f"printf '{ENTRY}'; exit 1", None, set(), "provider/p0: failed with status 1"),
        ("echo '# failed: ops'; exit 1", None, set(), "provider/p0: gave no entry"),
        ("echo 'no network' >&2; exit 3", None, set(), "provider/p0: failed with status 3: no network"),
        (f"printf '{ENTRY}'; kill -9 $$", None, set(), "provider/p0: failed with signal SIGKILL"),
        (f"printf '{ENTRY}dn: nonsense\no: x\n'", 1, set(), "provider/p0: line 5: nonsense: "),
        (f"printf '{ENTRY}dn: o=grid\nobjectClass: organization\n'", 1, set(), "provider/p0: line 5: o=grid: not below"),
        (f"printf '{ENTRY}dn: o=glue\nwhatever\n'", 1, set(), "provider/p0: line 6: neither"),
        ("yes 'a line of nothing much' >&2; sleep 9", None, set(), "provider/p0: printed more than 1 MB"),
        ("yes 'a line of nothing much' | head -c 2000000; sleep 9", None, set(), "provider/p0: printed more than 1 MB"),
    ],
)  # fmt: skip
def test_output_and_status_make_the_answer(
    tmp_path: Path, script: str, count: int | None, failed: set[str], problem: str
) -> None:
    (answer,) = ask(tmp_path, script.replace("\n", "\\n"))
    assert (None if answer.tree is None else len(answer.tree)) == count
    assert answer.failed == failed
    assert "\n".join(answer.problems).startswith(problem)
    assert bool(answer.problems) == bool(problem)


def test_a_program_that_hangs_is_ended_with_its_children_and_harms_no_neighbour(tmp_path: Path) -> None:
    started = time.monotonic()
    script = f"trap '' TERM; sleep 300 & echo $! >{tmp_path}/child; wait; sleep 300"
    hanging, good = ask(tmp_path, script, f"printf '{ENTRY}'".replace("\n", "\\n"), timeout=0.5)
    assert time.monotonic() - started < 8
    assert hanging.tree is None
    assert hanging.problems == ("provider/p0: did not end within 0.5 s",)
    assert good.tree is not None
    child = Path("/proc") / (tmp_path / "child").read_text().strip()
    while child.exists() and (child / "stat").read_text().split()[2] != "Z":
        assert time.monotonic() - started < 8
        time.sleep(0.05)


def test_what_is_no_provider_is_not_run_and_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "provider"
    directory.mkdir()
    for name in (".hidden", "#edited#", "backup~", "plain"):
        (directory / name).write_text("#!/bin/sh\nexit 0\n")
    (answer,) = ask(tmp_path)
    assert answer.problems == (f"provider/plain: cannot be run, chmod +x: {directory}/plain",)


def test_an_unchanged_output_is_the_same_answer(tmp_path: Path) -> None:
    script = f"printf '{ENTRY}'".replace("\n", "\\n")
    (first,) = ask(tmp_path, script)
    (second,) = ask(tmp_path, script, before=(first,))
    (third,) = ask(tmp_path, script.replace("=x", "=y"), before=(first,))
    assert second is first
    assert third is not first


def test_stopping_ends_the_programs(tmp_path: Path) -> None:
    (tmp_path / "slow").write_text("#!/bin/sh\nexec sleep 300\n")
    (tmp_path / "slow").chmod(0o755)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    found = sources.of_directories(tmp_path / "none", tmp_path, timeout=timedelta(seconds=300), limit=1)
    started = time.monotonic()
    (answer,) = sources.ask(found, before={}, scratch=None, stop=stop)
    assert time.monotonic() - started < 5
    assert answer.tree is None


def test_an_output_cut_short_by_a_full_disk_is_of_no_use(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writes beyond it fail, and this program does not look."""
    (tmp_path / "whole").write_text(ENTRY * 2000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(ENTRY) * 1000, before[1]))
    try:
        (answer,) = ask(tmp_path, f"trap '' XFSZ; cat {tmp_path}/whole; exit 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer.tree is None
    assert answer.problems[0].startswith("provider/p0: its output does not fit")
