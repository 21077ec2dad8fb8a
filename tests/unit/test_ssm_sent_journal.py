"""B25: the journal of sent messages, read back with SQLite alone."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.usage_messages import Contents, SentRecord
from ssm.cmds import control
from ssm.sending import sent_journal, sent_list
from ssm.sending.dead_letters import DeadLetters
from ssm.sending.sender import Sender
from ssm.sending.sent_journal import SentJournal, SentMessage
from ssm.settings import load_sender
from tests import foreign
from tests.simulators import ams_service
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.syscalls import trace
from tests.testbed.trust import Trust
from tests.unit.test_ssm_sender import sender_to

MIB = 1024 * 1024
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def broker(trust: Trust) -> Iterator[FaultBroker]:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as made:
        yield made


def at(directory: Path) -> Path:
    return directory / "var/lib/fedcloud/ssm/sent.sqlite"


def rows(directory: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{at(directory)}?mode=ro", uri=True)) as opened:
        return opened.execute(query).fetchall()


def cloud(number: int, wall: int, *, size: int = 0) -> str:
    # 1793000000 is 2026-10-26; what is about 5 days longer is November's.
    return (
        f"LocalGroupId: p\nMachineName: {'x' * size}\nStartTime: 1793000000\nStatus: started\n"
        f"VMUUID: vm-{number}\nWallDuration: {wall}\n"
    )


def message(*records: str) -> str:
    return "APEL-cloud-message: v0.4\n" + "%%\n".join(records)


def enqueue(directory: Path, *texts: str) -> list[str]:
    spool = QueueSimple(str(directory / "spool"))
    return [spool.add(text) for text in texts]


def test_what_a_broker_acknowledged_is_in_the_journal(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    texts = [message(cloud(1, 100), cloud(2, 600_000)), message(cloud(1, 200)), "unknown\n"]
    names = enqueue(tmp_path, *texts)
    begin = clock.now().replace(microsecond=0)
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    found = rows(tmp_path, "SELECT id, element, sha256, bytes, broker, argo_id FROM message")
    assert found == [
        (
            *(name, name, hashlib.sha256(text.encode()).hexdigest(), len(text)),
            *(f"localhost:{broker.port}", ""),
        )
        for name, text in zip(names, texts, strict=True)
    ]
    assert rows(tmp_path, "SELECT records, unread FROM message") == [(2, 0), (1, 0), (0, 1)]
    for (text,) in rows(tmp_path, "SELECT at FROM message"):
        assert begin <= datetime.fromisoformat(text) <= clock.now()
    assert rows(tmp_path, "SELECT * FROM destination") == [
        (1, "STOMP", "/queue/x", "", f"{tmp_path}/spool")
    ]
    # Of one server and month the last delivery counts, as at the repository.
    assert rows(
        tmp_path, "SELECT kind, key, month, amount, uuid, project, message FROM record"
    ) == [
        ("cloud", "vm-1", "2026-10", 200, "vm-1", "p", 2),
        ("cloud", "vm-2", "2026-11", 600_000, "vm-2", "p", 1),
    ]
    assert stat.S_IMODE(at(tmp_path).stat().st_mode) == 0o640
    assert QueueSimple(str(tmp_path / "spool")).count() == 0


def test_ids_of_ams_are_in_the_journal(tmp_path: Path, trust: Trust) -> None:
    names = enqueue(tmp_path, *(message(cloud(n, n)) for n in range(3)))
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0)
        assert sender.run() is ExitStatus.DONE
        assert [stored.attributes["empaid"] for stored in service.topics["x"]] == names
    assert rows(tmp_path, "SELECT id, argo_id FROM message ORDER BY number") == [
        (name, str(number)) for number, name in enumerate(names)
    ]
    assert rows(tmp_path, "SELECT protocol, name, ams_project FROM destination") == [
        ("AMS", "x", "accounting")
    ]


def test_a_service_may_answer_with_any_id(tmp_path: Path, trust: Trust) -> None:
    [name] = enqueue(tmp_path, message(cloud(1, 1)))
    body = b'{"messageIds": ["' + rb"\ud800" + b"x" * 999 + b'"]}'
    fault = ams_service.Fault(ams_service.Kind.ANSWER, body=body)
    with AMS(trust.host("broker"), trust.grid.certificate, [fault]) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0)
        assert sender.run() is ExitStatus.DONE
    [(sent_id, argo_id)] = rows(tmp_path, "SELECT id, argo_id FROM message")
    assert (sent_id, argo_id) == (name, "\\ud800" + "x" * 254)


def test_parts_of_a_message_have_the_digest_of_the_whole(tmp_path: Path, trust: Trust) -> None:
    text = message(*(cloud(n, n, size=700) for n in range(3000)))
    [name] = enqueue(tmp_path, text)
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.DONE
        sent = service.ids("x")
    found = rows(tmp_path, "SELECT id, element, sha256, records FROM message ORDER BY number")
    assert [row[0] for row in found] == sent
    assert sent[:3] == [name, f"{name}.1", f"{name}.2"]
    assert {row[1:3] for row in found} == {(name, hashlib.sha256(text.encode()).hexdigest())}
    assert sum(row[3] for row in found) == 3000
    assert rows(tmp_path, "SELECT count(*), sum(amount) FROM record") == [(3000, sum(range(3000)))]


def test_a_part_that_is_set_aside_leaves_the_others_in_the_journal(
    tmp_path: Path, trust: Trust
) -> None:
    records = [cloud(0, 1), cloud(1, 1, size=MIB), cloud(2, 1)]
    [name] = enqueue(tmp_path, message(*records))
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.PARTLY
    assert rows(tmp_path, "SELECT id FROM message") == [(name,), (f"{name}.2",)]
    assert rows(tmp_path, "SELECT key FROM record") == [("vm-0",), ("vm-2",)]


def test_a_message_without_receipt_is_not_in_the_journal(tmp_path: Path, trust: Trust) -> None:
    names = enqueue(tmp_path, *(message(cloud(n, 1)) for n in range(4)))
    faults = [Fault(Kind.CLOSE_AFTER_SEND, after=number) for number in (2, *[0] * 10)]
    with FaultBroker(trust.host("broker"), trust.grid.certificate, faults) as broker:
        sender, _ = sender_to(broker, tmp_path, trust, 0, seconds=1)
        with contextlib.suppress(Unavailable):  # the receipts may be lost with the connection
            sender.run()
        accepted = broker.accepted
    assert accepted == names[:2]
    left = QueueSimple(str(tmp_path / "spool")).names()
    kept = rows(tmp_path, "SELECT id FROM message") if at(tmp_path).exists() else []
    assert [*(name for (name,) in kept), *left] == names


def test_a_message_that_overtook_a_bad_one_has_the_id_that_it_was_sent_with(
    tmp_path: Path, trust: Trust
) -> None:
    """A later receipt took it for one that must be sent again, under another id."""
    texts = [message(cloud(0, 1)), message(cloud(1, 1)), "POISON", *[message(cloud(2, 1))] * 2]
    names = enqueue(tmp_path, *texts)
    poison = (b"POISON", Fault(Kind.CLOSE_AFTER_SEND))
    with FaultBroker(trust.host("broker"), trust.grid.certificate, poison=poison) as broker:
        sender, _ = sender_to(broker, tmp_path, trust, 0)
        assert sender.run() is ExitStatus.PARTLY
    good = [*names[:2], *names[3:]]
    assert [name for (name,) in rows(tmp_path, "SELECT id FROM message")] == good
    assert not (tmp_path / ".spool.ssm.suspects").exists()


# ---------------------------------------------------------------- a journal that cannot be written


def run_with_fault(directory: Path, trust: Trust, broker: FaultBroker) -> tuple[Sender, str]:
    """Send three messages; return the sender and the one line about the journal."""
    names = enqueue(directory, *(message(cloud(n, 1)) for n in range(3)))
    sender, _ = sender_to(broker, directory, trust, 0)
    assert sender.run() is ExitStatus.PARTLY
    assert broker.accepted == names
    assert QueueSimple(str(directory / "spool")).count() == 0
    [line] = sender._record.failures
    assert sender._record.counts["missing_in_journal"] == 3
    assert line.endswith("; sent messages that it does not have: 3")
    return sender, line


def test_a_file_of_others_stays_and_sending_goes_on(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).write_text("notes of somebody\n" * 100)
    before = at(tmp_path).read_bytes()
    _, line = run_with_fault(tmp_path, trust, broker)
    assert line.startswith(f"{at(tmp_path)}: the journal of sent messages: file is not a database")
    assert at(tmp_path).read_bytes() == before


def test_a_database_of_others_and_a_newer_journal_stay(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(at(tmp_path))) as opened:
        opened.execute("CREATE TABLE message (text)")
    _, line = run_with_fault(tmp_path, trust, broker)
    assert line.startswith(f"{at(tmp_path)}: is not the journal of sent messages; move it away; ")
    at(tmp_path).unlink()
    SentJournal(load_sender(tmp_path / "sender.cfg", layout=Layout(tmp_path))).write([delivery()])
    with contextlib.closing(sqlite3.connect(at(tmp_path))) as opened:
        opened.execute("PRAGMA user_version = 2")
    broker.sent.clear()
    broker.accepted.clear()
    _, line = run_with_fault(tmp_path, trust, broker)
    assert "is of a newer version of this program (tables 2)" in line


@pytest.mark.parametrize("kind", ["directory", "dangling", "pipe"])
def test_foreign_names_do_not_stop_the_sender(
    tmp_path: Path, trust: Trust, broker: FaultBroker, kind: str
) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    made = {path.name: path for path in foreign.make(tmp_path / "foreign")}
    sender, _ = sender_to(broker, tmp_path, trust, 0)  # the settings refuse a directory at once
    made[kind].rename(at(tmp_path))
    names = enqueue(tmp_path, message(cloud(0, 1)))
    assert sender.run() is ExitStatus.PARTLY
    assert broker.accepted == names
    [line] = sender._record.failures
    assert line.startswith(f"{at(tmp_path)}: ")


def test_a_check_says_that_the_journal_cannot_be_written() -> None:
    with foreign.open_to_all() as directory:
        closed = directory / "closed"
        closed.mkdir(0o755)
        (closed / "made.sqlite").touch(0o644)
        with foreign.acting_as_nobody():
            for name in ("made.sqlite", "new.sqlite", "below/new.sqlite"):
                text = sent_journal.complaint(closed / name)
                # Who is nobody already owns what was made above.
                assert bool(text) == (os.geteuid() != closed.stat().st_uid)
                assert text.startswith(f"{closed / name}: the journal of sent messages") or not text
            assert sent_journal.complaint(directory / "below/new.sqlite") == ""


def test_a_reader_that_does_not_end_does_not_stop_the_sender(
    tmp_path: Path, trust: Trust, broker: FaultBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent_journal, "_PATIENCE", 0.2)
    enqueue(tmp_path, message(cloud(9, 1)))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    with contextlib.closing(sqlite3.connect(at(tmp_path), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM message").fetchall() == [(1,)]
        broker.accepted.clear()
        _, line = run_with_fault(tmp_path, trust, broker)
        assert "database is locked" in line
    enqueue(tmp_path, message(cloud(8, 1)))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    assert rows(tmp_path, "SELECT key FROM record") == [("vm-8",), ("vm-9",)]


def test_the_rows_that_wait_are_bounded(tmp_path: Path, trust: Trust, broker: FaultBroker) -> None:
    sender_to(broker, tmp_path, trust, 0)
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).write_text("no database\n" * 100)
    journal = SentJournal(load_sender(tmp_path / "sender.cfg", layout=Layout(tmp_path)))
    for number in range(10):
        journal.write([delivery(id=f"{number}-{n}") for n in range(16)])
    assert (journal.lost, len(journal._waiting)) == (160, 64)
    at(tmp_path).unlink()
    journal.finish()
    assert rows(tmp_path, "SELECT count(*), min(id), max(id) FROM message") == [(64, "6-0", "9-9")]
    [line] = journal.failures()
    assert line.endswith("sent messages that it does not have: 96")


def test_no_journal_is_kept_on_request(tmp_path: Path, trust: Trust, broker: FaultBroker) -> None:
    enqueue(tmp_path, message(cloud(9, 1)))
    sender_to(broker, tmp_path, trust, 0)
    config = tmp_path / "sender.cfg"
    config.write_text(f"{config.read_text()}[journal]\nmonths: 0\n")
    journal = SentJournal(load_sender(config, layout=Layout(tmp_path)))
    journal.write([delivery()])
    journal.finish()
    assert (journal.is_on, journal.lost, at(tmp_path).exists()) == (False, 0, False)


# ------------------------------------------------------------------------------------- retention


def delivery(*, key: str = "a", when: datetime = NOW, id: str = "x/y") -> SentMessage:  # noqa: A002
    found = SentRecord("cloud", key, f"{when:%Y-%m}", 1, int(when.timestamp()), key)
    return SentMessage(id, "x/y", "00", 1, "b:1", "", when, Contents((found,), 0))


def journal_of(directory: Path, *, months: int = 24, path: str = "") -> SentJournal:
    for name in ("hostcert.pem", "hostkey.pem"):
        (directory / name).touch()
    (directory / "sender.cfg").write_text(
        "[sender]\nprotocol: STOMP\n[broker]\nhost: b:1\n[certificates]\n"
        f"certificate: {directory}/hostcert.pem\nkey: {directory}/hostkey.pem\n"
        f"capath: {directory}\n[messaging]\ndestination: /queue/x\npath: {directory}/spool\n"
        f"[journal]\nmonths: {months}\n{path}"
    )
    return SentJournal(load_sender(directory / "sender.cfg", layout=Layout(directory)))


def test_rows_are_removed_after_their_time_and_a_month_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is wrong for one run takes at most a month of the oldest rows."""
    journal = journal_of(tmp_path)
    begin = datetime(2022, 1, 15, tzinfo=UTC)
    moments = [begin + timedelta(days=30.5 * number) for number in range(36)]  # to December 2024
    journal.write([delivery(key=f"vm-{n}", when=when) for n, when in enumerate(moments)])

    def left(now: datetime) -> int:
        monkeypatch.setattr(clock, "now", lambda: now)
        finished = journal_of(tmp_path)
        os.utime(at(tmp_path), (0, 0))  # a day has passed
        finished.finish()
        assert finished.failures() == []
        [(messages,)] = rows(tmp_path, "SELECT count(*) FROM message")
        assert rows(tmp_path, "SELECT count(*) FROM record") == [(messages,)]
        return int(messages)

    assert left(datetime(2024, 1, 31, tzinfo=UTC)) == 36  # the month and the 24 before it
    assert left(datetime(2024, 2, 1, tzinfo=UTC)) == 35
    assert left(datetime(2024, 2, 1, tzinfo=UTC)) == 35
    assert left(datetime(2044, 2, 1, tzinfo=UTC)) == 33  # 31 days of the oldest rows
    assert left(datetime(1970, 2, 1, tzinfo=UTC)) == 33
    oldest = min(row[0] for row in rows(tmp_path, "SELECT at FROM message"))
    assert oldest.startswith("2022-04")


