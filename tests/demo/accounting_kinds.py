"""Volumes, addresses and accelerators of the cloud, and a server whose end is corrected."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from xml.etree import ElementTree as ET

from tests.demo import counters
from tests.demo.accounting_site import KINDS
from tests.demo.report import Row
from tests.testbed import Seed, Testbed

_STAR = "{http://eu-emi.eu/namespaces/2011/02/storagerecord}"
_ACT = "accounting, other kinds"
_GPU = "gpu.a100"
_SHORTER = """
UPDATE instances SET terminated_at = datetime(terminated_at, '-1 hour') WHERE id = (
  SELECT id FROM instances
  WHERE substr(terminated_at, 1, 7) = :month AND substr(created_at, 1, 7) = :month
    AND launched_at < datetime(terminated_at, '-2 hours') ORDER BY id LIMIT 1)
"""

Messages = Mapping[str, Sequence[str]]
"""The messages of each kind."""


def rows(testbed: Testbed, seed: Seed, done: Messages, arrived: Messages) -> list[Row]:
    """Return a row for each kind."""
    projects = [project.id for project in seed.projects.values() if project.vo]
    layout = testbed.layout
    volumes, size = counters.count(layout.database("cinder"), counters.VOLUMES, projects)
    addresses, _ = counters.count(layout.database("neutron"), counters.ADDRESSES, projects)
    servers, _ = counters.count(testbed.nova_database, counters.WITH_FLAVOR, projects, _GPU)
    counted = {
        "storage": (f"{volumes} volumes, {size} GiB", "Cinder"),
        "ip": (f"{addresses} addresses", "Neutron"),
        "accelerator": (f"{servers} servers with GPUs", "Nova"),
    }
    return [
        Row(
            act=_ACT,
            flow=f"{kind} records to {KINDS[kind]}",
            done=_WORDS[kind](done[kind]),
            delivered=_WORDS[kind](arrived[kind]),
            counted=words,
            counted_by=f"{service}'s database, in SQL",
        )
        for kind, (words, service) in counted.items()
    ]


def _volumes(texts: Iterable[str]) -> str:
    sizes = {}
    for text in texts:
        for record in ET.fromstring(text):  # noqa: S314  our own
            identity = record.find(f"{_STAR}RecordIdentity")
            assert identity is not None
            size = int(record.findtext(f"{_STAR}ResourceCapacityUsed", ""))
            sizes[identity.attrib[f"{_STAR}recordId"]] = size // 2**30
    return f"{len(sizes)} volumes, {sum(sizes.values())} GiB"


def _addresses(texts: Iterable[str]) -> str:
    return f"{sum(record['IPCount'] for record in _records(texts))} addresses"


def _servers(texts: Iterable[str]) -> str:
    servers = {record["AssociatedRecord"] for record in _records(texts)}
    return f"{len(servers)} servers with GPUs"


def _records(texts: Iterable[str]) -> list[dict[str, int]]:
    return [record for text in texts for record in json.loads(text)["UsageRecords"]]


_WORDS: Mapping[str, Callable[[Iterable[str]], str]] = {
    "storage": _volumes,
    "ip": _addresses,
    "accelerator": _servers,
}


def shorten(testbed: Testbed, moment: datetime) -> str:
    """Let a server of last month have ended an hour earlier; return the month."""
    month = f"{moment.replace(day=1) - timedelta(days=1):%Y-%m}"
    with closing(sqlite3.connect(testbed.nova_database, timeout=60)) as opened, opened:
        changed = opened.execute(_SHORTER, {"month": month}).rowcount
    assert changed == 1, month
    return month
