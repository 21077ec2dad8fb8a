import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.core import files


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    files.write_atomic(path, b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path; from appliance.core import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "files.write_atomic(Path(sys.argv[1]), b'x' * 5000)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert "File too large" in run.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_move_new_moves_but_never_replaces(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("source")
    files.move_new(source, target)
    assert target.read_text() == "source"
    assert not source.exists()
    source.write_text("again")
    with pytest.raises(FileExistsError):
        files.move_new(source, target)
    assert (source.read_text(), target.read_text()) == ("again", "source")
    with pytest.raises(FileNotFoundError) as caught:
        files.move_new(tmp_path / "none", tmp_path / "c")
    assert caught.value.errno == errno.ENOENT


def test_make_directory_is_idempotent_and_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    files.make_directory(path)
    files.make_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750 & ~_umask()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.make_directory(tmp_path / "file")


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