def test_upkeep_takes_place_once_a_day(tmp_path: Path) -> None:
    journal_of(tmp_path).write([delivery(when=datetime(2000, 1, 1, tzinfo=UTC))])
    journal_of(tmp_path).finish()
    assert rows(tmp_path, "SELECT count(*) FROM message") == [(1,)]
    os.utime(at(tmp_path), (0, 0))
    journal_of(tmp_path).finish()
    assert rows(tmp_path, "SELECT count(*) FROM message") == [(0,)]


def test_purge_removes_all_that_is_too_old_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = journal_of(tmp_path, months=6)
    now = clock.now()
    ages = (1, 100, 300, 900)
    journal.write([delivery(key=f"{n}", when=now - timedelta(days=n)) for n in ages])
    assert ctl(tmp_path, "--purge") == 0
    assert capsys.readouterr().out == f"2 messages removed from {at(tmp_path)}; kept: 6 months\n"
    assert rows(tmp_path, "SELECT key FROM record ORDER BY key") == [("1",), ("100",)]
    assert ctl(tmp_path, "--purge", "--month", "2026-10") == 2


# ------------------------------------------------------------------------------------- readers


def ctl(directory: Path, *words: str) -> int:
    flags = ["sent", "--root", str(directory), "-c", str(directory / "sender.cfg"), *words]
    return cli.main(control.PROGRAM, flags)


