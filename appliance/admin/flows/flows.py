"""``appliance flows [NAME]``: print which flows are on, or whether that of NAME is; switch them.

Units call it as ExecCondition: with exit status 1 the flow is off, and systemd skips the unit
without a failure.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from appliance.admin import changing, settings
from appliance.admin.configure import edit
from appliance.admin.configure.rewrite import rewrite
from appliance.admin.inventory import JOBS, SERVICES, UNITS, Flow, flow_of
from appliance.admin.settings import Host
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError

_MEMBERS = (*JOBS, *SERVICES)
_NAMES = tuple(dict.fromkeys([*_MEMBERS, *SERVICES.values()]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = "job, service or unit to ask for; exit status 1 if its flow is off"
    parser.add_argument("name", nargs="?", choices=_NAMES, metavar="NAME", help=words)
    for word in ("on", "off"):
        parser.add_argument(
            f"--{word}",
            action="append",
            default=[],
            choices=[flow.value for flow in Flow],
            metavar="FLOW",
            help=f"switch this flow {word}: {', '.join(Flow)}; may be repeated",
        )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print a line for each flow, or for the flow of one name; switch flows first."""
    host = settings.load(cli.layout(arguments))
    if arguments.name:
        line = host.off(arguments.name)
        print(line or f"{arguments.name}: its flow is on")
        return ExitStatus.PARTLY if line else ExitStatus.DONE
    if both := set(arguments.on) & set(arguments.off):
        raise UsageError(f"--on {min(both)}", "--off names it, too", "remove one of the two")
    wanted = {**dict.fromkeys(arguments.on, True), **dict.fromkeys(arguments.off, False)}
    if wanted and not arguments.check_config:
        if os.geteuid() != 0:
            raise UsageError("flows", "only root can switch a flow", "use sudo")
        with changing.alone(cli.layout(arguments)):
            _switch(host.settings_file, wanted)
        host = settings.load(cli.layout(arguments))
    for flow in Flow:
        members = ", ".join(name for name in _MEMBERS if flow_of(name) is flow)
        print(f"{flow.value:13}{'on' if host.flows[flow] else 'off':5}{members}")
    for line in _next(host, wanted) if wanted else (f"They are set in {host.settings_file}.",):
        print(line)
    return ExitStatus.DONE


def _switch(path: Path, wanted: Mapping[str, bool]) -> None:
    """Write the flows to the settings; all other lines stay."""
    if not path.is_file():
        words = "run the bundle's install again, which writes the shipped file"
        raise Unavailable(path, "does not exist", words)
    before = text = path.read_text()
    for flow, is_on in wanted.items():
        text = edit.set_yaml(text, "flows", flow, "on" if is_on else "off")
    if text != before:
        rewrite(path, text)


def _next(host: Host, wanted: Mapping[str, bool]) -> Iterator[str]:
    """Yield the commands that put the switched flows into effect."""
    if any(wanted.values()):
        yield "Next: appliance configure, appliance check --offline, appliance start"
    if off := [unit for unit in UNITS if not host.is_wanted(unit) and flow_of(unit) in wanted]:
        yield f"If it runs: systemctl stop {' '.join(off)}"


VERB = cli.Program("flows", "Print which flows of data are on, or switch them.", add_arguments, run)
