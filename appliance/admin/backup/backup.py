"""``appliance backup FILE``: configuration and state in one file, while jobs run.

SQLite files are copied consistently, all others are replaced as a whole by their programs. The file
is encrypted to certificates of administrators, or by a passphrase, and appears when it is complete.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument(
        "file", type=cli.file_to_write, metavar="FILE", help="file to write; it must not exist yet"
    )
    parser.add_argument(
        "--to",
        type=Path,
        action="append",
        default=[],
        metavar="CERT.pem",
        help="certificate of an administrator who can restore the backup; RSA; may be repeated",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file of mode 0600 with a passphrase that can restore the backup",
    )
    parser.add_argument(
        "--unencrypted",
        action="store_true",
        help="write the passwords of the site and ids of its users in clear text",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Write the backup. `ExitStatus.PARTLY` if a damaged file was left out."""
    from appliance.admin.backup import writing  # noqa: PLC0415  start-up is a cost

    return writing.run(arguments)


VERB = cli.Program(
    "backup",
    "Write configuration and state to one encrypted file, while jobs run.",
    add_arguments,
    run,
)