def test_sent_lists_messages_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = journal_of(tmp_path)
    assert ctl(tmp_path) == 3
    assert "no message has been sent yet" in capsys.readouterr().err
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).touch()  # what a kill or a power cut leaves of a new file
    for words in ([], ["--month", "2026-10"], ["--purge"]):
        assert ctl(tmp_path, *words) == 3
        assert "no message has been sent yet" in capsys.readouterr().err
    october = datetime(2026, 10, 3, 4, 5, 6, tzinfo=UTC)
    journal.write([delivery(key="a", when=october, id="1/1"), delivery(key="b", id="2/2")])
    journal.finish()
    assert ctl(tmp_path) == 0
    assert capsys.readouterr().out == (
        "2026-10-03T04:05:06Z  1/1  1 records  /queue/x at b:1\n"
        "2026-11-30T12:00:00Z  2/2  1 records  /queue/x at b:1\n"
        f"2 messages in {at(tmp_path)}\n"
    )
    for words, expected in (
        (["--since", "2026-11-01"], ["2/2"]),
        (["--month", "2026-10"], ["1/1"]),
        (["--uuid", "b"], ["2/2"]),
        (["--uuid", "b", "--month", "2026-10"], []),
    ):
        assert ctl(tmp_path, *words, "--json") == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [entry["id"] for entry in found] == expected
    assert ctl(tmp_path, "--uuid", "b") == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "2026-11  cloud  b  1 s  2/2 of 2026-11-30T12:00:00Z to /queue/x"
    )
    for words in (["--month", "2026-13"], ["--since", "yesterday"]):
        with pytest.raises(SystemExit) as caught:
            ctl(tmp_path, *words)
        assert caught.value.code == 2


