"""An accounting site: `caso-extract` and `ssmsend`, and a repository with `ssmreceive`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.demo.site import Site
from tests.testbed import Seed, Testbed

QUEUE = "/queue/accounting"
KINDS = {kind: f"{QUEUE}.{kind}" for kind in ("storage", "ip", "accelerator")}
"""The destination of each further kind of record."""
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
class AccountingSite:
    """A site with the configuration of the three programs."""

    site: Site

    @classmethod
    def create(
        cls, site: Site, testbed: Testbed, seed: Seed, *, kinds: bool = False
    ) -> AccountingSite:
        """Write a new site's files; with ``kinds``, it sends all kinds of records."""
        root = site.root
        (root / "var/log/apel").mkdir(exist_ok=True)
        account = seed.accounts["accounting"]
        caso = _CASO.format(
            auth_url=testbed.keystone_url,
            account=account.name,
            password=account.password,
            ca_file=testbed.ca_file,
        )
        outgoing = "var/spool/apel/outgoing/openstack"
        wanted = KINDS if kinds else {}
        caso += "".join(f"output_path_{kind} = {root}/{outgoing}-{kind}\n" for kind in wanted)
        site.write("etc/caso/caso.conf", caso, mode=0o600)
        further = [
            ("ssmsend", "sender", f"sender.d/{kind}", f"{outgoing}-{kind}", queue)
            for kind, queue in wanted.items()
        ]
        for program, role, name, path, queue in (
            ("ssmsend", "sender", "sender", outgoing, QUEUE),
            ("ssmreceive", "receiver", "receiver", "var/spool/repository", QUEUE),
            *further,
        ):
            credential = testbed.host_credential(role)
            text = _SSM.format(
                role=role,
                program=program,
                root=root,
                path=root / path,
                queue=queue,
                host=testbed.broker.host,
                port=testbed.broker.tls_port,
                certificate=credential.certificate,
                key=credential.key,
                ca_directory=testbed.ca_directory,
            )
            site.write(f"etc/apel/{name}.cfg", text)
        site.write("etc/apel/dns", f"{_subject(testbed.host_credential('sender').certificate)}\n")
        return cls(site)

    @property
    def spool(self) -> Path:
        """The spool between `caso-extract` and `ssmsend`."""
        return self.site.root / "var/spool/apel/outgoing/openstack"

    def waiting(self) -> list[Path]:
        """Return the files of the messages that wait in the spool, oldest first."""
        return sorted(self.spool.glob("????????/" + "?" * 14))

    def spooled(self) -> list[str]:
        """Return the waiting messages, read from the file system alone, while nobody sends."""
        return [path.read_text() for path in self.waiting()]

    def spooled_of(self, kind: str) -> list[str]:
        """Return the waiting messages of a further kind."""
        spool = self.spool.with_name(f"{self.spool.name}-{kind}")
        return [path.read_text() for path in sorted(spool.glob("????????/" + "?" * 14))]

    def received(self) -> list[str]:
        """Return the messages that the repository holds, in the order of arrival."""
        bodies = sorted(self.site.root.glob("var/spool/repository/incoming/*/*/body"))
        return [path.read_text() for path in bodies]


def _subject(certificate: Path) -> str:
    command = [
        "openssl",
        "x509",
        "-noout",
        "-subject",
        "-nameopt",
        "compat",
        "-in",
        str(certificate),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return shown.stdout.strip().removeprefix("subject=").strip()
