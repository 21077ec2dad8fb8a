"""The manual of 2017, sentence by sentence, with its commands as they are printed there, on a
machine that boots.

The cloud, the broker and the lists behind it are the test bed's. Names of rows are those of
docs/requirements.md.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from deploy import contents
from tests.e2e.images_frontend import make_disks, sha512
from tests.e2e.vm_site import IMAGES_PROJECT, IMAGES_VO, QUEUE, Appliance
from tests.simulators import image_server
from tests.simulators.image_lists import image, image_id, image_list, sign
from tests.testbed.pki import AUTHORITY_DN, HOST_DN
from tests.testbed.vm import HOST, Machine

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("day"),
]

SERVICES = {"cloudbdii", "sitebdii"}


# --------------------------------------------------------------------------------------------------
# what is installed


def test_the_machine_boots(machine: Machine) -> None:
    """What the others stand on: systemd is the first process, and no unit has failed."""
    assert machine.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert machine.run("systemctl", "--failed", "--no-legend", "--plain").stdout == ""


def test_an_installation_from_the_bundle_without_network_and_a_second_one(
    appliance: Appliance,
) -> None:
    """R01, R22, R23, R31, D09: everything comes from the bundle; the second run changes nothing."""
    machine = appliance.machine
    assert "Installed " in appliance.first
    assert appliance.second.splitlines()[-1].startswith("Nothing to change: ")
    assert appliance.changed == ""
    locked = dict(
        line.split()[1:]
        for line in appliance.path("/etc/fedcloud/images.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    shown = machine.run(
        "docker", "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"
    ).stdout
    assert dict(line.split() for line in shown.splitlines()) == locked
    assert {tag.partition(":")[0] for tag in locked} == {
        f"egifedcloud/{name}" for name in contents.IMAGES
    }
    for name in ("/etc/cron.d/caso", "/etc/cron.d/ssmsend"):
        status = appliance.path(name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 0, 0o644)
    assert (
        machine.run("systemctl", "is-enabled", "bdii", "cloudkeeper-os").stdout
        == "enabled\nenabled\n"
    )
    link = machine.run("readlink", "/etc/sitebdii/docker-compose.yml").stdout
    assert link == "/etc/fedcloud/docker-compose.yml\n"


def test_the_units_may_do_little(appliance: Appliance) -> None:
    """At most 3.0 by `systemd-analyze security`, of 10."""
    for unit in ("bdii", "cloudkeeper-os", "fedcloud-job@caso", "fedcloud-job@fetch-crl"):
        said = appliance.machine.run(
            "systemd-analyze", "security", "--no-pager", f"{unit}.service"
        ).stdout
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert exposure is not None
        assert float(exposure[1]) <= 3.0, (unit, exposure[0])


# --------------------------------------------------------------------------------------------------
# information system


def test_systemctl_start_bdii(appliance: Appliance) -> None:
    """R04, R07, R24, R25, R28, R32: once it has returned, LDAP answers; then the cloud, of which
    the machine reaches the APIs alone, is published through both BDIIs.
    """
    machine = appliance.machine
    machine.shell("systemctl start bdii")
    assert "GLUE2DomainID=TEST-SITE,o=glue" in appliance.entries()
    assert machine.run("systemctl", "is-active", "bdii").stdout == "active\n"
    assert appliance.containers().keys() >= SERVICES
    vos = {project.vo for project in appliance.testbed.seed().projects.values() if project.vo}
    machine.wait(
        lambda: len(appliance.shares()) == len(vos),
        seconds=90,
        what=lambda: machine.journal("bdii"),
    )
    assert all(any(f"_share_{vo}_" in dn for dn in appliance.shares()) for vo in vos)


def test_systemctl_status_bdii(appliance: Appliance) -> None:
    """R32: the status shows the unit at work and what the services say."""
    said = appliance.machine.shell("systemctl status bdii --no-pager --full").stdout
    assert "Active: active (running)" in said
    assert "sitebdii" in said


def test_ldapsearch_shows_the_site(appliance: Appliance) -> None:
    """R11, R33: with ldapsearch of today, and with the options that the manual prints."""
    machine = appliance.machine
    today = machine.shell(f"ldapsearch -x -H ldap://{HOST}:2170 -b o=glue").stdout
    assert "dn: GLUE2DomainID=TEST-SITE,o=glue" in today
    entries = re.search(r"# numEntries: (\d+)", today)
    assert entries is not None
    lost = machine.shell(f"ldapsearch -x -p 2170 -h {HOST} -b o=glue", expect=None)
    assert lost.returncode != 0
    assert "unrecognized option" in lost.stderr
    ours = machine.shell(f"appliance bdii search -x -p 2170 -h {HOST} -b o=glue").stdout
    assert f"# numEntries: {entries[1]}" in ours
    listening = machine.shell("ss -Hltn 'sport = :2170'").stdout
    assert re.search(r"(0\.0\.0\.0|\*|\[::\]):2170", listening)


def test_a_killed_slapd_and_a_killed_container_are_back_and_their_neighbours_notice_nothing(
    appliance: Appliance,
) -> None:
    """Back within five seconds, with what was published last."""
    machine, shares = appliance.machine, appliance.shares()
    before = appliance.containers()
    machine.shell("pkill -9 -f 'slapd.*/bdii/site'")
    assert (
        machine.wait(
            lambda: appliance.shares() == shares, seconds=30, what=lambda: machine.journal("bdii")
        )
        <= 5
    )
    assert appliance.containers() == before
    identifier = machine.shell(
        "docker ps -q --filter label=com.docker.compose.service=sitebdii"
    ).stdout.strip()
    pid = machine.run("docker", "inspect", "--format", "{{.State.Pid}}", identifier).stdout.strip()
    machine.run("kill", "-9", pid)
    assert (
        machine.wait(
            lambda: appliance.shares() == shares, seconds=30, what=lambda: machine.journal("bdii")
        )
        <= 5
    )
    after = appliance.containers()
    assert {name for name in after if after[name] != before.get(name)} == {"sitebdii"}
    assert machine.run("systemctl", "is-active", "bdii").stdout == "active\n"


def test_a_unit_whose_flow_is_off_is_skipped_and_has_not_failed(appliance: Appliance) -> None:
    """F-H7: systemd itself says so; on again, the unit starts as before."""
    machine, name = appliance.machine, "/etc/fedcloud/appliance.yaml"
    shipped = appliance.path(name).read_text()
    appliance.write(name, shipped.replace("information: on", "information: off"), mode=0o644)
    try:
        machine.shell("systemctl stop bdii && systemctl start bdii")
        shown = machine.shell(
            "systemctl show bdii -p ActiveState -p Result -p SubState"
        ).stdout.split()
        assert set(shown) == {"ActiveState=inactive", "SubState=dead", "Result=exec-condition"}
        assert machine.shell("systemctl is-failed bdii", expect=1).stdout == "inactive\n"
        assert (
            "bdii: not started: the flow information is off in /etc/fedcloud/appliance.yaml"
            in machine.journal("bdii")
        )
        assert not SERVICES & appliance.containers().keys()
        status = machine.shell("appliance status --long", expect=None).stdout
        assert re.findall(r"^(cloudbdii|sitebdii) +off", status, re.MULTILINE) == [
            "cloudbdii",
            "sitebdii",
        ]
    finally:
        appliance.write(name, shipped, mode=0o644)
        machine.shell("systemctl start bdii")
    assert "GLUE2DomainID=TEST-SITE,o=glue" in appliance.entries()


# --------------------------------------------------------------------------------------------------
# accounting


def test_caso_extract_and_ssm_send_deliver_records(appliance: Appliance, tmp_path: Path) -> None:
    """R04, R07, R08, R12, R13, R14, R16, R19, R21, R23, D02, D03, D13: the two scripts by hand, the
    manual's lines filled in, anchors and certificate put on the host: records lie in the spool,
    then in the repository, which takes them from this host's name alone.
    """
    machine = appliance.machine
    machine.shell("/usr/local/bin/caso-extract.sh")
    wanted = sorted(path.read_text() for path in appliance.waiting())
    assert wanted
    assert {path.stat().st_uid for path in appliance.waiting()} == {1999}
    said = machine.shell("/usr/local/bin/ssm-send.sh")
    assert not appliance.waiting(), said
    peer = appliance.receiver(tmp_path, QUEUE)
    assert peer.run("ssmreceive", "--count", str(len(wanted))).returncode == 0
    assert sorted(element["body"] for element in peer.elements()) == wanted
    assert list(appliance.path("/run/fedcloud/keys").iterdir()) == []
    assert machine.shell("docker ps -aq --filter label=eu.egi.fedcloud.job").stdout == ""


def test_a_change_in_etc_apel_counts(appliance: Appliance, tmp_path: Path) -> None:
    """R20: an editor puts a new file under the old name, and the next run sends where it says."""
    element = appliance.path("/var/spool/apel/outgoing/openstack/00000000")
    element.mkdir()
    (element / "0000000000000f").write_text("APEL-cloud-message: v0.4\nVMUUID: one\n%%\n")
    appliance.machine.run("chown", "-R", "1999:1999", "/var/spool/apel/outgoing/openstack")
    appliance.sender(f"{QUEUE}.other")
    try:
        appliance.machine.shell("/usr/local/bin/ssm-send.sh")
    finally:
        appliance.sender(QUEUE)
    assert not appliance.waiting()
    peer = appliance.receiver(tmp_path, f"{QUEUE}.other")
    assert peer.run("ssmreceive", "--count", "1").returncode == 0
    assert "VMUUID: one" in peer.elements()[0]["body"]


def test_a_wrapper_ends_as_its_program_ends(appliance: Appliance) -> None:
    """R23: status 2 for an option that does not exist, with the program's words."""
    done = appliance.machine.shell("/usr/local/bin/caso-extract.sh --no-such-option", expect=2)
    assert "--no-such-option" in done.stderr + done.stdout


