"""The resource BDIIs that the site's BDII reads, and the DNS servers that resolve their names."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.inventory import CONTAINERS
from appliance.core import hosts
from appliance.core.config import document, shell
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout

_CONFIGURATION = "/etc/sitebdii/bdii.conf"
_URLS = "/etc/sitebdii/site-urls.conf"
_LINE = re.compile(r"\s*[-.\w]+\s+ldap://(\[[0-9A-Fa-f:.]+\]|[-.\w]+):(\d{1,5})/\S+\s*")
_SECONDS = 8.0
"""Time limit for all names together, so that a DNS server that is down delays no start."""
_DOCKERS_OWN = ("8.8.8.8", "8.8.4.4")
"""The DNS servers that the engine gives containers if the host has only local ones."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A resource BDII, as site-urls.conf names it; IPv6 without brackets."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Return its URL, which is the comment of its rules."""
        return f"ldap://{hosts.join_port(self.host, self.port)}"

    @property
    def is_address(self) -> bool:
        """Return whether no DNS server is needed to find it."""
        return _is_address(self.host)


def read(layout: Layout) -> list[Target]:
    """Return the resource BDIIs of site-urls.conf, without the appliance's own container.

    That one is on the internal network. Lines that the BDII rejects are ignored; it reports them.
    """
    try:
        lines = document.read_text(_urls_file(layout)).splitlines()
    except ConfigurationError:
        return []
    matches = filter(None, map(_LINE.fullmatch, lines))
    targets = {Target(match[1].strip("[]"), int(match[2])) for match in matches}
    return sorted(target for target in targets if target.host not in CONTAINERS)


def _urls_file(layout: Layout) -> Path:
    try:
        found = document.read([layout.path(_CONFIGURATION)], shell.parse).get(
            shell.SECTION, "BDII_SITE_URLS"
        )
    except ConfigurationError:
        found = None
    return layout.path(found.text if found and found.text else _URLS)


def resolve(targets: Sequence[Target]) -> Mapping[Target, Sequence[str]]:
    """Return the addresses of each target; none if its name cannot be resolved."""
    found: dict[Target, Sequence[str]] = {}

    def look_up(target: Target) -> None:
        try:
            answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        found[target] = sorted({str(answer[4][0]) for answer in answers})

    # Daemon threads: a call of the resolver cannot be interrupted, and must not delay the exit.
    threads = [threading.Thread(target=look_up, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS / len(threads))
    # A copy: a thread that is still running may change the original.
    known = dict(found)
    return {target: known.get(target, ()) for target in targets}


def resolvers(layout: Layout) -> list[str]:
    """Return the DNS servers that the engine gives containers: its own setting, or the host's."""
    try:
        named = json.loads(layout.path("/etc/docker/daemon.json").read_bytes()).get("dns")
    except (OSError, ValueError, AttributeError):
        named = None
    if isinstance(named, list) and named:
        return [str(address) for address in named if _is_address(str(address))]
    # The engine reads the second file if the first has only systemd-resolved's loopback address.
    for name in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        found = _name_servers(layout.path(name))
        if usable := [
            address for address in found if not ipaddress.ip_address(address).is_loopback
        ]:
            return usable
    return list(_DOCKERS_OWN)


def _name_servers(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines if line.startswith("nameserver")]
    return [word[1] for word in words if len(word) > 1 and _is_address(word[1])]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
