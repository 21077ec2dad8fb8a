"""The connections to and from the site's BDII, for ``appliance status``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.admin.bdii.search import PORT
from appliance.admin.firewall import control, egress
from appliance.admin.firewall.chain import Bridges
from appliance.admin.firewall.egress import NetworkMode
from appliance.admin.settings import Host
from appliance.admin.status.services import Services
from appliance.core import hosts
from appliance.core.config import document, shell
from appliance.core.run.errors import AccessDenied, ConfigurationError, Unavailable
from appliance.core.run.layout import Layout

_SERVICE = "sitebdii"
_CONFIGURATION = "/etc/sitebdii/bdii.conf"
_EVERYWHERE = ("", "0.0.0.0")  # noqa: S104  words of the file; nothing is bound here
_NO_INPUT = "; INPUT rules of the host's firewall do not apply to IPv4"
_REPAIR = "repair it with: appliance firewall up"


@dataclass(frozen=True, slots=True)
class Reach:
    """The connections that are possible to and from the site's BDII."""

    clients: str
    egress: str
    complaints: Sequence[str] = ()

    def __str__(self) -> str:
        return "\n".join(f"{_SERVICE}: {line}" for line in (self.clients, self.egress) if line)

    def as_json(self) -> object:
        """Return the value for `appliance status --json`."""
        return {"clients": self.clients, "egress": self.egress, "complaints": list(self.complaints)}


def of_bdii(host: Host, services: Services | None) -> Reach | None:
    """Return the connections of the site's BDII; None if it does not run or has no network file."""
    is_running = services is not None and any(
        state.service == _SERVICE and state.is_running for state in services.states
    )
    if is_running and host.is_native:
        words = f"clients connect to {_configured(host)}, if the host's firewall allows it"
        return _outward(host, words)
    # Without a network file, `appliance check` reports it; nothing is known here.
    if not is_running or not host.network.is_file():
        return None
    try:
        mode = egress.mode(host)
    except ConfigurationError as error:
        return Reach("unknown", "unknown", [str(error)])
    clients = _clients(host, mode)
    if host.listen and ipaddress.ip_address(host.listen[0]).is_loopback:
        cause = f"{_SERVICE} is bound to {host.listen[0]}: no other host can connect"
        return Reach(
            clients,
            "",
            [f"{cause}; set FEDCLOUD_BDII_LISTEN in {host.environment_file} to another address"],
        )
    return _outward(host, clients)


def _outward(host: Host, clients: str) -> Reach:
    if reason := control.why_not(host):
        return Reach(clients, reason.removeprefix(f"{_SERVICE} "))
    bridges = Bridges(host.bridge)
    try:
        faults = egress.faults(bridges)
    # Only root can read the packet filter; the rest of the status is for everybody.
    except AccessDenied as error:
        return Reach(clients, f"its outgoing connections are unknown: {error}")
    except Unavailable as error:
        return Reach(
            clients, "may connect to anything", [f"{_SERVICE} may connect to anything: {error}"]
        )
    if faults:
        lines = [f"{_SERVICE} may connect to anything: {fault}; {_REPAIR}" for fault in faults]
        return Reach(clients, "may connect to anything", lines)
    return Reach(clients, f"connects to its resource BDIIs only (chain {bridges.chain})")


def _configured(host: Host) -> str:
    """Return the addresses and the port in the configuration of the site's BDII."""
    path = Layout(host.root).path(_CONFIGURATION)
    try:
        found = document.read([path], shell.parse).sections.get(shell.SECTION, {})
    except ConfigurationError:
        return f"the addresses and the port of {path}"
    texts = {name: entry.text for name, entry in found.items()}
    port = texts.get("SLAPD_PORT") or texts.get("BDII_PORT") or str(PORT)
    address = texts.get("SLAPD_HOST", "")
    if address in _EVERYWHERE:
        return f"port {port} of all addresses ({path})"
    return f"{hosts.join_port(address, int(port))} ({path})" if port.isdecimal() else f"{path}"


def _clients(host: Host, mode: NetworkMode) -> str:
    if mode is NetworkMode.OTHER:
        return f"clients connect to the ports that {host.network} publishes{_NO_INPUT}"
    where = hosts.join_port(*host.listen) if host.listen else ""
    if mode is NetworkMode.HOST:
        where = where or _configured(host)
        return f"clients connect to {where}, if the host's firewall allows it"
    where = where or f"port {PORT} of all addresses"
    return f"clients connect to {where}, published by the engine{_NO_INPUT}"
