"""The ledger's file: modes, damage, other programs, versions, a full disk, two writers."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import Busy, LocalFailure
from caso.ledger import schema
from caso.ledger.ledger import Ledger
from caso.ledger.model import LedgerRow, Month, Origin, Span, Stream
from caso.ledger.store import LedgerFile
from tests import foreign

STREAM = Stream(Origin("https://keystone.example.org/v3", "RegionOne", "p1"), "cloud", "ssm")
END = datetime(2026, 11, 22, tzinfo=UTC)
SPAN = Span(END - timedelta(days=1), END)


def deliver(ledger: Ledger, number: int = 1, *, rows: int = 1) -> None:
    intent = ledger.deliveries.intent(f"batch {number}", STREAM)
    made = [LedgerRow(f"{number}/{one}", Month(202611), 1, END, "vo") for one in range(rows)]
    intent.add(b"", made)
    intent.seal(SPAN, checkpoint=END)
    ledger.deliveries.confirm(f"batch {number}")


def count(ledger: Ledger) -> int:
    return len(list(ledger.deliveries.rows(Month(202611), "ssm")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/ledger.sqlite"


def test_the_file_is_for_its_owner_and_group(path: Path) -> None:
    previous = os.umask(0)
    try:
        with Ledger(path) as ledger:
            assert ledger.is_new
            deliver(ledger)
            assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o640}
    finally:
        os.umask(previous)
    assert [one.name for one in path.parent.iterdir()] == ["ledger.sqlite"]
    with Ledger(path) as ledger:
        assert not ledger.is_new
        assert count(ledger) == 1


def test_an_empty_file_is_a_lost_ledger(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with Ledger(path) as ledger:
        assert ledger.is_new
        deliver(ledger)
        assert count(ledger) == 1


def test_reading_makes_no_file(path: Path) -> None:
    with Ledger(path, read_only=True) as ledger:
        assert ledger.is_new
        assert count(ledger) == 0
        assert ledger.windows.all() == {}
        assert ledger.deliveries.shrinking(STREAM, [("a", Month(202611), 1, 1)]) == []
    assert not path.parent.exists()


def test_a_block_of_reading_sees_one_state(path: Path) -> None:
    with Ledger(path) as ledger, Ledger(path) as writer:
        with ledger.file.reading() as connection:
            query = "SELECT count(*) FROM deliveries"
            before = connection.execute(query).fetchone()
            deliver(writer)
            assert connection.execute(query).fetchone() == before == (0,)
        assert count(ledger) == 1


def test_numbers_of_a_transaction_that_failed_are_made_again(path: Path) -> None:
    with Ledger(path) as ledger:
        numbers = ledger.file.numbers

        def fail() -> None:
            with ledger.file.transaction() as connection:
                numbers.word(connection, "storage")
                connection.execute("no SQL")

        with pytest.raises(LocalFailure):
            fail()
        with ledger.file.transaction() as connection:
            number = numbers.word(connection, "storage")
            found = connection.execute("SELECT text FROM words WHERE id = ?", (number,)).fetchone()
        assert found == ("storage",)


@pytest.mark.root
def test_an_account_that_may_only_read() -> None:
    with foreign.open_to_all() as root:
        path = root / "state/ledger.sqlite"
        with Ledger(path) as ledger:
            deliver(ledger)
        path.parent.chmod(0o755)
        path.chmod(0o644)
        with foreign.acting_as_nobody():
            with Ledger(path, read_only=True) as ledger:
                assert count(ledger) == 1
            with pytest.raises(LocalFailure) as found, Ledger(path) as ledger:
                deliver(ledger)
            assert str(found.value).startswith(f"{path}: attempt to write a readonly database; ")
        path.chmod(0o600)
        with foreign.acting_as_nobody(), pytest.raises(LocalFailure) as found:
            Ledger(path, read_only=True)
        assert str(found.value) == (
            f"{path}: unable to open database file; check owner and mode of the file and of the"
            " directories above it"
        )


def test_a_database_of_another_program_stays_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(LocalFailure) as found:
            Ledger(path, read_only=read_only)
        assert str(found.value) == (
            f"{path}: is a database of another program; set [ledger] path to another file, or move"
            " this one away"
        )
    assert path.read_bytes() == before


def test_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("2026-11-22 07:22:42+00:00\n" * 100)
    with pytest.raises(LocalFailure) as found:
        Ledger(path)
    assert str(found.value) == (
        f"{path}: is damaged (file is not a database); mv {path} {path}.damaged; the next"
        " caso-extract makes another from the spool and SSM's journal"
    )


def test_a_directory_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LocalFailure, match=f"^{path}: is a directory; "):
        Ledger(path)


@pytest.mark.parametrize("kept", [100, 4096, 8192, 0.5])
def test_a_torn_file(path: Path, kept: float) -> None:
    """Every call says one line; none returns a part of what was delivered as if it were all."""
    with Ledger(path) as ledger:
        deliver(ledger, rows=3000)
    size = path.stat().st_size
    os.truncate(path, kept if isinstance(kept, int) else int(size * kept))
    with pytest.raises(LocalFailure) as found, Ledger(path) as ledger:
        count(ledger)
    assert " is damaged (" in str(found.value)
    assert f"; mv {path} {path}.damaged; " in str(found.value)


def test_pages_that_were_overwritten_are_found_by_a_check(path: Path) -> None:
    with Ledger(path) as ledger:
        deliver(ledger, rows=3000)
        ledger.file.check()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)
    with Ledger(path) as ledger, pytest.raises(LocalFailure, match=" is damaged "):
        ledger.file.check()


def test_a_newer_file_is_refused_and_kept(path: Path) -> None:
    LedgerFile(path, steps=(*schema.STEPS, "CREATE TABLE newer (a)")).close()
    newer = len(schema.STEPS) + 1
    with pytest.raises(LocalFailure) as found:
        Ledger(path)
    assert f"was written by a newer release (version {newer} of the ledger" in str(found.value)
    assert "install that release again, or: mv " in str(found.value)
    LedgerFile(path, steps=(*schema.STEPS, "CREATE TABLE newer (a)")).close()


def test_an_older_file_is_upgraded_with_its_rows(path: Path) -> None:
    with Ledger(path) as ledger:
        deliver(ledger)
    steps = (*schema.STEPS, "CREATE TABLE newer (a);\nINSERT INTO newer VALUES (1)")
    with pytest.raises(LocalFailure, match="the next caso-extract upgrades it; run that first"):
        LedgerFile(path, read_only=True, steps=steps)
    for _ in range(2):
        file = LedgerFile(path, steps=steps)
        with file.reading() as connection:
            assert connection.execute("SELECT count(*) FROM newer").fetchone() == (1,)
            assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (1,)
        file.close()


def test_an_upgrade_that_fails_changes_nothing(path: Path) -> None:
    with Ledger(path) as ledger:
        deliver(ledger)
    with pytest.raises(LocalFailure, match="the ledger cannot be used"):
        LedgerFile(
            path, steps=(*schema.STEPS, "CREATE TABLE newer (a);\nINSERT INTO none VALUES (1)")
        )
    with Ledger(path) as ledger:
        assert count(ledger) == 1


@pytest.mark.root
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with foreign.small_disk(tmp_path, size="1m") as disk:
        path = disk / "ledger.sqlite"
        with Ledger(path) as ledger:
            deliver(ledger, rows=10)
            foreign.fill(disk / "fill")
            with pytest.raises(LocalFailure) as found:
                deliver(ledger, 2, rows=3000)
            assert str(found.value) == (
                f"{path}: No space left on device; free space on this file system; nothing is lost,"
                " the next run continues from here"
            )
            assert count(ledger) == 10
        with Ledger(path, read_only=True) as ledger:
            assert count(ledger) == 10
        (disk / "fill").unlink()
        with Ledger(path) as ledger:
            ledger.file.check()
            for batch in ledger.deliveries.outstanding():
                ledger.deliveries.withdraw(batch.name)
            deliver(ledger, 3, rows=100)
            assert count(ledger) == 110


@pytest.mark.root
def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path) -> None:
    with foreign.small_disk(tmp_path, size="512k") as disk:
        foreign.fill(disk / "fill")
        with pytest.raises(LocalFailure, match="No space left on device; free space"):
            Ledger(disk / "ledger.sqlite")
        (disk / "fill").unlink()
        with Ledger(disk / "ledger.sqlite") as ledger:
            assert ledger.is_new  # it is empty, so nothing says that this is not a lost one


def test_a_second_writer_waits_up_to_a_limit(path: Path) -> None:
    with Ledger(path) as first:
        second = Ledger(path, wait=timedelta(milliseconds=50))
        with first.file.transaction():
            with pytest.raises(Busy) as found:
                deliver(second)
            assert str(found.value) == (
                f"{path}: another program is writing it; try again when that has ended"
            )
            assert count(second) == 0  # readers do not wait
        deliver(second)
        second.close()
        assert count(first) == 1


def test_threads_share_a_ledger(path: Path) -> None:
    failures: list[BaseException] = []
    with Ledger(path) as ledger:

        def work(number: int) -> None:
            try:
                for turn in range(5):
                    deliver(ledger, 10 * number + turn, rows=30)
            except BaseException as error:  # noqa: BLE001  shown below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert count(ledger) == 8 * 5 * 30
