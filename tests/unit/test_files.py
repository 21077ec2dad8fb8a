import contextlib
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core import files
from tests import foreign
from tests.syscalls import trace

_IMPORTS = "import sys; from pathlib import Path; from appliance.core import files"


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
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "files.write_atomic(Path(sys.argv[1]), b'x' * 5000)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "File too large" in run.stderr
    assert f"'{tmp_path}/" in run.stderr  # the error says where
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [files.write_new, files.write_atomic])
def test_what_stood_under_the_temporary_name_is_not_written_to(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "state"
    victim.write_text("precious")
    temporary = path if write is files.write_new else tmp_path / ".state.tmp"
    for plant in (temporary.symlink_to, temporary.hardlink_to):
        temporary.unlink(missing_ok=True)
        plant(victim)
        write(path, b"new")
        assert victim.read_text() == "precious"
        assert path.read_bytes() == b"new"
        assert not path.is_symlink()


def test_a_leftover_s_mode_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / ".state.tmp").write_text("left by a killed run")
    (tmp_path / ".state.tmp").chmod(0o666)
    files.write_atomic(tmp_path / "state", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600


@pytest.mark.long
def test_writers_at_the_same_time_leave_one_of_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "state"
    script = (
        "import sys; from pathlib import Path; from appliance.core import files\n"
        "for _ in range(40): files.write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(path), letter]) for letter in "abc"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(FileNotFoundError):
            seen.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {letter * 100_000 for letter in (b"a", b"b", b"c")}
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


@pytest.mark.programs("strace")
def test_without_noreplace_the_new_name_is_durable_before_the_old_one_goes(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    source, target = tmp_path / "from" / "a", tmp_path / "to" / "b"
    source.write_text("source")
    script = f"{_IMPORTS}; files.move_new(*map(Path, sys.argv[1:]))"
    nfs = "renameat2:error=EINVAL"  # what it says to RENAME_NOREPLACE
    assert trace(script, source, target, below=tmp_path, inject=nfs) == [
        "renameat2 from/a to/b",
        "link from/a to/b",
        "fsync to",
        "unlink from/a",
    ]
    assert target.read_text() == "source"
    assert not source.exists()
    source.write_text("again")
    script = (
        f"{_IMPORTS}\ntry: files.move_new(*map(Path, sys.argv[1:]))\nexcept FileExistsError: pass"
    )
    assert trace(script, source, target, below=tmp_path, inject=nfs) == [
        "renameat2 from/a to/b",
        "link from/a to/b",
    ]
    assert (source.read_text(), target.read_text()) == ("again", "source")


@pytest.mark.programs("strace")
def test_each_step_is_durable_before_the_next(tmp_path: Path) -> None:
    script = f"{_IMPORTS}; files.write_atomic(Path(sys.argv[1]), b'x' * 100_000)"
    assert trace(script, tmp_path / "state", below=tmp_path) == [
        "write .state.tmp",
        "fsync .state.tmp",
        "rename .state.tmp state",
        "fsync .",
    ]
    script = f"{_IMPORTS}; files.make_directory(Path(sys.argv[1]))"
    assert trace(script, tmp_path / "a" / "b", below=tmp_path) == [
        "mkdir a",
        "fsync .",
        "mkdir a/b",
        "fsync a",
    ]


def test_make_directory_is_idempotent_and_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    files.make_directory(path)
    files.make_directory(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750 & ~_umask()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            files.make_directory(tmp_path / taken)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


# ---------------------------------------------------------------------------------- foreign names


@pytest.mark.root
def test_foreign_names_are_skipped_and_named_with_the_command_that_helps() -> None:
    """F-H1: whatever lies in a directory, what we can use is found, without waiting."""
    with foreign.open_to_all() as root:
        foreign.make(root)
        (root / "good").write_bytes(b"content")
        (root / "link").symlink_to("good")
        found = files.listed(root, lambda _: True)
        assert [path.name for path in found.paths] == ["good"]
        reported = {line.subject.removeprefix(f"{root}/"): line for line in found.skipped.values()}
        assert reported["pipe"].cause == "skipped: is a pipe"
        assert reported["directory"].remedy == f"if nobody needs it: rm -r {root}/directory"
        assert {"dangling", "loop", "socket", "link", "locked"} < reported.keys()
        followed = files.listed(root, lambda _: True, follow=True)
        assert [path.name for path in followed.paths] == ["good", "link"]
        directories = files.listed(root, lambda name: name != "locked", directories=True)
        assert [path.name for path in directories.paths] == ["directory"]
        work = (
            "for line in files.listed(Path({!r}), 'locked'.__eq__, "
            "directories=True).skipped.values(): print(line)"
        )
        said = foreign.as_nobody(_IMPORTS + "\n" + work.format(str(root)))
        owner = f"a directory of user {os.geteuid()}, mode 0700"
        assert said.startswith(f"{root}/locked: skipped: permission denied ({owner}); chown -R ")
        # the command in the line is one that bash carries out, whatever bytes are in the name
        [odd] = [line for line in found.skipped.values() if "xff" in str(line)]
        subprocess.run(["bash", "-c", odd.remedy.partition(": ")[2]], check=True)
        assert not os.path.lexists(root / "\udcff\n'x")


@pytest.mark.root
def test_the_owner_of_a_file_needs_its_mode_changed() -> None:
    """A chown to its owner changes nothing; a good mode means that the fault is elsewhere."""
    with foreign.open_to_all() as root:
        own, directory, good = root / "own", root / "directory", root / "good"
        own.touch(mode=0o000)
        directory.mkdir(mode=0o000)
        good.touch(mode=0o600)
        for path in (own, directory, good):
            os.chown(path, foreign.NOBODY, -1)
        with foreign.acting_as_nobody():
            refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            remedies = [
                files.describe_skipped(path, refused).remedy for path in (own, directory, good)
            ]
            assert remedies == [
                f"chmod u+rw {own}",
                f"chmod -R u+rwX {directory}",
                "check owner and mode of the file and of the directories above it",
            ]
            for remedy in remedies[:2]:
                subprocess.run(["/bin/bash", "-c", remedy], check=True)
            own.read_bytes()
            list(directory.iterdir())


def test_a_file_of_the_program_s_own_state_is_never_unneeded(tmp_path: Path) -> None:
    """The line says how the program goes on; a disk with errors is to be checked, not cleared."""
    path = tmp_path / "state"
    path.mkdir()
    odd = files.NotAFile(errno.EINVAL, "Is a directory")
    assert str(files.describe_skipped(path, odd, consequence="it starts from 0")) == (
        f"{path}: skipped: is a directory; it starts from 0; rm -r {path}"
    )
    path.rmdir()
    path.touch()
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    assert str(files.describe_skipped(path, broken, consequence="it starts from 0")) == (
        f"{path}: skipped: input/output error; it starts from 0; check the disk"
    )
    assert files.describe_skipped(path, broken).remedy == "check the disk"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.root if name == "device" else ())
        for name in foreign.NAMES
        if name != "locked"
    ],
)
def test_no_foreign_name_is_opened(tmp_path: Path, name: str) -> None:
    """F-H1: a pipe without a writer would hold up its reader for ever."""
    foreign.make(tmp_path)
    for follow in (False, True):
        with pytest.raises(OSError, match=r"^\[Errno") as error:
            files.read_regular(tmp_path / name, limit=100, follow=follow)
        assert error.value.filename == str(tmp_path / name)


def test_a_regular_file_is_read_as_far_as_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    (tmp_path / "link").symlink_to(path)
    assert files.read_regular(path, limit=10) == b"x" * 10
    assert files.read_regular(tmp_path / "link", limit=10, follow=True) == b"x" * 10
    with pytest.raises(files.NotAFile, match="Is a link"):
        files.read_regular(tmp_path / "link", limit=10)
    with pytest.raises(OSError, match="longer than 9 bytes"):
        files.read_regular(path, limit=9)
    with pytest.raises(FileNotFoundError):
        files.read_regular(tmp_path / "none", limit=9)


def test_a_directory_with_the_temporary_name_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """F-H1: no state, record or checkpoint of that name could be written again."""
    (tmp_path / ".state.tmp").mkdir()
    (tmp_path / ".state.tmp/file").touch()
    files.write_atomic(tmp_path / "state", b"content")
    assert (tmp_path / "state").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state.tmp", "state"]


@pytest.mark.root
def test_a_replaced_file_never_has_another_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed after the rename leaves a file that its program can read."""
    path, real = tmp_path / "file", os.replace

    def checked(source: Path, target: Path) -> None:
        status = source.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1999, 1998, 0o640)
        real(source, target)

    monkeypatch.setattr(os, "replace", checked)
    files.write_atomic(path, b"text", mode=0o640, owner=(1999, 1998))
    assert path.read_bytes() == b"text"
