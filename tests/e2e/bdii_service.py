"""A ``bdii-update --serve`` under test, its providers, and its entries as ldapsearch sees them."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed.patience import until

PROGRAM = Path(sys.executable).with_name("bdii-update")

Entries = dict[str, dict[str, list[str]]]
"""Attributes by name, by DN, as OpenLDAP's client prints them."""

SERVICE = "GLUE2ServiceID=https://cloud.example.org:5000/v3_cloud.compute,GLUE2GroupID=cloud,o=glue"


def free_port() -> int:
    """Return a free port that the system gives to no connection before the server binds it."""
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def parse(text: str) -> Entries:
    """Read what ldapsearch prints without wrapping."""
    entries: Entries = {}
    for block in text.strip().split("\n\n"):
        pairs = [
            line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != "#"
        ]
        if pairs:
            attributes = entries.setdefault(pairs[0][1], {})
            for name, value in pairs[1:]:
                attributes.setdefault(name, []).append(value)
    return entries


def search(port: int, base: str = "o=glue", *wanted: str, host: str = "127.0.0.1") -> Entries:
    """Search a subtree with OpenLDAP's own client."""
    done = subprocess.run(
        [
            "ldapsearch",
            "-x",
            "-LLL",
            "-o",
            "ldif-wrap=no",
            "-H",
            f"ldap://{host}:{port}",
            "-b",
            base,
            "(objectClass=*)",
            *wanted,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return parse(done.stdout)


def image(number: int, *vos: str, name: str = "") -> str:
    identifier = f"img{number}_https://cloud.example.org:5000/v3"
    marks = "".join(f"GLUE2EntityOtherInfo: VO={vo}\n" for vo in vos)
    return (
        f"dn: GLUE2ApplicationEnvironmentID={identifier},{SERVICE}\n"
        "objectClass: GLUE2Entity\nobjectClass: GLUE2ApplicationEnvironment\n"
        f"GLUE2ApplicationEnvironmentID: {identifier}\n"
        f"GLUE2ApplicationEnvironmentAppName: {name or f'image {number}'}\n"
        "GLUE2ApplicationEnvironmentComputingManagerForeignKey: "
        "https://cloud.example.org:5000/v3_cloud.compute_manager\n"
        f"{marks}\n"
    )


def cloud(*parts: str) -> str:
    """Return the LDIF of a cloud: its group, service, endpoint, and ``parts`` below the service."""
    identifier = SERVICE.split(",", maxsplit=1)[0].removeprefix("GLUE2ServiceID=")
    return (
        "dn: GLUE2GroupID=cloud,o=glue\nobjectClass: GLUE2Group\nGLUE2GroupID: cloud\n\n"
        f"dn: {SERVICE}\nobjectClass: GLUE2Entity\nobjectClass: GLUE2Service\n"
        f"GLUE2ServiceID: {identifier}\n"
        "GLUE2ServiceType: org.cloud.iaas\nGLUE2ServiceQualityLevel: production\n"
        "GLUE2ServiceAdminDomainForeignKey: TEST-SITE\n\n"
        f"dn: GLUE2EndpointID={identifier}_endpoint,{SERVICE}\n"
        "objectClass: GLUE2Entity\nobjectClass: GLUE2Endpoint\n"
        f"GLUE2EndpointID: {identifier}_endpoint\n"
        "GLUE2EndpointURL: https://cloud.example.org:5000/v3\n"
        "GLUE2EndpointInterfaceName: org.openstack.nova\nGLUE2EndpointQualityLevel: production\n"
        "GLUE2EndpointHealthState: ok\nGLUE2EndpointServingState: production\n"
        f"GLUE2EndpointServiceForeignKey: {identifier}\n\n" + "".join(parts)
    )


@dataclass
class Bdii:
    """One BDII in a directory of its own. ``settings`` are additional keys of bdii.conf."""

    directory: Path
    settings: Mapping[str, object] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        for name in ("ldif", "provider"):
            (self.directory / "gip" / name).mkdir(parents=True, exist_ok=True)
        keys = {
            "BDII_VAR_DIR": self.directory / "state",
            "BDII_RUN_DIR": self.directory / "run",
            "BDII_LDIF_DIR": self.directory / "gip/ldif",
            "BDII_PROVIDER_DIR": self.directory / "gip/provider",
            "SLAPD_HOST": "127.0.0.1",
            "BDII_PORT": self.port,
            "BDII_BREATHE_TIME": 1,
            **self.settings,
        }
        self.configuration.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))

    @property
    def configuration(self) -> Path:
        return self.directory / "bdii.conf"

    @property
    def command(self) -> list[str]:
        return [str(PROGRAM), "-c", str(self.configuration), "--root", str(self.directory / "root")]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def provide(self, output: str, *, status: int = 0, name: str = "cloud") -> None:
        """Install a provider that prints ``output``."""
        data = self.directory / f"{name}.ldif"
        data.with_suffix(".new").write_text(output)
        data.with_suffix(".new").rename(data)
        self.script(f"cat {data}; exit {status}", name=name)

    def script(self, text: str, *, name: str = "cloud") -> None:
        """Install a provider that runs ``text``; a running one keeps its own script."""
        new = self.directory / "gip/provider" / f".{name}"
        new.write_text(f"#!/bin/sh\n{text}\n")
        new.chmod(0o755)
        new.rename(new.with_name(name))
        self.kick()

    def once(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *flags], capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, *prefix: str) -> None:
        """Start the BDII, as arguments of the command ``prefix`` if it is given."""
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command, "--serve"], stderr=log, text=True
            )

    def kick(self) -> None:
        """Start the next cycle at once, if the BDII serves."""
        if self.process is not None and self.process.poll() is None and " serving " in self.log:
            self.process.send_signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> int:
        """End the BDII with a signal, and return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def slapd(self) -> int:
        return int((self.directory / "state/slapd.pid").read_text())

    def engine(self) -> int:
        """Return the process that does the cycles, the child of the one that was started."""
        assert self.process is not None
        pid = self.process.pid
        (child,) = [
            int(number)
            for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if PROGRAM.name in Path(f"/proc/{number}/cmdline").read_text()
        ]
        return child

    def end_slapd(self) -> None:
        """End a slapd that has outlived the service."""
        with contextlib.suppress(OSError, ValueError):
            pid = self.slapd()
            if str(self.directory) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)

    def entries(self, base: str = "o=glue", *wanted: str) -> Entries:
        return search(self.port, base, *wanted)

    def statistics(self) -> dict[str, int]:
        name = "Hostname=localhost,o=infosys"
        # the tree is published before it
        self.wait_for(lambda: name in self.entries(name), what="the first cycle's end")
        found = self.entries(name)[name]
        return {name: int(value) for name, (value,) in found.items() if value.isdigit()}

    def wait_for(self, is_true: Callable[[], bool], *, seconds: float = 30, what: str = "") -> None:
        """Wait until a condition is true; a failed search counts as false."""

        def look() -> bool:
            with contextlib.suppress(subprocess.CalledProcessError, OSError, KeyError, ValueError):
                return is_true()
            return False

        assert until(look, seconds=seconds), f"not within {seconds} s: {what}\n{self.log}"

    def wait_for_images(self, count: int) -> None:
        self.wait_for(lambda: len(images(self.entries())) == count, what=f"{count} images")

    def wait_for_cycles(self, count: int = 2) -> None:
        """Wait until ``count`` more cycles have ended."""
        for _ in range(count):
            before = self.cycles
            self.kick()
            self.wait_for(functools.partial(self._has_done_more_than, before), what="a cycle's end")

    @property
    def cycles(self) -> int:
        return self.log.count(" problems\n")

    def _has_done_more_than(self, cycles: int) -> bool:
        return self.cycles > cycles


@contextlib.contextmanager
def running(bdii: Bdii, *prefix: str) -> Iterator[Bdii]:
    """Run a BDII during the block."""
    bdii.start(*prefix)
    try:
        yield bdii
    finally:
        if bdii.process is not None and bdii.process.poll() is None:
            bdii.process.terminate()
            bdii.process.wait(15)
        bdii.end_slapd()


def images(entries: Entries) -> Entries:
    return {
        dn: attributes
        for dn, attributes in entries.items()
        if dn.startswith("GLUE2ApplicationEnvironmentID=")
    }
