"""``appliance mounts``: print which files are mounted, of those that releases had in other places.

The lines can serve as the environment of docker-compose. Two configurations of the backend are an
error, so that it cannot start with the account of the wrong one.
"""

from __future__ import annotations

import argparse

from appliance.admin.mounts import site_files
from appliance.core import files
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--output",
        type=cli.file_to_write,
        metavar="FILE",
        help="file to write the lines to (default: standard output)",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print or write one variable of the compose file a line."""
    layout = cli.layout(arguments)
    named = site_files.variables(layout)
    site_files.check(named, layout)
    text = "".join(f"{name}={path}\n" for name, path in site_files.choose(named, layout).items())
    if arguments.output and not arguments.check_config:
        files.write_atomic(arguments.output.absolute(), text.encode())
    else:
        print(text, end="")
    return ExitStatus.DONE


VERB = cli.Program(
    "mounts",
    "Print which of the site's files are mounted into the containers.",
    add_arguments,
    run,
)
