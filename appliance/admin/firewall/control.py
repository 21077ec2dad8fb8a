"""``appliance firewall``: restrict the connections of the site's BDII.

up        install or renew the chain; remove it if the restriction does not apply
down      remove the chain, unless the site's BDII still runs
repair    up if the site's BDII runs or is about to, else down

The unit of the BDII calls up and down, fedcloud-upkeep.timer calls repair. While another verb
changes the host, repair leaves the chain alone: between two containers of the site's BDII it would
remove it.
"""

from __future__ import annotations

import argparse
import logging

from appliance.admin import changing, settings
from appliance.admin.firewall import egress
from appliance.admin.firewall.chain import Bridges
from appliance.admin.firewall.egress import NetworkMode
from appliance.admin.inventory import SERVICES
from appliance.admin.machine import Machine
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

_SERVICE = "sitebdii"
_UP = ("active", "activating", "reloading")
_ANYTHING = f"{_SERVICE} may connect to anything"


def _up(arguments: argparse.Namespace) -> ExitStatus:
    host, layout = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    with changing.small("firewall", layout):
        return _put(host, layout)


def _down(arguments: argparse.Namespace) -> ExitStatus:
    host, layout = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    with changing.small("firewall", layout):
        if _is_running(host):
            print(f"{_SERVICE} runs: the chain {Bridges(host.bridge).chain} stays")
            return ExitStatus.DONE
        return _take_away(host)


def _repair(arguments: argparse.Namespace) -> ExitStatus:
    host, layout = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    if words := changing.reason(layout):
        print(f"firewall: not repaired: {words}")
        return ExitStatus.DONE
    with changing.small("firewall", layout):
        return _put(host, layout) if _is_starting() or _is_running(host) else _take_away(host)


def _load(arguments: argparse.Namespace) -> tuple[Host, Layout]:
    layout = cli.layout(arguments)
    return settings.load(layout), layout


def _put(host: Host, layout: Layout) -> ExitStatus:
    if reason := why_not(host):
        print(reason)
        return _take_away(host)
    wanted = egress.plan(host, layout)
    for target in wanted.unresolved:
        logger.warning(
            "%s: its name cannot be resolved; the addresses in the present rules stay allowed",
            target.url,
        )
    if egress.put(wanted):
        names = ", ".join(target.url for target in wanted.addresses) or "nothing outside"
        print(f"{wanted.bridges.chain}: {_SERVICE} connects to its resource BDIIs only: {names}")
    return ExitStatus.DONE


def _take_away(host: Host) -> ExitStatus:
    bridges = Bridges(host.bridge)
    if egress.remove(bridges):
        print(f"{bridges.chain}: removed")
    return ExitStatus.DONE


def why_not(host: Host) -> str:
    """Return why this host needs no chain; empty if it needs one."""
    if not host.is_wanted(_SERVICE):
        return host.off(_SERVICE)
    if not host.restricts_egress:
        return f"{_ANYTHING}: firewall: bdii_egress is false in {host.settings_file}"
    if host.is_native:
        return f"{_ANYTHING}: it runs on this host itself, without containers"
    match egress.mode(host):
        case NetworkMode.HOST:
            return f"{_ANYTHING}: it uses the network of the host (FEDCLOUD_NETWORK=host)"
        case NetworkMode.OTHER:
            return (
                f"{_ANYTHING}: {host.network} gives it other networks than ldap and public;"
                " write networks: [ldap, public], as in bridge.yml"
            )
        case NetworkMode.BRIDGE:
            return ""


def _is_starting() -> bool:
    """Return whether the unit of the site's BDII is active, also before its containers run.

    The unit calls ``up`` before it starts them, which can take minutes.
    """
    return Machine().state(f"{SERVICES[_SERVICE]}.service") in _UP


def _is_running(host: Host) -> bool:
    """Return whether the site's BDII runs; False if the engine does not answer."""
    try:
        with Engine(host.socket) as engine:
            return any(
                state.service == _SERVICE and state.is_running for state in engine.services()
            )
    except Unavailable:
        return False


VERB = cli.Program(
    "firewall",
    "Restrict the connections of the site's BDII.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program("up", "Install or renew the chain of iptables.", lambda _parser: None, _up),
        cli.Program(
            "down", "Remove the chain, unless the site's BDII runs.", lambda _parser: None, _down
        ),
        cli.Program(
            "repair",
            "Renew the chain if the site's BDII runs, else remove it.",
            lambda _parser: None,
            _repair,
        ),
    ),
)
