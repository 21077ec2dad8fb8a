"""The services on the host's network, with Compose v2 and the test bed's cloud."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.bdii_service import Entries, search
from tests.e2e.container_site import SERVICES, ContainerSite, wait
from tests.testbed import Testbed

# images are built first
pytestmark = [pytest.mark.container, pytest.mark.cloud, pytest.mark.timeout(900)]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 900
START = 60  # seconds, on a machine that does other things, too


def entries(host: str = "127.0.0.1", port: int = PORT) -> Entries:
    """Return what a stranger finds below o=glue; nothing while nobody answers."""
    try:
        return search(port, host=host)
    except subprocess.CalledProcessError:
        return {}


@pytest.fixture
def host_site(engine: DockerDaemon, testbed: Testbed, tmp_path: Path) -> Iterator[ContainerSite]:
    """Compose v2, the host's network, and the test bed's cloud, which only listens here."""
    root = tmp_path / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(
            engine, root, version="v2", project="fedcloud2", port=PORT + 2, network="host"
        )
        container_cloud.name_site(site)
        container_cloud.offer_test_bed(site, testbed)
        try:
            yield site
        finally:
            site.down()


def test_a_real_cloud_is_published_from_the_host_s_network(
    host_site: ContainerSite, testbed: Testbed
) -> None:
    """R24, R26, R33: Compose v2, network_mode host, private CA, IPv4 and IPv6."""
    site = host_site
    site.compose("up", "-d", "--wait", "--wait-timeout", "90")
    assert {site.health(service) for service in SERVICES} == {"healthy"}
    seed = testbed.seed()

    def shares() -> set[str]:
        return {dn for dn in entries(port=PORT + 2) if dn.startswith("GLUE2ShareID=")}

    vos = {project.vo for project in seed.projects.values() if project.vo}
    wait(
        lambda: len(shares()) == len(vos),
        seconds=START,
        what=lambda: site.log("cloudbdii") + site.log("sitebdii"),
    )
    assert all(any(f"_share_{vo}_" in dn for dn in shares()) for vo in vos), shares()
    for service in SERVICES:
        assert site.container(service)["HostConfig"]["NetworkMode"] == "host"
    if Path("/proc/net/if_inet6").exists() and Path("/proc/net/if_inet6").read_text().strip():
        assert entries("[::1]", PORT + 2).keys() == entries(port=PORT + 2).keys()
    validate(site, "cloudbdii", "/etc/bdii/bdii.conf")
    validate(site, "sitebdii", "/etc/sitebdii/bdii.conf")
    # F-I9: bases of GLUE 1 are empty, with status 0
    for base in ("o=grid", "mds-vo-name=resource,o=grid"):
        assert search(PORT + 2, base) == {}


def validate(site: ContainerSite, service: str, path: str) -> None:
    """Let a shipped container judge its own tree by the rules of EGI's validator."""
    shown = site.compose("exec", "-T", service, "bdii-update", "-c", path, "--validate").stdout
    *findings, totals = shown.splitlines()
    assert " entries: 0 errors, " in totals
    codes = {line.split()[1] for line in findings}
    # vocabularies and usual sizes; nothing that is mandatory is missing
    assert "W037:" in codes
    assert not {"W034:", "W036:", "W038:"} & codes, shown
