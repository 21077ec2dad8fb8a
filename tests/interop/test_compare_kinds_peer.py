"""Volumes, accelerators and addresses of cASO 5.2.2 and of a shadow, on a simulated cloud.

The amounts of both sides are counted here from the messages, and the truth is the simulator's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.e2e.test_extract_kinds import address, volume
from tests.interop.test_compare_peer import DAY, SimulatedSite
from tests.simulators.openstack import Cloud, serving

SR = "{http://eu-emi.eu/namespaces/2011/02/storagerecord}"
GPU = {
    "Accelerator:Type": "GPU",
    "Accelerator:Vendor": "NVIDIA",
    "Accelerator:Model": "A100",
    "Accelerator:Number": "2",
}


class SiteOfAllKinds(SimulatedSite):
    """A site that accounts all kinds of records."""

    sources = "extractor = nova,cinder,neutron\n"
    wanted = "storage,ip,accelerator"

    @property
    def configuration(self) -> Path:
        path = super().configuration
        text = path.read_text().replace("extractor = nova\n", self.sources)
        for kind in filter(None, self.wanted.split(",")):
            text += f"output_path_{kind} = {self.root}/out-{kind}\n"
        path.write_text(text)
        return path

    def look(self, until: datetime | None) -> None:
        """Run `caso shadow` up to now."""
        assert until is None
        self._verb("shadow", "--config-file", str(self.configuration))


class SiteOfServers(SiteOfAllKinds):
    """A site that leaves all to the defaults: those of cASO have all kinds, ours have servers."""

    sources = ""
    wanted = ""


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(projects=("one", "two"), servers=3, deleted=0)
    for project in made.projects:
        for server in made.all_servers(project):
            server["flavor"]["extra_specs"] = GPU
    created = f"{made.now - 30 * DAY:%FT%T}.000000"
    made.volumes = {
        "one": [volume(number, "one", created_at=created) for number in range(3)],
        "two": [volume(9, "two", created_at=created)],
    }
    made.addresses = [
        address(1, "one", "192.0.2.1"),
        address(2, "one", "192.0.2.2"),
        address(3, "one", "2001:db8::1"),
        address(4, "two", "192.0.2.4"),
    ]
    with serving(made):
        yield made


def others(site: SimulatedSite) -> Any:
    found = site.compare()
    assert found["unexplained"] == 0
    return found["other_kinds"]


def causes(compared: Any, kind: str) -> dict[str, int]:
    return {row["cause"]: row["amount"] for row in compared["causes"] if row["kind"] == kind}


def amounts(compared: Any, kind: str, side: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in compared["months"]:
        if row["kind"] == kind:
            found[row["month"]] += row["amount"][side]
    return found


def spooled_storage(site: SimulatedSite) -> int:
    """Return the seconds of the volumes' last records of cASO."""
    last: dict[str, float] = {}
    for path in sorted((site.shadow / "cASO").glob("*/*")):
        text = path.read_text()
        if not text.startswith("<"):
            continue
        for record in ET.fromstring(text).iter(f"{SR}StorageUsageRecord"):  # noqa: S314  cASO's
            identity = record.find(f"{SR}RecordIdentity")
            assert identity is not None
            start, end = (record.findtext(f"{SR}{name}Time", "") for name in ("Start", "End"))
            seconds = [datetime.fromisoformat(text[:19]).timestamp() for text in (start, end)]
            last[identity.attrib[f"{SR}recordId"]] = seconds[1] - seconds[0]
    return int(sum(last.values()))


def rounds(site: SiteOfAllKinds, count: int) -> None:
    """Run cASO, and then the shadow, up to now."""
    for _ in range(count):
        time.sleep(1.1)  # a window of a second has nothing
        site.account(datetime.now(UTC))
        time.sleep(1.1)  # so that the two never end in the same second
        site.look(None)


def begin(site: SiteOfAllKinds) -> None:
    """Let cASO have run before the shadow begins, and then both twice."""
    site.account(datetime.now(UTC))
    site.send()
    site.look(None)
    rounds(site, 2)


def test_each_kind_is_explained(tmp_path: Path, cloud: Cloud) -> None:
    site = SiteOfAllKinds(tmp_path, cloud)
    month = cloud.now.replace(day=1, hour=0, minute=0, second=0)
    begin(site)
    until = datetime.now(UTC)
    found = others(site)
    assert found["unexplained"] == []
    assert set(causes(found, "storage")) <= {"before", "cut", "replaced"}
    assert causes(found, "storage")["before"] > 0
    assert amounts(found, "storage", "caso").total() == spooled_storage(site)
    whole = (until - month).total_seconds()
    for kind, things in (("storage", 4), ("accelerator", 6)):
        total = amounts(found, kind, "ours").total()
        assert total % things == 0
        assert whole - 120 <= total / things <= whole
    assert set(causes(found, "accelerator")) == {"replaced"}
    assert amounts(found, "ip", "ours").total() == 4
    assert causes(found, "ip").keys() <= {"version", "all-projects", "counted"}


def test_kinds_that_the_site_does_not_send(tmp_path: Path, cloud: Cloud) -> None:
    site = SiteOfServers(tmp_path, cloud)
    begin(site)
    found = others(site)
    assert found["unexplained"] == []
    for kind in ("storage", "accelerator", "ip"):
        assert causes(found, kind) == {"not-sent": -amounts(found, kind, "caso").total()}


def test_a_volume_and_addresses_that_go(tmp_path: Path, cloud: Cloud) -> None:
    site = SiteOfAllKinds(tmp_path, cloud)
    begin(site)
    del cloud.volumes["one"][0]
    del cloud.addresses[:2]
    rounds(site, 2)
    found = others(site)
    assert found["unexplained"] == []
    assert {"deleted", "last-seen"} & causes(found, "storage").keys()
