"""Queues and the journal; the queue is read by the dirq library."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.queue import Queue as Dirq
from dirq.QueueSimple import QueueSimple as DirqSimple

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from appliance.core.run.record import RunRecord
from ssm.disk_queue import DiskQueue
from ssm.receiving.inbox import Inbox
from ssm.receiving.journal import Journal, MessageKey
from tests import foreign

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
    queue = DiskQueue(tmp_path / "incoming")
    names = [queue.stage({**FIELDS, "signer": str(number).encode()}) for number in range(20)]
    queue.seal()
    assert queue.staged() == names
    places = queue.publish(names)
    assert list(places.values()) == [f"00000000/{name}" for name in names]
    assert queue.staged() == []
    assert queue.field(names[3], "signer") == b"3"
    assert [element["signer"] for element in read(queue.path)] == [
        str(number) for number in range(20)
    ]
    assert queue.field(names[3], "signer") is None


def test_dirq_adds_beside_us(tmp_path: Path) -> None:
    theirs = Dirq(str(tmp_path / "incoming"), schema=SCHEMA)
    theirs.add({"body": "theirs", "signer": "s"})
    ours = DiskQueue(tmp_path / "incoming")
    name = ours.stage(FIELDS)
    ours.seal()
    ours.publish([name])
    assert {element["body"] for element in read(ours.path)} == {"theirs", "Größe\n"}


def test_a_staged_element_is_no_reader_s_business(tmp_path: Path) -> None:
    queue = DiskQueue(tmp_path / "incoming")
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
        os.mknod(full / f"{number:014x}")
    queue = DiskQueue(tmp_path / "incoming")
    name = queue.stage(FIELDS)
    queue.seal()
    assert queue.publish([name]) == {name: f"00000005/{name}"}


def test_a_directory_that_a_reader_removed_is_made_again(tmp_path: Path) -> None:
    queue = DiskQueue(tmp_path / "incoming")
    for _ in range(2):
        name = queue.stage(FIELDS)
        queue.seal()
        queue.publish([name])
        assert len(read(queue.path)) == 1
        (queue.path / "00000000").rmdir()


def test_an_abandoned_element_leaves_nothing(tmp_path: Path) -> None:
    queue = DiskQueue(tmp_path / "incoming")
    before = len(os.listdir("/proc/self/fd"))
    names = [queue.stage(FIELDS), queue.stage(FIELDS)]
    queue.abandon(names)
    assert queue.staged() == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_never_go_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = DiskQueue(tmp_path / "incoming")
    first = queue.stage(FIELDS)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    assert queue.stage(FIELDS) > first


def test_a_key_is_signer_id_and_text_in_one_queue(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    key = MessageKey.of("incoming", signer="/CN=a", message_id="x", body=b"text")
    journal.add([(key, "e1")], at=NOW)
    assert journal.knows(key)
    for other in (
        MessageKey.of("reject", signer="/CN=a", message_id="x", body=b"text"),
        MessageKey.of("incoming", signer="/CN=b", message_id="x", body=b"text"),
        MessageKey.of("incoming", signer="/CN=a", message_id="y", body=b"text"),
        MessageKey.of("incoming", signer="/CN=a", message_id="x", body=b"other"),
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
    store = Inbox(tmp_path, record=RunRecord("ssmreceive"))
    other = Journal(tmp_path / ".received.sqlite")
    old, new = (
        MessageKey.of("incoming", signer="s", message_id=name, body=b"") for name in ("old", "new")
    )
    other.add([(old, "e1")], at=clock.now() - timedelta(days=31))
    other.add([(new, "e2")], at=clock.now() - timedelta(days=29))
    store.tidy()
    assert (other.knows(old), other.knows(new)) == (False, True)
    other.close()
    store.close()


def test_rows_are_written_all_or_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    one, two = (MessageKey.of("incoming", signer="s", message_id=name, body=b"") for name in "ab")
    with pytest.raises(LocalFailure):
        journal.add([(one, "e1"), (two, "e2"), (one, "e3")], at=NOW)
    assert not journal.knows(one)
    journal.add([(two, "e2")], at=NOW)
    assert journal.knows(two)
    journal.close()


def test_a_file_that_is_no_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text(
        "something else entirely, and long enough to be looked at\n" * 20
    )
    with pytest.raises(LocalFailure, match=r"file is not a database; .* may be moved away"):
        Journal(tmp_path / "journal")


def nobody(code: str) -> str:
    return foreign.as_nobody(code, modules="json, ssm.disk_queue, ssm.sending.claims")


@pytest.mark.root
def test_foreign_names_in_a_queue_are_skipped_and_reported() -> None:
    """F-H1: the newest directory and staged elements are root's, dirq's directories are files."""
    with foreign.open_to_all() as root:
        queue = root / "incoming"
        Dirq(str(queue), umask=0, schema=SCHEMA)
        staging = root / ".incoming.staging"
        (queue / "obsolete").rmdir()
        (queue / "obsolete").touch()
        closed, link = queue / "00000007", queue / "00000009"
        closed.mkdir(mode=0)
        link.symlink_to("/tmp")
        staging.mkdir()
        held = staging / ("a" * 14)
        held.mkdir(mode=0o755)
        (held / "body").write_text("known as received")
        for path in (root, queue, staging):
            path.chmod(0o777)
        said = json.loads(
            nobody(
                "import json; from pathlib import Path; from ssm.disk_queue import DiskQueue\n"
                f"queue = DiskQueue(Path({str(queue)!r}))\n"
                f"moved = queue.publish(['{held.name}'])\n"
                "name = queue.stage({'body': b'good', 'signer': b's'})\n"
                "queue.seal()\n"
                "moved |= queue.publish([name])\n"
                "print(json.dumps([name, moved, {str(k): str(v) for k, v in "
                "queue.skipped.items()}]))\n"
            )
        )
        name, moved, lines = said
        if os.geteuid() == 0:
            assert moved == {name: f"00000000/{name}"}
            assert lines.keys() == {str(path) for path in (closed, link, held, queue / "obsolete")}
            assert lines[str(held)].endswith(f"; chown -R {foreign.NOBODY}:{foreign.NOBODY} {held}")
        assert lines[str(closed)].startswith(
            f"{closed}: skipped: permission denied (a directory of user "
        )
        closed.chmod(0o700)
        link.unlink()
        closed.rmdir()
        (queue / "obsolete").unlink()  # dirq itself does not start beside that
        assert {element["body"] for element in read(queue)} == {"good"}


@pytest.mark.root
def test_a_queue_that_cannot_be_used_at_all_says_what_helps() -> None:
    """F-H1."""
    with foreign.open_to_all() as root:
        (root / "incoming").mkdir(mode=0)
        said = nobody(
            "from pathlib import Path; from ssm.disk_queue import DiskQueue\n"
            "try:\n"
            f"    DiskQueue(Path({str(root / 'incoming')!r}))\n"
            "except Exception as error:\n"
            "    print(error)\n"
        )
        assert said.startswith(
            f"{root}/incoming: permission denied (a directory of user {os.geteuid()}, mode "
            "0000); chown"
        )


def test_a_sender_s_journal_that_it_may_not_read_is_named() -> None:
    """F-H1."""
    with foreign.open_to_all() as root:
        theirs = DirqSimple(str(root / "spool"), umask=0)
        name = theirs.add("x")
        (root / "spool" / name).chmod(0o666)
        (root / "journal").touch(mode=0)
        (root / "directory").mkdir()
        for journal in (root / "journal", root / "directory"):
            said = nobody(
                "from pathlib import Path; from ssm.sending.claims import Claims; from "
                "appliance.core.spool import Spool\n"
                f"mine = Claims(Spool(Path({str(root / 'spool')!r})), "
                f"journal=Path({str(journal)!r}))\n"
                "mine.recover()\n"
                "print(*mine.spool.skipped.values(), list(mine.blocks()), mine.release(), "
                "sep='\\n')\n"
            ).splitlines()
            assert said[0].startswith(f"{journal}: skipped: ")
            assert said[1:] == [str([[name]]), str([name])]
        assert theirs.lock(name)
