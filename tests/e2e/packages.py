"""Packages of a host of tests: real dpkg and apt on a database of its own, with packages that are
empty but for a word.

    packages = Packages(host.root)
    packages.offer(BOOKWORM)                  what its archive has
    packages.install(*DOCKER_CE)              what is installed, without asking apt
    packages.installed()                      {"docker-ce", …}

Their dependencies and conflicts are those of the real ones, as far as an engine and Compose are
concerned.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.host_root import COMPOSE, DOCKER

_OTHERS = (
    *(
        "apparmor",
        "ca-certificates",
        "cron",
        "fetch-crl",
        "igtf-policy-classic",
        "igtf-policy-iota",
    ),
    *("igtf-policy-mics", "igtf-policy-slcs", "logrotate", "python3", "python3-venv"),
)


@dataclass(frozen=True, slots=True)
class Package:
    """One package: ``relations`` as its control file has them, ``files`` by their absolute path."""

    name: str
    version: str = "1"
    relations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """Return its control file."""
        head = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "all",
            "Maintainer": "T <t@example.org>",
        }
        return (
            "".join(f"{name}: {text}\n" for name, text in {**head, **self.relations}.items())
            + "Description: test\n"
        )


OTHERS = tuple(Package(name) for name in _OTHERS)
_PROGRAMS = {"/usr/bin/docker": DOCKER}
BOOKWORM = (
    *OTHERS,
    Package(
        "docker.io",
        "20.10.24",
        {"Depends": "containerd (>= 1.4~), runc (>= 1.0.0~rc8~)"},
        _PROGRAMS,
    ),
    Package("containerd", "1.6.20", {"Depends": "runc"}),
    Package("runc", "1.1.5"),
    Package(
        "docker-compose",
        "1.29.2",
        {"Recommends": "docker.io"},
        {"/usr/bin/docker-compose": COMPOSE},
    ),
)
TRIXIE = (
    *OTHERS,
    Package(
        "docker.io",
        "26.1.5",
        {"Depends": "containerd (>= 1.4~), runc (>= 1.0.0~rc8~)", "Conflicts": "docker-ce"},
    ),
    Package("containerd", "1.7.24", {"Depends": "runc"}),
    Package("runc", "1.1.15"),
    Package("docker-cli", "26.1.5", {"Conflicts": "docker-ce-cli, podman-docker"}, _PROGRAMS),
    Package("docker-compose", "2.26.1", {}, {"/usr/bin/docker-compose": COMPOSE}),
)
NOBLE = (*TRIXIE[:-2], Package("docker-compose-v2", "2.24.6", {"Depends": "docker.io"}))
_OLD = "docker, docker-engine, docker.io, lxc-docker"
DOCKER_CE = (
    Package(
        "docker-ce",
        "28.0.1",
        {"Depends": "containerd.io, docker-ce-cli", "Conflicts": _OLD, "Replaces": _OLD},
    ),
    Package("docker-ce-cli", "28.0.1", {"Conflicts": _OLD, "Replaces": _OLD}),
    Package(
        "containerd.io", "1.7.27", {"Conflicts": "containerd, runc", "Provides": "containerd, runc"}
    ),
)


class Packages:
    """The packages of the host below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/lib/apt/lists/partial",
            "repo",
        ):
            (root / name).mkdir(parents=True)
        for name in (
            "var/cache/apt/archives/partial",
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
        ):
            (root / name).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/repo ./\n")
        (root / "etc/apt/apt.conf").write_text(
            'APT::Sandbox::User "root";\nDPkg::Options:: "--force-unsafe-io";\n'
        )

    def offer(self, packages: Iterable[Package]) -> None:
        """Make the archive of these packages."""
        stanzas = []
        for package in packages:
            path = self._build(package)
            data = path.read_bytes()
            size = (
                f"Filename: ./{path.name}\nSize: {len(data)}\nSHA256: "
                f"{hashlib.sha256(data).hexdigest()}\n"
            )
            stanzas.append(package.control + size)
        (self.root / "repo/Packages").write_text("\n".join(stanzas))

    def install(self, *packages: Package) -> None:
        """Have packages be installed, their files apart."""
        with (self.root / "var/lib/dpkg/status").open("a") as status:
            for package in packages:
                name, _, rest = package.control.partition("\n")
                status.write(f"{name}\nStatus: install ok installed\n{rest}\n")
                (self.root / f"var/lib/dpkg/info/{package.name}.list").write_text("/.\n")

    def installed(self) -> set[str]:
        """Return the names of what is installed whole."""
        text = (self.root / "var/lib/dpkg/status").read_text()
        stanzas = [
            stanza for stanza in text.split("\n\n") if "\nStatus: install ok installed\n" in stanza
        ]
        return {stanza.splitlines()[0].removeprefix("Package: ") for stanza in stanzas}

    def _build(self, package: Package) -> Path:
        place = self.root / "repo" / package.name
        (place / "DEBIAN").mkdir(parents=True)
        (place / "DEBIAN/control").write_text(package.control)
        for name, text in package.files.items():
            path = place / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        built = self.root / f"repo/{package.name}.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--build", place, built], check=True, capture_output=True
        )
        shutil.rmtree(place)
        return built
