"""``appliance wait SERVICE``: returns when a service's own check in its container passes, or tells why it will not.

The unit of the backend has its start last until then.
"""

from __future__ import annotations

import argparse
import time

from appliance.admin.jobs import SERVICES
from appliance.admin.watch import LOOK_EVERY, Watch
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, Unavailable

_PAUSE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument("service", choices=SERVICES, metavar="SERVICE", help=", ".join(SERVICES))
    parser.add_argument("--timeout", type=int, metavar="SECONDS", default=120, help="default: 120")
    parser.add_argument(
        "--pid", type=int, metavar="PID", help="no longer when this process, which has it run, has ended"
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Wait."""
    watch = Watch(cli.layout(arguments), arguments.service, arguments.pid)
    now = time.monotonic()
    deadline, look = now + arguments.timeout, now + LOOK_EVERY
    while not watch.passes_check():
        now = time.monotonic()
        if now >= deadline:
            cause = f"is not at work within {arguments.timeout} s"
            raise Unavailable(arguments.service, cause, f"see appliance logs {arguments.service}")
        if now >= look:
            watch.look()
            look = time.monotonic() + LOOK_EVERY
        time.sleep(_PAUSE)
    return ExitStatus.DONE


VERB = cli.Program("wait", "Waits until a service is at work.", add_arguments, run)
