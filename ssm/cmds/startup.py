"""The start of `ssmsend` and `ssmreceive`: flags, log and certificate."""

from __future__ import annotations

import argparse
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import clock
from appliance.core.run import cli
from appliance.core.run.errors import LocalFailure
from appliance.core.version import __version__
from ssm.settings import Link, LogSection, ReceiverSettings, SenderSettings

if TYPE_CHECKING:  # start-up is a cost
    from appliance.core.trust.certificates import Identity

RULE = "=" * 40


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    """Add the flags of both commands."""
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"configuration file (default: {config})"
    )
    parser.add_argument(
        "-l", "--log_config", metavar="FILE", help="ignored; the section [logging] replaces it"
    )


def configure_log(
    name: str, settings: SenderSettings | ReceiverSettings, arguments: argparse.Namespace
) -> None:
    """Set up the log as the configuration says, and log the configuration's warnings.

    A log file that cannot be opened is one more warning: the run goes on without it.
    """
    warnings = [str(problem) for problem in settings.warnings]
    try:
        _open_log(settings.log, arguments)
    except LocalFailure as error:
        cli.configure_log(arguments, level=settings.log.level)
        warnings.append(f"{error}; logging to standard error only")
    layout = cli.layout(arguments)
    if arguments.log_config or os.access(layout.path("/etc/apel/logging.cfg"), os.F_OK):
        warnings.append(
            "a separate logging configuration has no effect: set level and logfile in [logging]"
        )
    logger = logging.getLogger(name)
    for warning in warnings:
        logger.warning("%s", warning)


def _open_log(settings: LogSection, arguments: argparse.Namespace) -> None:
    if arguments.check_config:
        if not os.access(settings.file.parent, os.W_OK | os.X_OK):
            raise LocalFailure(settings.file, "the log file's directory is missing or not writable")
        return
    cli.configure_log(arguments, level=settings.level, file=settings.file, console=settings.console)


def positive(text: str) -> int:
    """Return a whole number of 1 or more from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; write a whole number, 1 or more"
        )
    return int(text)


def duration(text: str) -> timedelta:
    """Return a number of seconds from the command line."""
    try:
        found = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        found = -timedelta.resolution
    if found < timedelta(0):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; write a number of seconds")
    return found


def announce(name: str, activity: str) -> None:
    """Log the opening lines of SSM, which its operators search for."""
    logger = logging.getLogger(name)
    logger.info(RULE)
    logger.info("Starting %s SSM version %s.", activity, __version__)


def load_identity(link: Link) -> Identity:
    """Load certificate and key; log a warning when the certificate expires soon."""
    from appliance.core.trust.certificates import Identity  # noqa: PLC0415  start-up is a cost

    identity = Identity.load(link.certificate, key_path=link.key, at=clock.now())
    if warning := identity.expiry_warning(at=clock.now()):
        logging.getLogger("ssm.ssm2").warning("%s", warning)
    return identity
