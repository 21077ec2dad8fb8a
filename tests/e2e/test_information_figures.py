"""Figures of the information system that are counts: requests, writes, bytes of memory (F-I8)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.bench import info, provider
from tests.bench.usage import high_water_mark
from tests.e2e.bdii_service import Bdii, running, search
from tests.e2e.ldap_clients import Poller, TreeReader, asking
from tests.interop.test_information_peer import PROGRAM
from tests.simulators.offering_cloud import PASSWORD

VOS, IMAGES, FLAVORS = 20, 200, 50
ENTRIES = 10_044
MOST_MEMORY = 60
"""MiB of the engine."""


def test_requests_of_twenty_vos(tmp_path: Path) -> None:
    """cloud-info-provider 1.2 sends 6143: one for each property of each flavor of each VO."""
    cloud = provider.large_cloud(VOS, images=IMAGES, flavors=FLAVORS, servers=100)
    with cloud.serve():
        url = f"{cloud.url}/identity/v3"
        vos = [
            {"name": f"vo{n}", "auth": {"project_id": key}} for n, key in enumerate(cloud.flavors)
        ]
        site = tmp_path / "site.yaml"
        site.write_text(json.dumps({"gocdb": "EXAMPLE-SITE", "endpoint": url, "vos": vos}))
        login = ("--os-auth-type", "v3password", "--os-username", "ci", "--os-password", PASSWORD)
        flags = ("--root", str(tmp_path), "--gocdb-url", "", "--os-user-domain-name", "Default")
        command = [str(PROGRAM), *flags, *login, str(site)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert cloud.requests.total() <= 101
    found = json.loads(printed)
    images = {each["ID"]: each["Associations"]["Share"] for each in found["CloudComputingImage"]}
    assert len(images) == IMAGES
    assert {len(shares) for shares in images.values()} == {VOS}
    assert len(found["CloudComputingInstanceType"]) == FLAVORS


@pytest.mark.programs("slapd", "ldapsearch")
def test_ten_thousand_entries(tmp_path: Path) -> None:
    """An unchanged cycle writes nothing; the tree is not kept in memory; nobody is refused."""
    bdii = Bdii(tmp_path / "bdii", {"BDII_SOURCE_LIMIT": 500})
    path = bdii.directory / "cloud.ldif"
    info.write(path, ENTRIES, "image")
    bdii.script(f"exec cat {path}")
    with running(bdii):
        bdii.wait_for(lambda: bdii.statistics()["TotalEntries"] == ENTRIES, seconds=300)
        before = search(bdii.port, "o=glue", "entryCSN")
        assert len(before) == ENTRIES
        bdii.wait_for_cycles(2)
        assert search(bdii.port, "o=glue", "entryCSN") == before
        assert high_water_mark(bdii.engine()) <= MOST_MEMORY
        with asking(Poller(bdii.port)) as poller, asking(TreeReader(bdii.port)) as reader:
            info.write(path, ENTRIES, "changed image")
            bdii.wait_for_cycles(2)
        after = search(bdii.port, "o=glue", "entryCSN")
        assert sum(after[dn] != csn for dn, csn in before.items()) == info.CHANGED
        assert (poller.refused, reader.faults, {*reader.sizes}) == ([], [], {ENTRIES})
        assert poller.answered
        assert high_water_mark(bdii.engine()) <= MOST_MEMORY
    with running(bdii):
        bdii.wait_for(lambda: len(search(bdii.port, "o=glue", "1.1")) == ENTRIES, seconds=300)
        bdii.wait_for_cycles(2)
        assert high_water_mark(bdii.engine()) <= MOST_MEMORY
