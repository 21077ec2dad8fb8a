"""`appliance upgrade` on a booted machine: forward, back, back by itself, killed (F-I4).

The machine's own engine has the images, systemd restarts the services, and clients ask all the
time. One test goes on where the one before has ended: with the older version in use.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import account
from appliance.core.version import __version__
from deploy.dockerd import DockerDaemon
from tests.e2e.shipped import Shipped
from tests.e2e.test_vm_upgrade import (
    IMAGES,
    NEWER,
    asking,
    make_newer,
    published,
    serve,
    versions,
)
from tests.testbed.patience import until
from tests.testbed.pki import Authority
from tests.testbed.vm import Machine
from tests.unit import backup_site

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.matrix,
    pytest.mark.timed,
    pytest.mark.timeout(1200),
]

BROKEN = "99.1"
LEDGER, JOURNAL = "var/lib/fedcloud/caso/ledger.sqlite", "var/lib/fedcloud/ssm/sent.sqlite"
SPOOL = "var/spool/apel/outgoing/openstack"
SETTLE = ("--settle", "2")
_HOUR = """
import sqlite3
with sqlite3.connect("/var/lib/fedcloud/caso/ledger.sqlite") as ledger:
    ledger.execute("INSERT INTO things VALUES (2, 1, 'vm-2')")
    ledger.execute("UPDATE deliveries SET amount = 7200")
    ledger.execute(
        "INSERT INTO deliveries VALUES (202611, 2, 2, 1, 3600, NULL, NULL, 1, 3, NULL, NULL, 0)"
    )
with sqlite3.connect("/var/lib/fedcloud/ssm/sent.sqlite") as journal:
    journal.execute("UPDATE record SET amount = 7200, measured = 7200")
"""
"""The machine's Python runs it: SQLite resolves /proc/PID/root in a path to this host's root."""
_SERVICES = ("cloudbdii", "sitebdii")


@dataclass(frozen=True, slots=True)
class UpgradedMachine:
    """A machine that serves with the older version, and two newer bundles below its /media."""

    machine: Machine
    newer: str
    broken: str
    """Its site's BDII passes the check of its configuration, and does not start."""

    def upgrade(self, *words: str) -> tuple[int, str]:
        """Run the verb; return its exit status and output."""
        done = self.machine.run("appliance", "upgrade", *words, *SETTLE, expect=None)
        return done.returncode, done.stdout + done.stderr

    def require(self, version: str) -> None:
        """Check that a version is in use, in all places, and that its services are healthy."""
        machine = self.machine
        machine.wait(
            lambda: published(machine) == IMAGES, seconds=60, what=lambda: machine.journal("bdii")
        )
        assert machine.run("appliance", "--version").stdout.split()[-1] == version
        assert versions(machine) == dict.fromkeys(_SERVICES, version)
        assert machine.run("systemctl", "is-active", "bdii").stdout == "active\n"
        assert until(lambda: self._health() == dict.fromkeys(_SERVICES, "healthy"), seconds=60)

    def _health(self) -> dict[str, str]:
        """Return the state of the services, as `appliance status` has it."""
        found = json.loads(self.machine.run("appliance", "status", "--json", expect=None).stdout)
        return {one["service"]: one["health"] for one in found["services"] if one["health"]}

    def remembered(self) -> dict[str, object]:
        """Return all rows of ledger and journal, and the messages in the spool."""
        root = self.machine.root
        found: dict[str, object] = {name: _rows(root / name) for name in (LEDGER, JOURNAL)}
        messages = [path for path in (root / SPOOL).rglob("*") if path.is_file()]
        return found | {str(path.relative_to(root)): path.read_text() for path in messages}

    def account(self, directory: Path) -> None:
        """Have a record delivered, as ledger and journal know it."""
        backup_site.ledger(directory / LEDGER, {"vm-1": 3600})
        backup_site.journal(directory / JOURNAL, {"vm-1": 3600})
        for name in (LEDGER, JOURNAL):
            shutil.copy(directory / name, self.machine.root / name)
            os.chown(self.machine.root / name, account.ID, account.ID)

    def deliver(self) -> None:
        """Have one more hour: two records delivered, and a message that waits."""
        self.machine.run("python3", "-", stdin=_HOUR)
        message = backup_site.put(
            self.machine.root / backup_site.ELEMENT, "APEL-cloud-message: v0.4\n"
        )
        for path in (message, message.parent):
            os.chown(path, account.ID, account.ID)


