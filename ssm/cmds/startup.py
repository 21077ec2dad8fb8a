"""The start of `ssmsend` and `ssmreceive`: flags, log and signals."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from datetime import timedelta
from pathlib import Path

from appliance.core.run import cli
from appliance.core.run.errors import LocalFailure
from appliance.core.senders import FIRST, FURTHER
from appliance.core.version import __version__
from ssm.ignored import IGNORED_FLAGS
from ssm.settings import LogSection, ReceiverSettings, SenderSettings

RULE = "=" * 40


def add_arguments(parser: argparse.ArgumentParser, config: str) -> None:
    """Add the flags of both commands."""
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help=f"configuration file (default: {config})"
    )
    parser.add_argument(
        *IGNORED_FLAGS, metavar="FILE", help="ignored; the section [logging] replaces it"
    )


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag of commands that look at what `ssmsend` works on."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration file of the sender (default: {FIRST} and {FURTHER}/*.cfg)",
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
    # SSM deprecates both, and warns in the same cases.
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
            cause = "the log file's directory is missing or not writable"
            raise LocalFailure(settings.file, cause, "make it, or correct logfile in [logging]")
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


class SignalFlag:
    """Set when this process gets a signal.

    It is not a `threading.Event`: the handler may interrupt the main thread while that thread
    holds the event's lock.
    """

    def __init__(self, number: signal.Signals) -> None:
        self._raised = self._taken = 0
        signal.signal(number, self._raise)

    def _raise(self, *_: object) -> None:
        self._raised += 1

    def is_up(self) -> bool:
        """Check whether the signal came since the flag was last cleared."""
        return self._raised != self._taken

    def take(self) -> bool:
        """Clear the flag and return whether it was set.

        The counter is read once, so that a signal that comes meanwhile sets the flag again.
        """
        raised = self._raised
        is_up, self._taken = raised != self._taken, raised
        return is_up
