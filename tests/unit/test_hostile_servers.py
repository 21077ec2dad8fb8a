"""Finding F-A2: what users and administrators write never costs the hours of a server.

10 000 servers and 2 000 volumes, each with some fields that are hostile, missing or of the wrong
kind. What they used is known from how they were made, not from the code under test.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from caso.kinds import storage
from caso.kinds.cloud import check, render
from caso.kinds.months import ExtractionWindow
from caso.sources.cinder import ProjectVolumes
from caso.sources.server import records
from caso.sources.source import Names, ProjectContext, Usage

SERVERS = 10_000
END = datetime(2026, 11, 22, 9, tzinfo=UTC)
WINDOW = ExtractionWindow(datetime(2026, 11, 1, tzinfo=UTC), END)
CHARACTERS = "aZ0 :%%\n\r\t\x00\x0b\x1c\x85\u2028\u00e9\u4e2d\U0001f600{}\"'\\/<>&;"
CHOSEN = "".join(random.Random(20261130).choices(CHARACTERS, k=50_000))
"""Texts are parts of it: to choose the characters of each would take most of the time."""
WRONG: list[Any] = [None, "", [], {}, -1, 2**70, 1.5, "x" * 300, "none", "NULL", True]
OPTIONAL = ("name", "user_id", "tenant_id", "image", "addresses")
OF_FLAVOR = ("ram", "disk", "ephemeral", "extra_specs", "original_name")


def text(choice: random.Random) -> str:
    length = choice.choice((0, 1, 3, 50, 51, 255, 256, 2000))
    start = choice.randrange(len(CHOSEN) - length)
    return CHOSEN[start : start + length]


def number(choice: random.Random) -> str:
    return choice.choice(("10000000", "9999999.9999", "nan", "-1", "1e400", "0x10", text(choice)))


def hostile(choice: random.Random, index: int) -> tuple[dict[str, Any], timedelta]:
    """Return a server as Nova would describe it, and how long it has lived."""
    age = timedelta(seconds=choice.randrange(1, 20 * 24 * 3600))
    flavor: dict[str, Any] = {
        "original_name": text(choice),
        "vcpus": choice.choice((1, 2, 64)),
        "ram": 2048,
        "disk": 20,
        "ephemeral": 0,
        "extra_specs": {
            "accounting:benchmark_type": text(choice),
            "accounting:benchmark_value": number(choice),
        },
    }
    server: dict[str, Any] = {
        "id": f"{index:08x}-0000-4000-8000-000000000000",
        "name": text(choice),
        "status": choice.choice(("ACTIVE", "SHUTOFF", "UNHEARD_OF", text(choice))),
        "created": f"{END - age:%Y-%m-%dT%H:%M:%SZ}",
        "updated": f"{END:%Y-%m-%dT%H:%M:%SZ}",
        "OS-SRV-USG:launched_at": f"{END - age:%Y-%m-%dT%H:%M:%S.000000}",
        "OS-SRV-USG:terminated_at": None,
        "user_id": text(choice),
        "tenant_id": "ea12952f53c7419aba9641538e582811",
        "image": {"id": text(choice)},
        "addresses": {text(choice): [{"OS-EXT-IPS:type": "floating"}] * choice.randrange(3)},
        "flavor": flavor,
    }
    for holder, names in ((server, OPTIONAL), (flavor, OF_FLAVOR)):
        for name in choice.sample(names, choice.randrange(len(names))):
            if choice.random() < 0.3:
                del holder[name]
            else:
                holder[name] = choice.choice(WRONG)
    return server, age


@pytest.mark.long
def test_no_hour_is_withheld() -> None:
    choice = random.Random(20261130)
    context = ProjectContext(
        vo="vo.x",
        names=Names("SITE", "CLOUD"),
        user_name=lambda _: text(choice),
        image=lambda image: image + text(choice),
        warn=lambda _: None,
    )
    used = sent = timedelta(0)
    dropped = 0
    for index in range(SERVERS):
        server, age = hostile(choice, index)
        used += age
        for record in records(server, WINDOW, context):
            found = check(record, END)
            assert not found.faults, server
            dropped += bool(found.dropped)
            sent += found.record.wall
            lines = render(found.record).split("\n")
            assert all(line.partition(": ")[1] for line in lines)
            assert "%%" not in render(found.record)
            assert render(found.record).isascii()
            assert render(found.record).splitlines() == lines
    assert sent == used
    assert dropped  # there were fields to leave out


def hostile_volume(choice: random.Random, index: int) -> tuple[dict[str, Any], timedelta]:
    """Return a volume as Cinder would describe it, and how long it has been there this month."""
    age = timedelta(seconds=choice.randrange(1, 20 * 24 * 3600))
    volume: dict[str, Any] = {
        "id": f"{index:08x}-0000-4000-8000-000000000000",
        "size": choice.choice((1, 20, 65536)),
        "created_at": f"{END - age:%Y-%m-%dT%H:%M:%S.5}",
        "updated_at": text(choice),
        "name": text(choice),
        "status": text(choice),
        "user_id": text(choice),
        "attachments": [{"server_id": text(choice), "attached_at": text(choice)}],
    }
    optional = ("updated_at", "name", "status", "user_id", "attachments")
    for name in choice.sample(optional, choice.randrange(len(optional))):
        if choice.random() < 0.3:
            del volume[name]
        else:
            volume[name] = choice.choice(WRONG)
    return volume, age


def test_no_hour_of_a_volume_is_withheld() -> None:
    choice = random.Random(20261130)
    context = ProjectContext(
        vo="vo.x",
        names=Names("SITE", "CLOUD"),
        user_name=lambda _: text(choice),
        image=lambda image: image,
        warn=lambda _: None,
    )
    made = [hostile_volume(choice, index) for index in range(2000)]
    sent = timedelta(0)
    for usage in ProjectVolumes(WINDOW, context, "p").records(volume for volume, _ in made):
        assert isinstance(usage, Usage)
        record = usage.record
        assert isinstance(record, storage.StorageRecord)
        found = storage.check(record, END)
        assert not found.faults
        sent += found.record.end - found.record.start
        (element,) = ET.fromstring(storage.compose([storage.render(found.record)]))  # noqa: S314
        assert element.findtext(f".//{{{storage.NAMESPACE}}}Group") == "vo.x"
    assert sent == sum((age for _, age in made), timedelta(0))
