"""The provider below a BDII: a VO that cannot be read keeps its entries; its neighbours go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bdii_service import Bdii, Entries, images, running
from tests.e2e.test_provider_faults import run
from tests.simulators.offering_cloud import Cloud, Fault, flavor, image, server

PROGRAM = Path(sys.executable).with_name("cloud-info-provider-service")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(
        flavors={"ops": [flavor("1")], "biomed": [flavor("1"), flavor("2")]},
        images={"ops": [image("a"), image("b")], "biomed": [image("b"), image("c")]},
        servers={"ops": [server("x")]},
    )
    with made.serve():
        yield made


def marked(entries: Entries, vo: str) -> set[str]:
    """Return the names of the entries that are marked for a VO."""
    return {
        dn
        for dn, found in entries.items()
        if f"VO=vo-{vo}" in found.get("GLUE2EntityOtherInfo", [])
    }


def stale(entries: Entries) -> set[str]:
    return {
        dn for dn, found in entries.items() if "Stale=TRUE" in found.get("GLUE2EntityOtherInfo", [])
    }


def test_a_vo_that_fails_keeps_what_it_had_and_its_neighbour_changes(
    cloud: Cloud, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    assert run(cloud, site)[0] == 0  # writes the site's files
    bdii = Bdii(tmp_path)
    bdii.script(f"exec {PROGRAM} --root {site}")
    with running(bdii):
        bdii.wait_for_images(3)
        bdii.wait_for_cycles(1)  # so that the cycle that added them has ended
        good = bdii.entries()
        assert len(marked(good, "biomed")) == 2 + 2 + 1  # flavors, images, the share
        assert not stale(good)

        cloud.faults = [Fault("/v2/images", "biomed", 403)]
        cloud.images["ops"].append(image("d"))
        bdii.wait_for_images(4)
        bdii.wait_for(lambda: bool(stale(bdii.entries())), what="stale entries")
        bdii.wait_for_cycles(1)
        bad = bdii.entries()
        assert bad.keys() - good.keys() == {dn for dn in images(bad) if "os#d_" in dn}
        assert good.keys() <= bad.keys()
        assert marked(bad, "biomed") == marked(good, "biomed")
        assert {dn for dn in stale(bad) if "GLUE2ShareID=" in dn} == {
            dn for dn in good if "share_vo-biomed" in dn
        }

        cloud.faults = []
        bdii.wait_for(lambda: not stale(bdii.entries()), what="no stale entries")
        again = bdii.entries()
        assert again.keys() == bad.keys()


def test_an_unreachable_cloud_keeps_its_tree(cloud: Cloud, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert run(cloud, site)[0] == 0
    bdii = Bdii(tmp_path)
    bdii.script(f"exec {PROGRAM} --root {site}")
    with running(bdii):
        bdii.wait_for_images(3)
        bdii.wait_for_cycles(1)  # so that the cycle that added them has ended
        good = bdii.entries()
        cloud.faults = [Fault("/auth/tokens", status=401)]
        bdii.wait_for(lambda: bool(stale(bdii.entries())), what="stale entries")
        bdii.wait_for_cycles(1)
        assert bdii.entries().keys() == good.keys()
        assert "wrong name, domain or password" in bdii.log
