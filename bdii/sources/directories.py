"""The sources in a BDII's directories: files with LDIF, and programs that print it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from appliance.core import files
from bdii.messages import printable
from bdii.sources.model import LdifSource, SourceAnswer


def find(
    directory: Path, *, is_program: bool, timeout: timedelta, limit: int, kind: str = ""
) -> tuple[list[LdifSource], list[SourceAnswer]]:
    """Return a directory's sources, and an unusable answer for each name that is skipped.

    Sources are programs or ``*.ldif`` files, without hidden and backup files. ``timeout`` and
    ``limit`` are those of each. Names begin with ``kind``, by default provider or ldif.

    Raises:
        OSError: the directory cannot be read.

    """

    def is_wanted(name: str) -> bool:
        is_backup = name[0] in "#." or name[-1] == "~"
        return not is_backup and (is_program or name.endswith(".ldif"))

    # A program without permission is listed too: the attempt to run it gives the better message.
    access = os.F_OK if is_program else os.R_OK
    listing = files.listed(directory, is_wanted, follow=True, access=access)
    kind = kind or ("provider" if is_program else "ldif")
    found = [
        LdifSource(
            f"{kind}/{path.name}", [path], is_program=is_program, timeout=timeout, limit=limit
        )
        for path in listing.paths
    ]
    return found, [
        SourceAnswer(f"{kind}/{path.name}", None, problems=(printable(str(line)),))
        for path, line in listing.skipped.items()
    ]
