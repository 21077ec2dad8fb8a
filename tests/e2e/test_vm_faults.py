"""Faults on a machine: each is one clear line, leaves nothing half done, and stops no service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from deploy import images
from tests.e2e.vm_site import Appliance
from tests.testbed.pki import Authority
from tests.testbed.vm import HOST, Machine

SERVICES = {"cloudbdii", "sitebdii"}
pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.timeout(900),
]


@pytest.fixture
def serving(appliance: Appliance) -> Iterator[Appliance]:
    """Return the running appliance; after the test its services must answer as before."""
    appliance.start()
    before = appliance.containers()
    yield appliance
    assert appliance.containers() == before
    assert appliance.shares()
    assert appliance.backend_answers()


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that something ended with one line that says all this, and without a traceback."""
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(said) == 1, done
    assert all(word in said[0] for word in words), said


def test_an_altered_image_in_the_bundle_is_refused(serving: Appliance) -> None:
    """R01: nothing is changed before the whole bundle is proven."""
    machine = serving.machine
    media = machine.directory / "media"
    bundle, altered = media / Path(serving.bundle).name, media / "altered"
    shutil.copytree(
        bundle, altered, copy_function=lambda source, target: Path(target).hardlink_to(source)
    )
    archive = altered / "images/images.tar"
    archive.unlink()
    shutil.copyfile(bundle / "images/images.tar", archive)
    with archive.open("r+b") as file:
        file.seek(10**6)
        octet = file.read(1)
        file.seek(10**6)
        file.write(bytes([octet[0] ^ 1]))
    try:
        done = machine.run("/media/altered/install", expect=3)
    finally:
        shutil.rmtree(altered)
    refused(done, "altered or incomplete: images/images.tar", "nothing was changed")


def test_somebody_else_has_the_account_s_number(serving: Appliance) -> None:
    """The account file that the installer sees names another user 1999."""
    machine = serving.machine
    line = (
        "sed 's/^fedcloud:x:1999:/other:x:1999:/' /etc/passwd >/tmp/passwd && mount --bind "
        "/tmp/passwd /etc/passwd"
        f" && exec {serving.bundle}/install"
    )
    refused(machine.run("unshare", "--mount", "bash", "-c", line, expect=3), "other", "1999")


def test_the_source_of_a_mount_is_missing(serving: Appliance) -> None:
    """F-H10: the job names the file, makes no directory in its place, and runs once it is there."""
    machine = serving.machine
    path = serving.path("/etc/caso/caso.conf")
    aside = path.with_name("caso.conf.aside")
    path.rename(aside)
    try:
        done = machine.shell("/usr/local/bin/caso-extract.sh", expect=None)
        assert done.returncode == 3
        assert "appliance: /etc/caso/caso.conf: does not exist, but caso mounts it" in done.stderr
        assert not re.search("Traceback|ERROR|daemon", done.stderr), done.stderr
        assert not path.exists()
    finally:
        aside.rename(path)
    machine.shell("/usr/local/bin/caso-extract.sh --dry-run")


def test_both_schedulers(serving: Appliance) -> None:
    """R12: timers replace the tables and back; a foreign starter is reported and refused."""
    machine = serving.machine
    machine.shell("appliance schedule systemd")
    timers = machine.shell(
        "systemctl list-timers --all --no-legend --plain 'fedcloud-job@*'"
    ).stdout
    assert all(
        f"fedcloud-job@{job}.timer" in timers
        for job in ("caso", "ssmsend", "cloudkeeper", "fetch-crl")
    )
    assert not serving.path("/etc/cron.d/caso").exists()
    machine.shell("cp /etc/fedcloud/cron.d/caso /etc/cron.d/caso")
    done = machine.shell("appliance schedule", expect=None)
    assert done.returncode != 0
    assert "both cron and systemd start caso" in done.stdout + done.stderr
    machine.shell("rm -f /etc/cron.d/caso; appliance schedule cron")
    assert serving.path("/etc/cron.d/caso").exists()
    left = machine.shell("systemctl list-timers --all --no-legend --plain 'fedcloud-job@*'").stdout
    assert left == ""


