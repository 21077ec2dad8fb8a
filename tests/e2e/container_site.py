"""A site that runs the shipped images with the shipped compose file, below a directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import contents, images
from deploy.dockerd import DockerDaemon
from tests.testbed.patience import until
from tests.testbed.pki import Authority

TOP = Path(__file__).resolve().parents[2]
COMPOSE = {
    "1.29.2": Path("/usr/bin/docker-compose"),
    "v2": TOP / ".cache/compose-v2/docker-compose",
}
ACCOUNT = 1999
SERVICES = ("cloudbdii", "sitebdii", "cloudkeeper-os")
_STATE = (
    *(
        "var/lib/fedcloud/" + name
        for name in ("caso", "ssm", "cloudkeeper", "cloudkeeper-os", "cloud-info", "bdii/resource")
    ),
    *("var/lib/fedcloud/bdii/site", "var/spool/caso", "var/spool/apel/outgoing/openstack"),
    *("var/lib/fedcloud/runs/" + name for name in contents.IMAGES),
    *("image_data", "var/lock/cloudkeeper", "var/spool/apel", "var/spool/apel/outgoing"),
    *("run/cloudkeeper", "etc/fedcloud/tls/cloudkeeper-os", "etc/cloudkeeper/keys"),
    *("etc/caso/caso.conf.d", "etc/cloudkeeper/secrets"),
)


@dataclass(frozen=True, slots=True)
class ContainerSite:
    """A site. ``project`` is its name in compose, ``ports`` are those of the host."""

    engine: DockerDaemon
    root: Path
    compose_program: Path
    project: str
    port: int
    authority: Authority
    network: str = "bridge"

    @classmethod
    def lay_out(
        cls,
        engine: DockerDaemon,
        root: Path,
        *,
        version: str,
        project: str,
        port: int,
        network: str = "bridge",
    ) -> ContainerSite:
        """Copy what is shipped, as an installation does; nothing is configured yet."""
        authority = Authority.create(root.with_name(f"{root.name}-authority"), key="ec")
        site = cls(engine, root, COMPOSE[version], project, port, authority, network)
        shutil.copytree(TOP / "etc", root / "etc")
        shutil.copy(TOP / "docker-compose.yml", root / "etc/fedcloud")
        for name in _STATE:
            (root / name).mkdir(parents=True, exist_ok=True)
            os.chown(root / name, ACCOUNT, ACCOUNT)
        (root / "run/cloudkeeper").chmod(0o700)
        authority.publish(root / "etc/grid-security/certificates")
        (root / "usr/share/igtf-policy").mkdir(parents=True)
        (root / "etc/voms.json").write_text('{"ops": {"projects": ["ops"]}}\n')
        site._use_own_ports()
        site.set(FEDCLOUD_VERSION=images.version(), FEDCLOUD_ROOT=root, FEDCLOUD_NETWORK=network)
        return site

    def _use_own_ports(self) -> None:
        """Take other ports than those of the appliance, which may run on the same machine."""
        for name, old, new in (
            ("bridge", "${FEDCLOUD_BDII_LISTEN:-2170}", str(self.port)),
            ("host", ":2171", f":{self.port + 1}"),
        ):
            path = self.root / f"etc/fedcloud/networks/{name}.yml"
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        self.set(FEDCLOUD_BRIDGE=self.bridge)  # two sites in one engine
        if self.network == "host":
            self.edit(
                "etc/sitebdii/bdii.conf", append=f"BDII_PORT={self.port}\nBDII_IPV6_SUPPORT=yes\n"
            )
            self.edit(
                "etc/sitebdii/site-urls.conf",
                text=f"CLOUD ldap://localhost:{self.port + 1}/GLUE2GroupID=cloud,o=glue\n",
            )

    def set(self, **settings: object) -> None:
        """Change or add settings of appliance.env."""
        path = self.root / "etc/fedcloud/appliance.env"
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in old if line.partition("=")[0] not in settings]
        path.write_text(
            "".join(
                f"{line}\n"
                for line in [*kept, *(f"{name}={value}" for name, value in settings.items())]
            )
        )

    def edit(
        self, name: str, *, text: str | None = None, append: str = "", mode: int = 0o640
    ) -> Path:
        """Write a configuration file as an installation does: root's, readable by the account."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if text is None else text) + append)
        path.chmod(mode)
        os.chown(path, 0, ACCOUNT)
        return path

    @property
    def bridge(self) -> str:
        """What the names of the site's bridges begin with."""
        return f"fc{self.port % 100000}"

    @property
    def command(self) -> list[str]:
        """The start of each command line, as the head of the compose file tells it."""
        directory = self.root / "etc/fedcloud"
        return [
            *(
                os.fspath(self.compose_program),
                "-p",
                self.project,
                "--env-file",
                f"{directory}/appliance.env",
            ),
            *("-f", f"{directory}/docker-compose.yml"),
        ]

    def compose(self, *arguments: str, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run compose; its exit status must be as expected, unless that is None."""
        ours = [word for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for word in ("-u", name)]
        # the site's file is to count
        done = self.engine.run(["env", *ours, *self.command, *arguments], check=False)
        assert expect in (None, done.returncode), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def job(self, service: str, *command: str, mounts: Sequence[str] = (), expect: int = 0) -> str:
        """Run a job once; returns all that it said."""
        volumes = [word for mount in mounts for word in ("-v", mount)]
        done = self.compose(
            "run", "--rm", "-T", "--no-deps", *volumes, service, *command, expect=None
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == expect, f"{done.returncode}\n{said}"
        return said

    def container(self, service: str) -> Mapping[str, Any]:
        """Return all that the engine knows of a service's container."""
        filters = (
            f"label=com.docker.compose.project={self.project}",
            f"label=com.docker.compose.service={service}",
        )
        shown = self.engine.docker(
            "ps", "-aq", *(word for text in filters for word in ("--filter", text))
        ).stdout
        (identifier,) = shown.split()
        found: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", identifier).stdout)
        return found[0]

    def inside(self, service: str, *command: str) -> str:
        """Run a command in a service's container."""
        return self.engine.docker("exec", self.container(service)["Id"], *command).stdout

    def processes(self, service: str) -> list[int]:
        """Return the process ids of a container, as this machine has them."""
        shown = self.engine.docker("top", self.container(service)["Id"], "-eo", "pid").stdout
        return [int(pid) for pid in shown.split()[1:]]

    def log(self, service: str) -> str:
        """Return what a service has said."""
        done = self.engine.docker("logs", self.container(service)["Id"])
        return done.stdout + done.stderr

    def health(self, service: str) -> str:
        """Return the engine's word on a service's health."""
        return str(self.container(service)["State"]["Health"]["Status"])

    def down(self) -> None:
        """Remove containers and networks."""
        self.compose("--profile", "jobs", "down", "--volumes", "--timeout", "5", expect=None)


def wait(condition: Callable[[], bool], *, seconds: float, what: Callable[[], str]) -> float:
    """Wait until something holds; returns how long that took, in seconds."""
    begin = time.monotonic()
    assert until(condition, seconds=seconds), what()
    return time.monotonic() - begin


def start_by_cron(site: ContainerSite, table: str, *, zone: str = "UTC") -> str:
    """Run the command of a shipped table of cron as a host in a time zone does.

    Its paths are below this site's root; returns what the run logged.
    """
    [line] = re.findall(r"(?m)^\S+ \S+ \S+ \S+ \S+ root (.*)", (TOP / "cron.d" / table).read_text())
    found = re.fullmatch(r"/usr/local/bin/(\S+) >> (/var/log/\S+) 2>&1", line)
    assert found, line
    script, log = site.root / found[1], Path(f"{site.root}{found[2]}")
    shipped = (TOP / "bin" / found[1]).read_text()
    script.write_text(shipped.replace("/usr/local/bin/appliance", f"{sys.prefix}/bin/appliance", 1))
    script.chmod(0o755)
    line = line.replace(f"/usr/local/bin/{found[1]}", str(script)).replace(found[2], str(log))
    log.unlink(missing_ok=True)
    environment = {**os.environ, "FEDCLOUD_ROOT": str(site.root), "TZ": zone}
    subprocess.run(["/bin/sh", "-c", line], check=False, env=environment, cwd="/")
    return log.read_text()


def run_appliance(site: ContainerSite, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command `appliance` of this checkout for a site."""
    environment = {**os.environ, "FEDCLOUD_ROOT": str(site.root)}
    command = [str(Path(sys.prefix) / "bin/appliance"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@contextmanager
def host_site(engine: DockerDaemon, root: Path, *, port: int) -> Iterator[ContainerSite]:
    """Have a site for the block as the command `appliance` finds one: with settings, a host
    certificate and its key.

    Nothing is configured; the project is the real one, so nobody else uses the engine meanwhile.
    """
    root.mkdir()
    with engine.alone():
        site = ContainerSite.lay_out(engine, root, version="1.29.2", project="fedcloud", port=port)
        text = f"engine:\n  socket: {engine.socket}\nflows: {{images: on}}\n"
        site.edit("etc/fedcloud/appliance.yaml", text=text)
        for name in ("etc/caso/caso.conf", "etc/apel/sender.cfg", "etc/voms.json"):
            site.edit(name)
        for name in ("var/spool/apel", "var/spool/apel/outgoing"):
            os.chown(root / name, ACCOUNT, ACCOUNT)
        (root / "var/log").mkdir()
        authority = Authority.open(root.with_name("root-authority"))
        host = authority.issue("ssm.example.org")
        for source, name, mode in (
            (host.certificate, "hostcert.pem", 0o644),
            (host.key, "hostkey.pem", 0o400),
        ):
            target = root / "etc/grid-security" / name
            target.write_bytes(source.read_bytes())
            target.chmod(mode)
        try:
            yield site
        finally:
            site.down()
