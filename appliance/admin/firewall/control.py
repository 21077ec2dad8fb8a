"""``appliance firewall``: what the public BDII may connect to, as the unit of the BDII puts it in place.

up        put the chain in place, or renew it; take it away where it is not wanted
down      take it away, unless the public BDII still runs
repair    up while the public BDII runs, else down: what a timer does
"""

from __future__ import annotations

import argparse
import logging

from appliance.admin import settings
from appliance.admin.firewall import egress
from appliance.admin.firewall.chain import Bridges
from appliance.admin.firewall.egress import NetworkMode
from appliance.admin.runtime.engine import Engine
from appliance.admin.settings import Host
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable
from appliance.core.run.layout import Layout

logger = logging.getLogger(__name__)

_SERVICE = "sitebdii"


def _up(arguments: argparse.Namespace) -> ExitStatus:
    host, layout = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    return _put(host, layout)


def _down(arguments: argparse.Namespace) -> ExitStatus:
    host, _ = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    if _is_running(host):
        print(f"{_SERVICE} runs: the chain {Bridges(host.bridge).chain} stays")
        return ExitStatus.DONE
    return _take_away(host)


def _repair(arguments: argparse.Namespace) -> ExitStatus:
    host, layout = _load(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    return _put(host, layout) if _is_running(host) else _take_away(host)


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
            "%s: has no address now; the public BDII keeps the one that it could connect to before",
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
    """Return why there is no chain on this host; empty when there is to be one."""
    if not host.is_wanted(_SERVICE):
        return host.off(_SERVICE)
    if not host.restricts_egress:
        return f"{_SERVICE} may connect to anything: firewall: bdii_egress is false in {host.settings_file}"
    if host.is_native:
        return (
            f"{_SERVICE} may connect to anything: it runs on this host itself, without containers"
        )
    match egress.mode(host):
        case NetworkMode.HOST:
            return f"{_SERVICE} may connect to anything: it has the host's own network (FEDCLOUD_NETWORK=host)"
        case NetworkMode.OTHER:
            return (
                f"{_SERVICE} may connect to anything: {host.network} does not put it on the networks ldap and public "
                "alone; write networks: [ldap, public], as in bridge.yml"
            )
        case NetworkMode.BRIDGE:
            return ""


def _is_running(host: Host) -> bool:
    """Return whether the public BDII runs; with no engine there is no container."""
    try:
        with Engine(host.socket) as engine:
            return any(
                state.service == _SERVICE and state.is_running for state in engine.services()
            )
    except Unavailable:
        return False


VERB = cli.Program(
    "firewall",
    "Restricts what the public BDII can connect to.",
    lambda _parser: None,
    cli.dispatch,
    verbs=(
        cli.Program(
            "up", "Puts the chain of iptables in place, or renews it.", lambda _parser: None, _up
        ),
        cli.Program(
            "down", "Removes the chain, unless the public BDII runs.", lambda _parser: None, _down
        ),
        cli.Program(
            "repair",
            "Puts the chain in place if the public BDII runs, else removes it.",
            lambda _parser: None,
            _repair,
        ),
    ),
)
