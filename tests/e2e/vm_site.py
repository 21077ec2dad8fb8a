"""An appliance on a machine of its own, installed and configured as by an administrator."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy import images
from deploy.dockerd import DockerDaemon
from tests.e2e import container_cloud
from tests.e2e.bdii_service import Entries, parse
from tests.e2e.container_site import ACCOUNT, ContainerSite
from tests.e2e.shipped import Shipped
from tests.e2e.ssm_site import Site as Peer
from tests.testbed import Testbed
from tests.testbed.layout import SERVICES
from tests.testbed.vm import HOST, Machine

QUEUE = f"/queue/machine.{os.getpid()}"
"""Of this session alone: what an interrupted one left does not count."""
VO, PROJECT = "fedcloud.egi.eu", "vo-fedcloud"
IMAGES_VO, IMAGES_PROJECT = "ops", "vo-ops"
CA_BUNDLE = "/etc/ssl/certs/example-cloud.pem"
TOP = Path(__file__).resolve().parents[2]
GRID = "etc/grid-security"
_MACHINES = itertools.count()
_EVERYTHING = """
    find /etc /opt /usr/local /image_data /var/lib/fedcloud /var/spool /var/log \
      ! -path '/var/log/journal*' ! -type d \
      -printf '%p %m %u %g %s %T@ %l\\n' | sort
    docker images --no-trunc -q | sort
