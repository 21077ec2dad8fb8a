"""`ssmsend` and `ssmreceive` as programs, against a broker that misbehaves."""

import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.ssm_site import Site
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.trust import Trust


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def broker_with(trust: Trust, *faults: Fault) -> FaultBroker:
    return FaultBroker(trust.host("broker"), trust.grid.certificate, faults)


def texts(count: int) -> list[str]:
    return [f"APEL-cloud-message: v0.4\nVMUUID: {number}\n%%\n" for number in range(count)]


def test_messages_go_in_order_persistent_signed_and_named(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(100))
        done = site.run("ssmsend")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert broker.ids() == names
        assert {frame.headers["persistent"] for frame in broker.sent} == {"true"}
        assert all(frame.headers["receipt"] == frame.headers["empa-id"] for frame in broker.sent)
        assert {frame.headers["destination"] for frame in broker.sent} == {"/queue/test"}
        assert [site.opened(frame.body) for frame in broker.sent[::9]] == texts(100)[::9]
        assert not any(b"\r" in frame.body for frame in broker.sent)
    assert site.waiting() == site.locks() == []
    assert site.record("ssmsend")["counts"]["messages_sent"] == 100
    log = site.log("sender")
    for line in (
        "Found 100 messages.",
        f"Sending message: {names[0]}",
        f"Sent {names[0]}",
        "SSM run has finished.",
    ):
        assert line in log


@pytest.mark.parametrize(
    "fault",
    [
        Fault(Kind.CLOSE_AFTER_SEND, after=5),
        Fault(Kind.CLOSE_AFTER_SEND),
        Fault(Kind.ERROR_AFTER_SEND, after=5),
    ],
)
def test_after_a_break_sending_starts_over_from_the_oldest_without_receipt(
    tmp_path: Path, trust: Trust, fault: Fault
) -> None:
    with broker_with(trust, fault) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(20))
        assert site.run("ssmsend").returncode == 0
        ids = broker.ids()
    arrived = fault.after + 1
    assert ids[:arrived] == names[:arrived]
    # Receipts may be lost with the connection; then it starts over from a message before the one
    # that it broke on.
    oldest = names.index(ids[arrived])
    assert oldest <= fault.after
    assert ids[arrived:] == names[oldest:]
    assert site.waiting() == site.locks() == []


def test_a_receipt_with_a_foreign_id_removes_nothing(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust, Fault(Kind.WRONG_RECEIPT)) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(3))
        process = site.start("ssmsend")
        wait_for(lambda: len(broker.sent) == 3)
        time.sleep(0.3)
        assert site.waiting() == names
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 1
    assert site.waiting() == names
    assert site.locks() == []


def test_swapped_receipts_are_taken_by_their_ids(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust, Fault(Kind.SWAPPED_RECEIPTS)) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(10))
        assert site.run("ssmsend").returncode == 0
        assert broker.ids() == names
    assert site.waiting() == []


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (
            [Fault(Kind.REFUSES_US, text="User name or password is invalid.")],
            "refuses this host: User name or password",
        ),
        ([Fault(Kind.ERROR_AFTER_SEND)] * 3, "refuses messages: not authorised"),
        ([Fault(Kind.CLOSE_AFTER_SEND)] * 6, "connection broken: closed by the broker"),
    ],
)
def test_a_broker_that_wants_nothing_leaves_the_spool_untouched(
    tmp_path: Path, trust: Trust, faults: list[Fault], words: str
) -> None:
    with broker_with(trust, *faults) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(3))
        done = site.run("ssmsend")
    assert done.returncode == 3
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert site.waiting() == names
    assert site.locks() == []


