"""``appliance state``: print whether ``/var/lib/fedcloud`` is the state of this host, or accept it.

Units without containers call it before a service starts. It only compares two marks
(`appliance.admin.state.mark`), and reads no configuration.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from appliance.admin import changing, settings
from appliance.admin.state import mark
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.run.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--accept",
        action="store_true",
        help=f"make {mark.STATE}, as it is now, the state of this host; if it is empty, accounting"
        " and images begin again",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the mark of the state; with ``--accept`` write it first.

    Raises:
        ConfigurationError: The state is empty where it was not, or that of another host.

    """
    layout = cli.layout(arguments)
    if arguments.accept and not arguments.check_config:
        if os.geteuid() != 0:
            raise UsageError("state", "only root can accept it", "sudo appliance state --accept")
        return _accept(layout)
    mark.require(layout)
    found, path = mark.of_host(layout), layout.path(mark.STATE)
    if found is None:
        print(f"{path}: has no mark; the next installation or upgrade writes it")
    else:
        print(f"{path}: is the state of this host since {found.since}, {found.id}")
    return ExitStatus.DONE


def _accept(layout: Layout) -> ExitStatus:
    with changing.alone(layout, accepts_state=True):
        accepted = mark.accept(layout)
    print(f"{layout.path(mark.STATE)}: accepted as the state of this host, {accepted.id}")
    for line in _next(layout):
        print(line)
    return ExitStatus.DONE


def _next(layout: Layout) -> Iterator[str]:
    if not settings.in_use(layout):
        yield "Next: run the bundle's install again, then appliance status"
        return
    yield "Next: appliance status"


VERB = cli.Program(
    "state",
    "Print whether the state directory is the one of this host, or accept it.",
    add_arguments,
    run,
)
