"""The sources in a BDII's directories: files with LDIF, and programs that print it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from appliance.core import files
from bdii.messages import printable
from bdii.sources.model import LdifSource, SourceAnswer


@dataclass(frozen=True, slots=True)
class FoundSources:
    """The sources of a directory; ``skipped`` has an unusable answer for each other name in it."""

    sources: tuple[LdifSource, ...] = ()
    skipped: tuple[SourceAnswer, ...] = ()


def ldif_files(directory: Path, *, timeout: timedelta, limit: int) -> FoundSources:
    """Return the ``*.ldif`` files of a directory, without hidden and backup files.

    Raises:
        OSError: the directory cannot be read.

    """

    def is_wanted(name: str) -> bool:
        return _is_wanted(name) and name.endswith(".ldif")

    listing = files.listed(directory, is_wanted, follow=True)
    return _found("ldif", listing, is_program=False, timeout=timeout, limit=limit)


def programs(directory: Path, *, timeout: timedelta, limit: int) -> FoundSources:
    """Return the programs of a directory, without hidden and backup files.

    Raises:
        OSError: the directory cannot be read.

    """
    # A file that is not executable is listed too: the attempt to run it gives the better message.
    listing = files.listed(directory, _is_wanted, follow=True, access=os.F_OK)
    return _found("provider", listing, is_program=True, timeout=timeout, limit=limit)


def _is_wanted(name: str) -> bool:
    return name[0] not in "#." and name[-1] != "~"


def _found(
    kind: str, listing: files.Listing, *, is_program: bool, timeout: timedelta, limit: int
) -> FoundSources:
    found = [
        LdifSource(
            f"{kind}/{path.name}", [path], is_program=is_program, timeout=timeout, limit=limit
        )
        for path in listing.paths
    ]
    skipped = [
        SourceAnswer(f"{kind}/{path.name}", None, problems=(printable(str(line)),))
        for path, line in listing.skipped.items()
    ]
    return FoundSources(tuple(found), tuple(skipped))
