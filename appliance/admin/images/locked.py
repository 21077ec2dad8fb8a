"""``images.lock``: which image each tag stands for.

A line is ``SERVICE TAG ID``, the id with ``sha256:`` before it; ``#`` begins a comment. One comment
has a meaning: ``# Debian packages of YYYY-MM-DD``, the day on which Debian's archive still offered
what is in the images.
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
    """Return the id of each tag; raises `ConfigurationError`."""
    ids, problems = {}, []
    for number, line in enumerate(path.read_text(errors="surrogateescape").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and _ID.fullmatch(words[2]):  # noqa: PLR2004  see above
            ids[words[1]] = words[2]
        else:
            problems.append(Problem(path, number, "", "must be SERVICE TAG sha256:ID"))
    if problems:
        raise ConfigurationError(problems)
    return ids


def packages_of(path: Path) -> date | None:
    """Return the day that the Debian packages of the images are of; None where the file does not say it."""
    for line in path.read_text(errors="surrogateescape").splitlines():
        if line.startswith(PACKAGES_OF):
            try:
                return date.fromisoformat(line.removeprefix(PACKAGES_OF).strip())
            except ValueError:
                return None
    return None


def short(identifier: str) -> str:
    """Return as much of an id as people compare."""
    return identifier[: len("sha256:") + 12]