def test_a_broker_that_is_down_is_one_line(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        port = broker.port
    site = Site.create(tmp_path, trust, hosts=f"localhost:{port}")
    names = site.fill(texts(3))
    done = site.run("ssmsend")
    assert done.returncode == 3
    assert done.stderr.startswith(
        f"ssmsend: localhost:{port}: cannot be reached: connection refused;"
    )
    assert done.stderr.count("\n") == 1
    assert (site.waiting(), site.locks()) == (names, [])
    assert site.record("ssmsend")["status"] == 3


def test_the_next_broker_of_the_list_is_tried(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as gone:
        port = gone.port
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{port}, localhost:{broker.port}")
        names = site.fill(texts(3))
        assert site.run("ssmsend").returncode == 0
        assert broker.ids() == names


def test_a_rogue_broker_gets_nothing(tmp_path: Path, trust: Trust) -> None:
    rogue = Trust(tmp_path / "rogue")
    with FaultBroker(rogue.host("broker"), trust.grid.certificate) as broker:
        site = Site.create(tmp_path / "site", trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(1))
        done = site.run("ssmsend")
    assert done.returncode == 3
    assert "certificate is not trusted" in done.stderr
    with FaultBroker(trust.grid.issue("other.example.org"), trust.grid.certificate) as broker:
        site = Site.create(tmp_path / "site", trust, hosts=f"localhost:{broker.port}")
        done = site.run("ssmsend")
    assert done.returncode == 3
    assert "Hostname mismatch" in done.stderr
    assert broker.sent == []
    assert site.waiting() == names


def test_bad_elements_do_not_block_the_others(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        site.fill(texts(10))
        [empty] = site.fill([""])
        [binary] = site.fill(["x"])
        (site.spool / binary).write_bytes(b"APEL\xff\n")
        site.fill(texts(10))
        done = site.run("ssmsend")
        assert done.returncode == 1
        assert len(broker.sent) == 20
    assert site.waiting() == site.locks() == []
    assert {element["empaid"]: element["reason"] for element in site.buried()} == {
        empty: "message: it is empty",
        binary: "message: it is not UTF-8 text: byte 5",
    }
    assert {element["body"] for element in site.buried()} == {b"", b"APEL\xff\n"}
    seen = {element["firstseen"] for element in site.buried()}
    assert all(
        abs((datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()) < 120
        for moment in seen
    )
    assert len(site.record("ssmsend")["failures"]) == 2


def test_a_message_that_the_broker_calls_too_large_is_set_aside(
    tmp_path: Path, trust: Trust
) -> None:
    with broker_with(
        trust, Fault(Kind.ERROR_AFTER_SEND, after=2, text="The frame size was too large")
    ) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(5))
        assert site.run("ssmsend").returncode == 1
        assert set(broker.ids()) == set(names)
    assert site.waiting() == []
    assert [element["empaid"] for element in site.buried()] == [names[2]]


def test_foreign_locks_are_honoured_and_listed(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(3))
        (site.spool / f"{names[1]}.lck").hardlink_to(site.spool / names[1])
        assert site.run("ssmsend").returncode == 1
        assert broker.ids() == [names[0], names[2]]
    assert site.waiting() == [names[1]]
    assert f"Message was locked. {names[1]} will not be sent." in site.log("sender")


def test_limit_and_dry_run(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(5))
        before = listing(site.spool)
        shown = site.run("ssmsend", "--dry-run")
        assert shown.returncode == 0
        assert [line.split(":")[0] for line in shown.stdout.splitlines()] == names
        assert listing(site.spool) == before
        assert broker.connections == 0
        assert site.run("ssmsend", "--limit", "2").returncode == 0
        assert broker.ids() == names[:2]
    assert site.waiting() == names[2:]


def test_a_run_ends_at_its_time(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust, Fault(Kind.SLOW)) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        names = site.fill(texts(50))
        begin = time.monotonic()
        assert site.run("ssmsend", "--max-time", "2").returncode == 1
        assert time.monotonic() - begin < 20
        sent = len(names) - len(site.waiting())
        assert 0 < sent < 50
    assert site.waiting() == names[sent:]
    assert site.locks() == []


def test_a_second_run_at_once_is_refused(tmp_path: Path, trust: Trust) -> None:
    with broker_with(trust, Fault(Kind.NO_RECEIPT)) as broker:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{broker.port}")
        site.fill(texts(2))
        first = site.start("ssmsend")
        wait_for(lambda: len(broker.sent) == 2)
        second = site.run("ssmsend")
        assert second.returncode == 1
        assert f"(pid {first.pid})" in second.stderr
        first.kill()
        first.communicate()
        assert len(site.locks()) == 2
        assert site.run("ssmsend").returncode == 0
    assert site.waiting() == site.locks() == []


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def listing(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(entry): (entry.stat().st_mtime_ns, entry.stat().st_size)
        for entry in sorted(path.rglob("*"))
    }
