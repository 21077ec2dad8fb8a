"""``appliance motd``: what is still to be configured on this machine, or the light of each flow.

It is short, because everybody who logs in reads it, and computed beforehand, because a check takes
seconds: with ``--write``, which a unit of the machine's image runs, it goes to the message of the
day and to the consoles, before their prompts.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import textwrap
from collections.abc import Iterator, Sequence

from appliance.admin import settings
from appliance.admin.check import check
from appliance.admin.configure import configure
from appliance.admin.first_boot.progress import BootProgress
from appliance.admin.machine import Machine
from appliance.admin.schedule import state
from appliance.admin.settings import Host
from appliance.admin.status import site
from appliance.admin.status.row import Light, worst
from appliance.admin.status.screen import WIDTH, Terminal
from appliance.core import files
from appliance.core.run import cli
from appliance.core.run.errors import ApplianceError, ExitStatus, UsageError
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

MESSAGE, ISSUE = "/run/motd.d/fedcloud", "/run/issue.d/fedcloud.issue"
"""Read by pam_motd(8) and by agetty(8); below /run, so that no boot shows those of an earlier."""
_MOST, _FOLDS = 6, 3
"""Faults that are shown, and lines of each."""
_LONGEST = 1000
_MEMORY, _DISK, _NEARLY = 2 * 2**30, 20 * 10**9, 0.85
"""Bytes of memory and disk that the appliance needs, and how much of them is left for it."""
_REBOOT = "/run/reboot-required"
"""Packages of Debian make it after a new kernel."""
_RELOAD = ["/usr/sbin/agetty", "--reload"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    words = "write it to the message of the day and to the consoles, instead of printing it"
    parser.add_argument("--write", action="store_true", help=words)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the message, or write it to where people read it."""
    layout = cli.layout(arguments)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("motd", "only root can read all files", "sudo appliance motd")
    text = "".join(f"{line}\n" for line in lines(layout))
    if arguments.write:
        _write(text, layout)
    else:
        print(text, end="")
    return ExitStatus.DONE


def lines(layout: Layout) -> list[str]:
    """Return the lines of the message, each of at most 80 columns."""
    terminal = Terminal("ascii")
    head = f"EGI fedcloud appliance {__version__} on {socket.gethostname()}"
    found = [piece for line in _state(layout) for piece in _wrapped(terminal.fit(line, _LONGEST))]
    return [terminal.fit(line, WIDTH) for line in (head, *found)]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", max_lines=_FOLDS, placeholder="...")


def _state(layout: Layout) -> Iterator[str]:
    """Yield what to do, or how the flows are."""
    problems = BootProgress.read(layout).problems
    if layout.path(_REBOOT).exists():
        yield "! Reboot this machine: a new kernel is installed"
    yield from _small(layout)
    try:
        host = settings.load(layout)
        if not configure.is_configured(layout):
            yield from _few(problems or ["Not configured: run appliance configure"])
            return
        report, _ = check.check(host, layout, [], is_patient=True)
        # Once jobs are scheduled, what kept the first boot from that is over.
        kept = problems if state.disagreements(layout, host) else ()
        found = dict.fromkeys((*kept, *map(str, report.findings)))
        yield from _few([*found], "appliance check --offline")
        yield _lights(host, layout)
    except ApplianceError as error:
        yield from _few([*problems, *str(error).splitlines()])


def _small(layout: Layout) -> Iterator[str]:
    """Yield a line for memory and one for the disk, if it is less than the appliance needs."""
    found = os.statvfs(layout.root)
    disk = found.f_frsize * found.f_blocks
    memory = Machine().memory
    if 0 < memory < _MEMORY * _NEARLY:
        yield f"! This machine has {memory / 2**30:.1f} GB of memory; give it 2 GB"
    if disk < _DISK * _NEARLY:
        yield f"! This machine has {disk / 10**9:.0f} GB of disk; give it 20 GB"


def _few(found: Sequence[str], more: str = "") -> Iterator[str]:
    """Yield the first lines, and how many there are besides."""
    yield from (f"! {line}" for line in found[:_MOST])
    if found[_MOST:]:
        yield f"! {len(found) - _MOST} more{more and f': {more}'}"


def _lights(host: Host, layout: Layout) -> str:
    """Return one line with the light of each flow."""
    rows = site.look(layout, asks_compose=False).rows
    lights = {
        flow: worst([row.light for row in rows if row.flow == flow]) if is_on else Light.OFF
        for flow, is_on in host.flows.items()
    }
    words = "  ".join(f"{flow} {light}" for flow, light in lights.items())
    return f"{words}  (appliance status)"


def _write(text: str, layout: Layout) -> None:
    # agetty replaces escapes in what it shows: agetty(8), "ISSUE FILES".
    for name, shown in ((MESSAGE, text), (ISSUE, text.replace("\\", "\\\\"))):
        path = layout.path(name)
        files.make_directory(path.parent, mode=0o755)
        files.write_atomic(path, shown.encode("ascii", "backslashreplace"), mode=0o644)
    # A console that waits at its prompt shows the new text.
    subprocess.run(_RELOAD, check=False, stdin=subprocess.DEVNULL)


VERB = cli.Program(
    "motd", "Print what is still to be configured, or the light of each flow.", add_arguments, run
)
