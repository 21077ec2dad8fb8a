"""A site with `ssmsend` and `ssmreceive`: its files, and its programs as cron starts them.

The spool is filled by the dirq library and the received queue is read by it; messages are read with
openssl.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dirq.queue import Queue
from dirq.QueueSimple import QueueSimple

from tests import warm
from tests.e2e.killpoints import Command, environment
from tests.simulators.ams_service import AMS
from tests.testbed.trust import Trust

PROGRAMS = Path(sys.prefix) / "bin"
_ENTRIES = {
    "ssmctl": "ssm.cmds.control:main",
    "ssmreceive": "ssm.cmds.receive:main",
    "ssmsend": "ssm.cmds.send:main",
}
QUEUE = "/queue/test"
TOPIC = "eu-egi-cloud-accounting"
SCHEMA = {"body": "string", "signer": "string", "empaid": "string?", "error": "string?"}

_CONFIG = """\
[{role}]
protocol: {protocol}
[broker]
host: {hosts}{broker}
[certificates]
certificate: {certificate}
key: {key}
capath: {capath}
check_crls: true
{certificates}
[messaging]
destination: {queue}{messaging}
path: {path}
[logging]
logfile: {root}/var/log/apel/{role}.log
console: false
[daemon]
pidfile: {root}/run/ssmreceive.pid
"""


@dataclass(frozen=True, slots=True)
class Site:
    root: Path
    trust: Trust

    @classmethod
    def create(
        cls,
        root: Path,
        trust: Trust,
        *,
        hosts: str,
        certificates: str = "",
        queue: str = QUEUE,
        protocol: str = "STOMP",
        broker: str = "",
        messaging: str = "",
    ) -> Site:
        for name in ("etc/apel", "var/log/apel"):
            (root / name).mkdir(parents=True, exist_ok=True)
        site = cls(root, trust)
        for role, path in (("sender", site.spool), ("receiver", site.received)):
            credential = trust.host(role)
            text = _CONFIG.format(
                role=role,
                protocol=protocol,
                hosts=hosts,
                broker=broker,
                messaging=messaging,
                certificate=credential.certificate,
                key=credential.key,
                capath=trust.ca_directory,
                certificates=certificates if role == "sender" else "",
                queue=queue,
                path=path,
                root=root,
            )
            (root / f"etc/apel/{role}.cfg").write_text(text)
        (root / "etc/apel/dns").write_text(f"# senders\n\n{site.sender_dn}\n")
        return site

    @classmethod
    def at_ams(
        cls, root: Path, trust: Trust, service: AMS, *, certificates: str = "", messaging: str = ""
    ) -> Site:
        """Return a site whose topic and subscription have the same name."""
        service.create(TOPIC, TOPIC)
        return cls.create(
            root,
            trust,
            hosts=f"localhost:{service.port}",
            certificates=certificates,
            queue=TOPIC,
            protocol="AMS",
            broker=f"\nauthn_port: {service.authn_port}",
            messaging=f"\nams_project: {service.project}\n{messaging}",
        )

    @property
    def spool(self) -> Path:
        return self.root / "var/spool/apel/outgoing/openstack"

    @property
    def received(self) -> Path:
        return self.root / "var/spool/repository"

    @property
    def failed(self) -> Path:
        return self.spool.parent / "failed" / self.spool.name

    @property
    def sender_dn(self) -> str:
        certificate = self.trust.host("sender").certificate
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
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return shown.strip().removeprefix("subject=").strip()

    def fill(self, messages: list[str]) -> list[str]:
        """Put messages into the spool, as cASO does; returns the elements' names in order."""
        queue = QueueSimple(str(self.spool))
        return [queue.add(message) for message in messages]

    def command(self, program: str, *arguments: str) -> Command:
        return Command([str(PROGRAMS / program), "--root", str(self.root), *arguments])

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program, which starts without its imports."""
        command = self.command(program, *arguments)
        return warm.run(
            _ENTRIES[program],
            *command.argv[1:],
            environment=environment(),
            timeout=command.timeout,
        )

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(program, *arguments).argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def waiting(self) -> list[str]:
        """Return the names in the spool, as dirq lists them."""
        queue = QueueSimple(str(self.spool))
        names = []
        name = queue.first()
        while name:
            names.append(name)
            name = queue.next()
        return names

    def locks(self) -> list[str]:
        return sorted(path.name for path in self.spool.glob("*/*.lck"))

    def elements(self, queue: str = "incoming") -> list[dict[str, Any]]:
        """Return what a reader like APEL's loader gets, in its order; leave the queue unchanged."""
        return read_queue(self.received / queue, SCHEMA)

    def buried(self) -> list[dict[str, Any]]:
        words = ("reason", "empaid", "firstseen", "attempts", "lasterror")
        schema = {"body": "binary", **dict.fromkeys(words, "string")}
        return read_queue(self.failed, schema) if self.failed.exists() else []

    def log(self, role: str) -> str:
        return (self.root / f"var/log/apel/{role}.log").read_text()

    def record(self, program: str) -> dict[str, Any]:
        return dict(json.loads((self.root / f"var/lib/fedcloud/runs/{program}.json").read_text()))

    def opened(self, message: bytes) -> str:
        """Return the text of a signed message, as the openssl program reads it."""
        command = [
            "openssl",
            "smime",
            "-verify",
            "-CApath",
            str(self.trust.ca_directory),
            "-purpose",
            "any",
            "-text",
        ]
        shown = subprocess.run(command, input=message, capture_output=True, check=True)
        return shown.stdout.decode().replace("\r\n", "\n")


def read_queue(path: Path, schema: dict[str, str]) -> list[dict[str, Any]]:
    queue = Queue(str(path), schema=schema)
    found = []
    name = queue.first()
    while name:
        assert queue.lock(name)
        found.append(queue.get(name))
        queue.unlock(name)
        name = queue.next()
    return found
