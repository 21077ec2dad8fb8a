"""Messages of volumes, addresses and accelerators are cASO's own, made by it in its environment."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from caso.kinds import accelerator, cloud, ip, storage
from caso.kinds.accelerator import AcceleratorRecord
from caso.kinds.cloud import CloudRecord
from caso.kinds.ip import IPRecord
from caso.kinds.storage import StorageRecord
from tests.wire.records import (
    ADDRESSES,
    GPUS,
    HALF_A_GPU,
    PLAIN_VOLUME,
    UNOWNED,
    VOLUME,
)
from tests.wire.test_cloud import FULL, SPARE

PEER = Path(sys.prefix).parent / "peer/bin/python"
# Reads a list of a class's name and the arguments of each record. Writes the message that the
# messenger puts into its spool, and the JSON of each record.
PUSH = """
import datetime, json, pathlib, sys, warnings
warnings.simplefilter("ignore")
import caso.record
from caso.messenger.ssm import SSMMessenger
from oslo_config import cfg
spool = pathlib.Path(sys.argv[1])
cfg.CONF([], project="caso", default_config_files=[])
cfg.CONF.set_override("output_path", str(spool), group="ssm")
records = []
for name, values, later in json.load(sys.stdin):
    moments = ("start_time", "end_time", "measure_time", "volume_creation")
    for moment in set(moments) & set(values):
        value = values[moment]
        values[moment] = None if value is None else datetime.datetime.fromtimestamp(value)
    records.append(getattr(caso.record, name)(**values))
    for attribute, value in later.items():
        setattr(records[-1], attribute, value)
SSMMessenger().push(records)
messages = [path.read_text() for path in sorted(spool.glob("*/*"))]
shown = [json.loads(r.model_dump_json(by_alias=True, exclude_none=True)) for r in records]
print(json.dumps([messages, shown]))
"""
Record = tuple[str, Mapping[str, object], Mapping[str, object]]


def peer(spool: Path, *records: Record) -> tuple[list[str], list[dict[str, Any]]]:
    shown = subprocess.run(
        [str(PEER), "-P", "-c", PUSH, str(spool)],
        input=json.dumps(records),
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC"},
    )
    messages, values = json.loads(shown.stdout)
    return messages, values


def epoch(moment: datetime) -> int:
    return int(moment.timestamp())


def of_volume(record: StorageRecord) -> Record:
    values = {
        "uuid": record.volume_id,
        "site_name": record.site,
        "compute_service": record.service,
        "cloud_type": record.cloud_type,
        "name": record.name,
        "user_id": record.user_id,
        "user_dn": record.user_name,
        "group_id": record.project_id,
        "fqan": record.vo,
        "active_duration": int((record.end - record.start).total_seconds()),
        "attached_duration": record.attached.total_seconds() if record.attached else None,
        "attached_to": record.attached_to,
        "status": record.status,
        "capacity": record.size,
        "start_time": epoch(record.start),
        "measure_time": epoch(record.end),
        "volume_creation": epoch(record.created),
    }
    return "StorageRecord", values, {}


def of_addresses(record: IPRecord) -> Record:
    values = {
        "uuid": str(record.uuid),
        "site_name": record.site,
        "compute_service": record.service,
        "cloud_type": record.cloud_type,
        "user_id": record.user_id,
        "user_dn": record.user_name or record.user_id,  # which cASO leaves out
        "group_id": record.project_id,
        "fqan": record.vo,
        "ip_version": record.version,
        "public_ip_count": record.count,
        "measure_time": epoch(record.measured),
    }
    return "IPRecord", values, {}


def of_accelerator(record: AcceleratorRecord) -> Record:
    values = {
        "uuid": record.vm_uuid,
        "site_name": record.site,
        "compute_service": record.service,
        "cloud_type": record.cloud_type,
        "user_dn": record.user_name,
        "fqan": record.vo,
        "count": str(record.accelerator.count),
        "available_duration": int(record.active.total_seconds()),
        "measurement_month": record.month.month,
        "measurement_year": record.month.year,
        "accelerator_type": record.accelerator.type,
        "model": record.accelerator.model,
    }
    return "AcceleratorRecord", values, {}


def of_server(record: CloudRecord) -> Record:
    values = {
        "uuid": record.vm_uuid,
        "site_name": record.site,
        "compute_service": record.service,
        "cloud_type": record.cloud_type,
        "name": record.name,
        "user_id": record.user_id,
        "user_dn": record.user_name,
        "group_id": record.project_id,
        "fqan": record.vo,
        "status": str(record.status),
        "image_id": record.image,
        "public_ip_count": record.public_ips,
        "cpu_count": record.cpu_count,
        "memory": record.memory,
        "disk": record.disk,
        "benchmark_type": record.benchmark.type if record.benchmark else None,
        "benchmark_value": record.benchmark.value if record.benchmark else None,
        "start_time": epoch(record.start),
        "end_time": epoch(record.end) if record.end else None,
    }
    return "CloudRecord", values, {"wall_duration": int(record.wall.total_seconds())}


def test_volumes(tmp_path: Path) -> None:
    messages, values = peer(tmp_path, of_volume(VOLUME), of_volume(PLAIN_VOLUME))
    ours = storage.compose([storage.render(VOLUME), storage.render(PLAIN_VOLUME)]).decode()
    # B17: times in local time without a zone, and one id for all windows.
    for record in (VOLUME, PLAIN_VOLUME):
        ours = ours.replace(record.record_id, record.volume_id)
    ours = ours.replace('Z"', '"').replace("Z</sr:", "</sr:")
    assert [ours] == messages
    assert [storage.fields(VOLUME), storage.fields(PLAIN_VOLUME)] == values
    assert [[*storage.fields(VOLUME)], [*storage.fields(PLAIN_VOLUME)]] == [
        [*one] for one in values
    ]


def test_addresses(tmp_path: Path) -> None:
    messages, values = peer(tmp_path, of_addresses(ADDRESSES), of_addresses(UNOWNED))
    ours = ip.KIND.compose([ip.KIND.render(ADDRESSES), ip.KIND.render(UNOWNED)])
    assert [ours.decode()] == messages
    assert [ip.fields(ADDRESSES), ip.fields(UNOWNED)] == values


def test_accelerators(tmp_path: Path) -> None:
    one = replace(HALF_A_GPU, accelerator=replace(HALF_A_GPU.accelerator, count=Decimal(3)))
    messages, values = peer(tmp_path, of_accelerator(GPUS), of_accelerator(one))
    ours = accelerator.KIND.compose([accelerator.KIND.render(GPUS), accelerator.KIND.render(one)])
    assert [ours.decode()] == messages
    assert [accelerator.fields(GPUS), accelerator.fields(one)] == values


def test_the_peer_cannot_count_half_an_accelerator(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as found:
        peer(tmp_path, of_accelerator(HALF_A_GPU))
    assert "int_parsing" in found.value.stderr


def test_servers(tmp_path: Path) -> None:
    messages, values = peer(tmp_path, of_server(FULL), of_server(SPARE))
    assert [cloud.message([cloud.render(FULL), cloud.render(SPARE)]).decode()] == messages
    assert [cloud.fields(FULL), cloud.fields(SPARE)] == values
