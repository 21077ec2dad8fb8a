"""Our sender's locks beside a sender that uses the dirq library."""

import os
import time
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.core.spool import ElementName, Spool
from ssm.sending import claims
from ssm.sending.claims import Claims


@pytest.fixture
def theirs(tmp_path: Path) -> QueueSimple:
    return QueueSimple(str(tmp_path / "spool"))


def ours(tmp_path: Path) -> Claims:
    return Claims(Spool(tmp_path / "spool"), journal=tmp_path / "journal")


def locked(path: Path) -> set[str]:
    return {f"{lock.parent.name}/{lock.stem}" for lock in path.glob("spool/*/*.lck")}


def test_a_block_is_locked_for_others(tmp_path: Path, theirs: QueueSimple) -> None:
    names = [theirs.add(f"{number}") for number in range(5)]
    assert theirs.lock(names[1])
    mine = ours(tmp_path)
    [block] = list(mine.blocks())
    assert block == [names[0], *names[2:]]
    assert mine.foreign == [names[1]]
    assert not any(theirs.lock(name, permissive=True) for name in block)
    assert (tmp_path / "journal").read_text().split() == block
    mine.settle(block[0])
    mine.refuse(block[1], "permission denied")
    assert mine.release() == block[2:]
    assert locked(tmp_path) == {names[1]}
    assert theirs.count() == 4
    assert not (tmp_path / "journal").exists()


def test_blocks_are_bounded_by_number_and_size(tmp_path: Path, theirs: QueueSimple) -> None:
    for number in range(claims.MAX_ELEMENTS + 1):
        theirs.add(f"{number}")
    for _ in range(3):
        theirs.add("x" * (claims.MAX_BYTES // 2))
    theirs.add("x" * (claims.MAX_BYTES * 2))
    theirs.add("last")
    sizes = []
    mine = ours(tmp_path)
    for block in mine.blocks():
        sizes.append(len(block))
        for name in block:
            mine.settle(name)
    assert sizes == [claims.MAX_ELEMENTS, 2, 2, 1, 1]
    mine.release()
    assert list(ours(tmp_path).blocks()) == []


def test_a_limit_counts_what_can_be_sent(tmp_path: Path, theirs: QueueSimple) -> None:
    names = [theirs.add(f"{number}") for number in range(5)]
    theirs.lock(names[0])
    assert list(ours(tmp_path).blocks(limit=2)) == [names[1:3]]


def test_only_locks_that_stand_in_the_journal_are_taken_over(
    tmp_path: Path, theirs: QueueSimple
) -> None:
    names = [theirs.add(f"{number}") for number in range(3)]
    assert theirs.lock(names[1])
    [[first, last]] = list(ours(tmp_path).blocks())
    (tmp_path / "spool" / first).unlink()  # killed between the two removals
    again = ours(tmp_path)
    again.recover()
    assert locked(tmp_path) == {names[1]}
    assert list(again.blocks()) == [[last]]


def test_a_lock_that_is_younger_than_a_killed_run_is_somebody_else_s(
    tmp_path: Path, theirs: QueueSimple
) -> None:
    names = [theirs.add(f"{number}") for number in range(2)]
    assert list(ours(tmp_path).blocks()) == [names]
    for name in names:
        os.utime(tmp_path / "spool" / name, (0, 0))
    theirs.purge()  # the killed run's locks are old, and broken
    os.utime(tmp_path / "journal", (0, 0))
    assert theirs.lock(names[0])
    again = ours(tmp_path)
    again.recover()
    assert locked(tmp_path) == {names[0]}
    assert list(again.blocks()) == [[names[1]]]
    assert again.foreign == [names[0]]


def test_a_journal_that_cannot_be_written_keeps_nothing_from_being_sent(
    tmp_path: Path, theirs: QueueSimple, caplog: pytest.LogCaptureFixture
) -> None:
    name = theirs.add("x")
    mine = Claims(Spool(tmp_path / "spool"), journal=tmp_path / "missing" / "journal")
    assert list(mine.blocks()) == [[name]]
    assert f"{tmp_path}/missing/journal: No such file or directory" in caplog.text
    mine.settle(ElementName(name))
    mine.release()
    assert theirs.count() == 0


def test_a_broken_journal_touches_nothing(tmp_path: Path, theirs: QueueSimple) -> None:
    name = theirs.add("x")
    theirs.lock(name)
    (tmp_path / "journal").write_bytes(b"../../etc/passwd\n\xff\0" + name[:-1].encode())
    ours(tmp_path).recover()
    assert locked(tmp_path) == {name}


def test_locks_are_kept_young(
    tmp_path: Path, theirs: QueueSimple, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = theirs.add("x")
    mine = ours(tmp_path)
    assert list(mine.blocks()) == [[name]]
    os.utime(tmp_path / "spool" / name, (0, 0))
    mine.refresh()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    mine.refresh()
    theirs.purge()
    assert locked(tmp_path) == {name}


def test_an_element_that_may_not_be_locked_is_left_and_named(
    tmp_path: Path, theirs: QueueSimple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with fs.protected_hardlinks and an element that belongs to somebody else (F-H1)."""
    names = [ElementName(theirs.add(f"{number}")) for number in range(2)]
    os.chown(tmp_path / "spool" / names[0], 4321, 4321)
    link = os.link

    def protected(source: Path, target: Path) -> None:
        if str(source).endswith(names[0]):
            raise PermissionError(1, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", protected)
    mine = ours(tmp_path)
    assert list(mine.blocks()) == [[names[1]]]
    path = tmp_path / "spool" / names[0]
    assert str(mine.spool.skipped[path]).startswith(f"{path}: skipped: operation not permitted")
    assert str(mine.spool.skipped[path]).endswith(
        f"; chown -R {os.geteuid()}:{os.getegid()} {path}"
    )
    assert mine.spool.count() == 2
