"""What the sent journal keeps of messages: records as cASO 5.2.2 writes them, and damaged ones.

The expected months are APEL's: EndTime of a completed server, else StartTime and the durations.
"""

import json
from typing import Any

import pytest

from appliance.core import usage_messages
from appliance.core.usage_messages import Contents, SentRecord

BIOMED = "78e06bda0914438bb6aec47022dfe641"
STARTED, ENDED = "39694c4c-fe64-4567-a798-4785bb63ccba", "2baa2a7e-22d7-4273-93ef-e5c65a6e9d5c"
CLOUD = f"""\
APEL-cloud-message: v0.4
CloudComputeService: TEST-SITE
CloudType: caso/5.2.2 (OpenStack)
CpuCount: 4
CpuDuration: 64
EndTime: 0
FQAN: biomed
GlobalUserName: vo-biomed-user2
LocalGroupId: {BIOMED}
LocalUserId: df58b47d519b41c1a2a3dc57e38f801c
MachineName: vo-biomed-1
SiteName: TEST-SITE
StartTime: 1795335239
Status: started
VMUUID: {STARTED}
WallDuration: 16
%%
EndTime: 1795335252
LocalGroupId: {BIOMED}
StartTime: 1795335240
Status: completed
VMUUID: {ENDED}
WallDuration: 12
"""
NOVEMBER = [
    SentRecord("cloud", STARTED, "2026-11", 16, 1795335255, STARTED, BIOMED, 64),
    SentRecord("cloud", ENDED, "2026-11", 12, 1795335252, ENDED, BIOMED),
]
STAR = """\
<sr:StorageUsageRecords xmlns:sr="http://eu-emi.eu/namespaces/2011/02/storagerecord">\
<sr:StorageUsageRecord><sr:RecordIdentity sr:createTime="2026-11-30T12:00:00Z"\
 sr:recordId="{id}" /><sr:StorageSystem>cloud.example.org</sr:StorageSystem>\
<sr:Site>TEST-SITE</sr:Site><sr:SubjectIdentity><sr:LocalUser>df58b47d</sr:LocalUser>\
<sr:LocalGroup>{project}</sr:LocalGroup><sr:UserIdentity>a &amp; b</sr:UserIdentity>\
<sr:Group>biomed</sr:Group></sr:SubjectIdentity><sr:StartTime>{begin}</sr:StartTime>\
<sr:EndTime>{end}</sr:EndTime><sr:ResourceCapacityUsed>1073741824</sr:ResourceCapacityUsed>\
</sr:StorageUsageRecord></sr:StorageUsageRecords>"""


def read(text: str) -> Contents:
    return usage_messages.read(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        CLOUD,
        CLOUD.replace("v0.4", "v0.2"),
        f"{CLOUD}%%\n",
        CLOUD.replace("\n", "\r\n"),
        f"\n{CLOUD}",
        CLOUD.replace("%%\n", "%% \n%%\n"),
        CLOUD.replace("WallDuration: 16", "WallDuration: 1\nWallDuration: 16"),
    ],
    ids=["v0.4", "v0.2", "closed", "CRLF", "blank line", "empty record", "field twice"],
)
def test_records_of_servers(text: str) -> None:
    assert read(text) == Contents(tuple(NOVEMBER), 0)


@pytest.mark.parametrize(
    ("fields", "month"),
    [
        # 2026-10-31 23:59:59 and 2026-11-01 00:00:00, of `date -ud`
        ("Status: started\nStartTime: 1793000000\nWallDuration: 491199", "2026-10"),
        ("Status: started\nStartTime: 1793000000\nWallDuration: 491200", "2026-11"),
        (
            "Status: started\nStartTime: 1793000000\nWallDuration: 491190\nSuspendDuration: 10",
            "2026-11",
        ),
        ("Status: completed\nStartTime: 1\nEndTime: 1793491199\nWallDuration: 5", "2026-10"),
        ("Status: completed\nEndTime: 2026-11-01T00:00:00Z\nWallDuration: 5", "2026-11"),
        # an end counts for completed servers alone
        (
            "Status: suspended\nStartTime: 1793000000\nEndTime: 1893491199\nWallDuration: 5",
            "2026-10",
        ),
        (
            "Status: started\nRecordCreateTime: 1793491200\nStartTime: 1\nWallDuration: 5",
            "2026-11",
        ),
    ],
)
def test_the_month_of_a_server_is_the_one_of_apel(fields: str, month: str) -> None:
    found = read(f"APEL-cloud-message: v0.4\nVMUUID: a\n{fields}\n")
    assert [record.month for record in found.records] == [month]


@pytest.mark.parametrize(
    "fields",
    [
        "WallDuration: 5\nStartTime: 1793000000",
        "VMUUID: \nWallDuration: 5\nStartTime: 1793000000",
        f"VMUUID: {'x' * 256}\nWallDuration: 5\nStartTime: 1793000000",
        "VMUUID: a\x1b[2J\nWallDuration: 5\nStartTime: 1793000000",
        "VMUUID: a\nStartTime: 1793000000",
        "VMUUID: a\nWallDuration: 5.0\nStartTime: 1793000000",
        f"VMUUID: a\nWallDuration: {'9' * 5000}\nStartTime: 1793000000",
        f"VMUUID: a\nWallDuration: {2**63}\nStartTime: 0",
        "VMUUID: a\nWallDuration: 5\nStartTime: soon",
        "VMUUID: a\nWallDuration: 5\nStartTime: 99999999999999999",
        "VMUUID: a\nWallDuration: 5\nStatus: completed\nEndTime: 0",
        "VMUUID: \udcff\nWallDuration: 5\nStartTime: 1793000000",
    ],
)
def test_a_record_that_cannot_be_read_is_counted_and_the_others_are_kept(fields: str) -> None:
    text = CLOUD.replace("%%\n", f"%%\n{fields}\n%%\n").encode("utf-8", "surrogateescape")
    assert usage_messages.read(text) == Contents(tuple(NOVEMBER), 1)


