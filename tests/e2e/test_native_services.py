"""Without containers under a real systemd: services start, answer, come back, name what is wrong,
and stop.

There is no cloud and no engine. `test_native_machine` has both BDIIs publish one, and all that an
administrator does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from appliance.core.version import __version__
from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud, native_site
from tests.e2e.container_site import ContainerSite
from tests.testbed import Authority
from tests.testbed.vm import Machine

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.unnamed,
    pytest.mark.timeout(900),
]
TOP = Path(__file__).resolve().parents[2]
GROUPS = (
    "ldapsearch",
    "-x",
    "-LLL",
    "-H",
    "ldap://127.0.0.1:2170",
    "-b",
    "o=glue",
    "-s",
    "one",
    "dn",
)


def configure(machine: Machine, authority: Authority) -> None:
    """Name the site, and a cloud that is not there; switch on the images, off at first."""
    machine.run("appliance", "flows", "--on", "images")
    site = ContainerSite(machine.engine, machine.root, Path(), "fedcloud", 2170, authority)
    container_cloud.name_site(site)
    container_cloud.offer(
        site, url="https://127.0.0.1:5000/v3", user="x", password="y", projects={"ops": "1"}
    )


def pid(machine: Machine, unit: str) -> int:
    return int(machine.run("systemctl", "show", "--value", "-p", "MainPID", unit).stdout)


def test_services_and_jobs_run_under_systemd(tmp_path: Path) -> None:
    """R04, R21, R38, F-H2, F-H5: on one machine, because boot and installation take longest."""
    engine = DockerDaemon(Path(os.environ.get("FEDCLOUD_ENGINE") or TOP / ".cache/docker"))
    with engine.used(), native_site.small(engine) as machine:
        install = (
            "/media/install",
            f"/media/fedcloud-appliance-{__version__}",
            "--key",
            "/media/key.pub",
        )
        assert "Installed " in machine.run(*install, "--without-containers").stdout
        configure(machine, Authority.create(tmp_path / "authority", key="ec"))
        machine.run("systemctl", "start", "bdii", "cloudkeeper-os")
        assert "dn: GLUE2DomainID=TEST-SITE,o=glue" in machine.run(*GROUPS).stdout
        backend = (
            "import socket; socket.socket(socket.AF_UNIX).connect('/run/cloudkeeper/backend.sock')"
        )
        machine.run("setpriv", "--reuid=1999", "--clear-groups", "python3", "-c", backend)
        _check_a_job(machine)
        _check_a_kill(machine)
        _check_that_slapd_outlives(machine)
        _check_a_wrong_configuration(machine)
        # systemctl waits for the units that it is given, not for those that stop with them
        machine.run("systemctl", "stop", "bdii", "cloudbdii", "cloudkeeper-os")
        assert machine.shell("pgrep -u fedcloud", expect=1).stdout == ""


def _check_a_job(machine: Machine) -> None:
    """The unit of jobs lets `appliance run` make mounts and change its account."""
    machine.run("systemctl", "start", "fedcloud-job@caso", expect=1)
    said = machine.journal("fedcloud-job@caso")
    assert "caso: caso-extract ended with exit status 2" in said, said
    assert "/etc/caso/caso.conf:12: site_name" in machine.run("appliance", "logs", "caso").stdout


def _check_a_kill(machine: Machine) -> None:
    """The resource's BDII dies alone: the site's goes on."""
    before = {unit: pid(machine, unit) for unit in ("bdii", "cloudbdii", "cloudkeeper-os")}
    machine.run("kill", "-9", str(before["cloudbdii"]), str(before["cloudkeeper-os"]))
    machine.wait(
        lambda: all(
            pid(machine, unit) not in (0, before[unit]) for unit in ("cloudbdii", "cloudkeeper-os")
        ),
        seconds=30,
        what=lambda: machine.journal("cloudbdii") + machine.journal("cloudkeeper-os"),
    )
    assert machine.run(*GROUPS).stdout
    assert pid(machine, "bdii") == before["bdii"]


_POLL = """
import socket, time
end = time.monotonic() + 6
while time.monotonic() < end:
    socket.create_connection(("127.0.0.1", 2170), 2).close()
    time.sleep(0.02)
"""


def _check_that_slapd_outlives(machine: Machine) -> None:
    """F-I4: the unit's process is killed, and no client that asks every 20 ms is refused."""
    slapd = machine.shell("cat /var/lib/fedcloud/bdii/site/slapd.pid").stdout
    before = pid(machine, "bdii")
    script = f'python3 -c "$0" & sleep 0.5; kill -9 {before}; wait $!'
    machine.run("sh", "-c", script, _POLL)
    machine.wait(
        lambda: f"taking over slapd, process {slapd}".strip() in machine.journal("bdii"),
        seconds=30,
        what=lambda: machine.journal("bdii"),
    )
    assert pid(machine, "bdii") not in (0, before)
    assert machine.shell("cat /var/lib/fedcloud/bdii/site/slapd.pid").stdout == slapd


def _check_a_wrong_configuration(machine: Machine) -> None:
    """`appliance restart` does not touch what runs; `systemctl restart` does not retry."""
    first = pid(machine, "bdii")
    machine.shell("echo BDII_PORT=many >>/etc/sitebdii/bdii.conf")
    refused = machine.run("appliance", "restart", "sitebdii", expect=2).stderr
    line = re.search(r"/etc/sitebdii/bdii.conf:\d+: BDII_PORT: 'many' is not allowed", refused)
    assert line, refused
    assert pid(machine, "bdii") == first
    machine.run("systemctl", "restart", "bdii", expect=1)
    assert machine.run("systemctl", "is-active", "bdii", expect=None).stdout == "failed\n"
    assert line[0] in machine.run("appliance", "logs", "sitebdii").stdout
    assert (
        "! sitebdii: exited with exit status 2"
        in machine.run("appliance", "status", "--long", expect=1).stdout
    )