def test_cron_fires_the_jobs_and_records_arrive(appliance: Appliance, tmp_path: Path) -> None:
    """R12, R22: only cron starts the jobs; its clock runs sixty times as fast, from 06:13:30."""
    machine = appliance.machine
    record = appliance.path("/var/lib/fedcloud/runs/jobs/job-caso.json")
    record.unlink()
    machine.shell("rm -rf /var/spool/caso/* /var/lib/fedcloud/caso/*")
    assert not appliance.waiting()
    log = appliance.path("/var/log/caso.log")
    log.write_text("")
    machine.run(*_cron("cron-fast", "06:13:30", speed=60))
    try:
        machine.wait(record.exists, seconds=60, what=log.read_text)
        wanted = sorted(path.read_text() for path in appliance.waiting())
        assert wanted, log.read_text()
        sent = appliance.path("/var/log/ssm.log")
        machine.wait(lambda: not appliance.waiting(), seconds=90, what=sent.read_text)
    finally:
        machine.run("systemctl", "stop", "cron-fast")
    peer = appliance.receiver(tmp_path, QUEUE)
    assert peer.run("ssmreceive", "--count", str(len(wanted))).returncode == 0
    assert sorted(element["body"] for element in peer.elements()) == wanted
    commands = machine.shell("journalctl --no-pager -o cat -t CRON").stdout
    assert "(root) CMD (/usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1)" in commands
    assert "(root) CMD (/usr/local/bin/ssm-send.sh >> /var/log/ssm.log 2>&1)" in commands


