"""Where one instance of the test bed keeps its things, and which ports it listens on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
"""Everything listens here and nowhere else."""

CLOUD_SERVICES = ("keystone", "glance", "placement", "nova", "neutron", "cinder")
SERVICES = (*CLOUD_SERVICES, "broker")

_OFFSETS = {
    "keystone": 0,
    "glance": 292,
    "broker-tls": 612,
    "broker-plain": 613,
    "neutron": 696,
    "nova": 774,
    "cinder": 776,
    "placement": 778,
}
_PATHS = {"keystone": "/v3", "nova": "/v2.1", "cinder": "/v3"}

TOP = Path(__file__).resolve().parents[2]
PLUGINS = Path(__file__).resolve().parent / "plugins"


def environment() -> Path:
    """Return the Python environment with the services: ``FEDCLOUD_TESTBED_ENV`` or our own."""
    return Path(os.environ.get("FEDCLOUD_TESTBED_ENV") or TOP / ".cache/env/testbed")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``state`` and ports from ``port_base`` on (less than 1000 of them)."""

    state: Path
    port_base: int

    def port(self, name: str) -> int:
        """Return the port of a service, or of one of the broker's two doors."""
        return self.port_base + _OFFSETS[name]

    def url(self, service: str) -> str:
        """Return the URL that the catalog has for a service."""
        return f"https://{HOST}:{self.port(service)}{_PATHS.get(service, '')}"

    def database(self, name: str) -> Path:
        """Return a service's SQLite file; Nova has ``nova``, ``nova_api`` and ``nova_cell0``."""
        return self.state / "databases" / f"{name}.sqlite"

    def configuration(self, service: str) -> Path:
        """Return the directory of a service's configuration."""
        return self.state / "etc" / service

    def data(self, service: str) -> Path:
        """Return the directory of a service's files: images, locks, the broker's journal."""
        return self.state / "data" / service

    def access_log(self, service: str) -> Path:
        """Return the file with a line for each request that a service answered."""
        return self.log / f"{service}.access.log"

    @property
    def log(self) -> Path:
        """What the services say."""
        return self.state / "log"

    @property
    def run(self) -> Path:
        """Records of the processes."""
        return self.state / "run"

    @property
    def done(self) -> Path:
        """Marks of the steps that need no second time."""
        return self.state / "done"

    @property
    def secrets(self) -> Path:
        """Passwords, one file each."""
        return self.state / "secrets"

    @property
    def pki(self) -> Path:
        """Both authorities: the cloud's and the grid's."""
        return self.state / "pki"

    @property
    def seed(self) -> Path:
        """What was planted."""
        return self.state / "seed.json"

    @property
    def lock(self) -> Path:
        """Held while the instance is being changed."""
        return self.state / "lock"
