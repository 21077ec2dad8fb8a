"""Accounting as it ships: both tables of cron, containers, a real cloud and a real broker.

Nova's and Cinder's databases say what must arrive, and the openssl program reads what does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from caso.kinds.storage import NAMESPACE
from deploy.dockerd import DockerDaemon
from tests.demo import counters
from tests.e2e.container_site import (
    ACCOUNT,
    ContainerSite,
    host_site,
    run_appliance,
    start_by_cron,
)
from tests.testbed import Testbed

pytestmark = [
    pytest.mark.container,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.timeout(900),
]

PORT = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 26000) + 970
ZONES = [
    "Europe/Madrid",
    pytest.param("America/New_York", marks=pytest.mark.matrix),
    pytest.param("UTC", marks=pytest.mark.matrix),
]
QUEUES = {"cloud": "/queue/shipped.cloud", "storage": "/queue/shipped.storage"}
SR = "{" + NAMESPACE + "}"
LEDGER = "var/lib/fedcloud/caso/ledger.sqlite"
Volume = tuple[str, datetime, datetime, int]
"""Project, start, end and bytes of a record."""


@pytest.fixture
def site(engine: DockerDaemon, testbed: Testbed, tmp_path: Path) -> Iterator[ContainerSite]:
    with host_site(engine, tmp_path / "root", port=PORT) as made:
        made.set(FEDCLOUD_NETWORK="host", FEDCLOUD_CA_BUNDLE=testbed.ca_file)
        configure(made, testbed)
        yield made


def configure(site: ContainerSite, testbed: Testbed) -> None:
    """Fill in the shipped files as an administrator does, with a second file for caso."""
    account = testbed.seed().accounts["accounting"]
    more = "/etc/caso/caso.conf.d"
    replace(
        site,
        "etc/caso/caso.conf",
        ("SITE-NAME", "TEST-SITE"),
        ("projects = PROJECT-NAMES", "projects ="),
        ("https://yourkeystone/v3", testbed.keystone_url),
        ("#username = accounting", f"username = {account.name}"),
        ("#user_domain_name = Default", "user_domain_name = Default"),
    )
    text = (
        f"[keystone_auth]\npassword_file = {more}/password\n"
        "[ssm]\noutput_path_storage = /var/spool/apel/outgoing/openstack-storage\n"
    )
    site.edit(f"{more}/site.conf".lstrip("/"), text=text)
    site.edit(f"{more}/password".lstrip("/"), text=f"{account.password}\n")
    shutil.copy(
        site.root / "etc/apel/sender.d/storage.cfg.example",
        site.root / "etc/apel/sender.d/storage.cfg",
    )
    configure_sender(site, testbed, "sender.cfg", "cloud")
    configure_sender(site, testbed, "sender.d/storage.cfg", "storage")


def configure_sender(site: ContainerSite, testbed: Testbed, name: str, kind: str) -> None:
    """Have a file of the sender serve a queue of the test bed's broker, with its authorities."""
    grid, broker = site.root / "etc/grid-security", testbed.broker
    shutil.copytree(broker.trust.ca_directory, grid / "certificates", dirs_exist_ok=True)
    sender = broker.trust.host("sender")
    for source, target, mode in (
        (sender.certificate, grid / "hostcert.pem", 0o644),
        (sender.key, grid / "hostkey.pem", 0o400),
    ):
        target.unlink()
        shutil.copy(source, target)
        target.chmod(mode)
    replace(
        site,
        f"etc/apel/{name}",
        ("protocol: AMS", "protocol: STOMP"),
        ("host: msg.argo.grnet.gr", f"host: {broker.host}:{broker.tls_port}"),
        (f"destination: eu-egi-{kind}-accounting", f"destination: {QUEUES[kind]}"),
    )


def replace(site: ContainerSite, name: str, *pairs: tuple[str, str]) -> None:
    text = (site.root / name).read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    site.edit(name, text=text)


def arrived(testbed: Testbed, kind: str) -> list[str]:
    """Return the texts that a destination got, whose signatures the openssl program accepts."""
    copies = counters.copies_of_messages(testbed.broker.plain_port, QUEUES[kind])
    texts = [counters.text_verified_by_openssl(copy, testbed.ca_directory) for copy in copies]
    assert None not in texts
    return [text for text in texts if text]


def month(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0)


def servers(testbed: Testbed, until: datetime) -> dict[tuple[str, str], counters.Usage]:
    """Return the use of the tagged projects in this month, by Nova's database."""
    tagged = {one.id for one in testbed.seed().projects.values() if "caso" in one.tags}
    counted = counters.nova_usage(testbed.nova_database, until)
    return {
        key: value
        for key, value in counted.items()
        if key[0] in tagged and key[1] == f"{until:%Y-%m}"
    }


