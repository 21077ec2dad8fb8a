"""Cloud messages byte for byte. `tests/interop/test_kinds_peer.py` compares cASO's own text."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from caso.kinds import cloud
from caso.kinds.cloud import Benchmark, CloudRecord, ServerStatus

GOLDEN = Path(__file__).parent / "cloud"
START = datetime(2026, 11, 22, 8, 13, 55, tzinfo=UTC)

FULL = CloudRecord(
    vm_uuid="39694c4c-fe64-4567-a798-4785bb63ccba",
    site="TEST-SITE",
    service="TEST-CLOUD",
    vo="/biomed/Role=NULL/Capability=NULL",
    project_id="78e06bda0914438bb6aec47022dfe641",
    user_id="df58b47d519b41c1a2a3dc57e38f801c",
    user_name="78e5@egi.eu",
    name="edge: one",
    status=ServerStatus.COMPLETED,
    start=START,
    end=START + timedelta(seconds=86),
    wall=timedelta(seconds=86),
    cpu_count=4,
    memory=8192,
    disk=90,
    public_ips=1,
    image="https://appdb.egi.eu/store/vo/image/0000-1111:42/",
    benchmark=Benchmark("HEPscore23", 10.0),
    cloud_type="caso/5.2.2 (OpenStack)",
)
SPARE = CloudRecord(
    vm_uuid="8b250851-93c0-4543-9217-1c5a49b55251",
    site="TEST-SITE",
    service="TEST-SITE",
    vo="ops",
    project_id="78e06bda0914438bb6aec47022dfe641",
    user_id="df58b47d519b41c1a2a3dc57e38f801c",
    name="idle",
    status=ServerStatus.UNKNOWN,
    start=START,
    end=None,
    wall=timedelta(0),
    cpu_count=1,
    memory=512,
    disk=0,
    cloud_type="caso/5.2.2 (OpenStack)",
)


def test_v04() -> None:
    message = cloud.message([cloud.render(FULL), cloud.render(SPARE)])
    assert message == (GOLDEN / "v0.4.txt").read_bytes()


def test_v02() -> None:
    message = cloud.message(
        [cloud.render(FULL, version="0.2"), cloud.render(SPARE, version="0.2")], version="0.2"
    )
    assert message == (GOLDEN / "v0.2.txt").read_bytes()


def test_cores_may_have_decimals() -> None:
    """APEL's column is a DECIMAL(10,3) since 2.4.0."""
    record = replace(SPARE, cpu_count=Decimal("1.5"), wall=timedelta(seconds=3))
    lines = cloud.render(record).splitlines()
    assert "CpuCount: 1.5" in lines
    assert "CpuDuration: 4" in lines
    assert "CpuCount: 2" in cloud.render(replace(SPARE, cpu_count=Decimal("2.000"))).splitlines()
