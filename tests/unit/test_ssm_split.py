"""Messages cut between records; json, ElementTree and APEL's rule for text read the parts."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm.sending import split

STAR = "http://eu-emi.eu/namespaces/2011/02/storagerecord"


def text_records(message: bytes) -> list[str]:
    """Return the records of a message as APEL's loader reads it: separated by lines ``%%``."""
    header, _, rest = message.decode().partition("\n")
    assert header == "APEL-cloud-message: v0.4"
    return [record.strip("\n") for record in f"\n{rest}".split("\n%%") if record.strip("\n")]


def json_records(message: bytes) -> list[object]:
    found = json.loads(message)
    assert (found["Type"], found["Version"]) == ("APEL Public IP message", "0.2")
    return list(found["UsageRecords"])


def xml_records(message: bytes) -> list[str]:
    root = ET.fromstring(message)  # noqa: S314  made above
    assert root.tag == f"{{{STAR}}}StorageUsageRecords"
    for child in root:
        child.tail = None
    return [ET.tostring(child).decode() for child in root]


def text_message(count: int, *, end: str = "\n") -> bytes:
    records = [f"VMUUID: {n}\nMachineName: 100%% of {n}\n" + "x" * n for n in range(count)]
    return ("APEL-cloud-message: v0.4\n" + "\n%%\n".join(records) + end).encode()


def json_message(count: int) -> bytes:
    records = ", ".join(
        f'{{"id": {n}, "UsageRecords": ["}}]"], "big": 1e400, "name": "Größe \\u0041", "n": 1.0}}'
        for n in range(count)
    )
    head = '{"Type": "APEL Public IP message", "UsageRecords": [ '
    return f'{head}{records}\n], "Version": "0.2"}}\n'.encode()


def xml_message(count: int) -> bytes:
    records = "\n".join(
        f'<sr:StorageUsageRecord><sr:Site a="/>">{n} &lt;</sr:Site>'
        "<!-- > --></sr:StorageUsageRecord>"
        if n % 2
        else f'<sr:StorageUsageRecord n="{n}/>" />'
        for n in range(count)
    )
    return (
        f'<?xml version="1.0"?>\n<sr:StorageUsageRecords xmlns:sr="{STAR}">\n'
        f"{records}\n</sr:StorageUsageRecords>\n"
    ).encode()


FORMS: list[tuple[Callable[[int], bytes], Callable[[bytes], list[object]]]] = [
    (text_message, text_records),  # type: ignore[list-item]
    (lambda count: text_message(count, end="\n%%\n"), text_records),  # type: ignore[list-item]
    (lambda count: text_message(count, end=""), text_records),  # type: ignore[list-item]
    (json_message, json_records),
    (xml_message, xml_records),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("make", "read"), FORMS, ids=["text", "closed", "open", "json", "xml"])
@pytest.mark.parametrize("budget", [1, 400, 1000, 10**6])
def test_the_records_of_the_parts_are_those_of_the_message(
    make: Callable[[int], bytes], read: Callable[[bytes], list[object]], budget: int
) -> None:
    """F-S5, B12: in their order, none twice."""
    message = make(20)
    records = split.take_apart(message)
    assert records is not None
    assert read(records.message(records.records)) == read(message)
    parts = list(records.grouped(budget=budget, weight=len))
    assert [record for part in parts for record in read(part)] == read(message)
    assert len(parts) == {1: 20, 10**6: 1}.get(budget, len(parts))
    assert all(len(part) <= budget or len(read(part)) == 1 for part in parts)
    assert parts == list(records.grouped(budget=budget, weight=len))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"VMUUID: 1\n%%\nVMUUID: 2\n",
        b"{",
        b"[]",
        b'{"UsageRecords": []}',
        b'{"UsageRecords": [1, 2',
        b'{"UsageRecords": [1,, 2]}',
        b'{"UsageRecords": [1, 2]} {}',
        b'{"UsageRecords": "x"}',
        b'{"a": ' + b"[" * 100_000,
        b"<html><body/></html>",
        b"<UsageRecords/>",
        b"<UsageRecords><a></UsageRecords>",
        b'<!DOCTYPE UsageRecords [<!ENTITY a "b">]><UsageRecords><a>&a;</a></UsageRecords>',
        b"\xff\xfe",
    ],
)
def test_unknown_forms_stay_whole(message: bytes) -> None:
    assert split.take_apart(message) is None


@given(st.binary(max_size=300), st.integers(1, 300))
def test_no_bytes_of_a_text_are_lost(noise: bytes, budget: int) -> None:
    message = b"APEL-cloud-message: v0.4\n" + noise.replace(b"\r", b"")
    records = split.take_apart(message)
    assert records is not None
    parts = list(records.grouped(budget=budget, weight=len))
    inner = b"%%\n".join(
        part.removeprefix(records.head).removesuffix(records.tail) for part in parts
    )
    assert records.head + inner + records.tail == records.message(records.records)
