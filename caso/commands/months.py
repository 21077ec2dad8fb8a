"""Flags of verbs that choose months."""

from __future__ import annotations

import argparse
import re

from caso.ledger.model import Month, month_named

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")


def add_arguments(
    parser: argparse.ArgumentParser, *, first: str = "the first one with records"
) -> None:
    """Add ``--from`` and ``--to``, which become ``first`` and ``last``."""
    parser.add_argument(
        "--from",
        dest="first",
        type=month,
        metavar="MONTH",
        help=f"first month, like 2026-10 (default: {first})",
    )
    parser.add_argument(
        "--to", dest="last", type=month, metavar="MONTH", help="last month (default: the last one)"
    )


def month(text: str) -> str:
    """Return a month of the command line, like ``2026-11``."""
    if not _MONTH.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a month; write it like 2026-10")
    return text


def numbered(text: str) -> Month:
    """Return a month of the command line as the ledger has it."""
    return month_named(month(text))


def is_chosen(arguments: argparse.Namespace, text: str) -> bool:
    """Check whether the flags choose a month."""
    return (arguments.first or "") <= text <= (arguments.last or "9999")
