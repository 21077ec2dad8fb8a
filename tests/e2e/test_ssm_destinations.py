"""One run of `ssmsend` over several spools and destinations, over STOMP and AMS."""

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dirq.QueueSimple import QueueSimple

from tests.e2e.killpoints import Command
from tests.e2e.ssm_site import PROGRAMS, Site
from tests.e2e.test_ssm_faults import wait_for
from tests.simulators.ams_service import AMS
from tests.simulators.stomp_faults import Fault, FaultBroker, Kind
from tests.testbed.broker import Broker
from tests.testbed.trust import Trust

CLOUD = (
    "APEL-cloud-message: v0.4\nVMUUID: a\nStatus: started\nStartTime: 1793000000\nWallDuration: 5\n"
)
VOLUME = (
    '<sr:StorageUsageRecords xmlns:sr="http://eu-emi.eu/namespaces/2011/02/storagerecord">'
    '<sr:StorageUsageRecord><sr:RecordIdentity sr:recordId="v-202610"/>'
    "<sr:StartTime>2026-10-01T00:00:00Z</sr:StartTime><sr:EndTime>2026-10-02T00:00:00Z</sr:EndTime>"
    "</sr:StorageUsageRecord></sr:StorageUsageRecords>"
)
STORAGE = "eu-egi-storage-accounting"


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    made = Trust(tmp_path_factory.mktemp("trust"))
    made.publish()
    return made


@pytest.fixture
def faulty(trust: Trust) -> Iterator[FaultBroker]:
    with FaultBroker(trust.host("broker"), trust.grid.certificate) as made:
        yield made


def add(site: Site, name: str, *changes: tuple[str, str]) -> Path:
    """Add a configuration to sender.d: sender.cfg with changes, and a spool of its own."""
    path = site.root / f"etc/apel/sender.d/{name}.cfg"
    path.parent.mkdir(exist_ok=True)
    text = (site.root / "etc/apel/sender.cfg").read_text()
    for old, new in (("outgoing/openstack", f"outgoing/openstack-{name}"), *changes):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def fill(site: Site, name: str, *texts: str) -> list[str]:
    spool = QueueSimple(f"{site.spool}-{name}")
    return [spool.add(text) for text in texts]


def waiting(site: Site, name: str) -> int:
    return int(QueueSimple(f"{site.spool}-{name}").count())


def record(site: Site, name: str) -> dict[str, Any]:
    return dict(json.loads((site.root / f"var/lib/fedcloud/runs/{name}.json").read_text()))


