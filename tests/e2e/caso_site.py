"""A site with accounting for the cloud of the test bed: its files, our programs and cASO 5.2.2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import warm
from tests.demo import counters
from tests.testbed import Testbed

PROGRAMS = Path(sys.prefix) / "bin"
PEER = Path(sys.prefix).parent / "peer/bin"
_ENTRIES = {"caso": "caso.cmds.control:main", "caso-extract": "caso.cmds.extract:main"}

_CONFIGURATION = """\
[DEFAULT]
{default}
[keystone_auth]
{login}
[ssm]
{ssm}
"""


@dataclass(slots=True)
class CasoSite:
    """A root directory with a configuration that both implementations read."""

    root: Path
    testbed: Testbed
    default: dict[str, object] = field(default_factory=dict)
    login: dict[str, object] = field(default_factory=dict)
    ssm: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        account = self.testbed.seed().accounts["accounting"]
        self.default = {
            "messengers": "ssm",
            "site_name": "TEST-SITE",
            "extractor": "nova",
            "spooldir": self.state,
            **self.default,
        }
        self.login = {
            "auth_type": "v3password",
            "auth_url": self.testbed.keystone_url,
            "username": account.name,
            "password": account.password,
            "user_domain_name": "Default",
            "cafile": self.testbed.ca_file,
            **self.login,
        }
        self.ssm = {"output_path": self.spool, "max_size": 5, **self.ssm}
        self.state.mkdir(parents=True)
        self.spool.mkdir(parents=True)
        self.write()

    @property
    def state(self) -> Path:
        return self.root / "var/spool/caso"

    @property
    def spool(self) -> Path:
        return self.root / "var/spool/apel/outgoing/openstack"

    @property
    def ledger(self) -> Path:
        return self.root / "var/lib/fedcloud/caso/ledger.sqlite"

    @property
    def configuration(self) -> Path:
        return self.root / "caso.conf"

    def write(self) -> None:
        """Write the configuration as it now is."""

        def lines(options: Mapping[str, object]) -> str:
            return "\n".join(
                f"{name} = {value}" for name, value in options.items() if value is not None
            )

        self.configuration.touch(mode=0o600)
        self.configuration.write_text(
            _CONFIGURATION.format(
                default=lines(self.default), login=lines(self.login), ssm=lines(self.ssm)
            )
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of one of our programs."""
        return [
            str(PROGRAMS / program),
            *arguments,  # first, because one may be a verb
            *("--root", str(self.root), "--config-file", str(self.configuration)),
        ]

    def run(
        self, program: str, *arguments: str, expect: int = 0, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our programs, after the command ``prefix``; require exit status ``expect``.

        Without a prefix those of `_ENTRIES` start without their imports.
        """
        _, *words = self.command(program, *arguments)
        if program in _ENTRIES and not prefix:
            shown = warm.run(_ENTRIES[program], *words, timeout=180)
        else:
            command = [*prefix, str(PROGRAMS / program), *words]
            shown = subprocess.run(
                command, capture_output=True, text=True, timeout=180, check=False
            )
        assert shown.returncode == expect, f"{shown.returncode}\n{shown.stdout}{shown.stderr}"
        assert "Traceback" not in shown.stderr
        secrets = ("password", "client_secret", "application_credential_secret")
        secret = next(str(self.login[name]) for name in secrets if name in self.login)
        assert secret not in shown.stdout + shown.stderr
        return shown

    def peer_command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of one of cASO's programs."""
        return [str(PEER / program), "--config-file", str(self.configuration), *arguments]

    def run_peer(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of cASO's programs."""
        return subprocess.run(
            self.peer_command(program, *arguments),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
            cwd=self.root,
            env={**os.environ, "TZ": "UTC"},
        )

    def messages(self) -> list[str]:
        """Return the texts of the spool's messages, oldest first."""
        return [path.read_text() for path in sorted(self.spool.glob("????????/" + "?" * 14))]

    def records(self) -> list[dict[str, str]]:
        """Return all records of the spool, in the order in which a sender sends them."""
        return list(counters.records(self.messages()))

    def checkpoints(self) -> dict[str, str]:
        """Return the checkpoint files' content by name."""
        return {path.name: path.read_text() for path in sorted(self.state.glob("lastrun*"))}

    def files(self) -> dict[str, bytes]:
        """Return everything below the root but the configuration."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path != self.configuration
        }


def lines(shown: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the messages of a program: standard error without its log."""
    return [
        line
        for line in shown.stderr.splitlines()
        if " - INFO - " not in line and " - WARNING - " not in line
    ]


@contextlib.contextmanager
def extra_project(
    testbed: Testbed, *, tags: list[str], role: bool, **attributes: str
) -> Iterator[str]:
    """Make a project for one test."""
    admin, seed = testbed.admin(), testbed.seed()
    body = {"project": {"name": "extra", "domain_id": "default", "tags": tags, **attributes}}
    project = admin.post("identity", "/projects", body)["project"]["id"]
    try:
        if role:
            reader = admin.get("identity", "/roles?name=reader")["roles"][0]["id"]
            account = seed.accounts["accounting"].id
            admin.put("identity", f"/projects/{project}/users/{account}/roles/{reader}")
        yield project
    finally:
        admin.call("DELETE", "identity", f"/projects/{project}")
