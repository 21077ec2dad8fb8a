"""Two destinations in the shipped container, started as the shipped table of cron starts them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from deploy.dockerd import DockerDaemon
from tests.e2e.container_site import (
    ACCOUNT,
    ContainerSite,
    host_site,
    run_appliance,
    start_by_cron,
)
from tests.e2e.test_ssm_destinations import CLOUD, STORAGE, VOLUME
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import FaultBroker
from tests.testbed.trust import Trust

pytestmark = pytest.mark.container

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 960
GRID = "etc/grid-security"
OUTGOING = "var/spool/apel/outgoing"
_LOOK = """
import sqlite3
opened = sqlite3.connect("file:/var/lib/fedcloud/ssm/sent.sqlite?mode=ro", uri=True)
print("rows:", [name for (name,) in opened.execute("SELECT id FROM message ORDER BY number")])
try:
    open("/var/lib/fedcloud/ssm/new", "w")
except OSError as error:
    print("refused:", error.strerror)
"""


@pytest.fixture
def site(engine: DockerDaemon, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT) as made:
        made.set(FEDCLOUD_NETWORK="host")  # broker and service listen on the loopback
        yield made


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


def install(site: ContainerSite, trust: Trust, broker: FaultBroker, service: AMS) -> None:
    """Write both configurations, each with a certificate and key of its own."""
    for path in trust.ca_directory.iterdir():
        (site.root / GRID / "certificates" / path.name).write_bytes(path.read_bytes())
    for host, prefix in (("sender", "host"), ("storage", "storage")):
        issued = trust.host(host)
        for source, name, mode in (
            (issued.certificate, f"{prefix}cert.pem", 0o644),
            (issued.key, f"{prefix}key.pem", 0o400),
        ):
            target = site.root / GRID / name
            target.unlink(missing_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(mode)
    text = (site.root / "etc/apel/sender.cfg").read_text()
    for old, new in (
        ("protocol: AMS", "protocol: STOMP"),
        ("host: msg.argo.grnet.gr", f"host: localhost:{broker.port}"),
        ("destination: eu-egi-cloud-accounting", "destination: /queue/cloud"),
    ):
        text = text.replace(old, new)
    site.edit("etc/apel/sender.cfg", text=text)
    text = (site.root / "etc/apel/sender.d/storage.cfg.example").read_text()
    for old, new in (
        (
            "host: msg.argo.grnet.gr",
            f"host: localhost:{service.port}\nauthn_port: {service.authn_port}",
        ),
        ("hostcert.pem", "storagecert.pem"),
        ("hostkey.pem", "storagekey.pem"),
        ("ams_project: accounting", f"ams_project: {service.project}"),
    ):
        assert old in text
        text = text.replace(old, new)
    site.edit("etc/apel/sender.d/storage.cfg", text=text)


def fill(site: ContainerSite, name: str, text: str) -> str:
    spool = site.root / OUTGOING / name
    element = str(QueueSimple(str(spool)).add(text))
    for path in (spool, *spool.rglob("*")):
        os.chown(path, ACCOUNT, ACCOUNT)
    return element


def shown(site: ContainerSite) -> list[tuple[str, int]]:
    found = json.loads(run_appliance(site, "status", "--json").stdout)
    return [(one["destination"], one["queued"]) for one in found["destinations"]]


def _test_record(site: ContainerSite, broker: FaultBroker) -> None:
    """Ask for a test record: neither destination is for tests, so none is sent."""
    done = run_appliance(site, "check", "--json", "--send-test", "ssmsend")
    notes = [one["text"] for one in json.loads(done.stdout)["notes"]]
    (cloud,) = (text for text in notes if "/queue/cloud" in text)
    assert f"{site.root}/etc/apel/sender.cfg: one record, signed, " in cloud
    assert cloud.endswith("It is not sent, because this destination is not one for tests")
    assert any(f"{STORAGE} takes no records of servers" in text for text in notes)
    assert len(broker.sent) == 2


def test_each_kind_arrives_at_its_destination(
    site: ContainerSite, trust: Trust, tmp_path: Path
) -> None:
    # As shipped, the example sends nothing and asks for no key.
    fill(site, "openstack-storage", VOLUME)
    done = run_appliance(site, "run", "ssmsend")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Configuration" not in done.stdout + done.stderr
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        service.create(STORAGE, STORAGE)
        with FaultBroker(trust.host("broker"), trust.grid.certificate) as broker:
            install(site, trust, broker, service)
            port = broker.port
            clouds = [fill(site, "openstack", CLOUD) for _ in range(2)]
            log = start_by_cron(site, "ssmsend")
            assert broker.ids() == clouds, log
            volumes = service.ids(STORAGE)
            assert len(volumes) == 1, log
            assert f"{site.root}/etc/apel/sender.d/storage.cfg" in log
            _test_record(site, broker)
            assert (broker.ids(), service.ids(STORAGE)) == (clouds, volumes)
        assert list((site.root / "run/fedcloud/keys").iterdir()) == []
        assert shown(site) == [("/queue/cloud", 0), (STORAGE, 0)]
        listed = run_appliance(site, "run", "ssmsend", "--", "sent", "--month", "2026-10")
        assert f"{volumes[0]} of " in listed.stdout, listed.stdout + listed.stderr
        # The other container reads the journal, and can change nothing beside it.
        said = site.job("caso", "python3", "-I", "-c", _LOOK)
        assert f"rows: {[*clouds, *volumes]}" in said
        assert "refused: Read-only file system" in said

        # The broker is gone: what is for the service arrives, and the run says what waits.
        cloud, volume = fill(site, "openstack", CLOUD), fill(site, "openstack-storage", VOLUME)
        log = start_by_cron(site, "ssmsend")
        assert service.ids(STORAGE) == [*volumes, volume], log
        assert f"localhost:{port}: cannot be reached" in log
        jobs = site.root / "var/lib/fedcloud/runs/jobs/job-ssmsend.json"
        assert json.loads(jobs.read_text())["counts"] == {"job_exit_status": 1}
        assert shown(site) == [("/queue/cloud", 1), (STORAGE, 0)]
        status = run_appliance(site, "status", "--long")
        assert status.returncode == 1
        assert re.search(
            rf"Accounting: /queue/cloud: last delivered .* ago, 1 messages wait in"
            rf" {site.root}/{OUTGOING}/openstack\n",
            status.stdout,
        ), status.stdout
        assert QueueSimple(str(site.root / OUTGOING / "openstack")).first() == cloud

        # A key that is missing holds back its own destination only.
        (site.root / GRID / "hostkey.pem").unlink()
        volume = fill(site, "openstack-storage", VOLUME)
        log = start_by_cron(site, "ssmsend")
        assert service.ids(STORAGE)[-1] == volume, log
        assert f"{site.root}/{GRID}/hostkey.pem: does not exist" in log


def test_check_reads_all_files(site: ContainerSite, trust: Trust) -> None:
    with (
        AMS(trust.host("broker"), trust.grid.certificate) as service,
        FaultBroker(trust.host("broker"), trust.grid.certificate) as broker,
    ):
        install(site, trust, broker, service)
    storage = site.root / "etc/apel/sender.d/storage.cfg"
    text = storage.read_text().replace("openstack-storage", "openstack")
    site.edit("etc/apel/sender.d/storage.cfg", text=text)
    found = json.loads(run_appliance(site, "check", "--offline", "--json", "ssmsend").stdout)
    texts = [
        f"{one['path']}:{one['line']} {one['text']}"
        for one in found["findings"]
        if "is the spool of" in one["text"]
    ]
    [line] = texts
    assert line.startswith(f"{storage}:")
    assert f"is the spool of {site.root}/etc/apel/sender.cfg:" in line