def test_a_listing_goes_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_list, "_PAGE", 7)
    journal = journal_of(tmp_path)
    journal.write([delivery(key=f"{n:03}", id=f"{n:03}") for n in range(50)])
    with sent_list.opened(at(tmp_path)) as connection:
        ids = [row["id"] for row in sent_list.messages(connection)]
        keys = [row["key"] for row in sent_list.records(connection)]
    assert ids == keys == [f"{n:03}" for n in range(50)]


_KILLED = """
import os, sqlite3, sys
opened = sqlite3.connect(sys.argv[1], isolation_level=None)
opened.execute("PRAGMA journal_mode = TRUNCATE")
opened.execute("PRAGMA cache_size = 1")  # what does not fit goes to the file before the commit
opened.execute("BEGIN IMMEDIATE")
for number in range(5000):
    opened.execute("INSERT INTO message VALUES (NULL,1,'lost','','',0,'','','2026',0,0)")
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_run_left_is_restored_by_the_next_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = journal_of(tmp_path)
    journal.write([delivery()])
    journal.finish()
    subprocess.run([sys.executable, "-c", _KILLED, str(at(tmp_path))], check=False)
    assert sent_journal.is_torn(at(tmp_path))
    assert ctl(tmp_path) == 3
    said = capsys.readouterr().err
    assert said == (
        f"ssmctl: {at(tmp_path)}: the sender was stopped while it wrote; the next run of ssmsend"
        " restores it\n"
    )
    journal_of(tmp_path).finish()  # a run that finds an empty spool
    assert not sent_journal.is_torn(at(tmp_path))
    assert rows(tmp_path, "SELECT id FROM message") == [("x/y",)]


def test_two_programs_write_one_after_the_other(tmp_path: Path) -> None:
    """A run of one configuration beside the job: neither loses a row."""
    first, second = journal_of(tmp_path), journal_of(tmp_path)
    first.write([delivery(id="1")])
    is_held = threading.Event()

    def hold() -> None:
        with contextlib.closing(sqlite3.connect(at(tmp_path), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            is_held.set()
            time.sleep(0.3)
            other.execute("COMMIT")

    holding = threading.Thread(target=hold)
    holding.start()
    is_held.wait()
    second.write([delivery(id="2")])
    holding.join()
    assert (second.lost, second.failures()) == (0, [])
    assert rows(tmp_path, "SELECT id FROM message") == [("1",), ("2",)]


_SEND = """
import sys
from ssm.cmds.send import main
sys.argv = ["ssmsend", "--root", sys.argv[1], "-c", sys.argv[1] + "/sender.cfg"]
main()
"""


@pytest.mark.programs("strace")
def test_a_message_leaves_the_spool_after_its_row_is_on_disk(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    """After a power cut it is in the spool, in the journal, or in both."""
    names = enqueue(tmp_path, *(message(cloud(n, 1)) for n in range(3)))
    sender_to(broker, tmp_path, trust, 0)
    config = tmp_path / "sender.cfg"
    config.write_text(f"{config.read_text()}[logging]\nlogfile: {tmp_path}/log\nconsole: false\n")
    calls = trace(_SEND, tmp_path, below=tmp_path)
    assert broker.accepted == names
    file = "var/lib/fedcloud/ssm/sent.sqlite"
    removed = [calls.index(f"unlink spool/{name}") for name in names]
    before, after = calls[: removed[0]], calls[removed[0] :]
    synced = [call for call in before if call in (f"fdatasync {file}", f"fsync {file}")]
    assert synced
    # The commit is the truncation of the rollback journal, which is made durable, too.
    last = max(i for i, call in enumerate(before) if call.endswith(f"sync {file}-journal"))
    assert last > max(i for i, call in enumerate(before) if call.endswith(f"sync {file}"))
    assert not [call for call in after if call.endswith(f"sync {file}")]


def test_upkeep_of_a_file_that_was_damaged_is_reported(tmp_path: Path) -> None:
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).write_text("no database\n" * 1000)
    os.utime(at(tmp_path), (0, 0))
    journal = journal_of(tmp_path)
    journal.finish()
    [line] = journal.failures()
    assert line.startswith(f"{at(tmp_path)}: the journal of sent messages: file is not a database")
    assert journal.lost == 0


def test_a_dead_letter_replaces_no_newer_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B18, F-A1: of any kind, as far as the journal knows."""
    journal, ids = journal_of(tmp_path), [f"6b029cc8/6b029cd97178{n}0" for n in range(4)]
    text = json.dumps(
        {
            "Type": "APEL Public IP message",
            "UsageRecords": [
                {"LocalGroup": group, "IPVersion": 4, "IPCount": 1, "MeasurementTime": 1793000000}
                for group in ("p", "q")
            ],
        }
    ).encode()

    def bury(name: str) -> None:
        DeadLetters(tmp_path / "failed/spool").add(
            name, text, reason="r", first_seen=NOW, attempts=1, last_error=""
        )

    def deliver(group: str, element: str) -> None:
        record = SentRecord("ip", f"{group}//IPv4", "2026-10", 2, 1793000000, project=group)
        one = delivery(id=element)
        journal.write([replace(one, element=element, contents=Contents((record,), 0))])

    def requeue(name: str, *words: str) -> int:
        flags = ["--root", str(tmp_path), "-c", str(tmp_path / "sender.cfg")]
        return cli.main(control.PROGRAM, ["requeue", *flags, name, *words])

    bury(ids[1])
    at(tmp_path).parent.mkdir(parents=True)
    at(tmp_path).touch()  # what a kill leaves of a new file
    assert requeue(ids[1]) == 0
    shutil.rmtree(tmp_path / "spool")
    bury(ids[1])
    deliver("p", ids[0])  # an earlier one: there is nothing that it would replace
    assert requeue(ids[1]) == 0
    bury(f"{ids[1]}.2")
    # What waits in the spool would be sent before it, and replaced by it.
    assert requeue(f"{ids[1]}.2") == 2
    [waiting] = [path.relative_to(tmp_path / "spool") for path in (tmp_path / "spool").glob("*/*")]
    assert (
        f"ssmctl: {ids[1]}.2: has records that wait in {tmp_path}/spool too, such as p//IPv4 of"
        f" 2026-10 in {waiting}, and it would be sent after them; let ssmsend send these first,"
    ) in capsys.readouterr().err
    shutil.rmtree(tmp_path / "spool")
    deliver("q", ids[3])
    capsys.readouterr()
    assert requeue(f"{ids[1]}.2") == 2
    assert (
        f"ssmctl: {ids[1]}.2: would replace 1 newer records, such as q//IPv4 of 2026-10, sent at"
        " 2026-11-30T12:00:00Z; send the month again with caso republish --month 2026-10, or, to "
    ) in capsys.readouterr().err
    assert requeue(f"{ids[1]}.2", "--path", str(tmp_path / "spool")) == 2
    assert "would replace 1 newer records" in capsys.readouterr().err
    assert requeue(f"{ids[1]}.2", "--force") == 0
    shutil.rmtree(tmp_path / "spool")
    # A file of a plain directory has no such name: what was delivered after it was made counts.
    for name, first_seen, status in (("x", NOW, 0), ("y", NOW - timedelta(seconds=1), 2)):
        DeadLetters(tmp_path / "failed/spool").add(
            name, text, reason="r", first_seen=first_seen, attempts=1, last_error=""
        )
        assert requeue(name) == status
        shutil.rmtree(tmp_path / "spool", ignore_errors=True)


