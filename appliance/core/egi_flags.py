"""The flags of a program's check for what EGI sees: ``--as-egi`` with ``--check-live``.

`appliance check --as-egi` gives them to the programs that have an account of the cloud.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

CLOUD, AUDITOR, PORTAL = "cloud", "auditor", "portal"
"""What a program may be asked to look at."""
WORD = re.compile(r"[\w.:/@+-]*", re.ASCII)
"""The name of a VO, or the reference of an image."""


@dataclass(frozen=True, slots=True)
class AsEgi:
    """What to look at, and what EGI's monitoring uses."""

    parts: frozenset[str]
    vo: str
    image: str
    """The reference of the image that is booted; empty: any."""
    portal: str
    """The URL of a table of the accounting portal; empty: none."""
    writes: bool
    """Whether to boot a server."""


def add_arguments(parser: argparse.ArgumentParser, parts: Sequence[str]) -> None:
    """Add the flags of a program that can look at these parts."""
    made = parser.add_argument_group("what EGI sees, with --check-live")
    made.add_argument(
        "--as-egi",
        type=lambda text: _parts(text, parts),
        default=frozenset(),
        metavar="LIST",
        help="also look for what EGI's monitoring and users need, separated by commas:"
        f" {', '.join(parts)}",
    )
    made.add_argument(
        "--egi-vo",
        type=_word,
        default="ops",
        metavar="VO",
        help="VO of EGI's monitoring (default: ops)",
    )
    made.add_argument(
        "--egi-image",
        type=_word,
        default="",
        metavar="REF",
        help="reference of the image that the monitoring boots (default: any of the registry)",
    )
    made.add_argument(
        "--write", action="store_true", help="boot a server in the VO's project, and delete it"
    )
    if PORTAL in parts:
        made.add_argument(
            "--portal-url",
            default="",
            metavar="URL",
            help="table of the accounting portal, CSV or JSON",
        )


def _parts(text: str, known: Sequence[str]) -> frozenset[str]:
    found = frozenset(filter(None, text.split(",")))
    if others := found - set(known):
        raise argparse.ArgumentTypeError(f"{min(others)!r} is none of {', '.join(known)}")
    return found


def _word(text: str) -> str:
    if not WORD.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} has characters that no name has")
    return text


def wanted(arguments: argparse.Namespace) -> AsEgi:
    """Return what the flags ask for."""
    portal = getattr(arguments, "portal_url", "")
    return AsEgi(arguments.as_egi, arguments.egi_vo, arguments.egi_image, portal, arguments.write)