def _rows(path: Path) -> list[str]:
    """Return a database as text, from a copy: reading a file of WAL mode would write beside it."""
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"{path}{suffix}", directory)
        with contextlib.closing(sqlite3.connect(Path(directory) / path.name)) as copy:
            return list(copy.iterdump())


def require_served(met: dict[str, Any], machine: Machine, *, runs: int = 1) -> None:
    """Check what clients met: no answer for five seconds at most in each run, whole trees only."""
    shown = f"{met['silent']:.1f} s without an answer, {len(met['refused'])} polls refused"
    print(f"{shown} of {met['answered']}; {len(met['sizes'])} whole trees")
    assert met["silent"] <= 5 * runs, f"{shown}\n{machine.journal('bdii')}"
    assert min(met["sizes"]) > IMAGES


@pytest.fixture(scope="module")
def host(
    new_machine: Machine, engine: DockerDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[UpgradedMachine]:
    machine = new_machine
    shipped = Shipped.of_checkout(engine)
    media = machine.directory / "media"
    with engine.alone():
        newer = make_newer(engine, shipped, media)
        fails = {"sitebdii": 'CMD ["false"]'}
        broken = make_newer(engine, shipped, media, version=BROKEN, steps=fails)
    older = f"/media/{shipped.bundle.name}"
    machine.run(f"{older}/install", "--key", f"{older}/signing-key.pem")
    serve(machine, Authority.create(tmp_path_factory.mktemp("pki") / "authority", key="ec"))
    found = UpgradedMachine(machine, f"/media/{newer.name}", f"/media/{broken.name}")
    found.account(tmp_path_factory.mktemp("state"))
    found.require(__version__)
    yield found
    machine.run("systemctl", "stop", "bdii")


def test_forward_and_back_with_deliveries_between(host: UpgradedMachine) -> None:
    with asking(host.machine) as met:
        status, said = host.upgrade("--from", host.newer)
    assert status == 0, said
    require_served(met, host.machine)
    host.require(NEWER)
    before = host.remembered()
    host.deliver()
    after = host.remembered()
    assert after != before
    with asking(host.machine) as met:
        status, said = host.upgrade("--rollback")
    assert status == 0, said
    require_served(met, host.machine)
    host.require(__version__)
    assert host.remembered() == after


def test_a_version_that_is_not_healthy_goes_back_by_itself(host: UpgradedMachine) -> None:
    before = host.remembered()
    with asking(host.machine) as met:
        begun = time.monotonic()
        status, said = host.upgrade("--from", host.broken)
        took = time.monotonic() - begun
    assert status == 3, said
    assert f"{BROKEN} is not healthy" in said
    assert f"the host went back to {__version__}" in said
    print(f"{met['silent']:.1f} s without an answer")
    assert 0 < met["silent"] < took, f"not served again when it ended\n{said}"
    assert min(met["sizes"]) > IMAGES
    host.require(__version__)
    assert host.remembered() == before


def test_killed_when_the_newer_version_is_selected(host: UpgradedMachine) -> None:
    """All its processes die together; the next run ends it. So does one after a way back."""
    machine, before = host.machine, host.remembered()
    version = machine.root / "var/lib/fedcloud/version"
    command = ("appliance", "upgrade", "--from", host.newer, *SETTLE)
    with asking(machine) as met:
        machine.run("systemd-run", "--quiet", "--unit=upgrading", "--collect", *command)
        assert until(lambda: version.read_text() == f"{NEWER}\n", seconds=180)
        machine.run("systemctl", "kill", "--signal=KILL", "upgrading")
        assert until(lambda: not host.machine.shell(_LEFT, expect=None).stdout, seconds=20)
        status, said = host.upgrade("--from", host.newer)
    assert status == 0, said
    require_served(met, machine, runs=2)
    host.require(NEWER)
    assert host.remembered() == before
    status, said = host.upgrade("--rollback")
    assert status == 0, said
    host.require(__version__)


_LEFT = "pgrep -f 'appliance upgrade|appliance.admin.install'"
