"""A site of the simulated cloud with a ledger, and the repository that takes all of its messages.

The repository is played by its own rule: of all messages, in the order of their names, the last
record of a server and month counts. Programs start without their imports (`tests.warm`), because
a test of the ledger starts several.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from appliance.core import usage_messages
from appliance.core.spool import Spool
from ssm.sending.sent_journal import SentJournal, SentMessage
from tests.demo import counters
from tests.simulators.openstack import Cloud
from tests.warm import Started

CasoPrograms = Mapping[str, Callable[..., Started]]
"""Functions that start a program, by its name."""
NOW = datetime.now(UTC).replace(microsecond=0)
THIS_MONTH = NOW.replace(day=1, hour=0, minute=0, second=0)
LAST_MONTH = (THIS_MONTH - timedelta(days=1)).replace(day=1)
Repository = dict[tuple[str, str], int]
"""Seconds by server and month."""


@dataclass
class LedgerSite:
    """A site of the simulated cloud, and the repository that takes all of its messages."""

    cloud: Cloud
    root: Path
    programs: CasoPrograms
    options: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    """The messages that a sender took, in their order."""

    def run(
        self, *arguments: str, expect: int = 0, program: str = "caso-extract"
    ) -> subprocess.CompletedProcess[str]:
        if program == "caso-extract":
            self._wait_for_a_window()
        configuration = self.root / "caso.conf"
        configuration.touch(mode=0o600)
        options = {"messengers": "ssm", **self.options}
        more = "".join(f"{name} = {value}\n" for name, value in options.items())
        configuration.write_text(
            f"[DEFAULT]\nsite_name = S\nextractor = nova\n{more}"
            f"[keystone_auth]\nauth_type = v3password\nauth_url = {self.cloud.url}/v3\n"
            "username = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
        )
        flags = ("--root", str(self.root), "--config-file", str(configuration))
        process = self.programs[program](*arguments, *flags)
        out, err = process.communicate(timeout=120)
        shown = subprocess.CompletedProcess(process.args, process.wait(), out, err)
        assert shown.returncode == expect, shown.stdout + shown.stderr
        assert "Traceback" not in shown.stderr
        return shown

    def _wait_for_a_window(self) -> None:
        """Wait until a run has something to do: a window is longer than a second."""
        try:
            begin = datetime.fromisoformat(self.lastrun().read_text())
        except (FileNotFoundError, ValueError):  # a test has damaged it
            return
        left = begin + timedelta(seconds=1.1) - datetime.now(UTC)
        if timedelta(0) < left < timedelta(seconds=5):
            time.sleep(left.total_seconds())

    def verb(self, *arguments: str, expect: int = 0) -> list[str]:
        """Run a verb of `caso` and return the lines that it prints."""
        return self.run(*arguments, expect=expect, program="caso").stdout.splitlines()

    @property
    def ledger(self) -> Path:
        return self.root / "var/lib/fedcloud/caso/ledger.sqlite"

    def lastrun(self) -> Path:
        return self.root / "var/spool/caso/lastrun.one"

    def records(self) -> list[dict[str, str]]:
        spool = self.root / "var/spool/apel/outgoing/openstack"
        paths = sorted(spool.glob("????????/" + "?" * 14))
        return list(counters.records([*self.sent, *(path.read_text() for path in paths)]))

    @property
    def journal(self) -> Path:
        return self.root / "var/lib/fedcloud/ssm/sent.sqlite"

    def send(self) -> None:
        """Take all messages out of the spool as `ssmsend` does, with its journal."""
        spool = Spool(self.root / "var/spool/apel/outgoing/openstack")
        settings = SimpleNamespace(
            kept=SimpleNamespace(journal=SimpleNamespace(path=self.journal, months=24)),
            link=SimpleNamespace(ams=None, destination="/queue/x"),
            path=spool.path,
        )
        journal = SentJournal(cast("Any", settings))
        for name in spool.names():
            assert spool.lock(name)
            text = spool.read(name)
            digest = hashlib.sha256(text).hexdigest()
            words = ("localhost:1", "", datetime.now(UTC), usage_messages.read(text))
            journal.write([SentMessage(name, name, digest, len(text), *words)])
            spool.remove(name)
            self.sent.append(text.decode())
        journal.finish()
        assert journal.failures() == []

    def repository(self) -> Repository:
        found: Repository = {}
        for record in self.records():
            end = int(record["StartTime"]) + int(record["WallDuration"])
            if record["Status"] == "completed":
                end = int(record["EndTime"])
            month = f"{datetime.fromtimestamp(end, UTC):%Y-%m}"
            found[record["VMUUID"], month] = int(record["WallDuration"])
        return found


def server(number: int, *, created: datetime, **more: Any) -> dict[str, Any]:
    """Return a server that is described as those of the simulated cloud, and lives."""
    made = Cloud().server("one", 1000 + number)
    launched = created.replace(tzinfo=None).isoformat(timespec="microseconds")
    stamp = f"{created:%Y-%m-%dT%H:%M:%SZ}"
    return {**made, "created": stamp, "updated": stamp, "OS-SRV-USG:launched_at": launched, **more}


def shrunk(before: Repository, after: Repository) -> dict[tuple[str, str], tuple[int, int]]:
    """Return what the repository holds less of."""
    return {
        key: (seconds, after.get(key, 0))
        for key, seconds in before.items()
        if after.get(key, 0) < seconds
    }