@pytest.mark.parametrize(("job", "status"), [("ssmsend", 0), ("caso", 0), ("cloudkeeper", 2)])
def test_a_timer_s_job_runs_with_the_unit_s_few_rights(
    serving: Appliance, job: str, status: int
) -> None:
    """R12: what the timer starts, started once: hardened as it is, it hands over the key and writes
    log and record. No image list is configured yet, which cloudkeeper refuses.
    """
    machine = serving.machine
    log = serving.path("/var/log/ssm.log" if job == "ssmsend" else f"/var/log/{job}.log")
    log.write_text("")
    record = serving.path(f"/var/lib/fedcloud/runs/jobs/job-{job}.json")
    record.unlink(missing_ok=True)
    machine.run("systemctl", "start", f"fedcloud-job@{job}", expect=1 if status else 0)
    machine.run("systemctl", "reset-failed")
    assert log.read_text()
    assert json.loads(record.read_text())["status"] == status
    assert list(serving.path("/run/fedcloud/keys").iterdir()) == []


def test_revocation_lists_are_fetched_by_their_unit_and_a_dead_source_shows(
    serving: Appliance, tmp_path: Path
) -> None:
    """D13, F-H6: with the few rights of the unit, fetch-crl writes the lists that it gets.

    The check names the remedy for a directory without lists; carried out, it clears the finding.
    A source that has been down for a day ends in a failure.
    """
    machine, anchors = serving.machine, serving.path("/srv/anchors")
    authority = Authority.create(tmp_path, subject="/DC=EU/DC=EXAMPLE/CN=listed")
    authority.publish(anchors, crl_days=None)
    authority.publish(serving.path("/srv/lists"))
    (anchors / f"{authority.hash}.crl_url").write_text(
        f"http://127.0.0.1:8088/{authority.hash}.r0\n"
    )
    machine.shell("mount --bind /srv/anchors /etc/grid-security/certificates")
    machine.shell(
        "systemd-run --quiet --unit lists python3 -m http.server 8088 --bind 127.0.0.1 -d "
        "/srv/lists"
    )
    try:
        machine.wait(
            lambda: "8088" in machine.shell("ss -Hltn").stdout,
            seconds=10,
            what=lambda: "nobody listens",
        )
        finding = re.compile("holds no revocation list; run (appliance run [a-z-]+),")
        checked = machine.shell("appliance check --offline || true").stdout
        (remedy,) = finding.findall(checked)
        machine.run(*remedy.split())
        assert not finding.findall(machine.shell("appliance check --offline || true").stdout)
        machine.run("systemctl", "start", "fedcloud-job@fetch-crl")
        fetched, offered = (
            anchors / f"{authority.hash}.r0",
            serving.path(f"/srv/lists/{authority.hash}.r0"),
        )
        crl = [x509.load_pem_x509_crl(path.read_bytes()) for path in (fetched, offered)]
        assert crl[0] == crl[1]
        machine.run("systemctl", "stop", "lists")
        machine.run("systemctl", "start", "fedcloud-job@fetch-crl")
        # as if long ago
        machine.shell("sed -i 's/^mtime=.*/mtime=1700000000/' /var/cache/fetch-crl/*.state")
        machine.run("systemctl", "start", "fedcloud-job@fetch-crl", expect=1)
        assert (
            f"CRL retrieval for {authority.hash} failed"
            in serving.path("/var/log/fetch-crl.log").read_text()
        )
    finally:
        machine.shell(
            "systemctl stop lists; systemctl reset-failed; umount /etc/grid-security/certificates"
        )
        machine.shell("rm -r /srv/anchors /srv/lists")


def test_a_container_that_an_earlier_release_left(appliance: Appliance) -> None:
    """R38: the unit of 2017 left a stopped container of the same name behind; it makes way."""
    machine = appliance.machine
    machine.shell("systemctl stop cloudkeeper-os; docker rm -f cloudkeeper-os")
    image = images.tag("cloudkeeper-os")
    machine.run(
        "docker",
        "run",
        "--name",
        "cloudkeeper-os",
        "--network",
        "none",
        "--entrypoint",
        "/bin/true",
        image,
    )
    machine.run("systemctl", "start", "cloudkeeper-os")
    machine.wait(
        appliance.backend_answers, seconds=60, what=lambda: machine.journal("cloudkeeper-os")
    )


