"""The lists of registries that runs of this frontend have accepted: ``HOST/PROJECT/VO``.

Another frontend may offer the same project to other VOs by the same backend, so the tags of a
project do not say whose lists it has. The file is a JSON list. One that cannot be read holds none:
at worst, images of ended lists stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from appliance.core import json_file
from cloudkeeper.model import ListId

_LARGEST = 2**22


def read(path: Path) -> frozenset[ListId]:
    """Return the identifiers of the lists."""
    try:
        found = json_file.read(path, limit=_LARGEST)
    except (OSError, ValueError):
        return frozenset()
    names = found if isinstance(found, list) else []
    return frozenset(ListId(name) for name in names if isinstance(name, str))


def note(path: Path, accepted: Iterable[ListId]) -> None:
    """Remember lists as accepted.

    Raises:
        LocalFailure: the file cannot be written.

    """
    known = read(path)
    if not known >= (new := known | set(accepted)):
        json_file.write(path, sorted(new))


def forget(path: Path, gone: Iterable[ListId]) -> None:
    """Remove lists.

    Raises:
        LocalFailure: the file cannot be written.

    """
    json_file.write(path, sorted(read(path) - set(gone)))
