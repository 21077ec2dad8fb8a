"""``appliance images``: check that the images of services and jobs are on the host.

The steps of the units make the same check before they start docker-compose, because 1.29.2 would
fetch a missing image from Docker's public registry.
"""

from __future__ import annotations

import argparse
import logging

from appliance.admin import settings
from appliance.admin.images import needed
from appliance.admin.inventory import CONTAINERS
from appliance.admin.runtime.engine import Engine
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus, UsageError
from appliance.core.suggestion import did_you_mean

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "services",
        nargs="*",
        metavar="SERVICE",
        help=f"services to check: {', '.join(CONTAINERS)} (default: all)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print tag and id of each image."""
    for name in arguments.services:
        if name not in CONTAINERS:
            all_names = f"write one of {', '.join(CONTAINERS)}"
            hint = did_you_mean(name, CONTAINERS, otherwise=all_names)
            raise UsageError(name, "there is no such service", hint)
    host = settings.load(cli.layout(arguments))
    for warning in host.warnings:
        logger.warning("%s", warning)
    if host.is_native:
        print("no images are needed: this host runs the programs without containers")
        return ExitStatus.DONE
    settings.require_files(host)
    if arguments.check_config:
        return ExitStatus.DONE
    with Engine(host.socket) as engine:
        for tag, identifier in needed.require(
            engine, host, arguments.services or CONTAINERS
        ).items():
            print(f"{tag} {identifier}")
    return ExitStatus.DONE


VERB = cli.Program(
    "images", "Check that the images of services and jobs are on this host.", add_arguments, run
)
