"""Without containers on a machine that boots: packages by apt, units under systemd, jobs by timers,
faults, a reboot.

The cloud and the broker are the test bed's. There is no engine on the machine, and none is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.dockerd import DockerDaemon
from tests.e2e import native_site
from tests.e2e.vm_site import Appliance
from tests.testbed import Testbed

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.timeout(900),
]
TOP = Path(__file__).resolve().parents[2]
UNITS = ("bdii", "cloudbdii", "cloudkeeper-os")


@pytest.fixture(scope="module")
def site(testbed: Testbed) -> Iterator[Appliance]:
    """Return the appliance, installed without containers and configured; nothing is started."""
    engine = DockerDaemon(Path(os.environ.get("FEDCLOUD_ENGINE") or TOP / ".cache/docker"))
    with engine.used(), native_site.bare(engine) as machine:
        yield native_site.install(machine, testbed)


def pid(site: Appliance, unit: str) -> int:
    """Return the main process of a unit; 0 when there is none."""
    return int(site.machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).stdout)


def state(site: Appliance, unit: str) -> str:
    return site.machine.run("systemctl", "is-active", unit, expect=None).stdout.strip()


def wait(site: Appliance, unit: str, word: str) -> None:
    site.machine.wait(
        lambda: state(site, unit) == word, seconds=60, what=lambda: site.machine.journal(unit)
    )


def kill(site: Appliance, unit: str) -> None:
    """Kill the main process of a unit, and wait until another one is at work."""
    before = pid(site, unit)
    site.machine.run("kill", "-9", str(before))
    site.machine.wait(
        lambda: pid(site, unit) not in (0, before),
        seconds=30,
        what=lambda: site.machine.journal(unit),
    )
    wait(site, unit, "active")


def spoil(site: Appliance, name: str, line: str) -> str:
    """Add a line to a configuration file; returns what it was."""
    before = site.path(name).read_text()
    site.write(name, f"{before}{line}\n", mode=0o644 if "bdii" in name else 0o640)
    return before


def test_one_command_installs_packages_programs_and_units(site: Appliance) -> None:
    """F-H3: no engine is installed, Debian's own slapd does not run, a second run does nothing."""
    assert {"slapd", "glue-schema", "qemu-utils"} <= set(site.first.split())
    assert site.second.splitlines()[-1].startswith("Nothing to change: ")
    machine = site.machine
    assert machine.shell("command -v docker dockerd podman", expect=1).stdout == ""
    shown = machine.run(
        "systemctl", "is-enabled", "bdii", "cloudkeeper-os", "slapd", expect=None
    ).stdout
    assert shown == "enabled\nenabled\nmasked\n"
    assert machine.shell("ss -Hltn 'sport = :389'").stdout == ""


def test_check_finds_nothing_wrong(site: Appliance) -> None:
    """C21: all programs are asked, as they run."""
    said = site.machine.run("appliance", "check", "--offline", expect=None).stdout
    assert "cloudbdii, sitebdii, cloudkeeper-os: 0 errors" in said, said


def test_bdii_answers_once_systemctl_start_has_returned(site: Appliance) -> None:
    """R04, R07, R24, R33: the whole cloud is published, with the authorities of appliance.env."""
    machine = site.machine
    machine.run("systemctl", "start", "bdii")
    assert "GLUE2DomainID=TEST-SITE,o=glue" in site.entries("-s", "one")
    vos = {project.vo for project in site.testbed.seed().projects.values() if project.vo}
    machine.wait(
        lambda: len(site.shares()) == len(vos),
        seconds=120,
        what=lambda: machine.journal("bdii") + machine.journal("cloudbdii"),
    )
    assert [state(site, unit) for unit in UNITS[:2]] == ["active", "active"]
    listening = machine.shell("ss -Hltn").stdout
    assert re.search(r"(0\.0\.0\.0|\*|\[::\]):2170 ", listening)
    assert re.findall(r"\S+:2171 ", listening) == ["127.0.0.1:2171 "]


def test_the_backend_answers_once_systemctl_start_has_returned(site: Appliance) -> None:
    """R38: on the socket that its account alone can reach."""
    site.machine.run("systemctl", "start", "cloudkeeper-os")
    assert site.backend_answers()
    status = site.path("/run/cloudkeeper").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (1999, 0o700)


def test_the_services_may_do_little(site: Appliance) -> None:
    """As their account, without capabilities; `systemd-analyze security` gives at most 3.0."""
    for unit in UNITS:
        reported = Path(f"{site.machine.root}/proc/{pid(site, unit)}/status").read_text()
        found = {
            name: re.search(rf"^{name}:\t(\S+)", reported, re.MULTILINE)
            for name in ("Uid", "CapBnd", "NoNewPrivs")
        }
        assert {name: match[1] for name, match in found.items() if match} == {
            "Uid": "1999",
            "CapBnd": "0000000000000000",
            "NoNewPrivs": "1",
        }
        said = site.machine.run(
            "systemd-analyze", "security", "--no-pager", f"{unit}.service"
        ).stdout
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert exposure is not None
        assert float(exposure[1]) <= 3.0, (unit, exposure[0])


