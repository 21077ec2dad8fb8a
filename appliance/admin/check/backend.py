"""The port of the image backend: whoever can connect to one without TLS controls the images."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.admin.check import inside
from appliance.admin.check.probe import CheckedSite
from appliance.admin.mounts import site_files
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.finding import Finding

_SERVICE = "cloudkeeper-os"
_OPEN = "accept_anyone_without_tls"
_REMEDY = "set certificates (appliance certificates)"
_OWN = frozenset({"ck", "out"})
"""The networks of the backend; no other service is in them."""


def find(site: CheckedSite) -> Iterator[Finding]:
    """Yield a finding for a port without TLS that is open to more than the frontend (C61.b)."""
    path = site.layout.path(site.host.mounts[site_files.BACKEND_CONFIG])
    try:
        settings = Settings(document.read([path], ini.parse))
        number = settings.integer("DEFAULT", "grpc_port", default=0)
        is_open = settings.boolean("DEFAULT", _OPEN, default=False)
        address = settings.text("DEFAULT", "listen_address", default="127.0.0.1")
    except ConfigurationError:
        return  # the backend reports it
    place = settings.where("DEFAULT", _OPEN)
    if not (number and is_open and place) or _is_loopback(address):
        return
    words = f"anyone who can connect to grpc_port {number} can add and remove images of this cloud"
    tried = "the backend's port, and the networks of its container"
    service = inside.network_services(site.host).get(_SERVICE, {})
    if site.host.is_native or site.host.is_beside or service.get("network_mode") == "host":
        text = f"{words}, on {address}; remove this line, and {_REMEDY}"
        yield Finding(str(path), place.line, _OPEN, text, "C61.b", _SERVICE, tried=tried)
        return
    for key, cause in _openings(service):
        text = f"{cause}, and {words}; remove {key}, or {_REMEDY} and remove {path}:{place.line}"
        file = site.host.network
        line = _line(file, key)
        yield Finding(str(file), line, key, text, "C61.b", _SERVICE, tried=tried)


def _openings(service: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each key of a service that opens its ports to others, with the cause."""
    ports = service.get("ports")
    if isinstance(ports, list) and not all(map(_is_local, ports)):
        yield "ports", "the port is published on this host"
    networks = service.get("networks")
    if isinstance(networks, list | dict) and (others := sorted({*map(str, networks)} - _OWN)):
        yield "networks", f"containers of the network {', '.join(others)} can connect"


def _is_local(port: object) -> bool:
    """Check whether a port is published on a loopback address: ``ADDRESS:PORT:PORT``."""
    if isinstance(port, dict):
        return _is_loopback(str(port.get("host_ip") or ""))
    address, _, _ = str(port).rpartition(":")[0].rpartition(":")
    return _is_loopback(address.strip("[]"))


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _line(path: Path, key: str) -> int:
    """Return the line of a key of the service; 0 if it cannot be found, as in an alias."""
    is_within = False
    for number, line in enumerate(document.read_text(path).splitlines(), start=1):
        name = line.strip().partition(":")[0]
        if line.startswith("  ") and line[2:3] not in (" ", "#", ""):
            is_within = name == _SERVICE
        if is_within and (name == key or (name == _SERVICE and f"{key}:" in line)):
            return number
    return 0
