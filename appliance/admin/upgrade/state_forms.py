"""The forms of the state before and after an upgrade, and whether there is a way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from appliance.core import files, state_tables
from appliance.core.run.layout import Layout
from appliance.core.state_tables import StateForm

_HEADER, _PLACE = b"SQLite format 3\0", 60
"""What a file of SQLite begins with, and where its header has the ``user_version``."""
_LARGEST = 2**20
_FORMS = state_tables.FORMS


def of_bundle(top: Path) -> tuple[StateForm, ...]:
    """Return the forms of the release in a bundle; none if it is of a release without them."""
    path = top / state_tables.BUNDLE_FILE
    try:
        return state_tables.read(files.read_regular(path, limit=_LARGEST).decode())
    except (OSError, ValueError):
        return ()


def lines(wanted: tuple[StateForm, ...], before: str, layout: Layout) -> Iterator[str]:
    """Yield a line for each form: from, to, and what a way back to ``before`` does with it."""
    if not wanted:
        yield "state: this bundle does not say which forms it has"
    for one in wanted:
        now = _present(one, layout)
        yield f"{one.name}: {now or 'none'} -> {one.version}; {_way_back(one, now, before)}"


def _way_back(form: StateForm, now: int, before: str) -> str:
    if form.is_remade:
        return f"after a way back {before} makes its own again"
    if not now:
        return f"after a way back {before} leaves it alone"
    if now >= form.version:
        return "a way back changes nothing"
    if now >= form.readable_by:
        return f"after a way back {before} reads it as it is"
    return f"NO WAY BACK after the first run: {before} cannot read it"


def _present(form: StateForm, layout: Layout) -> int:
    """Return the version that this host has; 0 without one. Nothing is opened for writing."""
    path = layout.path(form.path)
    if path.is_dir():
        return 1 if any(path.iterdir()) else 0
    try:
        with files.open_regular(path) as file:
            header = file.read(_PLACE + 4)
    except OSError:
        return 0
    is_whole = header.startswith(_HEADER) and len(header) == _PLACE + 4
    return int.from_bytes(header[_PLACE:], "big") if is_whole else 0


def prevents_way_back(name: str, now: int, tables: int) -> bool:
    """Return whether programs that know ``tables`` cannot use a file of version ``now``."""
    for one in _FORMS:
        is_readable = now <= one.version and tables >= one.readable_by
        if one.path == name and (one.is_remade or is_readable):
            return False
    return now > tables
