"""``cloudkeeper version``: print the version, as cloudkeeper 1.7.1 does."""

from __future__ import annotations

import argparse

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus
from appliance.core.version import __version__


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the version."""
    del arguments
    print(__version__)
    return ExitStatus.DONE


VERB = cli.Program("version", "Print the version.", lambda _parser: None, run)