def volumes(testbed: Testbed, until: datetime) -> dict[str, Volume]:
    """Return the records of this month, by Cinder's database."""
    tagged = {one.id for one in testbed.seed().projects.values() if "caso" in one.tags}
    with closing(sqlite3.connect(testbed.layout.database("cinder"), timeout=60)) as opened:
        rows = opened.execute(
            "SELECT id, project_id, created_at, size FROM volumes WHERE NOT deleted"
        ).fetchall()
    found = {}
    for key, project, created, size in rows:
        born = datetime.fromisoformat(created).replace(microsecond=0, tzinfo=UTC)
        if project in tagged:
            start = max(born, month(until))
            found[f"{key}-{until:%Y%m}"] = (project, start, until, size * 2**30)
    assert found
    return found


def read_volumes(texts: list[str]) -> dict[str, Volume]:
    found = {}
    for text in texts:
        for record in ET.fromstring(text):  # noqa: S314  our own
            identity = record.find(f"{SR}RecordIdentity")
            assert identity is not None
            start, end = (
                datetime.fromisoformat(record.findtext(f"{SR}{name}Time", ""))
                for name in ("Start", "End")
            )
            project = record.findtext(f"{SR}SubjectIdentity/{SR}LocalGroup", "")
            size = int(record.findtext(f"{SR}ResourceCapacityUsed", ""))
            found[identity.attrib[f"{SR}recordId"]] = (project, start, end, size)
    return found


def extracted(said: str) -> datetime:
    """Return up to when a run has accounted, by its log."""
    found = re.search(r"projects, up to (\S+)", said)
    assert found, said
    return datetime.fromisoformat(found[1])


@pytest.mark.parametrize("zone", ZONES)
def test_servers_and_volumes_arrive_at_two_destinations(
    zone: str, site: ContainerSite, testbed: Testbed
) -> None:
    for kind in QUEUES:
        arrived(testbed, kind)  # what an earlier test has left
    said = start_by_cron(site, "caso", zone=zone)
    until = extracted(said)
    assert abs((datetime.now(UTC) - until).days) == 0, "the container's clock is in UTC"
    ledger = site.root / LEDGER
    status = ledger.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (ACCOUNT, 0o640)
    said = start_by_cron(site, "ssmsend", zone=zone)
    clouds, stars = arrived(testbed, "cloud"), arrived(testbed, "storage")
    every, repeated = counters.accounted(counters.records(clouds))
    counted = {key: value for key, value in every.items() if key[1] == f"{until:%Y-%m}"}
    assert (counted, repeated) == (servers(testbed, until), 0), said
    assert read_volumes(stars) == volumes(testbed, until), said
    assert not list((site.root / "var/spool/apel/outgoing").glob("openstack*/????????/*"))

    shown = run_appliance(site, "status", "--long").stdout
    for queue in QUEUES.values():
        assert re.search(rf"Accounting: {queue}: last delivered .* ago, 0 messages wait", shown)
    runs = site.root / "var/lib/fedcloud/runs/caso/caso-extract.json"
    counts = json.loads(runs.read_text())["counts"]
    assert counts["servers"] == sum(one.servers for one in counted.values())
    assert counts["volumes"] == len(volumes(testbed, until))


def test_a_lost_ledger_is_read_from_the_journal_and_verbs_work(
    site: ContainerSite, testbed: Testbed
) -> None:
    start_by_cron(site, "caso")
    start_by_cron(site, "ssmsend")
    clouds, stars = arrived(testbed, "cloud"), arrived(testbed, "storage")
    for path in (site.root / LEDGER).parent.glob("ledger.sqlite*"):
        path.unlink()
    said = start_by_cron(site, "caso")
    number = len(list(counters.records(clouds))) + len(read_volumes(stars))
    words = f"0 records of messages that wait, {number} of the journal of sent messages"
    assert words in said, said
    server = next(counters.records(clouds))["VMUUID"]
    for verb, wanted in (
        (("ledger", "show", server), "cloud"),
        (("checkpoints",), "storage"),
        (("gaps",), ""),
        (("projects",), "vo-ops"),
        (("quarantine", "list"), ""),
    ):
        done = run_appliance(site, "run", "caso", "--", *verb)
        assert done.returncode == 0, done.stdout + done.stderr
        assert wanted in done.stdout, verb
    # A message names the files as they are on the host.
    site.edit("etc/caso/caso.conf.d/wrong.conf", text="[ssm]\nmax_size = many\n")
    done = run_appliance(site, "run", "caso", "--", "checkpoints")
    assert done.returncode == 2
    assert f"{site.root}/etc/caso/caso.conf.d/wrong.conf:2: [ssm] max_size" in done.stderr


def test_as_shipped_only_servers_are_sent(site: ContainerSite) -> None:
    """F-A7: one line of the log names what is not sent, and the setting."""
    replace(
        site,
        "etc/caso/caso.conf.d/site.conf",
        ("output_path_storage", "#output_path_storage"),
    )
    said = start_by_cron(site, "caso")
    extracted(said)
    assert len(re.findall("records of these kinds are not sent", said)) == 1
    outgoing = site.root / "var/spool/apel/outgoing"
    assert {path.name for path in outgoing.iterdir()} == {"openstack"}
    assert list((outgoing / "openstack").glob("????????/*"))