@pytest.fixture(scope="module")
def day(appliance: Appliance) -> float:
    """Begin a day of cron that takes a minute, while other tests go on; returns when, by the
    monotonic clock.

    The tables and wrappers are those that are installed; for this cron the command
    `appliance` only counts, with the uptime in seconds.
    """
    machine = appliance.machine
    count = '#!/bin/sh\nread -r uptime _ </proc/uptime\necho "$uptime $*" >>/tmp/counted\n'
    appliance.path("/tmp/count").write_text(count)
    machine.run("chmod", "755", "/tmp/count")
    command = machine.run("readlink", "-f", "/usr/local/bin/appliance").stdout.strip()
    machine.run("touch", "/tmp/counted", "/tmp/crond.pid", "/run/crond.pid")
    binds = (f"BindReadOnlyPaths=/tmp/count:{command}", "BindPaths=/tmp/crond.pid:/run/crond.pid")
    machine.run(*_cron("cron-day", "00:00:30", speed=1440, properties=binds))
    return time.monotonic()


@pytest.mark.matrix
def test_a_day_of_cron_in_a_minute(appliance: Appliance, day: float) -> None:
    """R12, R34, R39: 24 starts of caso, 4 of ssmsend, 6 of cloudkeeper."""
    time.sleep(max(0, day + 60 - time.monotonic()))
    started = ("systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic")
    begin = int(appliance.machine.run(*started, "cron-day").stdout) / 1e6
    lines = appliance.path("/tmp/counted").read_text().splitlines()
    appliance.machine.run("systemctl", "stop", "cron-day")
    # Under load the file is read later than after a day, whose last start is due after 58.1 s, and
    # the first one of the next day after 60.5 s.
    pairs = [line.partition(" ") for line in lines]
    counted = [words for uptime, _, words in pairs if float(uptime) < begin + 60.4]
    runs = {job: counted.count(f"run {job} --") for job in ("caso", "ssmsend", "cloudkeeper")}
    assert runs == {"caso": 24, "ssmsend": 4, "cloudkeeper": 6}
    assert counted.count("run fetch-crl") == 4
    assert counted.count("run cloud-info-json") == 48


