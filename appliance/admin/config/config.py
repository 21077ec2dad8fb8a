"""``appliance config show|validate|diff``: the configuration as it works, its faults, its changes.

``show`` prints what each program has read, in its own container, with the place of each value;
``validate`` checks all files and contacts no other host; ``diff`` compares the files with those
that this version ships, or another one. All three only read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from appliance.admin import inventory, settings
from appliance.admin.check import check
from appliance.admin.config import shipped, show
from appliance.admin.settings import Host
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout
from appliance.core.suggestion import did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "action",
        choices=("show", "validate", "diff"),
        help="print what the programs read; check all files; or compare them with the shipped ones",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"jobs and services to show or validate: {', '.join(_names())} (default: all whose"
        " flow is on, except cloud-info)",
    )
    parser.add_argument(
        "--set-only", action="store_true", help="show: leave out values that no file sets"
    )
    parser.add_argument(
        "--with",
        dest="other",
        type=Path,
        metavar="DIR",
        help="diff: directory of another version's bundle (default: the files of this version)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the configuration, its faults, or its changes."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    names = _chosen(arguments, host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        words = f"sudo appliance config {arguments.action}"
        raise UsageError("config", "only root can read all files", words)
    if arguments.action == "diff":
        return shipped.run(host, layout, other=arguments.other, as_json=arguments.json)
    if not (host.is_native or host.is_beside):
        settings.require_files(host)
    if arguments.action == "show":
        is_set_only = arguments.set_only
        return show.run(host, layout, names, is_set_only=is_set_only, as_json=arguments.json)
    return _validate(host, layout, names, as_json=arguments.json)


def _chosen(arguments: argparse.Namespace, host: Host) -> Sequence[str]:
    """Return the jobs and services; those whose flow is on without a choice.

    Raises:
        UsageError: A name is unknown, or a flag belongs to another action.

    """
    if arguments.action != "diff" and arguments.other:
        raise UsageError("--with", "belongs to diff", "appliance config diff --with DIR")
    if arguments.action == "diff" and arguments.names:
        raise UsageError("config diff", "compares all files", "leave out the names")
    if arguments.action != "show" and arguments.set_only:
        raise UsageError("--set-only", "belongs to show", "appliance config show --set-only")
    for name in arguments.names:
        if name not in _names():
            otherwise = f"write one of {', '.join(_names())}"
            hint = did_you_mean(name, _names(), otherwise=otherwise)
            raise UsageError(name, "there is no such job or service", hint)
    return list(dict.fromkeys(arguments.names)) or [
        name for name in _names() if host.is_wanted(name) and _is_usual(name)
    ]


def _names() -> list[str]:
    """Return the jobs that are programs of ours, and the services."""
    return [name for name, job in inventory.JOBS.items() if job.service] + [*inventory.SERVICES]


def _is_usual(name: str) -> bool:
    return name in inventory.SERVICES or inventory.JOBS[name].is_scheduled


def _validate(host: Host, layout: Layout, names: Sequence[str], *, as_json: bool) -> ExitStatus:
    """Print the findings in the files, also where two contradict each other."""
    report, _ = check.check(host, layout, names)
    if as_json:
        report.print_json()
    else:
        report.print_text()
    if report.bugs:
        raise report.bugs[0]
    return report.status


VERB = cli.Program(
    "config",
    "Show the configuration as the programs read it, check it, or compare it with the shipped one.",
    add_arguments,
    run,
)
