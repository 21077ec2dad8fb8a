"""`cloudkeeper-os` killed while it shares an image, with what it keeps in its state directory.

Keystone and Glance are simulators. tests/unit/test_backend_sharing.py has a death at each write to
Glance, and for more changes; here the process itself is killed, also between its own files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from tests.e2e.images_backend import SlowClient, short_directory
from tests.e2e.killpoints import Command, KillMatrix, environment
from tests.unit import backend_site
from tests.unit.test_backend_sharing import (
    PROJECTS,
    SHARE,
    SharingSite,
    check,
    start,
    watched,
)

PROGRAM = Path(sys.prefix) / "bin/cloudkeeper-os"
SYSCALLS = ("sendto", "fsync", "rename", "renameat", "mkdir", "unlink")
"""System calls that reach Glance and the state directory."""


@dataclass(frozen=True)
class Drive(Command):
    """Start the backend below strace, let a frontend make a run, and stop it."""

    sync: Callable[[SlowClient], object] = field(kw_only=True)

    def run(self, *above: str, inside: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        address = short_directory() / "s"
        command = [*above, *inside, *self.argv, "--grpc-socket", str(address)]
        with subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            failures: object = "not started"
            try:
                if listens(process, address):
                    with grpc.insecure_channel(f"unix://{address}") as channel:
                        failures = self.sync(SlowClient(channel))
            except grpc.RpcError as error:
                failures = error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                said, _ = process.communicate(timeout=120)
        status = process.returncode or (1 if failures else 0)
        return subprocess.CompletedProcess(command, status, str(failures), said)


def listens(process: subprocess.Popen[str], address: Path) -> bool:
    """Wait until a backend listens; return whether it does before it ends."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(address)) == 0:
                return True
        time.sleep(0.02)
    return False


@dataclass
class Scenario:
    """A change of who uses an image, from a state directory and a Glance of its own."""

    name: str
    site: SharingSite
    wanted: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> Drive:
        for found in (self.site.glance.images, self.site.glance.files, self.site.glance.members):
            found.clear()
        self.site.configure(SHARE)
        self.wanted = start(self.site, self.name)
        root = self.site.site.root
        config = str(root / "cloudkeeper-os.conf")
        command = [str(PROGRAM), "--root", str(root), "--config-file", config]
        return Drive(command, sync=self._sync)

    def _sync(self, client: SlowClient) -> object:
        with watched(self.site, self.wanted):
            return self.site.sync(client, self.wanted)

    def verify(self) -> None:
        """Check what users find; a run that only cleans up may be left to do."""
        with self.site.site.running() as client, watched(self.site, self.wanted):
            assert self.site.sync(client, self.wanted) == []
        check(self.site, self.name, self.wanted, [])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SharingSite]:
    with backend_site.made(tmp_path, projects=[*PROJECTS.values(), "four"]) as made:
        yield SharingSite(made)


SAMPLES = [
    pytest.param("update", 2, id="update, two"),
    *(
        pytest.param(name, None, id=f"{name}, all", marks=pytest.mark.matrix)
        for name in ("add", "update", "leave", "owner leaves", "to shares")
    ),
]


@pytest.mark.timeout(1800)
@pytest.mark.programs("strace")
@pytest.mark.parametrize(("name", "sample"), SAMPLES)
def test_killed_while_vos_share_an_image(site: SharingSite, name: str, sample: int | None) -> None:
    """F-M13: nobody is without a good version, and the next run leaves nothing half shared."""
    scenario = Scenario(name, site)
    KillMatrix(scenario.prepare, scenario.verify, syscalls=SYSCALLS).run(sample=sample, seed=2)
