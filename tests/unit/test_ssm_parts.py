"""Large messages at an AMS: in parts that fit the service's limit, which the simulator enforces."""

import json
from pathlib import Path

import pytest
from dirq.queue import Queue
from dirq.QueueSimple import QueueSimple

from appliance.core.run.errors import ExitStatus
from tests.simulators.ams_service import AMS, Fault, Kind
from tests.testbed.trust import Trust
from tests.unit.test_ssm_sender import sender_to, trust
from tests.unit.test_ssm_split import text_records

__all__ = ["trust"]
MIB = 1024 * 1024


def record(number: int, size: int = 680) -> str:
    return f"VMUUID: {number}\n" + f"MachineName: {'x' * size}\n"


def large(count: int, *, size: int = 680) -> str:
    return "APEL-cloud-message: v0.4\n" + "%%\n".join(record(n, size) for n in range(count))


def opened(service: AMS, topic: str = "x") -> list[bytes]:
    """Return the signed text of each message of a topic."""
    bodies = [stored.body for stored in service.topics[topic]]
    return [body.split(b"text/plain\n\n", 1)[1].split(b"\n------", 1)[0] for body in bodies]


def test_a_message_of_2000_records_arrives_in_parts(tmp_path: Path, trust: Trust) -> None:
    """F-S5, B12: the same records, in order, each once; beside small messages, in their order."""
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        spool = QueueSimple(str(tmp_path / "spool"))
        first, name = spool.add("APEL-cloud-message: v0.4\nVMUUID: a\n"), spool.add(large(2000))
        records = [json.dumps({"id": n, "pad": "x" * 680}) for n in range(2000)]
        head = '{"Type": "APEL Public IP message", "Version": "0.2", "UsageRecords": ['
        text = f"{head}{','.join(records)}]}}"
        usage = spool.add(text)
        sender, last = sender_to(service, tmp_path, trust, 1, max_wire=True)
        assert sender.run() is ExitStatus.DONE
        parts = [name, f"{name}.1"], [usage, f"{usage}.1"]
        assert service.ids("x") == [first, *parts[0], *parts[1], *last]
        assert (
            max(int(request.headers["content-length"]) for request in service.asked("publish"))
            <= MIB
        )
        texts = opened(service)
        assert [found for part in texts[1:3] for found in text_records(part)] == text_records(
            large(2000).encode()
        )
        found = [entry for part in texts[3:5] for entry in json.loads(part)["UsageRecords"]]
        assert found == json.loads(text)["UsageRecords"]
    assert spool.count() == 0
    assert sender._record.counts["messages_sent"] == 6
    assert sender._record.counts["messages_split"] == 2


def test_one_record_that_is_too_large_is_set_aside_alone(tmp_path: Path, trust: Trust) -> None:
    """F-S5, B12: the records around it arrive."""
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        spool = QueueSimple(str(tmp_path / "spool"))
        records = [record(0), record(1, size=MIB), record(2)]
        name = spool.add("APEL-cloud-message: v0.4\n" + "%%\n".join(records))
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.PARTLY
        assert service.ids("x") == [name, f"{name}.2"]
        assert [text_records(part) for part in opened(service)] == [
            [records[0].strip()],
            [records[2].strip()],
        ]
    assert spool.count() == 0
    failed = Queue(
        str(tmp_path / "failed/spool"),
        schema={"body": "string", "empaid": "string", "reason": "string"},
    )
    element = failed.first()
    assert failed.lock(element)
    found = failed.get(element)
    assert found["empaid"] == f"{name}.1"
    assert text_records(found["body"].encode()) == [records[1].strip()]
    assert "it is a single record" in found["reason"]
    assert failed.count() == 1


def test_an_element_stays_while_any_of_its_parts_has_no_receipt(
    tmp_path: Path, trust: Trust
) -> None:
    """F-S5: the last part was set aside, and the element left with a part still in flight."""
    spool = QueueSimple(str(tmp_path / "spool"))
    records = [record(0), record(1, size=MIB)]
    name = spool.add("APEL-cloud-message: v0.4\n" + "%%\n".join(records))
    faults = [Fault(Kind.HANG, times=99)]
    with AMS(trust.host("broker"), trust.grid.certificate, faults) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True, seconds=2)
        assert sender.run() is ExitStatus.PARTLY
        assert service.ids("x") == []
    assert spool.count() == 1
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.PARTLY
        assert service.ids("x") == [name]
        assert [text_records(part) for part in opened(service)] == [[records[0].strip()]]
    assert spool.count() == 0
    failed = Queue(str(tmp_path / "failed/spool"), schema={"body": "string", "empaid": "string"})
    assert failed.count() == 1


@pytest.mark.parametrize("on", [1, 2])
def test_parts_come_out_the_same_in_the_next_run(tmp_path: Path, trust: Trust, on: int) -> None:
    """B12: parts that arrived before a failure arrive again with the same id and text."""
    fault = Fault(Kind.STATUS, status=404, after=on)
    with AMS(trust.host("broker"), trust.grid.certificate, [fault]) as service:
        spool = QueueSimple(str(tmp_path / "spool"))
        name = spool.add(large(3000))
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.PARTLY
        assert spool.count() == 1
        assert list((tmp_path / "spool").glob("*/*.lck")) == []
        again, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert again.run() is ExitStatus.DONE
        arrived = dict(zip(service.ids("x"), opened(service), strict=True))
        assert list(arrived) == [name, f"{name}.1", f"{name}.2"]
        assert len(set(zip(service.ids("x"), opened(service), strict=True))) == 3
        assert [r for part in arrived.values() for r in text_records(part)] == text_records(
            large(3000).encode()
        )
    assert spool.count() == 0


def test_a_service_that_takes_less_is_believed(tmp_path: Path, trust: Trust) -> None:
    """B12: a proxy in front of AMS may have a limit of its own."""
    with AMS(trust.host("broker"), trust.grid.certificate, max_message=300_000) as service:
        spool = QueueSimple(str(tmp_path / "spool"))
        name = spool.add(large(700))
        sender, _ = sender_to(service, tmp_path, trust, 0, max_wire=True)
        assert sender.run() is ExitStatus.DONE
        arrived = dict(zip(service.ids("x"), opened(service), strict=True))
        assert all(found.startswith(name) for found in arrived)
        assert [r for part in arrived.values() for r in text_records(part)] == text_records(
            large(700).encode()
        )
    assert spool.count() == 0
    assert not (tmp_path / "failed").exists()