@pytest.mark.matrix
def test_two_configurations_of_the_backend(appliance: Appliance) -> None:
    """R36: it goes on serving with the one that it has, does not start with a doubtful one, and
    starts with the one that is named.
    """
    machine = appliance.machine
    appliance.start()
    machine.shell(
        "mkdir /etc/cloudkeeper-os && cp -p /etc/cloudkeeper/cloudkeeper-os.conf "
        "/etc/cloudkeeper-os/"
    )
    newer, env = (
        "/etc/cloudkeeper-os/cloudkeeper-os.conf",
        appliance.path("/etc/fedcloud/appliance.env"),
    )
    before = env.read_bytes()
    try:
        assert appliance.backend_answers()
        machine.run("systemctl", "restart", "cloudkeeper-os")  # with what passed last
        assert appliance.backend_answers()
        machine.shell(
            "systemctl stop cloudkeeper-os; rm -r /var/lib/fedcloud/services/cloudkeeper-os"
        )
        machine.run("systemctl", "start", "cloudkeeper-os", expect=1)
        said = machine.shell("journalctl --no-pager -o cat -u cloudkeeper-os").stdout
        assert f"{newer}: there is /etc/cloudkeeper/cloudkeeper-os.conf too; remove one" in said
        env.write_bytes(before + f"FEDCLOUD_BACKEND_CONFIG={newer}\n".encode())
        machine.shell("systemctl start cloudkeeper-os")
        machine.wait(
            appliance.backend_answers, seconds=60, what=lambda: machine.journal("cloudkeeper-os")
        )
        mounts = machine.shell(
            "docker inspect -f '{{range .Mounts}}{{.Source}} {{end}}' cloudkeeper-os"
        ).stdout.split()
        assert newer in mounts
    finally:
        env.write_bytes(before)
        machine.shell("rm -r /etc/cloudkeeper-os")
        machine.shell("systemctl restart cloudkeeper-os")


@pytest.mark.matrix
def test_the_port_is_taken(appliance: Appliance) -> None:
    """The start fails with the reason, the backend runs, systemd retries until the port is free."""
    machine = appliance.machine
    appliance.start()
    machine.run("systemctl", "stop", "bdii")
    with _squatter(machine):
        reported = _fails_to_start(appliance, "bdii")
        assert "0.0.0.0:2170: is taken by another program" in reported
        assert appliance.backend_answers()
    machine.wait(lambda: bool(appliance.shares()), seconds=60, what=lambda: machine.journal("bdii"))


@contextmanager
def _squatter(machine: Machine) -> Iterator[None]:
    """Have another program listen on the BDII's port for the block."""
    program = "import socket, time; s = socket.create_server(('0.0.0.0', 2170)); time.sleep(600)"
    machine.run(
        "systemd-run", "--quiet", "--collect", "--unit", "squatter", "python3", "-c", program
    )
    machine.wait(
        lambda: "2170" in machine.shell("ss -Hltn 'sport = :2170'").stdout,
        seconds=10,
        what=lambda: "nobody listens",
    )
    try:
        yield
    finally:
        machine.run("systemctl", "stop", "squatter")


def _fails_to_start(appliance: Appliance, unit: str) -> str:
    """Start a service that must fail soon; return its journal."""
    machine = appliance.machine
    moment, begin = machine.run("date", "+%s").stdout.strip(), time.monotonic()
    machine.run("systemctl", "start", unit, expect=1)
    reported = machine.shell(f"journalctl --no-pager -o cat -u {unit} --since @{moment}").stdout
    assert time.monotonic() - begin < 60, reported  # of the 120 s that it would wait
    assert "Traceback" not in reported
    return reported


