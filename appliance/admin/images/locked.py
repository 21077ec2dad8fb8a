"""``images.lock``: the id of the image of each tag.

A line is ``SERVICE TAG ID``, the id with the prefix ``sha256:``; ``#`` begins a comment.
The comment ``# Debian packages of YYYY-MM-DD`` is read, too: on that day Debian's archive offered
the packages in the images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from appliance.core.run.errors import ConfigurationError, Problem

PACKAGES_OF = "# Debian packages of"
_ID = re.compile(r"sha256:[0-9a-f]{64}")


def read(path: Path) -> Mapping[str, str]:
    """Return the id of each tag.

    Raises:
        ConfigurationError: Lines have another form; each is listed.

    """
    ids, problems = {}, []
    for number, line in enumerate(path.read_text(errors="surrogateescape").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and _ID.fullmatch(words[2]):  # noqa: PLR2004  see above
            ids[words[1]] = words[2]
        else:
            problems.append(
                Problem(
                    path,
                    number,
                    "",
                    "must be SERVICE TAG sha256:ID; run the bundle's install again",
                )
            )
    if problems:
        raise ConfigurationError(problems)
    return ids


def packages_of(path: Path) -> date | None:
    """Return the day of the Debian packages of the images; None if the file lacks it."""
    for line in path.read_text(errors="surrogateescape").splitlines():
        if line.startswith(PACKAGES_OF):
            try:
                return date.fromisoformat(line.removeprefix(PACKAGES_OF).strip())
            except ValueError:
                return None
    return None


def short(identifier: str) -> str:
    """Return the beginning of an id, 12 digits, as Docker's client prints it."""
    return identifier[: len("sha256:") + 12]
