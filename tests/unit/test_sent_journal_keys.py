"""The sent journal and the ledger know a record by the same key, month and amount.

caso and ssm share no code: what connects them are the messages and the journal's format.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from appliance.core import usage_messages
from caso.kinds.accelerator import Accelerator, AcceleratorRecord
from caso.kinds.cloud import CloudRecord, ServerStatus
from caso.kinds.ip import IPRecord
from caso.kinds.registry import KINDS
from caso.kinds.storage import StorageRecord

UUID, PROJECT, USER = (
    "39694c4c-fe64-4567-a798-4785bb63ccba",
    "78e06bda0914438bb6aec47022dfe641",
    "df58b47d519b41c1a2a3dc57e38f801c",
)
BEGIN, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 31, 23, 59, 59, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "site": "SITE",
    "service": "cloud.example.org",
    "vo": "biomed",
    "user_name": "somebody",
}
OWNER: dict[str, Any] = {"project_id": PROJECT, "user_id": USER}


def server(status: ServerStatus, end: datetime | None) -> CloudRecord:
    return CloudRecord(
        vm_uuid=UUID,
        status=status,
        start=BEGIN,
        end=end,
        wall=END - BEGIN,
        cpu_count=4,
        memory=1,
        disk=1,
        **COMMON,
        **OWNER,
    )


def volume(segment: str, start: datetime) -> StorageRecord:
    return StorageRecord(
        volume_id=UUID,
        segment=segment,
        size=3,
        start=start,
        end=END,
        created=BEGIN,
        **COMMON,
        **OWNER,
    )


def accelerator(count: str, model: str) -> AcceleratorRecord:
    return AcceleratorRecord(
        vm_uuid=UUID,
        accelerator=Accelerator("GPU", model, Decimal(count)),
        month=BEGIN,
        active=timedelta(hours=5),
        **COMMON,
    )


@pytest.mark.parametrize(
    ("kind", "record"),
    [
        ("cloud", server(ServerStatus.STARTED, None)),
        ("cloud", server(ServerStatus.COMPLETED, END)),
        ("cloud", server(ServerStatus.SUSPENDED, None)),
        ("storage", volume("202610", BEGIN)),
        ("storage", volume("20261015T093000Z", BEGIN + timedelta(days=14))),
        ("ip", IPRecord(version=4, count=3, measured=END, **COMMON, **OWNER)),
        ("ip", IPRecord(version=6, count=1, measured=END, **COMMON, **OWNER)),
        ("accelerator", accelerator("1", "NVIDIA A100")),
        ("accelerator", accelerator("0.5", "NVIDIA A100")),
        ("accelerator", accelerator("2", "")),
    ],
)
def test_the_journal_knows_a_record_as_the_ledger_does(kind: str, record: Any) -> None:
    made = KINDS[kind]
    checked = made.check(record, datetime(2026, 11, 2, tzinfo=UTC))
    assert checked.faults == ()
    found = usage_messages.read(made.compose([made.render(checked.record)]))
    assert found.unread == 0
    [kept] = found.records
    assert (kept.kind, kept.key, kept.month) == (kind, record.key, "2026-10")
    assert (kept.amount, kept.measured) == (record.amount, int(record.measured.timestamp()))
    assert kept.cpu == (4 * record.amount if kind == "cloud" else None)
    assert kept.project == ("" if kind == "accelerator" else PROJECT)
    assert "somebody" not in repr(kept)