def test_timers_start_jobs(site: Appliance) -> None:
    """F-H14, R21: caso's timer fires, the job extracts, ssmsend sends, and logs are kept."""
    machine = site.machine
    machine.run("appliance", "schedule", "systemd", "--since", "2000-01-01")
    timer = "fedcloud-job@caso.timer"
    machine.shell(
        f"mkdir -p /run/systemd/system/{timer}.d && "
        f"printf '[Timer]\\nOnActiveSec=1s\\n' >/run/systemd/system/{timer}.d/soon.conf && "
        f"systemctl daemon-reload && systemctl restart {timer}"
    )
    machine.wait(
        lambda: bool(site.waiting()), seconds=60, what=lambda: machine.journal("fedcloud-job@caso")
    )
    wait(site, "fedcloud-job@caso", "inactive")
    assert (
        machine.run("systemctl", "show", "--value", "-p", "Result", "fedcloud-job@caso").stdout
        == "success\n"
    )
    assert {path.stat().st_uid for path in site.waiting()} == {1999}
    assert site.path("/var/log/caso.log").stat().st_size
    machine.run("systemctl", "start", "fedcloud-job@ssmsend")
    assert site.waiting() == [], machine.run("cat", "/var/log/ssm.log").stdout
    machine.run("systemctl", "start", "fedcloud-job@cloud-info")
    assert "GLUE2" in site.path("/var/log/cloud-info.log").read_text()
    machine.run("systemctl", "start", "fedcloud-job@cloud-info-json")
    written = site.path("/var/lib/fedcloud/cloud-info/information.json")
    assert written.stat().st_mode & 0o777 == 0o644
    assert "CloudComputingService" in written.read_text()
    assert (
        "fedcloud-job@cloud-info-json.timer"
        in machine.run("systemctl", "list-timers", "--all", "--no-legend", "--plain").stdout
    )


def test_images_come_to_the_backend(site: Appliance) -> None:
    """R10, R36: a run of cloudkeeper with lists of none meets the backend on its socket."""
    site.machine.run("systemctl", "start", "fedcloud-job@cloudkeeper", expect=None)
    said = site.path("/var/log/cloudkeeper.log").read_text()
    assert "backend.sock" not in said, said


def test_a_killed_service_is_back(site: Appliance) -> None:
    """R04, R38: systemd restarts a service, others run on; both BDIIs restart together."""
    for unit in UNITS:
        before = {name: pid(site, name) for name in UNITS}
        kill(site, unit)
        assert site.backend_answers() if unit == "cloudkeeper-os" else site.entries("-s", "base")
        assert all(
            pid(site, name) == before[name]
            for name in UNITS
            if name != unit and (unit, name) != UNITS[:2]
        )
    shown = site.machine.run("appliance", "status", "--long", expect=None).stdout
    rows = {line.split()[0]: line.split()[-1] for line in shown.splitlines()[1:4]}
    assert rows == {"cloudbdii": "1", "cloudkeeper-os": "1", "sitebdii": "1"}, shown


@pytest.mark.parametrize(
    ("unit", "name", "line", "word"),
    [
        ("bdii", "/etc/sitebdii/bdii.conf", "BDII_PORT=many", "BDII_PORT"),
        (
            "cloudkeeper-os",
            "/etc/cloudkeeper/cloudkeeper-os.conf",
            "auth_url = nowhere",
            "auth_url",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_and_named(
    site: Appliance, unit: str, name: str, line: str, word: str
) -> None:
    """F-H2, F-H5: `appliance restart` does not touch what runs; systemctl does not retry."""
    machine = site.machine
    first = pid(site, unit)
    before = spoil(site, name, line)
    number = f"{name}:{len(site.path(name).read_text().splitlines())}"
    refused = machine.run("appliance", "restart", unit, expect=2).stderr
    assert number in refused, refused
    assert word in refused
    assert pid(site, unit) == first
    machine.run("systemctl", "restart", unit, expect=1)
    assert state(site, unit) == "failed"
    said = machine.run("appliance", "logs", unit).stdout
    assert number in said, said
    assert machine.run("systemctl", "show", "--value", "-p", "ExecMainStatus", unit).stdout == "2\n"
    shown = machine.run("appliance", "status", "--long", expect=1).stdout
    assert re.search(
        rf"^ *! {'sitebdii' if unit == 'bdii' else unit}: exited with exit status 2",
        shown,
        re.MULTILINE,
    )
    site.write(name, before, mode=0o644 if "bdii" in name else 0o640)
    machine.run("appliance", "restart", unit)
    assert state(site, unit) == "active"


def test_a_reboot_and_a_stop(site: Appliance) -> None:
    """R04, R38: services are back after a reboot; after a stop no process is left."""
    machine = site.machine
    machine.reboot()
    for unit in UNITS:
        wait(site, unit, "active")
    assert site.entries("-s", "base")
    assert site.backend_answers()
    # systemctl waits for the units that it is given, not for those that stop with them
    machine.run("systemctl", "stop", *UNITS)
    assert [state(site, unit) for unit in UNITS] == ["inactive"] * 3
    assert site.entries("-s", "base") == {}
    assert not site.backend_answers()
    assert machine.shell("pgrep -u fedcloud", expect=1).stdout == ""
    shown = machine.run("appliance", "status", "--long", expect=1).stdout
    assert "sitebdii: exited with exit status 0" in shown, shown