@pytest.mark.parametrize(
    ("unit", "name", "text", "words"),
    [
        (
            "bdii",
            "/etc/sitebdii/bdii.conf",
            "BDII_BREATHE_TIME=soon\n",
            r"/bdii\.conf:1: BDII_BREATHE_TIME: ",
        ),
        pytest.param(
            "cloudkeeper-os",
            "/etc/cloudkeeper/cloudkeeper-os.conf",
            "[DEFAULT]\ngrpc_port = soon\n",
            r"/cloudkeeper-os\.conf:2: grpc_port: ",
            marks=pytest.mark.matrix,
        ),
    ],
)
def test_a_wrong_configuration(
    appliance: Appliance, unit: str, name: str, text: str, words: str
) -> None:
    """R32, R38, F-H2: neither a reload nor `appliance restart` touches what runs; `systemctl
    restart` starts the copy that passed last and says so; without a copy the start fails at once
    and for good, and mended, the next is well.
    """
    machine = appliance.machine
    appliance.start()
    right, before = appliance.path(name).read_text(), appliance.containers()
    appliance.write(name, text)
    try:
        for command in (["systemctl", "reload", unit], ["appliance", "restart", unit]):
            _refused_by(appliance, command, unit, words)
            assert appliance.containers() == before
        machine.run("systemctl", "restart", unit)
        assert appliance.containers().keys() == before.keys()
        assert appliance.shares()
        assert appliance.backend_answers()
        status = machine.shell(f"systemctl status --no-pager --full {unit}").stdout
        assert re.search(
            rf"Status: .*runs with the configuration that passed on .*{words}", status
        ), status
        reported = machine.shell("appliance status --long", expect=None).stdout
        assert re.search(rf"! .*runs with the configuration that passed on .*{words}", reported), (
            reported
        )
        assert re.search(words, machine.shell(f"appliance logs {unit}").stdout)
        _fails_for_good(appliance, unit, words)
    finally:
        appliance.write(name, right)
    machine.run("systemctl", "start", unit)
    appliance.start()
    before = appliance.containers()
    machine.run("systemctl", "reload", unit)
    replaced = {
        name for name, moment in appliance.containers().items() if moment != before.get(name)
    }
    assert replaced == (SERVICES if unit == "bdii" else {"cloudkeeper-os"})
    appliance.start()
    after = appliance.containers()
    # docker-compose may have ended with the containers that it watched; the unit takes up the new
    # ones
    time.sleep(5)
    machine.wait(
        lambda: machine.run("systemctl", "is-active", unit, expect=None).stdout == "active\n",
        seconds=30,
        what=lambda: machine.journal(unit),
    )
    assert appliance.containers() == after


def _refused_by(appliance: Appliance, command: list[str], unit: str, words: str) -> str:
    """Run a command that fails; return what it, or the unit's journal soon after, has to say."""
    machine = appliance.machine
    moment = machine.run("date", "+%s").stdout.strip()
    done = machine.run(*command, expect=None)
    assert done.returncode != 0
    said = done.stdout + done.stderr

    def journal() -> str:
        return machine.shell(f"journalctl --no-pager -o cat -u {unit} --since @{moment}").stdout

    machine.wait(
        lambda: re.search(words, said + journal()) is not None,
        seconds=10,
        what=lambda: said + journal(),
    )
    return said + journal()


def _fails_for_good(appliance: Appliance, unit: str, words: str) -> None:
    """Check a start without a copy: it fails at once with the line, and is not retried."""
    machine = appliance.machine
    machine.run("systemctl", "stop", unit)
    machine.shell(f"rm -r /var/lib/fedcloud/services/{'sitebdii' if unit == 'bdii' else unit}")
    reported = _fails_to_start(appliance, unit)
    assert re.search(words, reported), reported
    status = machine.run("systemctl", "status", "--no-pager", "--full", unit, expect=3).stdout
    assert re.search(rf"Status: .*does not run.*{words}", status), status
    running = {"cloudbdii", "cloudkeeper-os"} if unit == "bdii" else {"cloudbdii", "sitebdii"}
    assert appliance.containers().keys() == running, "the resource level, and the neighbour"
    time.sleep(5)
    assert machine.run("systemctl", "is-active", unit, expect=3).stdout == "failed\n"


def test_half_a_start(appliance: Appliance) -> None:
    """R32, F-H10: when what one of the two BDIIs has mounted is not there, that one starts with the
    copy that passed last; without a copy the other starts alone, and the reason is in one line.
    """
    machine = appliance.machine
    appliance.start()
    source, aside = (
        appliance.path("/etc/cloud-info-provider"),
        appliance.path("/etc/cloud-info-provider.aside"),
    )
    source.rename(aside)
    try:
        machine.run("systemctl", "restart", "bdii")
        assert appliance.containers().keys() == SERVICES | {"cloudkeeper-os"}
        machine.run("systemctl", "stop", "bdii")
        machine.shell("rm -r /var/lib/fedcloud/services/cloudbdii")
        machine.run("systemctl", "start", "bdii")
        assert appliance.containers().keys() == {"sitebdii", "cloudkeeper-os"}
        status = machine.shell("systemctl status --no-pager --full bdii").stdout
        assert "cloudbdii: does not run: /etc/cloud-info-provider: does not exist" in status
    finally:
        aside.rename(source)
    machine.run("systemctl", "restart", "bdii")
    appliance.start()


