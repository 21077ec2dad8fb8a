"""Messengers over the network (B12): nothing is lost while a service is away, others go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core.run.errors import ApplianceError, Unavailable
from caso.checkpoint import Checkpoints
from caso.kinds.kind import UsageRecord
from caso.kinds.registry import KINDS
from caso.messengers.logstash import Logstash
from caso.messengers.waiting import OpenService, WaitingRecord
from tests.simulators.json_lines import LineService, serving
from tests.wire.records import ADDRESSES, GPUS, PLAIN_VOLUME, UNOWNED, VOLUME
from tests.wire.test_cloud import FULL, SPARE

ALL = tuple(KINDS.values())
SHORT = timedelta(seconds=0.3)


def logstash(service: LineService, **changes: Any) -> Logstash:
    return replace(Logstash("127.0.0.1", service.port, ALL), **changes)


def put(open_service: OpenService, kind: str, records: Sequence[UsageRecord], **more: str) -> None:
    """Have a project's records wait, as a run does."""
    outbox = open_service.begin(more.get("project", "p1"), KINDS[kind], lambda _, __: None)
    for record in records:
        outbox.add(record)
    outbox.seal({f"lastrun.{more.get('project', 'p1')}": "2026-11-22 09:00:01+00:00"})
    outbox.commit()
    outbox.finish()


def waiting(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "waiting").glob("*/*"))


def words(failures: Sequence[ApplianceError]) -> str:
    return "\n".join(map(str, failures))


def test_one_line_for_each_record_of_every_kind(tmp_path: Path) -> None:
    sent: dict[str, list[Any]] = {
        "cloud": [FULL, SPARE],
        "storage": [VOLUME, PLAIN_VOLUME],
        "ip": [ADDRESSES, UNOWNED],
        "accelerator": [GPUS],
    }
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        for kind, records in sent.items():
            put(messenger, kind, records)
        assert messenger.deliver() == []
        wanted = [dict(KINDS[kind].fields(record)) for kind in sent for record in sent[kind]]
        assert sorted(map(json.dumps, service.documents)) == sorted(map(json.dumps, wanted))
    assert waiting(tmp_path) == []
    assert (tmp_path / "lastrun.p1").read_text() == "2026-11-22 09:00:01+00:00"


@pytest.mark.parametrize("count", [50, 3000])
@pytest.mark.parametrize("fault", ["reset", "answer", "hang", "never close"])
def test_records_wait_for_a_service_that_fails(fault: str, count: int, tmp_path: Path) -> None:
    with serving(fault) as service:
        messenger = logstash(service, timeout=SHORT).open(Checkpoints(tmp_path))
        put(messenger, "storage", [VOLUME] * count)
        (failure,) = messenger.deliver()
        assert f"127.0.0.1:{service.port}" in str(failure)
        assert f"the records wait in {tmp_path}/waiting/logstash" in str(failure)
    assert waiting(tmp_path) == ["p1.storage"]
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        messenger.recover()
        assert messenger.pending() == ["p1"]
        assert messenger.deliver() == []
        assert len(service.documents) == count
    assert waiting(tmp_path) == []


@pytest.mark.parametrize("fault", ["close first", "close meanwhile"])
def test_an_end_that_comes_before_ours_accepts_nothing(fault: str, tmp_path: Path) -> None:
    """As of a load balancer without servers: what is sent after it is lost."""
    with serving(fault) as service:
        connection = logstash(service).connect(tmp_path)

        def records() -> Iterator[WaitingRecord]:
            if fault == "close first":
                assert service.closed.wait(5)
            for number in range(50):
                yield WaitingRecord(f"{number} 2026-11", json.dumps("x" * 1000))

        with pytest.raises(Unavailable, match="closes the connection before it has all records"):
            connection.send(records())


def test_nobody_listens(tmp_path: Path) -> None:
    with serving() as service:
        port = service.port
    messenger = Logstash("127.0.0.1", port, ALL).open(Checkpoints(tmp_path))
    put(messenger, "cloud", [FULL])
    (failure,) = messenger.deliver()
    assert "cannot take records: connection refused" in str(failure)
    assert "check [logstash] host and port" in str(failure)


def test_an_outage_keeps_the_last_record_of_each_thing_and_month(tmp_path: Path) -> None:
    later = replace(VOLUME, end=VOLUME.end + timedelta(hours=1))
    other = replace(VOLUME, volume_id="other")
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        put(messenger, "storage", [VOLUME, other])
        put(messenger, "storage", [PLAIN_VOLUME])
        put(messenger, "storage", [later])
        assert messenger.deliver() == []
        found = {one["VolumeUUID"]: one["CreateTime"] for one in service.documents}
        assert len(service.documents) == 3
        assert found[VOLUME.volume_id] == int(later.end.timestamp())


def test_killed_before_the_commit_nothing_counts(tmp_path: Path) -> None:
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        put(messenger, "storage", [VOLUME])
        outbox = messenger.begin("p1", KINDS["storage"], lambda _, __: None)
        outbox.add(replace(VOLUME, size=99))
        outbox.seal({})
        assert messenger.is_held(outbox.name) is False
        # killed here
        again = logstash(service).open(Checkpoints(tmp_path))
        again.recover()
        assert waiting(tmp_path) == ["p1.storage"]
        assert again.deliver() == []
        assert [one["Capacity"] for one in service.documents] == [VOLUME.size]


def test_killed_after_the_commit_the_records_are_held(tmp_path: Path) -> None:
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        outbox = messenger.begin("p1", KINDS["storage"], lambda _, __: None)
        outbox.add(VOLUME)
        outbox.seal({"lastrun.p1": "2026-11-22 09:00:01+00:00"})
        outbox.commit()
        assert messenger.is_held(outbox.name) is True
    assert waiting(tmp_path) == ["p1.storage"]
    assert not (tmp_path / "lastrun.p1").exists()


def test_dropped_records_are_never_sent(tmp_path: Path) -> None:
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        outbox = messenger.begin("p1", KINDS["storage"], lambda _, __: None)
        outbox.add(VOLUME)
        outbox.discard()
        assert messenger.deliver() == []
        # Killed here, before the ledger has withdrawn them: they do not count as delivered.
        assert messenger.is_held(outbox.name) is False
        messenger.recover()
        assert messenger.deliver() == []
        assert service.connections == 0
    assert waiting(tmp_path) == []


@pytest.mark.parametrize("is_sent_again", [False, True])
def test_a_damaged_file_is_set_aside_and_named(tmp_path: Path, *, is_sent_again: bool) -> None:
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        put(messenger, "storage", [VOLUME])
        path = tmp_path / "waiting/logstash/p1.storage"
        path.write_bytes(path.read_bytes()[:-20])
        if is_sent_again:
            put(messenger, "storage", [VOLUME])
        put(messenger, "cloud", [FULL])
        for _ in range(2):  # until somebody removes it
            (failure,) = messenger.deliver()
            assert "records that waited are damaged" in str(failure)
            assert "p1.storage.damaged" in str(failure)
    assert waiting(tmp_path) == ["p1.storage.damaged"]


def test_a_project_in_a_region_whose_name_has_a_dot(tmp_path: Path) -> None:
    with serving() as service:
        messenger = logstash(service).open(Checkpoints(tmp_path))
        put(messenger, "storage", [VOLUME], project="p1@eu.west")
        assert messenger.pending() == ["p1@eu.west"]
        assert messenger.deliver() == []
        assert len(service.documents) == 1
    assert waiting(tmp_path) == []
