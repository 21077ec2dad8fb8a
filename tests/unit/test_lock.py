import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run import lock
from appliance.core.run.errors import Busy

_HOLDER = """
import sys
from pathlib import Path
from appliance.core.run import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(_HOLDER), str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_is_told_who_and_since_when(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process, pytest.raises(Busy) as caught, lock.hold(path):
        pass
    assert f"(pid {process.pid})" in str(caught.value)
    assert "running since 20" in str(caught.value)


def test_the_kernel_frees_the_lock_of_a_killed_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        process.kill()
        process.wait()
        with lock.hold(path, wait=timedelta(seconds=5)):
            assert path.read_text().split()[0].isdigit()


def test_waiting_ends_when_the_holder_does(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        assert process.stdin is not None
        threading.Timer(0.3, process.stdin.close).start()
        with lock.hold(path, wait=timedelta(seconds=10)):
            pass
    with holder(path):
        begin = time.monotonic()
        with pytest.raises(Busy), lock.hold(path, wait=timedelta(seconds=0.3)):
            pass
        assert time.monotonic() - begin >= 0.3


def test_another_program_is_not_taken_for_our_last_run(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock.hold(path):
        pass
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print(); input()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Busy, match="held by another program"), lock.hold(path):
            pass
        other.kill()


def test_a_holder_that_is_about_to_write_its_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.lockf(file, "
        "fcntl.LOCK_EX); print(flush=True)\n"
        "time.sleep(0.05); file.write('42 2026-01-05T06:14:00+00:00\\n'); file.flush(); input()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(Busy, match=r"running since 2026-01-05T06:14:00\+00:00 \(pid 42\)"),
            lock.hold(path),
        ):
            pass
        other.kill()


def test_a_full_disk_does_not_keep_a_run_from_emptying_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import resource, signal, sys; from pathlib import Path; from appliance.core.run "
        "import lock\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limits = "
        "resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))\n"
        "with lock.hold(Path(sys.argv[1])): print('held')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # coverage, which may be "
        "measuring, writes at the end"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr) == ("held\n", "")


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link") as caught, lock.hold(tmp_path / "lock"):
        pass
    assert caught.value.filename == str(tmp_path / "lock")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.programs("strace")
def test_a_file_system_without_locks_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from appliance.core.run import lock\nwith "
        "lock.hold(Path(sys.argv[1])): pass"
    )
    (tmp_path / "lock").touch()
    inject = [
        "strace",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        str(tmp_path / "lock"),
        "-e",
        "trace=fcntl",
        "-e",
        "inject=fcntl:error=ENOLCK",
    ]
    command = [*inject, sys.executable, "-c", script, str(tmp_path / "lock")]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert shown.endswith(f"No locks available: '{tmp_path}/lock'\n")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")])
def test_foreign_names_are_no_lock(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """F-H1: a program that cannot lock says so at once."""
    make(tmp_path / "lock")
    with pytest.raises(OSError, match=r"Is a|symbolic") as error, lock.hold(tmp_path / "lock"):
        pytest.fail("it was held")
    assert error.value.filename == str(tmp_path / "lock")