@pytest.mark.matrix
def test_the_network_of_the_containers_own(appliance: Appliance) -> None:
    """R11, R33: with the shipped bridge networks: starts, stops, and a port that is in use."""
    machine = appliance.machine
    machine.run("systemctl", "stop", "bdii")
    appliance.setting(FEDCLOUD_NETWORK="bridge")
    try:
        machine.run("systemctl", "start", "bdii")
        assert "GLUE2DomainID=TEST-SITE,o=glue" in appliance.entries()
        _egress_stays_restricted(appliance)
        machine.run("systemctl", "stop", "bdii")
        assert appliance.entries() == {}
        assert _chain(machine) == []
        with _squatter(machine):
            assert ":2170" in _fails_to_start(appliance, "bdii")
            machine.run("systemctl", "stop", "bdii")
            assert appliance.containers().keys() <= {"cloudkeeper-os"}
    finally:
        machine.run("systemctl", "stop", "bdii")
        appliance.setting(FEDCLOUD_NETWORK="host")
    appliance.start()


def _chain(machine: Machine) -> list[str]:
    """Return the rules for what the public BDII connects to, as iptables has them."""
    return [
        line
        for line in machine.run("iptables", "-S").stdout.splitlines()
        if "FEDCLOUD-BDII" in line
    ]


def _egress_stays_restricted(appliance: Appliance) -> None:
    """F-H15: the unit makes the chain; it survives an engine's restart and a flush by others."""
    machine = appliance.machine
    wanted = _chain(machine)
    assert "-A DOCKER-USER -i fedcloud-pub -j FEDCLOUD-BDII" in wanted
    assert (
        "connects to its resource BDIIs only (chain FEDCLOUD-BDII)"
        in machine.shell("appliance status --long || true").stdout
    )
    machine.run("systemctl", "restart", "docker")
    machine.wait(
        lambda: bool(appliance.entries()), seconds=60, what=lambda: machine.journal("bdii")
    )
    assert _chain(machine) == wanted
    machine.run("iptables", "-F", "DOCKER-USER")
    assert (
        "DOCKER-USER does not begin with FEDCLOUD-BDII"
        in machine.shell("appliance status --long || true").stdout
    )
    assert machine.run("systemctl", "is-active", "fedcloud-upkeep.timer").stdout == "active\n"
    machine.run("systemctl", "start", "fedcloud-upkeep.service")
    assert _chain(machine) == wanted


def test_docker_is_down(appliance: Appliance) -> None:
    """R31, R38: a job reports it in one line; the engine restarts the services; the job works."""
    machine = appliance.machine
    appliance.start()
    shares = appliance.shares()
    machine.run("systemctl", "stop", "docker.service", "docker.socket")
    refused(
        machine.shell("/usr/local/bin/caso-extract.sh", expect=3),
        "the Docker engine does not run",
        "systemctl",
    )
    reported = machine.shell("appliance status --long", expect=None)
    assert "the Docker engine does not run" in reported.stdout + reported.stderr
    assert list(appliance.path("/run/fedcloud/keys").iterdir()) == []
    begin = time.monotonic()
    machine.run("systemctl", "start", "docker")
    machine.wait(
        lambda: appliance.shares() == shares and appliance.backend_answers(),
        seconds=60,
        what=lambda: machine.journal("bdii"),
    )
    assert time.monotonic() - begin < 60
    machine.shell("/usr/local/bin/caso-extract.sh --dry-run")


def test_somebody_outside_asks_for_too_much(serving: Appliance) -> None:
    """R33: nobody changes anything from outside."""
    change = f"ldapadd -x -H ldap://{HOST}:2170"
    entry = "dn: GLUE2DomainID=evil,o=glue\nobjectClass: GLUE2Domain\nGLUE2DomainID: evil\n"
    assert serving.machine.run("bash", "-c", change, stdin=entry, expect=None).returncode != 0
