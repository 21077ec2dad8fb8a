"""What verbs of `cloudkeeper` do first: read the configuration, and set up the log."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.core import files
from appliance.core.run import cli
from appliance.core.run.errors import ConfigurationError, ExitStatus, LocalFailure
from cloudkeeper.frontend import selection, settings
from cloudkeeper.frontend.selection import RunFilter
from cloudkeeper.frontend.settings import FrontendSettings

if TYPE_CHECKING:  # start-up is a cost
    from cloudkeeper.frontend.source_settings import RegistrySettings

PROGRAM = "cloudkeeper"
STATE = "/var/lib/fedcloud/cloudkeeper"
"""Directory of what the frontend remembers."""
logger = logging.getLogger(PROGRAM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the configuration: our own, and those of cloudkeeper 1.7.1."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"configuration file (default: {settings.FILE})"
    )
    parser.add_argument(
        "--no-debug", dest="debug", action="store_false", default=False, help="undo --debug"
    )
    settings.add_arguments(parser)


def add_allowance(parser: argparse.ArgumentParser) -> None:
    """Add the flag that confirms removals."""
    words = "allow each list to remove up to N images (default: half of its images, or 3)"
    parser.add_argument("--allow-remove", type=_amount, default=0, metavar="N", help=words)


def add_reconversion(parser: argparse.ArgumentParser) -> None:
    """Add the flag that replaces images in formats that are no longer accepted."""
    words = "replace images in the cloud whose format is no longer one of formats (default: no)"
    parser.add_argument("--reconvert", action="store_true", help=words)


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a part of the lists."""
    group = parser.add_argument_group(
        "a part of the images; others stay as they are, and the run does not count as complete"
    )
    flags = {
        "list": "only lists with this identifier, or of this source (HOST/PROJECT or URL)",
        "vo": "only lists of this VO",
        "image": "only images with this identifier or title",
    }
    for name, words in flags.items():
        group.add_argument(
            f"--{name}",
            dest=f"chosen_{name}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{words}; a pattern with * matches several; repeat the flag for more",
        )


def chosen(arguments: argparse.Namespace) -> RunFilter:
    """Return the part of the lists that the command line chooses.

    Raises:
        UsageError: a pattern is empty.

    """
    return selection.of_flags(arguments.chosen_list, arguments.chosen_vo, arguments.chosen_image)


def configure(arguments: argparse.Namespace, *, is_reading: bool = False) -> FrontendSettings:
    """Return the settings, and set up the log as they say.

    A verb that only reads, ``is_reading``, writes no log file.

    Raises:
        ConfigurationError: the settings have faults; all of them are listed.
        LocalFailure: the log file cannot be opened.

    """
    configured = settings.load(arguments, cli.layout(arguments))
    os.umask(0o027)  # the log and the image directory are for the account and its group
    file = None if arguments.check_config or is_reading else configured.log_file
    if file is not None:
        try:
            files.make_directory(file.parent)
        except OSError as error:
            raise LocalFailure.from_os(error, subject=file.parent) from error
    cli.configure_log(
        arguments,
        level=configured.log_level,
        file=file,
        console=True,
        warnings=configured.warnings,
        logger=logger,
    )
    return configured


def report_check(configured: FrontendSettings) -> ExitStatus:
    """Print the settings for ``--check-config``.

    Raises:
        ConfigurationError: lists, or the backend of direct mode, are configured wrongly.

    """
    problems = list(configured.list_problems)
    try:
        backend = _shown_backend(configured)
    except ConfigurationError as error:
        problems += error.problems
        raise ConfigurationError(problems) from error
    rows = {
        "lists": ", ".join(map(str, configured.lists)) or "none",
        "registries": ", ".join(map(_shown, configured.registries)) or "none",
        "trust anchors": f"{configured.ca_dir}, CRLs: {configured.crl_policy}",
        "image files": f"{configured.image_dir}, accepted: {', '.join(configured.formats)}",
        "backend": backend,
        "lock": str(configured.lock_file),
    }
    for name, value in rows.items():
        print(f"{name + ':':15}{value}")
    if problems:
        raise ConfigurationError(problems)
    return ExitStatus.DONE


def _shown_backend(configured: FrontendSettings) -> str:
    if configured.endpoint == settings.DIRECT:
        from cloudkeeper.frontend import direct_mode  # noqa: PLC0415  start-up is a cost

        return f"{configured.endpoint}: {direct_mode.backend(configured)}"
    if configured.endpoint.startswith("unix:"):
        return configured.endpoint
    remote = f", fetches images from {configured.remote.url}" if configured.remote else ""
    protection = ", mutual TLS" if configured.certificates else ", without TLS"
    return f"{configured.endpoint}{protection}{remote}"


def _amount(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images")
    return int(text)


def _shown(registry: RegistrySettings) -> str:
    by = ", signed by " + " or ".join(map(str, registry.signing_keys))
    return f"{registry} for {' '.join(registry.vos)}{by if registry.signing_keys else ''}"
