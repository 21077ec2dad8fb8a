"""``appliance restore FILE``: bring back what `appliance backup` has written, on any host.

Without ``--apply`` it reads the whole backup, prints what it would write, and changes nothing.
Nothing that was delivered is taken back: a host that has delivered more than the backup knows is
left as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.core.run import cli
from appliance.core.run.errors import ExitStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own flags."""
    parser.add_argument("file", type=Path, metavar="FILE", help="backup to restore")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="KEY.pem",
        help="private key of a certificate that the backup is encrypted to",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="file of mode 0600 with the passphrase of the backup, or, with --key, of the key",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="carry the plan out (default: print it, and change nothing)",
    )
    parser.add_argument(
        "--as-another-site",
        action="store_true",
        help="restore the backup of another site than this host is configured for",
    )
    parser.add_argument(
        "--replace-configuration",
        action="store_true",
        help="replace files of /etc that were edited here; they go to /var/lib/fedcloud/replaced",
    )
    parser.add_argument(
        "--replace-older-state",
        action="store_true",
        help="replace state of this host that is older than the backup; it is kept in the same way",
    )


def run(arguments: argparse.Namespace) -> ExitStatus:
    """Print the plan; with ``--apply`` carry it out."""
    from appliance.admin.restore import reading  # noqa: PLC0415  start-up is a cost

    return reading.run(arguments)


VERB = cli.Program(
    "restore",
    "Bring back what a backup has, on this or another host.",
    add_arguments,
    run,
)