def _cron(
    unit: str, time_of_day: str, *, speed: int, properties: tuple[str, ...] = ()
) -> list[str]:
    """Return the command that starts Debian's cron with a faster clock, its jobs without it."""
    library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    clock = f"FAKETIME=@2026-01-05 {time_of_day} x{speed}"
    options = [word for name in ("Nice=-20", *properties) for word in ("-p", name)]
    options += [f"--setenv=LD_PRELOAD={library}", f"--setenv={clock}"]
    return ["systemd-run", "--quiet", "--collect", "--unit", unit, *options, "/usr/sbin/cron", "-f"]


# --------------------------------------------------------------------------------------------------
# images


def test_systemctl_start_and_status_of_cloudkeeper_os(appliance: Appliance) -> None:
    """R38: the backend is a service like any other."""
    machine = appliance.machine
    machine.shell("systemctl start cloudkeeper-os")
    machine.wait(
        appliance.backend_answers, seconds=60, what=lambda: machine.journal("cloudkeeper-os")
    )
    assert (
        "Active: active (running)"
        in machine.shell("systemctl status cloudkeeper-os --no-pager").stdout
    )


def test_cloudkeeper_brings_an_image_of_a_signed_list_into_glance(
    appliance: Appliance, tmp_path: Path
) -> None:
    """R04, R07, R34, R35, R36, R37: list and signature are checked, the image is fetched, and lies
    in Glance as it was offered.
    """
    machine, bed = appliance.machine, appliance.testbed
    content = make_disks(tmp_path)["one.qcow2"]
    with image_server.serve(bed.host_credential("lists")) as web:
        machine.reach([int(web.base.rpartition(":")[2])])
        entry = image(1, uri=web.put("/one.qcow2", content), content=content, hv__format="QCOW2")
        document = image_list(
            [entry], dn=f"{HOST_DN}/CN=endorser.example.org", ca=AUTHORITY_DN, vo=IMAGES_VO
        )
        web.put(
            "/image.list", sign(document, bed.host_credential("endorser")), token="s3cret-token"
        )
        address = web.url("/image.list").replace("https://", "https://s3cret-token:x-oauth-basic@")
        appliance.write("/etc/cloudkeeper/image-lists.conf", f"# One list\n{address}\n")
        said = machine.shell("/usr/local/bin/cloudkeeper.sh")
    assert "s3cret-token" not in said.stdout + said.stderr
    assert _images(appliance) == {image_id(1): sha512(content)}, said
    assert list(appliance.path("/image_data").iterdir()) == []


def _images(appliance: Appliance) -> dict[str, str]:
    """Return the images that the VO can boot, by Glance's database and files: digests by id."""
    layout = appliance.testbed.layout
    query = """
        SELECT named.value, images.id FROM images
        JOIN image_properties AS named
          ON named.image_id = images.id AND named.name = 'APPLIANCE_ID'
        JOIN image_properties AS state
          ON state.image_id = images.id AND state.name = 'APPLIANCE_STATUS'
        WHERE images.owner = ? AND images.status = 'active' AND images.deleted = 0
          AND state.value = 'ACTIVE'"""
    project = appliance.testbed.seed().projects[IMAGES_PROJECT].id
    with closing(
        sqlite3.connect(f"file:{layout.database('glance')}?mode=ro", uri=True)
    ) as database:
        rows = database.execute(query, (project,)).fetchall()
    return {
        name: sha512((layout.data("glance") / "images" / row).read_bytes()) for name, row in rows
    }


