import errno
import os
import secrets
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.core.run.errors import LocalFailure
from appliance.core.spool import ElementName, Spool
from tests import audit, foreign
from tests.syscalls import trace


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "queue")


def staged(tmp_path: Path, data: bytes = b"x") -> Path:
    path = tmp_path / "staged"
    path.write_bytes(data)
    return path


def test_a_missing_spool_is_empty(spool: Spool) -> None:
    assert list(spool.names()) == []
    assert spool.count() == 0
    assert not spool.path.exists()


def test_adopted_elements_come_out_of_dirq_in_order(spool: Spool, tmp_path: Path) -> None:
    for index in range(200):
        spool.adopt(staged(tmp_path, str(index).encode()))
    theirs = QueueSimple(str(spool.path))
    read = []
    for name in theirs.names():
        assert theirs.lock(name)
        read.append(int(theirs.get(name)))
        theirs.remove(name)
    assert read == list(range(200))


@pytest.mark.programs("strace")
def test_a_directory_that_another_made_is_durable_before_an_element_is(
    spool: Spool, tmp_path: Path
) -> None:
    minute = int(time.time()) // 60 * 60
    for directory in (minute, minute + 60):  # by a producer that has not come to fsync their names
        (spool.path / f"{directory:08x}").mkdir(parents=True)
    source = staged(tmp_path)
    script = (
        "import sys; from pathlib import Path; from appliance.core.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1])); spool.adopt(Path(sys.argv[2]))"
    )
    calls = trace(script, spool.path, source, below=tmp_path)
    (name,) = spool.names()
    assert calls == [
        "fsync queue",
        f"renameat2 staged queue/{name}",
        f"fsync queue/{name[:8]}",
        "fsync .",
    ]


