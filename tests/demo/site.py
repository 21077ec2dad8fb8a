"""A site of the demo: its files as an administrator would write them, and its programs as cron would start them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.testbed import Seed, Testbed

PROGRAMS = Path(sys.prefix) / "bin"
QUEUE = "/queue/accounting"
COPIES = "/queue/accounting.copy"
"""Where the broker puts a copy of each message, for those who count again."""

_CASO = """\
[DEFAULT]
messengers = ssm
site_name = DEMO-SITE
projects = vo-ops
[keystone_auth]
auth_type = v3password
auth_url = {auth_url}
username = {account}
user_domain_name = Default
password = {password}
cafile = {ca_file}
[ssm]
max_size = 5
"""

_SSM = """\
[{role}]
protocol: STOMP
[broker]
host: {host}:{port}
[certificates]
certificate: {certificate}
key: {key}
capath: {ca_directory}
check_crls: true
[messaging]
destination: {queue}
path: {path}
[logging]
logfile: {root}/var/log/apel/{program}.log
[daemon]
pidfile: {root}/run/{program}.pid
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A root directory with the configuration of all three programs."""

    root: Path

    @classmethod
    def create(cls, root: Path, testbed: Testbed, seed: Seed) -> Site:
        """Write a new site's files; one that stands there from an earlier demo goes."""
        shutil.rmtree(root, ignore_errors=True)
        for name in ("etc/caso", "etc/apel", "var/log/apel", "run"):
            (root / name).mkdir(parents=True)
        account = seed.accounts["accounting"]
        caso = root / "etc/caso/caso.conf"
        caso.touch(mode=0o600)
        caso.write_text(
            _CASO.format(
                auth_url=testbed.keystone_url,
                account=account.name,
                password=account.password,
                ca_file=testbed.ca_file,
            )
        )
        for program, role, path in (
            ("ssmsend", "sender", "var/spool/apel/outgoing/openstack"),
            ("ssmreceive", "receiver", "var/spool/repository"),
        ):
            credential = testbed.host_credential(role)
            (root / f"etc/apel/{role}.cfg").write_text(
                _SSM.format(
                    role=role,
                    program=program,
                    root=root,
                    path=root / path,
                    queue=QUEUE,
                    host=testbed.broker.host,
                    port=testbed.broker.tls_port,
                    certificate=credential.certificate,
                    key=credential.key,
                    ca_directory=testbed.ca_directory,
                )
            )
        (root / "etc/apel/dns").write_text(f"{_subject(testbed.host_credential('sender').certificate)}\n")
        return cls(root)

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of a program for this site."""
        return [str(PROGRAMS / program), "--root", str(self.root), *arguments]

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program; its output goes to a file beside its logs."""
        with (self.root / f"var/log/{program}.out").open("a") as output:
            return subprocess.Popen(self.command(program, *arguments), stdout=output, stderr=output, text=True)

    def run(self, program: str, *arguments: str, expect: tuple[int, ...] = (0,)) -> int:
        """Run a program to its end; an exit status that is not expected ends the demo with what the program said."""
        status = self.start(program, *arguments).wait(timeout=300)
        if status not in expect:
            said = (self.root / f"var/log/{program}.out").read_text()[-2000:]
            raise SystemExit(f"{program} ended with {status}:\n{said}")
        return status

    def extract_arguments(self, until: datetime) -> tuple[str, ...]:
        """Return the arguments that make `caso-extract` look at the cloud as of a moment."""
        return ("--extract-to", until.isoformat())

    def counts(self, program: str) -> dict[str, Any]:
        """Return the figures that a program's last run recorded."""
        record = json.loads((self.root / f"var/lib/fedcloud/runs/{program}.json").read_text())
        return dict(record["counts"])

    @property
    def spool(self) -> Path:
        """The spool between `caso-extract` and `ssmsend`."""
        return self.root / "var/spool/apel/outgoing/openstack"

    def spooled(self) -> list[str]:
        """Return the messages that wait in the spool, oldest first, read with nothing but the file system."""
        return [path.read_text() for path in sorted(self.spool.glob("????????/" + "?" * 14))]

    def received(self) -> list[str]:
        """Return the messages that the repository holds, in the order of arrival."""
        bodies = sorted(self.root.glob("var/spool/repository/incoming/*/*/body"))
        return [path.read_text() for path in bodies]


def _subject(certificate: Path) -> str:
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "compat", "-in", str(certificate)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return shown.stdout.strip().removeprefix("subject=").strip()
