"""``images.lock``: which image each tag stands for.

A line is ``SERVICE TAG ID``, the id with ``sha256:`` before it; ``#`` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from appliance.core.run.errors import ConfigurationError, Problem

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


def short(identifier: str) -> str:
    """Return as much of an id as people compare."""
    return identifier[: len("sha256:") + 12]
