"""``appliance status``: the state of each flow on one screen, with the one reason of each fault.

Exit status: 0 if every last run was complete, every service is healthy, either cron or systemd
starts each job, and nothing ends soon; 1 if not, with a line for each fault; 3 if no program has
run yet and no service is installed. Flows that are off are shown as such and have no faults.
"""

from __future__ import annotations

import argparse
import json

from appliance.admin.status import long, screen, site, watch
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus

_PAUSE, _LONGEST_PAUSE = 5, 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the records and the state of the services as JSON",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="print all services, figures, notes and failures, without a limit of lines",
    )
    parser.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=_PAUSE,
        metavar="SECONDS",
        help=f"draw the screen again every SECONDS, until Ctrl-C (default: {_PAUSE})",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the state of the site; return the exit status."""
    layout = cli.layout(arguments)
    if arguments.watch:
        watch.require(others=[flag for flag in ("json", "long") if getattr(arguments, flag)])
        return watch.run(lambda: site.look(layout, asks_compose=False), pause=arguments.watch)
    is_screen = not (arguments.json or arguments.long)
    found = site.look(layout, asks_compose=not is_screen)
    if arguments.json:
        print(json.dumps(found.as_json(), indent=1, ensure_ascii=False))
    elif arguments.long:
        long.show(found)
    else:
        print("\n".join(screen.lines(found, screen.Terminal.of_output())))
    return found.status


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _LONGEST_PAUSE:
        words = f"{text!r} is not a number of seconds from 1 to {_LONGEST_PAUSE}"
        raise argparse.ArgumentTypeError(words)
    return int(text)


VERB = cli.Program("status", "Print the state of each flow on one screen.", add_arguments, run)
