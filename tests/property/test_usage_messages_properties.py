"""What the sent journal reads of messages: of any bytes, and of parts as of the whole."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from appliance.core import usage_messages
from ssm.sending import split

_WORDS = st.sampled_from(
    [
        *(b"APEL-cloud-message: v0.4\n", b"%%\n", b"VMUUID: a\n", b"WallDuration: 5\n", b"\r\n"),
        *(b"StartTime: 1793000000\n", b"Status: completed\n", b"EndTime: 0\n", b"\x00", b"\xff"),
        *(
            b'{"Type": "APEL Public IP message", ',
            b'"UsageRecords": [{}, 5, null]',
            b"}",
            b"[" * 99,
        ),
        *(b'"Type": "APEL-accelerator-message"', b"1e400", b"<sr:StorageUsageRecords", b"/>"),
        b'<sr:StorageUsageRecords xmlns:sr="http://eu-emi.eu/namespaces/2011/02/storagerecord">',
        *(b'<sr:RecordIdentity sr:recordId="a"/>', b"<sr:StorageUsageRecord>", b"</sr:EndTime>"),
    ]
)
_IDS = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), min_size=1, max_size=40)
_SECONDS = st.integers(1, 4_000_000_000)


@given(st.lists(_WORDS | st.binary(max_size=20), max_size=12))
def test_any_bytes_are_read(words: list[bytes]) -> None:
    found = usage_messages.read(b"".join(words))
    for record in found.records:
        assert record.key
        assert record.key.isprintable()
        assert -(2**63) < record.amount < 2**63


@given(st.lists(st.tuples(_IDS, _SECONDS, _SECONDS), min_size=1, max_size=30), st.integers(1, 999))
def test_the_parts_of_a_cloud_message_have_the_records_of_the_whole(
    servers: list[tuple[str, int, int]], budget: int
) -> None:
    records = [
        f"MachineName: 100%%\nStartTime: {start}\nVMUUID: {uuid}\nWallDuration: {wall}\n"
        for uuid, start, wall in servers
    ]
    text = ("APEL-cloud-message: v0.4\n" + "%%\n".join(records)).encode()
    whole = usage_messages.read(text)
    assert [(record.key, record.amount) for record in whole.records] == [
        (uuid, wall) for uuid, _, wall in servers
    ]
    assert [record.measured for record in whole.records] == [
        start + wall for _, start, wall in servers
    ]
    assert _of_parts(text, budget) == whole


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "LocalGroup": _IDS,
                "IPVersion": st.sampled_from([4, 6]),
                "IPCount": st.integers(-5, 2**70) | st.text(max_size=3),
                "MeasurementTime": _SECONDS,
            }
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 999),
)
def test_the_parts_of_a_json_message_have_the_records_of_the_whole(
    records: list[dict[str, Any]], budget: int
) -> None:
    message = {"Type": "APEL Public IP message", "Version": "0.2", "UsageRecords": records}
    text = json.dumps(message).encode()
    whole = usage_messages.read(text)
    assert len(whole.records) + whole.unread == len(records)
    assert _of_parts(text, budget) == whole


def _of_parts(text: bytes, budget: int) -> usage_messages.Contents:
    apart = split.take_apart(text)
    assert apart is not None
    parts = [usage_messages.read(part) for part in apart.grouped(budget=budget, weight=len)]
    return usage_messages.Contents(
        tuple(record for part in parts for record in part.records),
        sum(part.unread for part in parts),
    )
