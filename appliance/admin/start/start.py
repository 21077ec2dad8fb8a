"""``appliance start``: start services and jobs, and send the first records now.

It prints and runs the commands that an administrator would type, and continues after a failure that
does not concern the next command. Flows that are off are left out. A later run only extracts and
sends new records.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from appliance.admin import changing, settings
from appliance.admin.inventory import JOBS, UNITS, Flow
from appliance.admin.run import run as run_verb
from appliance.admin.schedule import schedule, state
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout

_SYSTEMCTL = "/usr/bin/systemctl"
_GOES_ON = (ExitStatus.DONE, ExitStatus.PARTLY)
"""Exit status after which the next command still has work to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    schedule.add_starter(parser, "starter of the jobs (default: the present one, else cron)")
    schedule.add_since(parser)


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Start all that is on; return `ExitStatus.PARTLY` if a command failed."""
    layout = cli.layout(arguments)
    host = settings.load(layout)
    if arguments.check_config:
        return ExitStatus.DONE
    if os.geteuid() != 0:
        raise UsageError("appliance", "only root can start it", "sudo appliance start")
    changing.refuse(layout)
    by = arguments.by or (
        "systemd" if any(one.has_timer for one in state.starts(layout)) else "cron"
    )
    since = ["--since", f"{arguments.since:%Y-%m-%d}"] if arguments.since else []
    with changing.alone(layout):
        failed = [*_services(host)]
    # Not under the lock: `schedule` takes it, and jobs do not start while it is held.
    failed += _jobs(host, layout, ["schedule", by, *since])
    for line in failed:
        print(f"! failed: {line}", flush=True)
    print("Next: appliance status", flush=True)
    return ExitStatus.PARTLY if failed else ExitStatus.DONE


def _services(host: settings.Host) -> Iterator[str]:
    """Start the units whose flow is on; yield each that did not start."""
    for unit in filter(host.is_wanted, UNITS):
        print(f"$ systemctl start {unit}", flush=True)
        if subprocess.run([_SYSTEMCTL, "start", unit], check=False).returncode:
            yield f"systemctl start {unit}: see systemctl status {unit} and appliance logs {unit}"


def _jobs(host: settings.Host, layout: Layout, scheduling: list[str]) -> Iterator[str]:
    """Schedule the jobs, extract and send; yield the commands that failed.

    If scheduling fails, nothing is extracted: ``--since`` was not kept then, and the checkpoint of
    an extraction would make it ineffective for good.
    """
    commands = [scheduling]
    if host.flows[Flow.ACCOUNTING]:
        # With --log, or `appliance logs` would not find what the first runs have printed.
        commands += [["run", job, "--wait", "--log"] for job in ("caso", "ssmsend")]
    for command in commands:
        words = f"appliance {' '.join(command)}"
        print(f"$ {words}", flush=True)
        with _shown(command, layout):
            status = cli.main(_STEPS, [*command, "--root", str(layout.root)])
        if status != ExitStatus.DONE:
            yield f"{words}: exit status {status}"
        if status not in _GOES_ON:
            return


@contextlib.contextmanager
def _shown(command: list[str], layout: Layout) -> Iterator[None]:
    """Print what a job adds to its log during the block."""
    if command[0] != "run":
        yield
        return
    path = layout.path(f"/var/log/{JOBS[command[1]].log}")
    before = path.stat().st_size if path.is_file() else 0
    try:
        yield
    finally:
        if path.is_file():
            with path.open("rb") as file:
                # A file that was rotated meanwhile has fewer bytes, all of them new.
                file.seek(before if path.stat().st_size >= before else 0)
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.flush()


_STEPS = cli.Program(
    "appliance", "", lambda _parser: None, cli.dispatch, verbs=(schedule.VERB, run_verb.VERB)
)
VERB = cli.Program(
    "start", "Start services and jobs, and send the first records now.", add_arguments, run
)