def test_records_of_volumes() -> None:
    volume = "0d3f1f60-1d0a-4a3c-8a2c-5d0f9a6f2f11"
    values = {
        "project": BIOMED,
        "begin": "2026-10-01T00:00:00Z",
        "end": "2026-10-31T23:59:59Z",
    }
    # F-W1: cASO has one id for all windows, which replaces no record of ours; a later segment of a
    # month has its start in its id
    for record_id, key in (
        (volume, f"{volume}/"),
        (f"{volume}-202610", volume),
        (f"{volume}-20261015T093000Z", f"{volume}/20261015T093000Z"),
    ):
        expected = SentRecord("storage", key, "2026-10", 2678399, 1793491199, volume, BIOMED)
        assert read(STAR.format(id=record_id, **values)) == Contents((expected,), 0)
    # cASO's times have no zone and parts of a second; other producers have ids of their own
    values |= {"begin": "2026-10-31T22:00:00.250000", "end": "2026-11-01T00:00:00.750000"}
    expected = SentRecord("storage", "dcache#7", "2026-11", 7200, 1793491200, "", BIOMED)
    assert read(STAR.format(id="dcache#7", **values)) == Contents((expected,), 0)
    # the prefix is the document's own choice
    text = STAR.format(id="dcache#7", **values).replace("sr:", "x:").replace(":sr=", ":x=")
    assert read(text) == Contents((expected,), 0)
    one = STAR.format(id=volume, **values)
    begin = one.index("<sr:StorageUsageRecord>")
    bad = one[begin:].replace("2026-11-01T00:00:00.750000", "yesterday")
    assert read(one[:begin] + bad.replace("</sr:StorageUsageRecords>", "") + one[begin:]) == (
        Contents((expected._replace(key=f"{volume}/", uuid=volume),), 1)
    )


def addresses(**changed: Any) -> str:
    record = {
        "SiteName": "TEST-SITE",
        "uuid": "3e53cb2e-ac21-48dc-94f5-da5cf1bef8ed",
        "LocalGroup": BIOMED,
        "FQAN": "biomed",
        "IPVersion": 4,
        "IPCount": 5,
        "MeasurementTime": 1795335256,
    }
    records = [{**record, **changed}, {**record, "IPVersion": 6}]
    return json.dumps({"Type": "APEL Public IP message", "Version": "0.2", "UsageRecords": records})


def test_records_of_addresses() -> None:
    four = SentRecord("ip", f"{BIOMED}//IPv4", "2026-11", 5, 1795335256, project=BIOMED)
    six = four._replace(key=f"{BIOMED}//IPv6")
    assert read(addresses()) == Contents((four, six), 0)
    of_user = four._replace(key=f"{BIOMED}/df58b47d/IPv4")
    assert read(addresses(LocalUser="df58b47d")) == Contents((of_user, six), 0)
    for fault in ({"IPCount": "many"}, {"LocalGroup": None}, {"MeasurementTime": 1e300}):
        assert read(addresses(**fault)) == Contents((six,), 1)


def test_records_of_accelerators() -> None:
    record = {
        "AssociatedRecord": ENDED,
        "AssociatedRecordType": "cloud",
        "GlobalUserName": "vo-biomed-user2",
        "Count": 0.5,
        "AvailableDuration": 12,
        "MeasurementMonth": 11,
        "MeasurementYear": 2026,
        "Type": "GPU",
        "Model": "NVIDIA A100",
        "ActiveDuration": 11,
    }
    other = {**record, "ActiveDuration": None, "Model": None, "Count": 1}
    wrong = {**record, "MeasurementMonth": 13}
    message = {
        "Type": "APEL-accelerator-message",
        "Version": "0.1",
        "UsageRecords": [record, other, wrong],
    }
    key = f"{ENDED}/GPU/NVIDIA A100/0.5"
    first = SentRecord("accelerator", key, "2026-11", 11, 1793491200, ENDED)
    second = SentRecord("accelerator", f"{ENDED}/GPU//1", "2026-11", 12, 1793491200, ENDED)
    assert read(json.dumps(message)) == Contents((first, second), 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "hello",
        "APEL-individual-job-message: v0.3\nSite: x\n",
        "APEL-cloud-summary-message: v0.4\nSite: x\n",
        "{",
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"Type": "APEL Public IP message", "UsageRecords": 5}',
        '{"Type": ["x"], "UsageRecords": []}',
        '{"Type": "another", "UsageRecords": [{}]}',
        "<a/>",
        "<sr:StorageUsageRecords",
        '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
        STAR.replace("storagerecord", "another"),
    ],
)
def test_a_message_of_another_form_counts_as_unread(text: str) -> None:
    assert read(text) == Contents((), 1)
    assert usage_messages.read(b"\xff\xfe" + text.encode()).records == ()


def test_the_journal_gets_no_names() -> None:
    kept = repr([*read(CLOUD).records, *read(addresses(LocalUser="df58b47d")).records])
    for name in ("vo-biomed", 'biomed"', "TEST-SITE"):
        assert name not in kept