# --------------------------------------------------------------------------- messages that are late


def spool_of(directory: Path, **texts: str) -> None:
    """Put messages into the spool, each under a name of dirq."""
    for name, text in texts.items():
        path = directory / "spool/6b029cc8" / f"6b029cd97178{name[-1]}0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def addresses(count: int, measured: int) -> str:
    one = {"LocalGroup": "p", "IPVersion": 4, "IPCount": count, "MeasurementTime": measured}
    return json.dumps({"Type": "APEL Public IP message", "UsageRecords": [one]})


def test_an_older_copy_of_the_spool_takes_nothing_back(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    """The repository keeps what it receives last."""
    first, second = message(cloud(1, 100), cloud(2, 100)), message(cloud(1, 200))
    spool_of(tmp_path, n1=first, n2=second, n4=message(cloud(3, 1)))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    accepted = list(broker.accepted)
    # The second goes again, as after a kill: no later one has more of its records.
    spool_of(tmp_path, n1=first, n2=second)
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.PARTLY
    assert broker.accepted == [*accepted, "6b029cc8/6b029cd9717820"]
    [line] = sender._record.failures
    assert line == (
        "6b029cc8/6b029cd9717810: would replace records that later messages have delivered further:"
        f" 1, such as vm-1 of 2026-10; it is now in {tmp_path}/failed/spool"
    )
    assert rows(tmp_path, "SELECT key, amount FROM record ORDER BY key") == [
        ("vm-1", 200),
        ("vm-2", 100),
        ("vm-3", 1),
    ]
    [letter] = DeadLetters(tmp_path / "failed/spool").letters()
    assert letter.body.read_text() == first


def test_a_late_message_with_more_is_sent(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    """The clock of its producer was corrected; or it was locked, and later ones had others."""
    spool_of(tmp_path, n5=message(cloud(1, 100)), n6=addresses(5, 1793000000))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    spool_of(
        tmp_path,
        n1=message(cloud(1, 101), cloud(2, 7)),
        n2=addresses(2, 1793000001),  # fewer of them, counted later
        n3=addresses(9, 1792999999),
    )
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.PARTLY
    assert [name[-2] for name in broker.accepted] == ["5", "6", "1", "2"]
    assert sender._record.counts["dead_letters"] == 1


def test_a_journal_that_cannot_be_read_holds_no_message_back(
    tmp_path: Path, trust: Trust, broker: FaultBroker
) -> None:
    spool_of(tmp_path, n2=message(cloud(1, 200)))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.DONE
    at(tmp_path).write_text("no database")
    spool_of(tmp_path, n1=message(cloud(1, 100)))
    sender, _ = sender_to(broker, tmp_path, trust, 0)
    assert sender.run() is ExitStatus.PARTLY
    assert len(broker.accepted) == 2
