"""The first hour of a new administrator with a bare Debian 12, a cloud's credentials and README.md.

    scripts/bench firsthour            both ways: building the bundle, then with that bundle
    scripts/bench firsthour built
    scripts/bench firsthour bundle     with the newest bundle in dist/

The machine boots with systemd and has what Debian's installer leaves, nothing else. All that is
typed there are the commands of README.md and the answers to `appliance configure`. The cloud and
the broker at the other end are the test bed's; what only the test bed needs (its authorities, its
broker, its ports on the loopback address) is counted apart. The end is a record that the repository
has verified, and every VO of the cloud in the answer of LDAP. Rows are ``firsthour case value
unit``, then the table of the figures to reach.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.dockerd import DOCKER, DockerDaemon
from tests.bench import readme
from tests.e2e.ssm_site import Site as Peer
from tests.testbed import Testbed
from tests.testbed.bundle import make_key, seal
from tests.testbed.layout import SERVICES
from tests.testbed.vm import HOST, Machine

TOP = Path(__file__).resolve().parents[2]
NOVEMBER_COMMANDS, NOVEMBER_EDITS, NOVEMBER_GUESSES = 24, 28, 5
"""From the README of November: commands typed, values written, steps that it left to be guessed."""
_PORT_BASE = 29000
_CA_BUNDLE = "/etc/ssl/certs/example-cloud.pem"
_QUEUE = f"/queue/firsthour-{os.getpid()}"
"""Of this run alone: the broker keeps what an aborted run has left."""
_TRUST_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO")
_PATIENCE = 1200.0
_GOALS = {"built": 10, "bundle": 4}
"""Minutes to reach on two idle cores."""


def row(case: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"firsthour\t{case}\t{value:.6g}\t{unit}", flush=True)


@dataclass
class Typist:
    """Types commands on the machine's terminal as a person does, and times what comes back."""

    machine: Machine
    silences: dict[str, float] = field(default_factory=dict)
    """The longest time without any output, in seconds, of each command."""
    seconds: dict[str, float] = field(default_factory=dict)

    def type(self, command: str, *, answers: str | None = None, is_quiet: bool = False) -> str:
        """Run one command where the last one left off; return its output; it must succeed."""
        before = 'cd "$(cat /run/typist 2>/dev/null || echo /root)"'
        line = f"{before}\n{command}\ns=$?\npwd >/run/typist\nexit $s"
        flags = ["-i"] if answers is not None else ["-t"]
        begin = time.monotonic()
        with subprocess.Popen(
            [DOCKER, "exec", *flags, *_environment(), self.machine.identifier, "bash", "-c", line],
            env=dict(self.machine.engine.environment),
            stdin=subprocess.PIPE if answers is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            if process.stdin is not None:
                process.stdin.write((answers or "").encode())
                process.stdin.close()
            said = self._listen(process, command)
        # a stranger's authorities without lists
        is_finding = "check --offline" in command and process.returncode == 1
        if process.returncode and not is_finding:
            sys.exit(f"$ {command}\n{said[-4000:]}\nended with {process.returncode}")
        if not is_quiet:
            self.seconds[command] = time.monotonic() - begin
            print(
                f"$ {command}   ({self.seconds[command]:.0f} s)\n{_last_lines(said)}",
                file=sys.stderr,
                flush=True,
            )
        return said

    def _listen(self, process: subprocess.Popen[bytes], command: str) -> str:
        assert process.stdout is not None
        said, last, longest = b"", time.monotonic(), 0.0
        while True:
            ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            block = os.read(process.stdout.fileno(), 2**16) if ready else b""
            if not block:
                self.silences[command] = longest
                return said.decode(errors="replace")
            said += block


def _last_lines(said: str) -> str:
    lines = [line.rpartition("\r")[2] for line in said.replace("\r\n", "\n").splitlines()]
    return "\n".join(f"    {line}" for line in lines[-6:])


def _environment() -> list[str]:
    """Return the authorities that this host's network asks programs to trust for downloads."""
    return [
        word for name in _TRUST_VARIABLES for word in ("-e", f"{name}=/media/ca-certificates.crt")
    ]


@contextlib.contextmanager
def machine_of(engine: DockerDaemon, directory: Path) -> Iterator[Machine]:
    """Have a bare machine with a network run for the block."""
    network = f"firsthour-{os.getpid()}"
    engine.docker("network", "create", network)
    try:
        machine = Machine.create(
            engine, directory, cache=TOP / ".cache/deploy", is_bare=True, network=network
        )
        try:
            yield machine
        finally:
            machine.destroy()
    finally:
        engine.docker("network", "rm", network, check=False)


def cpu_seconds(machine: Machine) -> float:
    """Return the processor time of a machine since it was made, by its control group."""
    for line in Path(f"/proc/{machine.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        top = path.partition("/init.scope")[0].lstrip("/")
        if "cpuacct" in controllers.split(","):
            return int((Path("/sys/fs/cgroup/cpuacct") / top / "cpuacct.usage").read_text()) / 1e9
        if not controllers:
            stat = Path("/sys/fs/cgroup") / top / "cpu.stat"
            if stat.exists() and (found := re.search(r"usage_usec (\d+)", stat.read_text())):
                return int(found[1]) / 1e6
    return float("nan")


def values() -> dict[str, str]:
    """Return what stands in place of the words in capitals of README.md."""
    return {
        "REPOSITORY": "/media/checkout.git",
        "BUNDLE": "/media/bundle",
        "KEY": "/media/key",
        "HOST": HOST,
        "DATE": "2026-01-01",
    }


@dataclass(frozen=True, slots=True)
class Hour:
    """One first hour: a way to install, on a machine, with the test bed's cloud and repository."""

    way: str
    typist: Typist
    testbed: Testbed

    @property
    def machine(self) -> Machine:
        """The machine."""
        return self.typist.machine

    def answers(self) -> dict[str, str]:
        """Return the answers typed at `appliance configure`; empty takes the offered one."""
        seed = self.testbed.seed()
        projects = {project.vo: project.id for project in seed.projects.values() if project.vo}
        passwords = [
            seed.accounts[flow].password for flow in ("accounting", "information", "images")
        ]
        return {
            "profile": "",
            "flows": "accounting information images",
            "site": "TEST-SITE",
            "keystone": self.testbed.keystone_url,
            "authorities": _CA_BUNDLE,
            **{
                f"{kind} {n}": word
                for n, pair in enumerate(passwords)
                for kind, word in (("name", ""), ("pass", pair))
            },
            "region": "",
            "projects": " ".join(f"{vo}={project}" for vo, project in projects.items()),
            "certificate": "/media/hostcert.pem",
            "key": "",
            "host": "",
            "email": "admin@example.org",
            "cores": "100",
            "memory": "400",
            "lists": "https://lists.example.org/vo/image.list",
        }

    def test_bed_only(self) -> None:
        """Add what no real site needs: an authority, a broker, a cloud on the loopback address."""
        root = self.machine.root
        for path in self.testbed.ca_directory.iterdir():
            shutil.copy(path, root / "etc/grid-security/certificates" / path.name)
        broker = self.testbed.broker
        for name, changes in {
            "etc/fedcloud/appliance.env": {"FEDCLOUD_NETWORK=.*": "FEDCLOUD_NETWORK=host"},
            "etc/sitebdii/site-urls.conf": {"//cloudbdii:2170": "//localhost:2171"},
            "etc/apel/sender.cfg": {
                r"protocol: AMS": "protocol: STOMP",
                r"host: msg\.argo.*": f"host: {broker.host}:{broker.tls_port}",
                r"destination: eu-egi.*": f"destination: {_QUEUE}",
            },
        }.items():
            path = root / name
            text = path.read_text()
            for old, new in changes.items():
                text, count = re.subn(old, new, text, count=1)
                assert count == 1, (name, old)
            path.write_text(text)

    def play(self) -> None:
        """Follow the README from its first command to its last."""
        found = {block.name: block for block in readme.blocks(readme.README.read_text())}
        for name in (self.way, "configure", "look", "start"):
            if name == "look":
                self.test_bed_only()
            for command in found[name].filled(values()):
                answers = None
                if command == "appliance configure":
                    answers = "".join(f"{answer}\n" for answer in self.answers().values())
                said = self.typist.type(command, answers=answers)
                if "bdii search" in command:
                    self.look_until_published(command, said)

    def look_until_published(self, command: str, said: str) -> None:
        """Ask LDAP every minute, as a person does, until each VO of the cloud is in the answer."""
        vos = {project.vo for project in self.testbed.seed().projects.values() if project.vo}
        deadline = time.monotonic() + _PATIENCE
        while len(set(re.findall(r"^dn: GLUE2ShareID=", said, re.MULTILINE))) < 1 or any(
            f"_share_{vo}_" not in said.replace("\r\n ", "").replace("\n ", "") for vo in vos
        ):
            if time.monotonic() > deadline:
                sys.exit(f"the cloud is not published:\n{said[-3000:]}")
            time.sleep(2)
            said = self.typist.type(command, is_quiet=True)

    def records(self, directory: Path) -> int:
        """Return how many servers the repository has verified records of: all that Nova has."""
        broker = self.testbed.broker
        peer = Peer.create(
            directory, broker.trust, hosts=f"{broker.host}:{broker.tls_port}", queue=_QUEUE
        )
        projects = {project.id for project in self.testbed.seed().projects.values() if project.vo}
        # One message for each project, since none of them has more servers than a message may hold.
        assert peer.run("ssmreceive", "--count", str(len(projects))).returncode == 0
        bodies = [element["body"] for element in peer.elements()]
        found = {
            uuid for body in bodies for uuid in re.findall(r"^VMUUID: (\S+)", body, re.MULTILINE)
        }
        with contextlib.closing(
            sqlite3.connect(f"file:{self.testbed.nova_database}?mode=ro", uri=True)
        ) as nova:
            rows = nova.execute(
                "SELECT uuid, project_id FROM instances WHERE deleted = 0"
            ).fetchall()
        wanted = {uuid for uuid, project in rows if project in projects}
        if not wanted <= found:
            sys.exit(
                f"Nova has {len(wanted)} servers, "
                f"the repository has verified records of {len(found)}"
            )
        return len(found)


def prepare(machine_directory: Path, testbed: Testbed, bundle: Path | None) -> None:
    """Put beside the machine what the administrator has: repository, bundle, key, certificate."""
    media = machine_directory / "media"
    media.mkdir(parents=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", media)
    subprocess.run(["git", "clone", "--quiet", "--bare", TOP, media / "checkout.git"], check=True)
    credential = testbed.host_credential("sender")
    shutil.copy(credential.certificate, media / "hostcert.pem")
    shutil.copy(credential.key, media / "hostkey.pem")
    if bundle is not None:
        copy = media / bundle.name
        shutil.copytree(bundle, copy)
        private, public = make_key(machine_directory)
        shutil.copy(public, media / "key.pem")
        seal(copy, key=private)
        subprocess.run(["tar", "-C", media, "-cf", media / "bundle.tar", bundle.name], check=True)
        shutil.rmtree(copy)


def one_hour(
    way: str, engine: DockerDaemon, testbed: Testbed, *, keep: Path
) -> Mapping[str, float]:
    """Play one first hour and return its figures; the bundle that was built goes to ``keep``."""
    directory = TOP / f".cache/vm/firsthour-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    bundle = (
        next(iter(sorted(keep.glob("fedcloud-appliance-*"))), None) if way == "bundle" else None
    )
    prepare(directory, testbed, bundle)
    with machine_of(engine, directory) as machine, tempfile.TemporaryDirectory() as other_end:
        shutil.copy(testbed.ca_file, machine.root / _CA_BUNDLE.lstrip("/"))
        machine.reach(testbed.layout.port(name) for name in SERVICES if name != "broker")
        machine.reach([testbed.broker.tls_port])
        hour = Hour(way, Typist(machine), testbed)
        begin, before = time.monotonic(), cpu_seconds(machine)
        hour.play()
        wall, used = time.monotonic() - begin, cpu_seconds(machine) - before
        servers = hour.records(Path(other_end))
        if way == "built":
            keep.mkdir(parents=True, exist_ok=True)
            for made in (directory / "srv/fedcloud-appliance/dist").glob("fedcloud-appliance-*"):
                shutil.rmtree(keep / made.name, ignore_errors=True)
                shutil.copytree(made, keep / made.name)
        (block,) = [
            block for block in readme.blocks(readme.README.read_text()) if block.name == way
        ]
        silence = max(hour.typist.silences[command] for command in block.filled(values()))
        figures = {
            "wall": wall,
            "CPU": used,
            "longest silence": silence,
            "servers with records": servers,
        }
        for case, value in figures.items():
            row(f"{way}: {case}", value, "" if case.startswith("servers") else "s")
        for command, seconds in hour.typist.seconds.items():
            row(f"{way}: {' '.join(command.split())}", seconds, "s")
            row(
                f"{way}: {' '.join(command.split())}: longest silence",
                hour.typist.silences[command],
                "s",
            )
        return figures


def counted(way: str) -> tuple[int, int, set[str]]:
    """Return the commands, values and words in capitals that README.md asks a person for."""
    found = [
        block
        for block in readme.blocks(readme.README.read_text())
        if block.name not in {"built", "bundle"} - {way}
    ]
    commands = sum(len(block.commands()) for block in found)
    words = {word for block in found for word in block.placeholders()}
    return commands, words_typed() + len(words), words


def words_typed() -> int:
    """Return how many answers `appliance configure` needs that it cannot offer itself."""
    facts, passwords = (
        ("site", "keystone", "projects", "certificate", "email", "cores", "memory", "lists"),
        3,
    )
    return len(facts) + passwords


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of the figures to reach."""
    lines = ["| case | November | to reach | measured |", "|---|---|---|---|"]
    for way, found in figures.items():
        measured = f"{found['wall'] / 60:.1f} min, {found['CPU']:.0f} CPU s"
        lines.append(
            f"| first record, {way} | 28 min loaded, 150 CPU s | {_GOALS[way]} min | {measured} |"
        )
        commands, values, _ = counted(way)
        november = f"{NOVEMBER_COMMANDS} + {NOVEMBER_EDITS}, {NOVEMBER_GUESSES} guesses"
        lines.append(
            f"| commands + values typed, {way} | {november} | half, 0 "
            f"| {commands} + {values}, 0 guesses |"
        )
        lines.append(
            f"| longest silence of build and install, {way} | 14 min | 5 s "
            f"| {found['longest silence']:.1f} s |"
        )
    return "\n".join(lines)


def main(ways: list[str]) -> None:
    """Start the cloud, if it does not run, and play the ways that were asked for."""
    ways = ways or ["built", "bundle"]
    if unknown := set(ways) - set(_GOALS):
        sys.exit(f"{', '.join(unknown)}: write built or bundle")
    load = os.getloadavg()[0]
    testbed = Testbed(TOP / ".cache/testbed/firsthour", _PORT_BASE)
    was_running = testbed.running()
    testbed.up()
    testbed.seed()
    engine = DockerDaemon(TOP / ".cache/docker")
    try:
        with engine.used():
            figures = {way: one_hour(way, engine, testbed, keep=TOP / "dist") for way in ways}
    finally:
        if not was_running:
            testbed.down()
    row("load before", load, "")
    print(f"\n{table(figures)}")


if __name__ == "__main__":
    main(sys.argv[1:])
