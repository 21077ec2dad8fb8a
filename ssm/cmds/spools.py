"""The spools that a verb of `ssmctl` works on."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run import cli
from appliance.core.spool import Spool
from ssm import destinations
from ssm.cmds import startup
from ssm.sending.directory_spool import DirectorySpool
from ssm.settings import KeptHere


@dataclass(frozen=True, slots=True)
class OpenedSpool:
    """A spool, which need not exist; ``journal`` is None if no configuration names it."""

    spool: Spool
    journal: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name spools."""
    startup.add_config_argument(parser)
    parser.add_argument(
        "--path", type=Path, metavar="DIR", help="spool directory (default: the configurations')"
    )


def opened(arguments: argparse.Namespace) -> list[OpenedSpool]:
    """Return the spools that ``--path`` or the configurations name.

    What a configuration lacks to send, such as a certificate, does not matter here.
    """
    found = destinations.load(cli.layout(arguments), only=arguments.config)
    path = arguments.path
    if path is None:
        return [_opened(one.kept_here()) for one in found]
    for one in found:
        if one.kept is not None and _is_same(one.kept.spool, path):
            return [_opened(one.kept)]
    return [OpenedSpool(Spool(path))]


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _opened(kept: KeptHere) -> OpenedSpool:
    spool = Spool(kept.spool) if kept.is_dirq else DirectorySpool(kept.spool)
    return OpenedSpool(spool, kept.journal.path if kept.journal.months else None)
