"""``appliance flows [NAME]``: print which flows are on, or whether that of NAME is.

Units call it as ExecCondition: with exit status 1 the flow is off, and systemd skips the unit
without a failure.
"""

from __future__ import annotations

import argparse

from appliance.admin import settings
from appliance.admin.inventory import JOBS, SERVICES, Flow, flow_of
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus

_MEMBERS = (*JOBS, *SERVICES)
_NAMES = tuple(dict.fromkeys([*_MEMBERS, *SERVICES.values()]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = "job, service or unit to ask for; exit status 1 if its flow is off"
    parser.add_argument("name", nargs="?", choices=_NAMES, metavar="NAME", help=words)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each flow, or for the flow of one name."""
    host = settings.load(cli.layout(arguments))
    if arguments.name:
        line = host.off(arguments.name)
        print(line or f"{arguments.name}: its flow is on")
        return ExitStatus.PARTLY if line else ExitStatus.DONE
    for flow in Flow:
        members = ", ".join(name for name in _MEMBERS if flow_of(name) is flow)
        print(f"{flow.value:13}{'on' if host.flows[flow] else 'off':5}{members}")
    print(f"Change them in {host.settings_file}, section flows.")
    return ExitStatus.DONE


VERB = cli.Program("flows", "Print which flows of data are on.", add_arguments, run)
