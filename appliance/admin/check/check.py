"""``appliance check [NAME ...]``: find what does not work, and what EGI would find, beforehand.

Probes look at this host, the configuration, and what each job and service contacts, with the
account of each. They run at the same time (`appliance.admin.check.parallel`); each is a line in
`appliance.admin.check.registry`. Nothing is locked or stopped, and nothing changes elsewhere
without ``--write`` and ``--send-test``. With ``--as-egi`` it takes the steps of EGI's services, too
(docs/adr/0075). The only files written are a copy of the host key on tmpfs, which the check of
ssmsend needs, and a note that a service passed (`appliance.admin.service.kept`).

Exit status: 0 nothing found; 1 findings, listed; 2 usage, or the host's own settings cannot be
read; 3 nothing could be probed; 4 a bug in a probe, reported after the findings. With ``--nagios``
it is a plugin's: 0 nothing found, 1 warnings, 2 errors, 3 nothing could be probed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from appliance.admin import inventory, settings
from appliance.admin.check import as_egi, certificates, endpoints, parallel, registry
from appliance.admin.check.inside import Depth
from appliance.admin.check.probe import BOOT, CheckedSite, Need, Probe
from appliance.admin.check.programs import Programs
from appliance.admin.check.report import CheckReport
from appliance.admin.settings import Host
from appliance.admin.state import mark
from appliance.core import clock
from appliance.core.config.settings import NOTE
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable, UsageError
from appliance.core.run.layout import Layout
from appliance.core.suggestion import did_you_mean

_UPSTREAM = {
    "caso": "/etc/caso/caso.conf",
    "ssmsend": "/etc/apel/sender.cfg",
    "cloud-info": "/etc/cloud-info-provider/openstack.yaml",
}
"""What a site may have of upstream's programs, where no installer has run: by job, its file."""
_CONTACTING = {
    "--write": "contacts the cloud",
    "--as-egi": "contacts services of EGI",
    "--send-test": "contacts the broker",
}
"""Flags that contradict ``--offline``, and why."""
_SENDER = "ssmsend"
_ROW = re.compile(r"C\d\d(\.[a-z])?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"jobs and services to check, and nothing else: {', '.join(_names())} "
        " (default: this host and all whose flow is on, except cloud-info)",
    )
    parser.add_argument("--offline", action="store_true", help="contact no other host")
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="ids of the findings to look for, such as C30 or C30.a",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="also create small things in the cloud, and delete them again",
    )
    parser.add_argument(
        "--as-egi",
        action="store_true",
        help="also find what EGI's monitoring, services, users and portal would find; with --write,"
        " boot a server as the monitoring does",
    )
    parser.add_argument(
        "--send-test",
        action="store_true",
        help="also send one test record to each destination for tests, and say what would be sent"
        " to the others",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the findings as JSON")
    form.add_argument(
        "--nagios",
        action="store_true",
        help="print one line and the exit status of a Nagios plugin, then the findings",
    )
    parser.add_argument(
        "--endpoints",
        action="store_true",
        help="print the names and ports that each flow contacts, instead of findings",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, and print the findings."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    chosen = list(dict.fromkeys(name for word in arguments.names for name in _members(word)))
    mark.require(layout)
    if not (host.is_native or host.is_beside):
        settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("check", "only root can read all files", "sudo appliance check")
    for flag, what in _CONTACTING.items():
        if arguments.offline and getattr(arguments, flag.strip("-").replace("-", "_")):
            raise UsageError(flag, what, "leave out --offline")
    rows = _rows(arguments.only, is_as_egi=arguments.as_egi)
    report, site = check(
        host,
        layout,
        chosen,
        only=rows,
        is_offline=arguments.offline,
        writes=arguments.write,
        is_as_egi=arguments.as_egi,
        sends_test=arguments.send_test,
    )
    if arguments.endpoints:
        endpoints.print_all(site, as_json=arguments.json)
    elif arguments.json:
        report.print_json()
    elif arguments.nagios:
        report.print_nagios()
    else:
        report.print_text()
    if report.bugs:
        raise report.bugs[0]
    return report.plugin_status if arguments.nagios else report.status


def check(
    host: Host,
    layout: Layout,
    chosen: Sequence[str],
    *,
    only: Sequence[str] = (),
    is_offline: bool = True,
    writes: bool = False,
    is_as_egi: bool = False,
    sends_test: bool = False,
    is_patient: bool = False,
) -> tuple[CheckReport, CheckedSite]:
    """Check the ``chosen`` jobs and services; without a choice this host, and all that are on.

    If it ``is_patient``, nobody waits for it, and a slow host has more time for each probe.

    Raises:
        UsageError: Flags contradict each other or the choice.
        Unavailable: The host has no file of any program.

    """
    names = list(chosen) or _usual_names(host, layout)
    report = CheckReport(off=[host.off(name) for name in names if not host.is_wanted(name)])
    # fetch-crl has no service: it runs on the host and has no configuration to check.
    services = {
        name: service for name in names if host.is_wanted(name) and (service := _service(name))
    }
    depth = Depth.CONFIGURATION if is_offline else Depth.WRITE if writes else Depth.LIVE
    extra = as_egi.of_gocdb(services, host.egi)
    if is_as_egi:
        for name, flags in as_egi.flags(services, host.egi, writes=writes).items():
            extra[name] = (*extra.get(name, ()), *flags)
    if sends_test:
        if _SENDER not in services:
            words = f"needs the job {_SENDER}, which is not checked here"
            raise UsageError("--send-test", words, f"name it: appliance check {_SENDER}")
        extra[_SENDER] = ("--send-test",)
    programs = Programs(host, layout, services, depth=depth, extra=extra)
    site = CheckedSite(host, layout, clock.now(), programs, writes=writes, is_as_egi=is_as_egi)
    known = [*registry.of_programs(list(services)), *registry.PROBES]
    if only and not any(probe.finds(only) for probe in known):
        raise UsageError(
            "--only", f"no probe finds {', '.join(only)}", "see docs/how-to/check-a-site.md"
        )
    probes = [
        probe
        for probe in known
        if probe.finds(only)
        and _is_chosen(probe, site, is_offline=is_offline, is_selected=bool(chosen))
    ]
    if is_patient or (is_as_egi and writes):  # many wait for the program that boots a server
        probes = [replace(probe, deadline=BOOT) for probe in probes]
    for number, outcome in enumerate(parallel.outcomes(probes, site), start=1):
        report.add(outcome, only=only)
        _show_progress(number, len(probes))
    report.asked = [name for name in services if name in programs.asked]
    report.sort()
    if is_as_egi:
        site.notes += as_egi.notes(services, host.egi, host.settings_file)
    report.notes = notes(site, only=only)
    if _SENDER in services and not only:
        report.name = certificates.name(layout)
    return report, site


def notes(site: CheckedSite, *, only: Sequence[str]) -> list[tuple[str, str]]:
    """Return what the probes and the programs that have answered note, without repetition."""
    of_programs = ((one.option, one.text) for one in site.programs.read if one.section == NOTE)
    found = dict.fromkeys((*site.notes, *of_programs))
    families = {row.partition(".")[0] for row in only}
    return sorted(one for one in found if not only or one[0].partition(".")[0] in families)


def _show_progress(ended: int, count: int) -> None:
    """Show on a terminal how many probes have ended; nothing when all have."""
    if sys.stderr is not None and sys.stderr.isatty():
        text = f"{ended} of {count} probes" if ended < count else ""
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def _is_chosen(probe: Probe, site: CheckedSite, *, is_offline: bool, is_selected: bool) -> bool:
    if is_selected and probe.needs is not Need.CONFIGURATION:
        return False
    if probe.needs is Need.MACHINE and site.layout.root != Path("/"):
        return False
    if is_offline and not probe.needs.is_offline:
        return False
    if (probe.writes and not site.writes) or (probe.is_as_egi and not site.is_as_egi):
        return False
    return probe.flow is None or site.is_on(probe.flow)


def _rows(words: Sequence[str], *, is_as_egi: bool) -> list[str]:
    """Return the wanted ids; one that this check would never find is an error, not a silence."""
    rows = [row for word in words for row in word.split(",") if row]
    for row in rows:
        if not _ROW.fullmatch(row):
            raise UsageError("--only", f"{row!r} is no id", "write ids such as C30 or C30.a")
        if not is_as_egi and row.partition(".")[0] in registry.AS_EGI:
            raise UsageError("--only", f"{row} is looked for with --as-egi only", "add --as-egi")
    return rows


def _names() -> list[str]:
    return [*inventory.JOBS, *inventory.SERVICES]


def _usual_names(host: Host, layout: Layout) -> list[str]:
    """Return the jobs and services to check if the command line names none."""
    if not host.is_beside:
        return [name for name in _names() if _is_usual(name)]
    names = [name for name, path in _UPSTREAM.items() if layout.path(path).exists()]
    if not names:
        cause = "has neither the appliance nor a file of cASO, SSM or cloud-info-provider"
        remedy = "install the bundle, or name the directory of the site's files with --root"
        raise Unavailable(layout.path("/etc"), cause, remedy)
    return names


def _is_usual(name: str) -> bool:
    return name in inventory.SERVICES or inventory.JOBS[name].is_scheduled


def _service(name: str) -> str:
    return name if name in inventory.SERVICES else inventory.JOBS[name].service


def _members(name: str) -> Sequence[str]:
    """Return the job or service of this name, or the services of the unit."""
    if name in _names():
        return [name]
    if name in inventory.UNITS:
        return inventory.UNITS[name]
    known = list(dict.fromkeys([*_names(), *inventory.UNITS]))
    hint = did_you_mean(name, known, otherwise=f"write one of {', '.join(known)}")
    raise UsageError(name, "there is no such job or service", hint)


VERB = cli.Program(
    "check",
    "Find what does not work on this host, in its configuration, and in what it contacts.",
    add_arguments,
    run,
)
