"""Our text of a record is cASO's own, made by its record class in its environment."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from caso.kinds import cloud
from caso.kinds.cloud import CloudRecord
from tests.wire.test_cloud import FULL, SPARE

PEER = Path(sys.prefix).parent / "peer/bin/python"
RENDER = """
import datetime, json, sys, warnings
warnings.simplefilter("ignore")
from caso.record import CloudRecord
for told in json.load(sys.stdin):
    wall = told.pop("wall")
    names = ("start_time", "end_time")
    times = {k: told[k] and datetime.datetime.fromtimestamp(told[k]) for k in names}
    record = CloudRecord(**{**told, **times})
    record.wall_duration = wall
    sys.stdout.write(record.ssm_message() + "\\n%%\\n")
"""


def told(record: CloudRecord) -> dict[str, object]:
    known = asdict(record)
    return {
        "uuid": known["vm_uuid"],
        "site_name": known["site"],
        "compute_service": known["service"],
        "name": known["name"],
        "user_id": known["user_id"],
        "user_dn": known["user_name"],
        "group_id": known["project_id"],
        "fqan": known["vo"],
        "status": str(record.status),
        "image_id": known["image"],
        "public_ip_count": known["public_ips"],
        "cpu_count": known["cpu_count"],
        "memory": known["memory"],
        "disk": known["disk"],
        "benchmark_type": record.benchmark.type if record.benchmark else None,
        "benchmark_value": record.benchmark.value if record.benchmark else None,
        "cloud_type": known["cloud_type"],
        "start_time": record.start.timestamp(),
        "end_time": record.end.timestamp() if record.end else None,
        "wall": int(record.wall.total_seconds()),
    }


def test_the_peer_writes_the_same_text() -> None:
    shown = subprocess.run(
        [str(PEER), "-P", "-c", RENDER],
        input=json.dumps([told(FULL), told(SPARE)]),
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "UTC"},
    )
    assert shown.stdout == f"{cloud.render(FULL)}\n%%\n{cloud.render(SPARE)}\n%%\n"