def test_a_killed_backend_is_back(appliance: Appliance) -> None:
    """R38, D15: the BDIIs notice nothing. `scripts/bench appliance` measures the time."""
    appliance.start()
    machine, before = appliance.machine, appliance.containers()
    pid = machine.run(
        "docker", "inspect", "--format", "{{.State.Pid}}", "cloudkeeper-os"
    ).stdout.strip()
    machine.run("kill", "-9", pid)
    machine.wait(
        lambda: not (machine.root / "proc" / pid).exists() and appliance.backend_answers(),
        seconds=30,
        what=lambda: machine.journal("cloudkeeper-os"),
    )
    after = appliance.containers()
    assert {name for name in before if after[name] != before[name]} == {"cloudkeeper-os"}


def test_the_status_of_all(appliance: Appliance) -> None:
    """R32: `appliance status` and its JSON tell of the services and of each job's last run."""
    reported = json.loads(appliance.machine.shell("appliance status --json", expect=None).stdout)
    assert {"job-caso", "job-ssmsend", "job-cloudkeeper"} <= reported.keys()
    assert "sitebdii" in json.dumps(reported["services"])


# --------------------------------------------------------------------------------------------------
# reboot


def test_a_reboot_brings_everything_back(appliance: Appliance) -> None:
    """R32, R38, F-H2: what was published last is there at once, cron and both services run, no unit
    has failed; a service whose configuration was broken meanwhile runs with the one that passed
    last.
    """
    appliance.start()
    machine, shares = appliance.machine, appliance.shares()
    right = appliance.path("/etc/cloudkeeper/cloudkeeper-os.conf").read_text()
    appliance.write("/etc/cloudkeeper/cloudkeeper-os.conf", "[DEFAULT]\ngrpc_port = soon\n")
    appliance.machine.reboot()
    assert (
        "runs with the configuration that passed"
        in machine.shell("systemctl status -l cloudkeeper-os").stdout
    )
    appliance.write("/etc/cloudkeeper/cloudkeeper-os.conf", right)
    assert (
        machine.run("systemctl", "is-active", "cron", "docker", "bdii", "cloudkeeper-os").stdout
        == "active\n" * 4
    )
    machine.run("systemctl", "stop", "cron")
    assert machine.run("systemctl", "--failed", "--no-legend", "--plain").stdout == ""
    machine.wait(
        lambda: appliance.shares() == shares, seconds=30, what=lambda: machine.journal("bdii")
    )
    assert appliance.containers().keys() == SERVICES | {"cloudkeeper-os"}
    assert appliance.path("/run/fedcloud/keys").is_dir()
    assert appliance.path("/run/lock/cloudkeeper").stat().st_uid == 1999


def test_systemctl_stop(appliance: Appliance) -> None:
    """R32, R38: no container runs, none had to be killed, and a stopped service is no failure."""
    machine = appliance.machine
    begin = machine.run("date", "+%s").stdout.strip()
    for unit in ("bdii", "cloudkeeper-os"):
        machine.run("systemctl", "stop", unit)
        assert machine.run("systemctl", "is-active", unit, expect=3).stdout == "inactive\n"
    assert appliance.containers() == {}
    end = machine.run("date", "+%s.%N").stdout.strip()
    died = ("--filter", "event=die", "--format", "{{.Actor.Attributes.exitCode}}")
    codes = machine.run("docker", "events", "--since", begin, "--until", end, *died).stdout.split()
    assert len(codes) >= len(SERVICES) + 1
    assert "137" not in codes  # killed after its grace period
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(
            [
                "nsenter",
                f"--net=/proc/{machine.pid}/ns/net",
                "ldapsearch",
                "-x",
                "-H",
                f"ldap://{HOST}:2170",
            ],
            check=True,
            capture_output=True,
        )
