"""A demo site whose programs run in the shipped images, by the shipped compose file.

They use the host's network.

Its files lie below its root as on an appliance; what is written for a program names each place as
its container sees it. The repository at the other end is no part of the appliance: `ssmreceive`
runs on this machine as it is.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from deploy.dockerd import DockerDaemon
from tests.demo.site import PROGRAMS, Site
from tests.e2e.container_site import ACCOUNT
from tests.e2e.container_site import ContainerSite as Compose
from tests.testbed import Testbed

_PORT = 27170
_SERVICES = {
    "caso-extract": "caso",
    "caso": "caso",
    "ssmsend": "ssm",
    "cloudkeeper": "cloudkeeper",
    "cloudkeeper-os": "cloudkeeper-os",
    "cloud-info-provider-service": "cloud-info",
}
_NAMES = {
    "etc/bdii/site.conf": "etc/sitebdii/demo.conf",
    "gip/provider/cloud": "etc/bdii/provider/cloud",
}
"""Files that a container gets from another directory."""
_LABEL = "demo.run"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class ContainerSite(Site):
    """A site in containers; ``places`` maps paths of this machine to those in containers."""

    compose: Compose
    places: dict[str, str] = field(default_factory=dict)

    @classmethod
    def lay_out(cls, root: Path, *, engine: DockerDaemon, testbed: Testbed) -> ContainerSite:
        """Begin an empty site; one that stands there from an earlier demo goes."""
        for path in (root, root.with_name(f"{root.name}-authority")):
            shutil.rmtree(path, ignore_errors=True)
        root.mkdir(parents=True)
        compose = Compose.lay_out(
            engine, root, version="1.29.2", project="demo", port=_PORT, network="host"
        )
        compose.set(
            FEDCLOUD_CA_BUNDLE=testbed.ca_file,
            FEDCLOUD_BACKEND_CONFIG="/etc/cloudkeeper-os/cloudkeeper-os.conf",
            FEDCLOUD_BACKEND_MAPPING="/etc/cloudkeeper-os/mapping.json",
        )
        shutil.copytree(
            testbed.ca_directory, root / "etc/grid-security/certificates", dirs_exist_ok=True
        )
        credential = testbed.host_credential("sender")
        key = root / "run/fedcloud/keys/ssmsend"
        key.parent.mkdir(parents=True)
        shutil.copy(credential.key, key)
        os.chown(key, ACCOUNT, ACCOUNT)
        for name in ("var/log", "etc/bdii/provider", "var/lib/fedcloud/bdii/site/gip"):
            (root / name).mkdir(parents=True, exist_ok=True)
        return cls(root, compose, _places(root, testbed))

    def write(self, name: str, text: str, *, mode: int = 0o640) -> Path:
        """Write a file for the containers' account; the repository's is for this machine."""
        if "receiver" in name:
            return Site.write(self, name, text, mode=mode)
        is_of_site = name == "etc/bdii/site.conf"
        text = (
            text.replace("/etc/bdii/provider", "/var/lib/fedcloud/bdii/site/gip")
            if is_of_site
            else text
        )
        gip = "/var/lib/fedcloud/bdii/site/gip" if is_of_site else "/etc/bdii/provider"
        text = text.replace(f"{self.root}/gip/provider", gip).replace(
            f"{self.root}/gip/ldif", f"{gip}/none"
        )
        path = Site.write(self, _NAMES.get(name, name), self._inside(text), mode=mode)
        os.chown(path, ACCOUNT, ACCOUNT)
        return path

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that runs a program in a container, once."""
        return self._command(program, *arguments, flags=())

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program; its output goes to a file beside its logs."""
        if program == "ssmreceive":
            return Site.start(self, program, *arguments)
        label = f"{_LABEL}={os.getpid()}.{next(_numbers)}"
        command = self._command(program, *arguments, flags=("--label", label))
        with (self.root / f"var/log/{program}.out").open("a") as output:
            return _InContainer(
                command, label=label, engine=self.compose.engine, output=output.fileno()
            )

    def _command(self, program: str, *arguments: str, flags: tuple[str, ...]) -> list[str]:
        if program not in _SERVICES and program != "bdii-update":
            return Site.command(self, program, *arguments)
        compose, *common = self.compose.command
        service = _SERVICES.get(program) or (
            "sitebdii" if "site.conf" in str(arguments) else "cloudbdii"
        )
        grid, testbed = "/etc/grid-security", {inside: here for here, inside in self.places.items()}
        mounts: tuple[str, ...] = ()
        if service == "ssm":
            key = self.root / "run/fedcloud/keys/ssmsend"
            certificate = testbed[f"{grid}/hostcert.pem"]
            mounts = (
                "-v",
                f"{certificate}:{grid}/hostcert.pem:ro",
                "-v",
                f"{key}:{grid}/hostkey.pem:ro",
            )
        run = ("run", "--rm", "-T", "--no-deps", *flags, *mounts, service, program)
        return [
            compose,
            "-H",
            f"unix://{self.compose.engine.socket}",
            *common,
            *run,
            *map(self._inside, arguments),
        ]

    def _inside(self, text: str) -> str:
        """Return a text with each place named as containers see it."""
        for here, inside in self.places.items():
            text = text.replace(here, inside)
        return text


def _places(root: Path, testbed: Testbed) -> dict[str, str]:
    """Return paths of this machine with those of the containers; longer ones come first."""
    credential = testbed.host_credential("sender")
    return {
        f" --root {root}": "",
        str(PROGRAMS): "/opt/fedcloud/bin",
        str(testbed.ca_directory): "/etc/grid-security/certificates",
        str(testbed.ca_file): "/etc/ssl/certs/ca-certificates.crt",
        str(credential.certificate): "/etc/grid-security/hostcert.pem",
        str(credential.key): "/etc/grid-security/hostkey.pem",
        f"{root}/image_data": "/var/spool/cloudkeeper/images",
        f"{root}/run/cloudkeeper.lock": "/run/lock/cloudkeeper/cloudkeeper.lock",
        f"{root}/etc/cloudkeeper-os/mapping.json": "/etc/cloudkeeper-os/voms.json",
        f"{root}/etc/bdii/site.conf": "/etc/sitebdii/demo.conf",
        f"{root}/var/lib/resource": "/var/lib/fedcloud/bdii/resource",
        f"{root}/var/lib/site": "/var/lib/fedcloud/bdii/site",
        str(root): "",
    }


class _InContainer(subprocess.Popen[str]):
    """A program in a container; ending it ends the container, not the client that waits."""

    def __init__(
        self, command: list[str], *, label: str, engine: DockerDaemon, output: int
    ) -> None:
        self._label, self._engine = label, engine
        super().__init__(command, stdout=output, stderr=output, text=True, stdin=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill the program itself, as the kernel does it when memory runs out."""
        for identifier in self._containers():
            pid = int(
                self._engine.docker("inspect", "--format", "{{.State.Pid}}", identifier).stdout
            )
            if pid:
                os.kill(pid, signal.SIGKILL)
        if not self._containers():
            super().kill()

    def terminate(self) -> None:
        """Stop the container in good order."""
        for identifier in self._containers():
            self._engine.docker("stop", "--time", "20", identifier, check=False)

    def _containers(self) -> list[str]:
        return self._engine.docker("ps", "-q", "--filter", f"label={self._label}").stdout.split()