def ssmctl(site: Site, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return Command([str(PROGRAMS / "ssmctl"), verb, "--root", str(site.root), *words]).run()


def sent(site: Site, *words: str) -> list[dict[str, Any]]:
    done = ssmctl(site, "sent", "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kinds_arrive_at_two_topics(tmp_path: Path, trust: Trust) -> None:
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        site = Site.at_ams(tmp_path, trust, service)
        service.create(STORAGE, STORAGE)
        add(site, "storage", ("destination: eu-egi-cloud-accounting", f"destination: {STORAGE}"))
        clouds, volumes = site.fill([CLOUD] * 3), fill(site, "storage", VOLUME, VOLUME)
        done = site.run("ssmsend")
        assert (done.returncode, done.stderr) == (0, "")
        assert service.ids("eu-egi-cloud-accounting") == clouds
        assert service.ids(STORAGE) == volumes
        assert [site.opened(one.body) for one in service.topics[STORAGE]] == [VOLUME] * 2
    assert site.waiting() == site.locks() == []
    assert [(row["id"], row["destination"]) for row in sent(site)] == [
        *((name, "eu-egi-cloud-accounting") for name in clouds),
        *((name, STORAGE) for name in volumes),
    ]
    assert [
        (row["kind"], row["key"], row["month"], row["amount"], row["id"], row["spool"])
        for row in [*sent(site, "--month", "2026-10")]
    ] == [
        ("cloud", "a", "2026-10", 5, clouds[-1], str(site.spool)),
        ("storage", "v-202610", "2026-10", 86400, volumes[-1], f"{site.spool}-storage"),
    ]
    for name, count in (("ssmsend", 3), ("ssmsend-storage", 2)):
        assert record(site, name)["counts"]["messages_sent"] == count
        last = record(site, name)["counts"]["last_delivered_timestamp_seconds"]
        assert 0 <= time.time() - last < 600


@pytest.mark.parametrize("dead", ["ssmsend", "ssmsend-storage"])
def test_a_dead_broker_holds_back_only_its_own_messages(
    tmp_path: Path, trust: Trust, faulty: FaultBroker, dead: str
) -> None:
    site = Site.create(tmp_path, trust, hosts=f"localhost:{faulty.port}")
    path = add(site, "storage", ("/queue/test", "/queue/storage"))
    broken = path if dead == "ssmsend-storage" else tmp_path / "etc/apel/sender.cfg"
    working = "ssmsend" if dead == "ssmsend-storage" else "ssmsend-storage"
    broken.write_text(broken.read_text().replace(f"localhost:{faulty.port}", "localhost:1"))
    clouds, volumes = site.fill([CLOUD]), fill(site, "storage", VOLUME)
    done = site.run("ssmsend")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("ssmsend: localhost:1: cannot be reached: connection refused")
    is_cloud_dead = dead == "ssmsend"
    assert faulty.ids() == (volumes if is_cloud_dead else clouds)
    assert site.waiting() == (clouds if is_cloud_dead else [])
    assert waiting(site, "storage") == (0 if is_cloud_dead else 1)
    assert (record(site, working)["status"], record(site, dead)["status"]) == (0, 3)
    assert record(site, dead)["counts"]["left"] == 1
    # Nothing waits for the broker any more, so that nobody asks for it.
    site.run("ssmsend", "-c", str(broken))
    assert site.run("ssmsend", "-c", str(broken)).returncode == 3
    good = path if is_cloud_dead else tmp_path / "etc/apel/sender.cfg"
    assert site.run("ssmsend", "-c", str(good)).returncode == 0


def test_a_wrong_file_and_a_shared_spool_are_named(
    tmp_path: Path, trust: Trust, faulty: FaultBroker
) -> None:
    site = Site.create(tmp_path, trust, hosts=f"localhost:{faulty.port}")
    wrong = add(site, "a-wrong")
    wrong.write_text(wrong.read_text().replace("protocol: STOMP", "protocol: PIGEON"))
    shared = add(site, "shared", ("outgoing/openstack-shared", "outgoing/openstack"))
    names = site.fill([CLOUD])
    for words in ((), ("--dry-run",), ("--check-config",)):
        done = site.run("ssmsend", *words)
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"ssmsend: {wrong}:2: [sender] protocol: 'PIGEON' is not")
        assert lines[1].startswith(f"ssmsend: {shared}:")
        assert f"is the spool of {tmp_path}/etc/apel/sender.cfg:" in lines[1]
        assert faulty.ids() == names
    assert record(site, "ssmsend-a-wrong")["status"] == 2
    assert record(site, "ssmsend-shared")["status"] == 2
    assert record(site, "ssmsend")["status"] == 0
    # Each line has its place in the check of the host, too.
    done = site.run("ssmsend", "--check-config", "--log-json")
    found = [json.loads(line) for line in done.stderr.splitlines() if line[0] == "{"]
    places = [entry["problem"]["path"] for entry in found if "problem" in entry]
    assert places == [str(wrong), str(shared)]
    wrong.unlink()
    shared.unlink()
    assert site.run("ssmsend").returncode == 0
    kept = {path.stem for path in (tmp_path / "var/lib/fedcloud/runs").iterdir()}
    assert kept == {"ssmsend"}


def test_a_run_of_one_file_holds_no_other_up(
    tmp_path: Path, trust: Trust, faulty: FaultBroker
) -> None:
    """Each spool has a lock of its own, and a destination that hangs has a share of the time."""
    silent = [Fault(Kind.NO_RECEIPT)] * 20
    with FaultBroker(trust.host("broker"), trust.grid.certificate, silent) as hanging:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{hanging.port}")
        port = (f"localhost:{hanging.port}", f"localhost:{faulty.port}")
        add(site, "storage", port)
        site.fill([CLOUD])
        volumes = fill(site, "storage", VOLUME)
        running = site.start("ssmsend", "-c", str(tmp_path / "etc/apel/sender.cfg"))
        wait_for(lambda: bool(hanging.sent))
        done = site.run("ssmsend")
        assert done.returncode == 1
        assert "running since" in done.stderr
        assert faulty.ids() == volumes
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
        later = fill(site, "storage", VOLUME)
        assert site.run("ssmsend", "--max-time", "12").returncode == 1
        assert faulty.ids() == [*volumes, *later]


def test_sigterm_ends_the_whole_run(tmp_path: Path, trust: Trust, faulty: FaultBroker) -> None:
    silent = [Fault(Kind.NO_RECEIPT)] * 20
    with FaultBroker(trust.host("broker"), trust.grid.certificate, silent) as hanging:
        site = Site.create(tmp_path, trust, hosts=f"localhost:{hanging.port}")
        path = add(site, "storage", (f"localhost:{hanging.port}", f"localhost:{faulty.port}"))
        names = site.fill([CLOUD])
        fill(site, "storage", VOLUME)
        running = site.start("ssmsend")
        wait_for(lambda: bool(hanging.sent))
        os.kill(running.pid, signal.SIGTERM)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 1
        assert f"{path}: not begun, because of SIGTERM" in site.log("sender") + said
        assert faulty.ids() == []
        assert site.waiting() == names
        assert site.locks() == []


def test_an_example_and_an_empty_directory_change_nothing(
    tmp_path: Path, trust: Trust, faulty: FaultBroker
) -> None:
    site = Site.create(tmp_path, trust, hosts=f"localhost:{faulty.port}")
    names = site.fill([CLOUD])
    add(site, "storage").rename(tmp_path / "etc/apel/sender.d/storage.cfg.example")
    fill(site, "storage", VOLUME)
    done = site.run("ssmsend")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert faulty.ids() == names
    assert waiting(site, "storage") == 1
    assert "Configuration: " not in site.log("sender")


def test_ssmctl_looks_into_all_spools(tmp_path: Path, trust: Trust, faulty: FaultBroker) -> None:
    site = Site.create(tmp_path, trust, hosts=f"localhost:{faulty.port}")
    add(site, "storage")
    [cloud], [volume] = site.fill([CLOUD]), fill(site, "storage", "")
    done = ssmctl(site, "spool")
    assert (done.returncode, done.stderr) == (0, "")
    listed = done.stdout
    assert cloud in listed
    assert volume in listed
    assert f"1 messages in {site.spool}-storage" in listed
    assert site.run("ssmsend").returncode == 1  # an empty message is set aside
    assert volume in ssmctl(site, "failed").stdout
    done = ssmctl(site, "requeue", volume)
    assert (done.returncode, waiting(site, "storage")) == (0, 1)


@pytest.mark.broker
def test_two_queues_of_a_real_broker(tmp_path: Path, broker: Broker) -> None:
    hosts, name = f"{broker.host}:{broker.tls_port}", f"/queue/{secrets.token_hex(8)}"
    site = Site.create(tmp_path, broker.trust, hosts=hosts, queue=name)
    other = Site.create(tmp_path / "other", broker.trust, hosts=hosts, queue=f"{name}.storage")
    add(site, "storage", (name, f"{name}.storage"))
    clouds, volumes = site.fill([CLOUD] * 2), fill(site, "storage", VOLUME)
    assert site.run("ssmsend").returncode == 0
    for repository, names in ((site, clouds), (other, volumes)):
        assert repository.run("ssmreceive", "--count", str(len(names))).returncode == 0
        assert [element["empaid"] for element in repository.elements()] == names
    assert [row["id"] for row in sent(site)] == [*clouds, *volumes]
