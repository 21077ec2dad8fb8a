"""Queues and the journal; the queue is read by the dirq library."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.queue import Queue as Dirq

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from appliance.core.run.record import RunRecord
from ssm.journal import Journal, Key
from ssm.queue import Queue
from ssm.store import Store

SCHEMA = {"body": "string", "signer": "string", "empaid": "string?"}
FIELDS = {"body": "Größe\n".encode(), "signer": b"/CN=a", "empaid": b"x/y"}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def read(path: Path) -> list[dict[str, str]]:
    reader = Dirq(str(path), schema=SCHEMA)
    found = []
    name = reader.first()
    while name:
        assert reader.lock(name)
        found.append(reader.get(name))
        reader.remove(name)
        name = reader.next()
    return found


def test_dirq_reads_and_removes_what_was_added(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "incoming")
    names = [queue.stage({**FIELDS, "signer": str(number).encode()}) for number in range(20)]
    queue.seal()
    assert queue.staged() == names
    places = queue.publish(names)
    assert list(places.values()) == [f"00000000/{name}" for name in names]
    assert queue.staged() == []
    assert queue.field(names[3], "signer") == b"3"
    assert [element["signer"] for element in read(queue.path)] == [str(number) for number in range(20)]
    assert queue.field(names[3], "signer") is None


def test_dirq_adds_beside_us(tmp_path: Path) -> None:
    theirs = Dirq(str(tmp_path / "incoming"), schema=SCHEMA)
    theirs.add({"body": "theirs", "signer": "s"})
    ours = Queue(tmp_path / "incoming")
    name = ours.stage(FIELDS)
    ours.seal()
    ours.publish([name])
    assert {element["body"] for element in read(ours.path)} == {"theirs", "Größe\n"}


def test_a_staged_element_is_no_reader_s_business(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "incoming")
    name = queue.stage(FIELDS)
    queue.seal()
    os.utime(queue.staging / name, (0, 0))
    reader = Dirq(str(queue.path), schema=SCHEMA)
    reader.purge(maxtemp=1, maxlock=1)
    assert reader.count() == 0
    assert queue.publish([name]) == {name: f"00000000/{name}"}
    assert queue.publish([name]) == {}


def test_directories_are_filled_to_dirq_s_limit(tmp_path: Path) -> None:
    full = tmp_path / "incoming/00000004"
    full.mkdir(parents=True)
    for number in range(16_000):
        (full / f"{number:014x}").touch()
    queue = Queue(tmp_path / "incoming")
    name = queue.stage(FIELDS)
    queue.seal()
    assert queue.publish([name]) == {name: f"00000005/{name}"}


def test_a_directory_that_a_reader_removed_is_made_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "incoming")
    for _ in range(2):
        name = queue.stage(FIELDS)
        queue.seal()
        queue.publish([name])
        assert len(read(queue.path)) == 1
        (queue.path / "00000000").rmdir()


def test_an_abandoned_element_leaves_nothing(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "incoming")
    before = len(os.listdir("/proc/self/fd"))
    names = [queue.stage(FIELDS), queue.stage(FIELDS)]
    queue.abandon(names)
    assert queue.staged() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_never_go_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path / "incoming")
    first = queue.stage(FIELDS)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    assert queue.stage(FIELDS) > first


def test_a_key_is_signer_id_and_text_in_one_queue(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    key = Key.of("incoming", signer="/CN=a", message_id="x", body=b"text")
    journal.add([(key, "e1")], at=NOW)
    assert journal.knows(key)
    for other in (
        Key.of("reject", signer="/CN=a", message_id="x", body=b"text"),
        Key.of("incoming", signer="/CN=b", message_id="x", body=b"text"),
        Key.of("incoming", signer="/CN=a", message_id="y", body=b"text"),
        Key.of("incoming", signer="/CN=a", message_id="x", body=b"other"),
    ):
        assert not journal.knows(other)
    assert journal.has_element("incoming", "e1")
    assert not journal.has_element("reject", "e1")
    journal.close()
    again = Journal(tmp_path / "journal")
    assert again.knows(key)
    again.forget(before=NOW)
    assert again.knows(key)
    again.forget(before=NOW + timedelta(seconds=1))
    assert not again.knows(key)
    again.close()


def test_a_receiver_forgets_while_it_runs(tmp_path: Path) -> None:
    store = Store(tmp_path, record=RunRecord("ssmreceive"))
    other = Journal(tmp_path / ".received.sqlite")
    old, new = (Key.of("incoming", signer="s", message_id=name, body=b"") for name in ("old", "new"))
    other.add([(old, "e1")], at=clock.now() - timedelta(days=31))
    other.add([(new, "e2")], at=clock.now() - timedelta(days=29))
    store.tidy()
    assert (other.knows(old), other.knows(new)) == (False, True)
    other.close()
    store.close()


def test_rows_are_written_all_or_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    one, two = (Key.of("incoming", signer="s", message_id=name, body=b"") for name in "ab")
    with pytest.raises(LocalFailure):
        journal.add([(one, "e1"), (two, "e2"), (one, "e3")], at=NOW)
    assert not journal.knows(one)
    journal.add([(two, "e2")], at=NOW)
    assert journal.knows(two)
    journal.close()


def test_a_file_that_is_no_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("something else entirely, and long enough to be looked at\n" * 20)
    with pytest.raises(LocalFailure, match=r"file is not a database; .* may be moved away"):
        Journal(tmp_path / "journal")