def test_names_never_go_backwards_when_the_clock_does(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spool.adopt(staged(tmp_path))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    assert spool.adopt(staged(tmp_path)) > first


def _leave(spool: Spool, directory: str, *elements: str) -> None:
    (spool.path / directory).mkdir(parents=True)
    for element in elements:
        (spool.path / directory / element).touch()


def test_names_follow_those_of_a_clock_that_was_ahead(spool: Spool, tmp_path: Path) -> None:
    """F-A4: the later record of two counts, so the later run's message must be sent later."""
    ahead = int(time.time()) + 2 * 3600
    directory = ahead - ahead % 60
    waiting = f"{directory:08x}/{ahead:08x}fffff7"
    _leave(spool, *waiting.split("/"))
    names = [spool.adopt(staged(tmp_path)) for _ in range(2)]
    assert [waiting, *names] == sorted({waiting, *names})
    taken = list(QueueSimple(str(spool.path)).names())
    assert taken == [waiting, *names]
    other = Spool(spool.path)  # and so does the next run's
    assert other.adopt(staged(tmp_path)) > names[-1]


def test_names_follow_a_directory_that_is_later_than_its_elements(
    spool: Spool, tmp_path: Path
) -> None:
    ahead = int(time.time()) + 3600
    _leave(spool, f"{ahead - ahead % 60 + 7:08x}", f"{int(time.time()):08x}000000")
    assert spool.adopt(staged(tmp_path))[:8] > f"{ahead - ahead % 60 + 7:08x}"


def test_a_spool_that_was_emptied_goes_on_with_the_clock(spool: Spool, tmp_path: Path) -> None:
    before = int(time.time())
    _leave(spool, f"{before - 3600:08x}")
    assert before <= int(spool.adopt(staged(tmp_path))[9:17], 16) <= time.time()


def test_a_name_that_no_time_follows_is_passed_over(spool: Spool, tmp_path: Path) -> None:
    _leave(spool, "ffffffff", "ffffffff000000")
    before = int(time.time())
    assert before <= int(spool.adopt(staged(tmp_path))[9:17], 16) <= time.time()


def test_an_element_under_the_same_name_is_never_replaced(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two producers that drew one digit, in one microsecond."""
    monkeypatch.setattr(secrets, "randbelow", lambda _: 7)
    both, names = (Spool(spool.path), Spool(spool.path)), []
    for second in (19, 20):  # each has looked for names that are there, before the second name
        monkeypatch.setattr(time, "time_ns", lambda: (1_900_000_000 + second) * 10**9)  # noqa: B023
        names += [one.adopt(staged(tmp_path)) for one in both]
    assert len(set(names)) == spool.count() == 4


def test_foreign_names_are_left_alone(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    directory = (spool.path / name).parent
    foreign = [
        spool.path / "openstack",
        directory / "README",
        directory / "ABCDEF01234567",
        directory / f"{'0' * 14}.bak",
    ]
    for path in foreign:
        path.write_text("foreign")
    foreign.append(directory / f"{'0' * 14}.tmp")
    foreign[-1].mkdir()
    os.utime(directory / f"{'0' * 14}.bak", (0, 0))
    (spool.path / "0000000f").write_text("a file with the name of a directory")
    assert list(spool.names()) == [name]
    spool.purge(temporary=timedelta(0), locked=timedelta(0))
    assert all(path.exists() for path in foreign)


def test_what_is_no_file_cannot_be_locked(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    odd = [ElementName(f"{name[:9]}{digit * 14}") for digit in "012"]
    (tmp_path / "key").write_text("of the host")
    (spool.path / odd[0]).mkdir()
    (spool.path / odd[1]).symlink_to(tmp_path / "key")
    os.mkfifo(spool.path / odd[2])
    assert [spool.lock(path) for path in odd] == [False, False, False]
    assert spool.lock(name)
    (spool.path / f"{name}.lck").unlink()
    (spool.path / f"{name}.lck").symlink_to(tmp_path / "key")
    with pytest.raises(OSError, match="symbolic link"):
        spool.read(name)


def test_a_lock_excludes_and_taking_away_is_no_error(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path, b"payload"))
    assert spool.lock(name)
    assert not Spool(spool.path).lock(name)
    assert spool.read(name) == b"payload"
    spool.unlock(name)
    (spool.path / name).unlink()
    assert not spool.lock(name)
    assert not spool.is_locked(name)
    assert spool.size(name) == 0


def test_purge_breaks_only_old_locks_and_keeps_the_newest_directory(
    spool: Spool, tmp_path: Path
) -> None:
    name = spool.adopt(staged(tmp_path))
    directory = (spool.path / name).parent
    (spool.path / "00000000").mkdir()
    assert spool.lock(name)
    spool.purge()
    assert spool.is_locked(name)
    assert not (spool.path / "00000000").exists()
    os.utime(spool.path / f"{name}.lck", (time.time() - 700, time.time() - 700))
    spool.purge()
    assert not spool.is_locked(name)
    assert spool.lock(name)
    spool.remove(name)
    spool.purge()
    assert directory.exists()


def test_a_lock_begins_young_whatever_the_age_of_its_element(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    os.utime(spool.path / name, (0, 0))
    assert spool.lock(name)
    spool.purge()
    assert spool.is_locked(name)


def test_leftovers_of_each_kind_have_their_own_age(spool: Spool, tmp_path: Path) -> None:
    directory = (spool.path / spool.adopt(staged(tmp_path))).parent
    for kind in ("tmp", "lck"):
        path = directory / f"{'a' * 14}.{kind}"
        path.touch()
        # dirq: 5 minutes for one, 10 for the other
        os.utime(path, (time.time() - 420, time.time() - 420))
    theirs = QueueSimple(str(tmp_path / "theirs"))
    shutil.copytree(spool.path, theirs.path, dirs_exist_ok=True)
    spool.purge()
    theirs.purge()
    assert sorted(os.listdir(directory)) == sorted(os.listdir(Path(theirs.path) / directory.name))
    assert f"{'a' * 14}.lck" in os.listdir(directory)


def test_names_are_made_as_dirq_makes_them(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = QueueSimple(str(tmp_path / "theirs"))
    monkeypatch.setattr(time, "time_ns", lambda: 1_900_000_019_500_000_000)
    monkeypatch.setattr(time, "time", lambda: 1_900_000_019.5)
    ours, other = spool.adopt(staged(tmp_path)), theirs.add(b"x")
    assert ours[:22] == other[:22]
    assert len(ours) == len(other)


@pytest.mark.programs("strace")
def test_an_element_taken_away_while_it_is_locked_leaves_no_lock(
    spool: Spool, tmp_path: Path
) -> None:
    name = spool.adopt(staged(tmp_path))
    script = (
        "import sys; from pathlib import Path; from appliance.core.spool import Spool\n"
        "assert not Spool(Path(sys.argv[1])).lock(sys.argv[2])"
    )
    calls = trace(script, spool.path, name, below=spool.path, inject="utimensat:error=ENOENT")
    assert calls == [f"link {name} {name}.lck", f"utimensat {name}", f"unlink {name}.lck"]


@pytest.mark.programs("strace")
def test_what_a_sender_purged_meanwhile_is_made_again(spool: Spool, tmp_path: Path) -> None:
    (spool.path / "ffffffff").mkdir(parents=True)
    source = staged(tmp_path)
    script = (
        "import sys; from pathlib import Path; from appliance.core.spool import Spool\n"
        "Spool(Path(sys.argv[1])).adopt(Path(sys.argv[2]))"
    )
    calls = trace(
        script, spool.path, source, below=tmp_path, inject="renameat2:error=ENOENT:when=1"
    )
    assert [call.split()[0] for call in calls].count("renameat2") == 2
    assert spool.count() == 1


def test_refresh_keeps_a_lock_young(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    assert spool.lock(name)
    os.utime(spool.path / name, (0, 0))
    spool.refresh(name)
    spool.purge()
    assert spool.is_locked(name)


def test_a_missing_source_is_an_error(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spool.adopt(tmp_path / "nothing")


@pytest.mark.programs("strace")
def test_a_sender_may_take_an_element_and_its_directory_at_once(
    spool: Spool, tmp_path: Path
) -> None:
    # as a clock that was wrong leaves it: ours is never the newest
    (spool.path / "ffffffff").mkdir(parents=True)
    script = (
        "import sys; from pathlib import Path; from appliance.core.spool import Spool\n"
        "Spool(Path(sys.argv[1])).adopt(Path(sys.argv[2]))"
    )
    slow = [
        "strace",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        "trace=renameat2",
        "-e",
        "inject=renameat2:delay_exit=200000",
    ]
    command = [*slow, sys.executable, "-c", script, str(spool.path), str(staged(tmp_path))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as producer:
        while producer.poll() is None:
            for name in spool.names():
                assert spool.lock(name)
                spool.remove(name)
                spool.purge()
        assert producer.stderr is not None
        assert (producer.returncode, producer.stderr.read()) == (0, "")
    assert [path.name for path in spool.path.iterdir()] == ["ffffffff"]


def litter(path: Path) -> dict[str, Path]:
    """Leave beside the elements of a spool what nobody but root can use, or nobody at all."""
    directory = next(entry for entry in path.iterdir() if entry.name < "f")
    found = {
        "closed": path / "11111111",
        "read-only": path / "22222222",
        "file": path / "33333333",
        "link": path / "44444444",
        "element directory": directory / ("0" * 14),
        "element link": directory / ("1" * 14),
        "element pipe": directory / ("2" * 14),
        "unreadable": directory / ("3" * 14),
    }
    for name in ("closed", "read-only"):
        found[name].mkdir()
        (found[name] / ("a" * 14)).write_text("inside")
    found["file"].touch()
    found["link"].symlink_to(directory)
    found["element directory"].mkdir()
    found["element link"].symlink_to("/etc/passwd")
    os.mkfifo(found["element pipe"])
    found["unreadable"].write_text("whose?")
    found["closed"].chmod(0)
    found["read-only"].chmod(0o555)
    found["unreadable"].chmod(0)
    return found


@pytest.mark.root
def test_what_others_left_is_skipped_and_named_with_the_command_that_helps() -> None:
    """F-H1, F-S4: everything else goes on."""
    with foreign.open_to_all() as root:
        queue = QueueSimple(str(root / "spool"), umask=0)
        good = [queue.add(f"{number}") for number in range(2)]
        for name in good:
            (root / "spool" / name).chmod(0o666)  # as a producer of another user would make them
        found = litter(root / "spool")
        spool = Spool(root / "spool")
        with foreign.acting_as_nobody() as ids:
            locked = [name for name in spool.names() if spool.lock(name)]
            usable = {
                name: spool.is_usable(name)
                for name in [*locked, ElementName("22222222/" + "a" * 14)]
            }
            for name in locked:
                spool.remove(name)
            spool.purge()
            list(spool.names())
            count = spool.count()
        lines = {str(path): str(line) for path, line in spool.skipped.items()}
        assert list(usable.values()) == [True, True, False]
        assert locked == good
        # the one that may not be read, and the one in the directory that may not be changed
        assert count == 2
        assert lines.keys() == {str(path) for path in found.values()}
        for name in ("closed", "read-only", "unreadable"):
            assert lines[str(found[name])].endswith(f"; chown -R {ids} {found[name]}")
        for name in ("file", "link", "element link", "element pipe"):
            assert lines[str(found[name])].endswith(f"; if nobody needs it: rm {found[name]}")
        assert lines[str(found["element directory"])].endswith(
            f": rm -r {found['element directory']}"
        )
        for name in ("closed", "read-only"):
            found[name].chmod(0o700)


def test_a_producer_passes_over_a_directory_that_it_cannot_use(
    spool: Spool, tmp_path: Path
) -> None:
    """F-H1: the minute's directory is somebody else's file; what follows keeps its order."""
    minute = int(time.time()) // 60 * 60
    spool.path.mkdir()
    for directory in (minute, minute + 60):
        (spool.path / f"{directory:08x}").touch()
    names = [spool.adopt(staged(tmp_path, str(number).encode())) for number in range(3)]
    for path in spool.skipped:
        path.unlink()  # dirq itself does not pass it by
    theirs = QueueSimple(str(spool.path))
    assert list(theirs.names()) == names == sorted(names)
    assert spool.count() == 3
    assert {path.name for path in spool.skipped} <= {f"{minute + 60 * n:08x}" for n in range(3)}
    assert spool.skipped


def test_a_producer_looks_at_no_directory_of_an_earlier_minute(
    spool: Spool, tmp_path: Path
) -> None:
    """A spool that nobody empties for a year has one for each run."""
    queue = QueueSimple(str(spool.path))
    queue.add("of another producer")
    past = int(time.time()) // 60 * 60 - 3600
    for minute in range(50):
        (spool.path / f"{past - 60 * minute:08x}").mkdir()
    (spool.path / "11111111").touch()
    with audit.effort() as effort:
        name = spool.adopt(staged(tmp_path, b"x"))
    (spool.path / "11111111").unlink()  # dirq itself does not pass it by
    assert name == max(queue.names())
    assert spool.skipped == {}
    assert len(effort.listed) <= 2


def test_the_newest_elements_are_found_without_the_old_directories(
    spool: Spool, tmp_path: Path
) -> None:
    assert spool.latest(5, since=datetime.now(UTC)) == []
    now = int(time.time())
    for age, number in ((7200, 3), (3600, 3), (0, 2)):
        for count in range(number):
            path = spool.path / f"{now - age:08x}" / f"{now - age:08x}{count:05x}0"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    (spool.path / f"{now - 1800:08x}").mkdir()  # a sender has left it empty
    (spool.path / f"{now - 7300:08x}").touch()
    theirs = sorted(f"{path.parent.name}/{path.name}" for path in spool.path.glob("????????/*"))
    hours = timedelta(hours=1)
    assert spool.latest(4, since=datetime.now(UTC) - 9 * hours) == theirs[-4:]
    assert spool.skipped == {}
    assert spool.latest(9, since=datetime.now(UTC) - 1.5 * hours) == theirs[-5:]
    assert spool.latest(9, since=datetime.now(UTC) - 9 * hours) == theirs
    assert len(spool.skipped) == 1


def test_an_element_that_could_be_sent_but_not_removed_is_not_sent() -> None:
    """F-H1: in a sticky directory it would be sent again in each run."""
    with foreign.open_to_all() as root:
        queue = QueueSimple(str(root / "spool"), umask=0)
        name = queue.add("x")
        (root / "spool" / name).chmod(0o666)
        (root / "spool" / name).parent.chmod(0o1777)
        spool = Spool(root / "spool")
        with foreign.acting_as_nobody():
            is_locked = spool.lock(ElementName(name))
            lines = [str(line) for line in spool.skipped.values()]
        if os.geteuid() == 0:
            assert not is_locked
            assert lines[0].startswith(
                f"{root}/spool/{name}: skipped: operation not permitted (a file of user 0"
            )
            os.chown(root / "spool" / name, foreign.NOBODY, -1)
            with foreign.acting_as_nobody():
                assert spool.lock(ElementName(name))
        assert Spool(root / "spool").is_locked(ElementName(name))


@pytest.mark.programs("strace")
def test_an_element_whose_lock_cannot_be_renewed_is_not_locked(
    spool: Spool, tmp_path: Path
) -> None:
    """F-H1: others would break the lock at once."""
    name = spool.adopt(staged(tmp_path))
    script = (
        "import sys; from pathlib import Path; from appliance.core.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "assert not spool.lock(sys.argv[2])\n"
        "assert list(spool.skipped) == [spool.path / sys.argv[2]]\n"
        "assert not spool.is_usable(sys.argv[2])\n"
    )
    calls = trace(script, spool.path, name, below=spool.path, inject="utimensat:error=EPERM")
    assert calls == [f"link {name} {name}.lck", f"utimensat {name}", f"unlink {name}.lck"]


def test_a_link_in_the_place_of_a_lock_is_a_lock_until_it_is_old(
    spool: Spool, tmp_path: Path
) -> None:
    name = spool.adopt(staged(tmp_path))
    lock = spool.path / f"{name}.lck"
    lock.symlink_to("nowhere")
    assert spool.is_locked(name)
    assert not spool.lock(name)
    spool.purge()
    assert spool.is_locked(name)
    os.utime(lock, (0, 0), follow_symlinks=False)
    spool.purge()
    assert spool.lock(name)
    assert spool.skipped == {}


def test_leftovers_that_cannot_be_removed_are_named_and_keep_no_other() -> None:
    """F-H1."""
    with foreign.open_to_all() as root:
        queue = QueueSimple(str(root / "spool"), umask=0)
        directory = (root / "spool" / queue.add("x")).parent
        other = root / "spool" / "22222222"
        other.mkdir()
        for path in (directory / f"{'a' * 14}.lck", other / f"{'b' * 14}.tmp"):
            path.touch()
            os.utime(path, (0, 0))
        directory.chmod(0o1777)
        other.chmod(0o777)
        spool = Spool(root / "spool")
        with foreign.acting_as_nobody():
            spool.purge()
        assert not (other / f"{'b' * 14}.tmp").exists()
        if os.geteuid() == 0:
            assert list(spool.skipped) == [directory / f"{'a' * 14}.lck"]


@pytest.mark.root
def test_a_spool_that_is_no_directory_or_closed_says_what_helps(tmp_path: Path) -> None:
    """F-H1: this is no foreign thing beside others, without it nothing can be sent."""
    (tmp_path / "file").touch()
    for look in (lambda spool: list(spool.names()), Spool.count):
        with pytest.raises(LocalFailure, match=f"^{tmp_path}/file: not a directory"):
            look(Spool(tmp_path / "file"))
    with foreign.open_to_all() as root:
        (root / "spool").mkdir(mode=0)
        with foreign.acting_as_nobody() as ids, pytest.raises(LocalFailure) as caught:
            Spool(root / "spool").count()
        said = str(caught.value)
        assert said.startswith(f"{root}/spool: permission denied (a directory of user ")
        assert said.endswith(f"; chown -R {ids} {root}/spool")


def test_an_element_was_made_when_its_name_says(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    os.utime(spool.path / name, (0, 0))
    assert abs(spool.made_at(name).timestamp() - time.time()) < 5
    assert int(spool.made_at(name).timestamp()) == int(name[9:17], 16)


def test_ages_at_which_leftovers_go(spool: Spool, tmp_path: Path) -> None:
    """Five and ten minutes; a link goes, never what it leads to."""
    name = spool.adopt(staged(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    leftovers = {
        f"{'a' * 14}.tmp": 270,
        f"{'b' * 14}.tmp": 330,
        f"{'c' * 14}.lck": 570,
        f"{'d' * 14}.lck": 630,
        f"{'e' * 14}.lck": 630,
    }
    for leftover, age in leftovers.items():
        path = (spool.path / name).parent / leftover
        if leftover.startswith("e"):
            path.symlink_to(tmp_path / "elsewhere")
        else:
            path.touch()
        os.utime(path, (time.time() - age, time.time() - age), follow_symlinks=False)
    spool.purge()
    left = sorted(path.name for path in (spool.path / name).parent.iterdir())
    assert left == sorted([name[9:], f"{'a' * 14}.tmp", f"{'c' * 14}.lck"])
    assert (tmp_path / "elsewhere").exists()


def test_what_another_took_away_is_removed_and_given_back_without_a_word(
    spool: Spool, tmp_path: Path
) -> None:
    for end in (spool.remove, spool.unlock):
        name = spool.adopt(staged(tmp_path))
        end(name)
        assert spool.lock(name) is (end == spool.unlock)
        shutil.rmtree(spool.path)
        end(name)


# ------------------------------------------------------------- others between two of our steps


def test_the_order_in_which_directories_become_durable(spool: Spool, tmp_path: Path) -> None:
    """The name of a new directory before the element, which is then in one place only."""
    source = staged(tmp_path)
    seen: list[tuple[str, bool]] = []

    def note(directory: Path) -> None:
        seen.append((str(directory.relative_to(tmp_path)), source.exists()))

    with audit.directories_opened(note):
        first = spool.adopt(source)
    seen = list(dict.fromkeys(seen))
    assert seen == [(".", True), ("queue", True), (f"queue/{first[:8]}", False), (".", False)]


def test_a_directory_is_made_durable_once(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_900_000_019_500_000_000)
    (spool.path / f"{1_899_999_960:08x}").mkdir(parents=True)
    seen: list[str] = []
    with audit.directories_opened(lambda directory: seen.append(directory.name)):
        for _ in range(2):
            spool.adopt(staged(tmp_path))
    assert seen.count("queue") == 1
    assert seen[0] == "queue"


def test_a_directory_that_a_sender_purges_before_the_move_is_made_again(
    spool: Spool, tmp_path: Path
) -> None:
    source = staged(tmp_path)

    def purge(_: Path) -> None:
        for directory in spool.path.iterdir():
            directory.rmdir()

    spool.path.mkdir()
    with audit.before("open", purge, path=spool.path, times=2):  # its parent's fsync, then its own
        name = spool.adopt(source)
    assert (spool.path / name).read_bytes() == b"x"


def test_an_element_that_a_sender_takes_at_once_was_adopted(spool: Spool, tmp_path: Path) -> None:
    directory = spool.path / spool.adopt(staged(tmp_path, b"the first"))[:8]
    source = staged(tmp_path)
    taken: list[str] = []

    def take(found: Path) -> None:
        if not source.exists():
            taken.extend(path.name for path in found.iterdir())
            shutil.rmtree(found)

    with audit.directories_opened(lambda found: take(found) if found == directory else None):
        name = spool.adopt(source)
    assert name[9:] in taken or name[:8] != directory.name


@pytest.mark.parametrize("takes_lock", [False, True])
def test_an_element_taken_between_link_and_renewal_is_not_locked(
    spool: Spool, tmp_path: Path, *, takes_lock: bool
) -> None:
    name = spool.adopt(staged(tmp_path))

    def take(element: Path) -> None:
        element.unlink()
        if takes_lock:
            element.with_suffix(".lck").unlink()

    with audit.before("os.utime", take):
        assert spool.lock(name) is False
    assert not spool.is_locked(name)
    assert spool.skipped == {}


@pytest.mark.parametrize("takes_lock", [False, True])
def test_a_lock_that_may_not_be_renewed_is_given_back(
    spool: Spool, tmp_path: Path, *, takes_lock: bool
) -> None:
    """F-H1: as above, for an element without a lock."""
    name = spool.adopt(staged(tmp_path))

    def refuse(element: Path) -> None:
        if takes_lock:
            element.with_suffix(".lck").unlink()
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(element))

    with audit.before("os.utime", refuse):
        assert spool.lock(name) is False
    assert not spool.is_locked(name)
    assert list(spool.skipped) == [spool.path / name]


def test_a_leftover_that_another_removes_first_keeps_no_other(spool: Spool, tmp_path: Path) -> None:
    directory = (spool.path / spool.adopt(staged(tmp_path))).parent
    for digit in "ab":
        (directory / f"{digit * 14}.tmp").touch()
        os.utime(directory / f"{digit * 14}.tmp", (0, 0))
    with audit.before("os.remove", os.unlink):
        spool.purge()
    assert list(directory.glob("*.tmp")) == []
    assert spool.skipped == {}


def test_a_directory_that_vanishes_before_it_is_read_is_empty(spool: Spool, tmp_path: Path) -> None:
    name = spool.adopt(staged(tmp_path))
    gone = spool.path / "00000000"
    for look, expected in ((spool.count, 1), (spool.purge, None)):
        gone.mkdir()
        with audit.before("os.scandir", os.rmdir, path=gone):
            assert look() == expected
    gone.mkdir()
    with audit.before("os.listdir", os.rmdir, path=gone):
        assert list(spool.names()) == [name]
    assert spool.skipped == {}


def test_a_directory_that_becomes_something_else_keeps_no_other(
    spool: Spool, tmp_path: Path
) -> None:
    """F-H1: between the two looks at it."""
    name = spool.adopt(staged(tmp_path))
    odd = spool.path / "00000000"
    odd.mkdir()

    def replace(path: Path) -> None:
        path.rmdir()
        path.touch()

    with audit.before("os.listdir", replace, path=odd):
        assert list(spool.names()) == [name]
    assert [str(line) for line in spool.skipped.values()] == [
        f"{odd}: skipped: not a directory; if nobody needs it: rm {odd}"
    ]


# --------------------------------------------------------------------------- names and directories


def test_all_names_are_of_one_length_and_close_together(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever digit a producer draws; one that is faster than its clock gets little ahead."""
    monkeypatch.setattr(secrets, "randbelow", lambda bound: bound - 1)
    monkeypatch.setattr(time, "time_ns", lambda: 1_900_000_019_500_000_000)
    quick = Spool(spool.path)
    names = [quick.adopt(staged(tmp_path)) for _ in range(3)]
    micros = 500_000  # in hex, five digits
    assert names == [f"713fb2d8/713fb313{micros + n:05x}f" for n in range(3)]


def test_an_age_is_reached_when_dirq_says(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = spool.adopt(staged(tmp_path))
    now = 1_900_000_000
    for age in (300, 301):
        path = (spool.path / name).with_name(f"{age:014x}.tmp")
        path.touch()
        os.utime(path, (now - age, now - age))
    theirs = QueueSimple(str(tmp_path / "theirs"))
    shutil.copytree(spool.path, theirs.path, dirs_exist_ok=True)
    monkeypatch.setattr(time, "time", lambda: float(now))
    spool.purge()
    theirs.purge()
    left = [
        sorted(path.name for path in Path(top).glob("*/*.tmp")) for top in (spool.path, theirs.path)
    ]
    assert left == [[f"{300:014x}.tmp"]] * 2


def test_later_directories_follow_those_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F-H1: a file, a link and directories of others are skipped, each with its cause."""
    minute = 1_899_999_960
    monkeypatch.setattr(time, "time_ns", lambda: 1_900_000_019_500_000_000)
    with foreign.open_to_all() as root:
        (root / "elsewhere").mkdir(mode=0o777)
        paths = [root / "spool" / f"{minute + 60 * number:08x}" for number in range(5)]
        paths[0].parent.mkdir()
        paths[0].parent.chmod(0o777)
        paths[0].touch()
        paths[1].symlink_to(root / "elsewhere")
        for path, mode in zip(paths[2:], (0o555, 0o333, 0o666), strict=True):
            path.mkdir()
            path.chmod(mode)
        source = staged(root)
        spool = Spool(root / "spool")
        with foreign.acting_as_nobody():
            name = spool.adopt(source)
            causes = {path: line.cause for path, line in spool.skipped.items()}
        assert name[:8] == f"{minute + 60 * 5:08x}"
        assert sorted(causes) == paths
        assert [causes[path] for path in paths[:2]] == ["skipped: is a file", "skipped: is a link"]
        for path in paths[2:]:
            assert causes[path].startswith("skipped: permission denied (a directory of user ")
            path.chmod(0o700)


def test_the_superuser_may_remove_from_sticky_directories() -> None:
    """F-H1: so may the owner of the directory; the mode of others' elements does not matter."""
    with foreign.open_to_all() as root:
        name = ElementName(QueueSimple(str(root / "spool"), umask=0).add("x"))
        element = root / "spool" / name
        element.parent.chmod(0o1777)
        if os.geteuid() == 0:
            os.chown(element.parent, foreign.NOBODY, -1)
            os.chown(element, foreign.NOBODY, -1)
        assert Spool(root / "spool").lock(name)
        Spool(root / "spool").unlock(name)
        if os.geteuid() == 0:
            os.chown(element, 0, -1)
            element.chmod(0o666)
            with foreign.acting_as_nobody():
                assert Spool(root / "spool").lock(name)