"""
"""All that an installation could touch: names, access, sizes, times, links; and images."""


@contextmanager
def booted(engine: DockerDaemon) -> Iterator[Machine]:
    """Run a new machine for the block, with a signed bundle of this checkout below /media."""
    directory = TOP / f".cache/vm/{os.getpid()}-{next(_MACHINES)}"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "media").mkdir(parents=True)
    Shipped.of_checkout(engine).put(directory / "media")
    machine = Machine.create(engine, directory, cache=TOP / ".cache/deploy")
    try:
        machine.run("systemctl", "stop", "cron")  # its hours are not the tests'
        yield machine
    finally:
        machine.destroy()


@dataclass(frozen=True, slots=True)
class Appliance:
    """A machine with an installed appliance, and the test bed that it federates. ``first`` and
    ``second`` are what two runs of the installer printed, ``changed`` the names that the second one
    touched.
    """

    machine: Machine
    testbed: Testbed
    bundle: str
    first: str
    second: str
    changed: str

    @classmethod
    def install(cls, machine: Machine, testbed: Testbed) -> Appliance:
        """Install from the bundle below /media, twice, and configure what was installed."""
        place = f"/media/fedcloud-appliance-{images.version()}"
        key = machine.shell(f"sha256sum <{place}/signing-key.pem").stdout.split()[0]
        first = machine.run(f"{place}/install", "--fingerprint", key).stdout
        before = machine.shell(_EVERYTHING).stdout
        second = machine.run(f"{place}/install").stdout
        after = machine.shell(_EVERYTHING).stdout
        changed = "".join(
            sorted(set(before.splitlines(keepends=True)) ^ set(after.splitlines(keepends=True)))
        )
        appliance = cls(machine, testbed, place, first, second, changed)
        appliance.configure()
        # all that the test bed planted
        machine.run("appliance", "schedule", "cron", "--since", "2000-01-01")
        return appliance

    def path(self, name: str) -> Path:
        """Return a file of the machine, for reading and writing from here."""
        return self.machine.root / name.lstrip("/")

    def write(self, name: str, text: str, *, mode: int = 0o640) -> None:
        """Write a configuration file as an editor does: a new file under the old name."""
        path = self.path(name)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(mode)
        os.chown(new, 0, ACCOUNT)
        new.rename(path)

    def line(self, name: str, number: int, text: str) -> None:
        """Change one line, by its number, as the manual tells it."""
        lines = self.path(name).read_text().splitlines()
        lines[number - 1] = text
        self.write(name, "\n".join(lines) + "\n")

    def setting(self, **settings: str) -> None:
        """Change lines of appliance.env."""
        name = "/etc/fedcloud/appliance.env"
        text = self.path(name).read_text()
        for key, value in settings.items():
            text, count = re.subn(rf"^{key}=.*$", f"{key}={value}", text, flags=re.MULTILINE)
            assert count == 1, key
        self.write(name, text)

    def configure(self) -> None:
        """Fill in what is this site's: it works with the test bed's cloud and broker."""
        self._trust()
        self._information()
        self._accounting()
        self._images()
        self.machine.reach(self.testbed.layout.port(name) for name in SERVICES if name != "broker")
        self.machine.reach([self.testbed.broker.tls_port])

    def _trust(self) -> None:
        shutil.copy(self.testbed.ca_file, self.path(CA_BUNDLE))
        for path in self.testbed.ca_directory.iterdir():
            shutil.copy(path, self.path(GRID) / "certificates" / path.name)
        credential = self.testbed.host_credential("sender")
        shutil.copy(credential.certificate, self.path(GRID) / "hostcert.pem")
        shutil.copy(credential.key, self.path(GRID) / "hostkey.pem")
        self.path(GRID).joinpath("hostkey.pem").chmod(0o400)
        self.setting(FEDCLOUD_CA_BUNDLE=CA_BUNDLE, FEDCLOUD_NETWORK="host")

    def _information(self) -> None:
        """R26, R27, R29, R30: the files of both BDIIs."""
        seed = self.testbed.seed()
        grid = self.testbed.trust.grid
        site = ContainerSite(
            self.machine.engine, self.machine.root, Path(), "fedcloud", 2170, grid, "host"
        )
        container_cloud.name_site(site)
        account = seed.accounts["information"]
        projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
        container_cloud.offer(
            site,
            url=self.testbed.keystone_url,
            user=account.name,
            password=account.password,
            projects=projects,
        )
        self.write(
            "/etc/sitebdii/site-urls.conf",
            "CLOUD ldap://localhost:2171/GLUE2GroupID=cloud,o=glue\n",
            mode=0o644,
        )

    def _accounting(self) -> None:
        """R14 to R16, R18, R20: caso.conf by the manual's lines, a private broker in sender.cfg."""
        account = self.testbed.seed().accounts["accounting"]
        for number, text in {
            12: "site_name = TEST-SITE",
            20: f"projects = {PROJECT}",
            32: f"auth_url = {self.testbed.keystone_url}",
            41: f"username = {account.name}",
            44: "user_domain_name = Default",
            47: f"password = {account.password}",
        }.items():
            self.line("/etc/caso/caso.conf", number, text)
        self.sender(QUEUE)

    def sender(self, queue: str) -> None:
        """Send to this queue of the broker."""
        text = self.path("/etc/apel/sender.cfg").read_text()
        for old, new in {
            r"^protocol: .*": "protocol: STOMP",
            r"^host: .*": f"host: {self.testbed.broker.host}:{self.testbed.broker.tls_port}",
            r"^destination: .*": f"destination: {queue}",
        }.items():
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count == 1, old
        self.write("/etc/apel/sender.cfg", text)

    def _images(self) -> None:
        """R36: the flow is on; the backend's account in the manual's lines; each VO's project."""
        self.machine.run("appliance", "flows", "--on", "images")
        account = self.testbed.seed().accounts["images"]
        shipped = (TOP / "etc/cloudkeeper/cloudkeeper-os.conf").read_text()
        self.write("/etc/cloudkeeper/cloudkeeper-os.conf", shipped)
        for number, text in {
            124: f"username = {account.name}",
            127: f"password = {account.password}",
            130: "user_domain_name = Default",
            136: f"auth_url = {self.testbed.keystone_url}",
        }.items():
            self.line("/etc/cloudkeeper/cloudkeeper-os.conf", number, text)
        projects = self.testbed.seed().projects
        mapping = {VO: projects[PROJECT].id, IMAGES_VO: projects[IMAGES_PROJECT].id}
        text = ", ".join(
            f'"{vo}": {{"projects": ["{project}"]}}' for vo, project in mapping.items()
        )
        self.write("/etc/voms.json", f"{{{text}}}\n")

    def start(self) -> None:
        """Have both services run, and the whole cloud published."""
        self.machine.run("systemctl", "start", "bdii", "cloudkeeper-os")
        vos = {project.vo for project in self.testbed.seed().projects.values() if project.vo}
        self.machine.wait(
            lambda: len(self.shares()) == len(vos) and self.backend_answers(),
            seconds=90,
            what=lambda: self.machine.journal("bdii") + self.machine.journal("cloudkeeper-os"),
        )

    # ----------------------------------------------------------------------------------------------
    # what is seen

    def backend_answers(self) -> bool:
        """Say whether the backend answers as gRPC servers do."""
        place = self.machine.root / "run/cloudkeeper/backend.sock"
        probe = [sys.executable, "-IS", str(TOP / "deploy/grpc-answers"), str(place)]
        return subprocess.run(probe, check=False, capture_output=True).returncode == 0

    def entries(self, *words: str) -> Entries:
        """Return what the machine's ldapsearch finds at the public address, if it answers."""
        command = (
            "ldapsearch",
            "-x",
            "-LLL",
            "-o",
            "ldif-wrap=no",
            "-H",
            f"ldap://{HOST}:2170",
            "-b",
            "o=glue",
            *words,
        )
        done = self.machine.run(*command, expect=None)
        return parse(done.stdout) if done.returncode == 0 else {}

    def shares(self) -> set[str]:
        """Return the names of the VOs' shares that are published."""
        return {dn for dn in self.entries() if dn.startswith("GLUE2ShareID=")}

    def waiting(self) -> list[Path]:
        """Return the messages in the spool."""
        return [
            path
            for path in self.path("/var/spool/apel/outgoing/openstack").rglob("*")
            if path.is_file()
        ]

    def containers(self) -> dict[str, str]:
        """Return when the container of each service was started."""
        shown = self.machine.run(
            "docker", "ps", "-q", "--filter", "label=com.docker.compose.project=fedcloud"
        ).stdout
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.StartedAt}}'
        if not shown.split():
            return {}
        lines = self.machine.run(
            "docker", "inspect", "--format", form, *shown.split()
        ).stdout.splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def receiver(self, directory: Path, queue: str) -> Peer:
        """Return a repository that takes messages from a queue."""
        broker = self.testbed.broker
        return Peer.create(
            directory, broker.trust, hosts=f"{broker.host}:{broker.tls_port}", queue=queue
        )
