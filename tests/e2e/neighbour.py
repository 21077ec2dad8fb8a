"""A neighbour of this machine: a network namespace with addresses of IPv4 and IPv6."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CONNECT = (
    "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"
)
_ACCEPT = """
import selectors, socket, sys
ready = selectors.DefaultSelector()
for port in sys.argv[1:]:
    ready.register(socket.create_server(("0.0.0.0", int(port))), selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        key.fileobj.accept()[0].close()
"""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The other machine. ``ipv4`` and ``ipv6`` are this machine's addresses as it knows them."""

    pid: int
    ipv4: str
    ipv6: str
    cable: str = ""
    """This machine's end of it."""

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program there, with this machine's files."""
        enter = ("nsenter", "--net", "--target", str(self.pid))
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=False, timeout=30
        )

    @property
    def own_ipv4(self) -> str:
        """Its own address, as this machine knows it."""
        return f"{self.ipv4.rpartition('.')[0]}.2"

    @contextlib.contextmanager
    def serving(self, *ports: int) -> Iterator[None]:
        """Have it accept connections to ports for the block."""
        enter = (
            "nsenter",
            "--net",
            "--target",
            str(self.pid),
            "/usr/bin/python3",
            "-IS",
            "-c",
            _ACCEPT,
        )
        with subprocess.Popen(
            [*enter, *map(str, ports)], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield
            finally:
                process.kill()

    def reaches(self, address: str, port: int) -> bool:
        """Say whether something there listens and is not kept from it."""
        return (
            self.run("/usr/bin/python3", "-IS", "-c", _CONNECT, address, str(port)).returncode == 0
        )


@contextlib.contextmanager
def beside() -> Iterator[Neighbour]:
    """Run a neighbour for the block, which routes all packets through this machine."""
    octet = os.getpid() % 250
    here, there = f"fc{os.getpid()}", "eth0"
    machine = Neighbour(0, f"198.18.{octet}.1", f"fd00:198:18:{octet}::1")
    with subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as process:
        try:
            _wait_until_away(process.pid)
            machine = Neighbour(process.pid, machine.ipv4, machine.ipv6, here)
            _ip(
                "link",
                "add",
                here,
                "type",
                "veth",
                "peer",
                "name",
                there,
                "netns",
                str(process.pid),
            )
            _ip("address", "add", f"{machine.ipv4}/30", "dev", here)
            _ip("address", "add", f"{machine.ipv6}/126", "dev", here, "nodad")
            _ip("link", "set", here, "up")
            for words in (
                f"address add 198.18.{octet}.2/30 dev {there}",
                f"address add fd00:198:18:{octet}::2/126 dev {there} nodad",
                f"link set {there} up",
                f"route add default via {machine.ipv4}",
            ):
                done = machine.run("ip", *words.split())
                assert done.returncode == 0, done.stderr
            yield machine
        finally:
            process.kill()  # with the namespace goes the cable


def _wait_until_away(pid: int) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == ours:
        os.sched_yield()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
