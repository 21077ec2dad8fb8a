"""The jobs in their containers, with the test bed's cloud and broker."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin.inventory import JOBS
from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.container_site import ACCOUNT, ContainerSite
from tests.e2e.ssm_site import Site
from tests.testbed import Testbed

pytestmark = [pytest.mark.container, pytest.mark.cloud, pytest.mark.broker]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 910


@pytest.fixture
def site(engine: DockerDaemon, testbed: Testbed, tmp_path: Path) -> Iterator[ContainerSite]:
    root = tmp_path / "root"
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(
            engine, root, version="1.29.2", project="jobs", port=PORT, network="host"
        )
        site.set(FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        try:
            yield site
        finally:
            site.down()


def spooled(site: ContainerSite) -> list[Path]:
    return list((site.root / "var/spool/apel/outgoing/openstack").rglob("*"))


def test_usage_of_a_real_cloud_arrives_over_a_real_broker(
    site: ContainerSite, testbed: Testbed, tmp_path: Path
) -> None:
    """R12, R19, R20, R21, D02, D13: the record is in the spool, goes with the staged key, and is
    gone from the spool then.
    """
    container_cloud.account_for(site, testbed)
    said = site.job("caso", "caso-extract")
    elements = [path for path in spooled(site) if path.is_file()]
    assert elements, said
    assert {path.stat().st_uid for path in spooled(site)} == {ACCOUNT}
    wanted = sorted(path.read_text() for path in elements)

    broker = testbed.broker
    peer = Site.create(
        tmp_path / "peer",
        broker.trust,
        hosts=f"{broker.host}:{broker.tls_port}",
        queue="/queue/container.jobs",
    )
    shutil.copytree(
        broker.trust.ca_directory, site.root / "etc/grid-security/certificates", dirs_exist_ok=True
    )
    sender = broker.trust.host("sender")
    key = site.root / "run/fedcloud/keys/ssmsend"
    key.parent.mkdir(parents=True)
    shutil.copy(sender.key, key)
    key.chmod(0o400)
    os.chown(key, ACCOUNT, ACCOUNT)
    shipped = (site.root / "etc/apel/sender.cfg").read_text()
    assert "eu-egi-cloud-accounting" in shipped
    sender_cfg = (peer.root / "etc/apel/sender.cfg").read_text()
    for old, new in (
        (str(sender.certificate), "/etc/grid-security/hostcert.pem"),
        (str(sender.key), "/etc/grid-security/hostkey.pem"),
        (str(broker.trust.ca_directory), "/etc/grid-security/certificates"),
        (str(peer.root), ""),
        ("console: false", "console: true"),
    ):
        sender_cfg = sender_cfg.replace(old, new)
    site.edit("etc/apel/sender.cfg", text=sender_cfg)
    grid = "/etc/grid-security"
    mounts = (f"{sender.certificate}:{grid}/hostcert.pem:ro", f"{key}:{grid}/hostkey.pem:ro")
    said = site.job("ssm", "ssmsend", mounts=mounts)
    assert not [path for path in spooled(site) if path.is_file()], said
    assert peer.run("ssmreceive", "--count", str(len(wanted))).returncode == 0
    assert sorted(element["body"] for element in peer.elements()) == wanted


def test_a_site_that_runs_caso_is_looked_at_from_the_container(
    site: ContainerSite, testbed: Testbed
) -> None:
    """The spool is another mount than the shadow, so messages are kept as copies."""
    container_cloud.account_for(site, testbed)
    assert " 0 faults" in site.job("caso", "caso", "check")
    site.job("caso", "caso", "shadow")
    site.job("caso", "caso-extract")
    count = len([path for path in spooled(site) if path.is_file()])
    assert f"kept in {site.root}/var/lib/fedcloud/caso/shadow/cASO, {count} of them as copies" in (
        site.job("caso", "caso", "shadow", "--only-keep")
    )
    assert "servers and months are equal or explained" in site.job("caso", "caso", "compare")


def test_information_of_a_real_cloud_becomes_a_file(site: ContainerSite, testbed: Testbed) -> None:
    """The job as shipped: for others to read, with each VO, its time renewed by each run."""
    container_cloud.name_site(site)
    container_cloud.offer_test_bed(site, testbed)
    job = JOBS["cloud-info-json"]
    times = []
    for _ in range(2):
        said = site.job(job.service, *job.command)
        path = site.root / "var/lib/fedcloud/cloud-info/information.json"
        assert path.exists(), said
        status = path.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (ACCOUNT, 0o644)
        written = json.loads(path.read_text())
        times.append(written["CloudComputingService"][0]["CreationTime"])
        published = {
            vo
            for policy in written["MappingPolicy"]
            for vo in policy["Associations"]["PolicyUserDomain"]
        }
        wanted = {project.vo for project in testbed.seed().projects.values() if project.vo}
        assert published == wanted
        assert written["CloudComputingEndpoint"][0]["URL"].startswith(
            testbed.keystone_url.removesuffix("/v3")
        )
    assert times[1] > times[0]
