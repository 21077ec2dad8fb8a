"""A forward proxy, Debian's tinyproxy, whose own log tells what went through it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "/usr/bin/tinyproxy"


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """One proxy, which wants an account."""

    host: str
    port: int
    account: str
    password: str
    log: Path

    @property
    def url(self) -> str:
        """What an administrator writes for it."""
        return f"http://{self.account}:{self.password}@{self.host}:{self.port}"

    @property
    def requests(self) -> list[str]:
        """Return what it was asked for, refused or not."""
        return re.findall(
            r"Request \(file descriptor \d+\): (.*)", self.log.read_text(errors="replace")
        )


@contextlib.contextmanager
def serve(directory: Path, *, host: str, password: str) -> Iterator[ForwardProxy]:
    """Have a proxy listen on a free port of an address for the block."""
    with socket.create_server((host, 0)) as free:
        port = free.getsockname()[1]
    proxy = ForwardProxy(host, port, "site", password, directory / "proxy.log")
    configuration = directory / "proxy.conf"
    configuration.write_text(
        f"Port {port}\nListen {host}\nBasicAuth {proxy.account} {password}\n"
        "Timeout 30\nMaxClients 50\n"
        f'LogFile "{proxy.log}"\nLogLevel Info\n'
    )
    with subprocess.Popen(
        [PROGRAM, "-d", "-c", configuration], stdout=subprocess.DEVNULL
    ) as process:
        try:
            _wait(process, host, port)
            yield proxy
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            assert process.poll() is None, f"{PROGRAM} ended with {process.returncode}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return
