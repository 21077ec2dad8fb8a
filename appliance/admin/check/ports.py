"""The port of the site's BDII: bound by its service, and by nothing else."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.bdii.search import PORT
from appliance.admin.check.probe import CheckedSite
from appliance.admin.inventory import Flow
from appliance.admin.runtime import native
from appliance.admin.runtime.engine import Engine
from appliance.core.run.errors import Unavailable
from appliance.core.run.finding import Finding

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""
_SERVICE = "sitebdii"
_OURS = frozenset({"docker-proxy", "slapd", "rootlessport"})
"""Programs that hold the port for the service: the engine's, and the service's own."""


@dataclass(frozen=True, slots=True)
class _ListeningSocket:
    """A listening socket."""

    address: str
    inode: str


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding if another program listens on the port, or ours on loopback only (C05)."""
    if not site.is_on(Flow.INFORMATION):
        return
    _, port = site.host.listen or ("", PORT)
    listeners = list(_listeners(site.machine.proc, port))
    is_running = _is_running(site)
    for listener in listeners:
        pid, program = _process(site.machine.proc, listener.inode)
        if not is_running or (program and program not in _OURS):
            who = f"{program} (pid {pid})" if pid else "another program"
            text = f"{who} listens on port {port}; stop it, the site's BDII needs this port"
            yield Finding("", 0, "", text, "C05.a", tried="/proc/net/tcp")
            return
    addresses = _addresses(site)
    if is_running and is_on_loopback(site):
        text = (
            f"the site's BDII is bound to {', '.join(sorted(addresses))}: no other host can"
            " connect; remove FEDCLOUD_BDII_LISTEN, or write an address of this machine"
        )
        path = str(site.host.environment_file)
        option = "FEDCLOUD_BDII_LISTEN"
        yield Finding(path, _line(path, option), option, text, "C05.b", tried="/proc/net/tcp")


def is_on_loopback(site: CheckedSite) -> bool:
    """Check whether all addresses that the BDII listens on are of loopback."""
    addresses = _addresses(site)
    return bool(addresses) and all(map(_is_loopback, addresses))


def _addresses(site: CheckedSite) -> set[str]:
    """Return the addresses that the BDII listens on; the configured one if none can be seen."""
    own, port = site.host.listen or ("", PORT)
    found = {one.address for one in _listeners(site.machine.proc, port)}
    return found or ({own} if own else set())


def _is_running(site: CheckedSite) -> bool:
    try:
        if site.host.is_beside:
            return True  # whoever serves there is the site's own
        if site.host.is_native:
            states = native.services(site.layout)
        else:
            with Engine(site.host.socket) as engine:
                states = engine.services()
    except Unavailable:  # reported by the probe of the engine
        return False
    return any(one.service == _SERVICE and one.is_running for one in states)


def _listeners(proc: Path, port: int) -> Iterator[_ListeningSocket]:
    """Yield the listening sockets of a port, from /proc/net/tcp and tcp6 (proc(5))."""
    for name in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            address, _, number = words[1].partition(":")
            if words[3] == _LISTEN and int(number, 16) == port:
                yield _ListeningSocket(_address(address), words[9])


def _address(text: str) -> str:
    """Return an address: 32-bit words of hexadecimal digits, each with its last byte first."""
    raw = bytes.fromhex(text)
    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(words)))


def _process(proc: Path, inode: str) -> tuple[str, str]:
    """Return pid and name of the process that has a socket; empty if none can be seen."""
    for directory in sorted(proc.glob("[0-9]*")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"socket:[{inode}]" in _links(directory / "fd"):
                return directory.name, (directory / "comm").read_text().strip()
    return "", ""


def _links(directory: Path) -> Iterator[str]:
    for link in directory.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, as the listing's own descriptor is
            yield str(link.readlink())


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def _line(path: str, option: str) -> int:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return 0
    found = (
        number
        for number, line in enumerate(lines, start=1)
        if line.removeprefix("export ").startswith(f"{option}=")
    )
    return next(found, 0)
