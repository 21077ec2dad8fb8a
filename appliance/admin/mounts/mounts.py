"""``appliance mounts``: which of a site's files its containers get, where releases have had them in different places.

The unit of the backend writes it to a file that docker-compose's environment comes from; refused,
the service does not start with the account of the wrong file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.admin.mounts import site_files
from appliance.core import files
from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to this file instead of printing"
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print a variable of the compose file a line."""
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
    "Prints which of the site's files are mounted into the containers.",
    add_arguments,
    run,
)
