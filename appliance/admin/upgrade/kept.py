"""Files that an upgrade replaces, kept for the way back: units, compose file, configuration.

They come back only where the newer version's own text is still there: what was edited since stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.admin.install import units
from appliance.admin.install.plan import ACTIVE_TABLES, IDLE_TABLES, digest
from appliance.admin.install.record import InstallRecord
from appliance.core import files
from appliance.core.run.layout import Layout

FOLDER = "/var/lib/fedcloud/upgrade"
_FILES = "files"
_RECORD = "/var/lib/fedcloud/install.json"


def keep(names: Iterable[str], layout: Layout) -> None:
    """Copy files, with owner and mode, in place of those that an upgrade before has kept."""
    top = layout.path(FOLDER) / _FILES
    shutil.rmtree(top, ignore_errors=True)
    for name in names:
        path, copy = layout.path(name), top / name.lstrip("/")
        if path.is_file():
            files.make_directory(copy.parent, mode=0o700)
            status = path.stat()
            owner = (status.st_uid, status.st_gid)
            mode = status.st_mode & 0o7777
            files.write_atomic(copy, path.read_bytes(), mode=mode, owner=owner)


@dataclass(frozen=True, slots=True)
class Returned:
    """A file that came back."""

    name: str
    changes_service: bool
    """Whether a service that runs must be restarted for it."""


def give_back(layout: Layout) -> Iterator[Returned]:
    """Bring the kept files back, and yield them; running it again changes nothing more."""
    top, record = layout.path(FOLDER) / _FILES, InstallRecord.read(layout.path(_RECORD))
    for copy in sorted(top.rglob("*")):
        if not copy.is_file():
            continue
        name = f"/{copy.relative_to(top)}"
        path = layout.path(name)
        key = name.replace(IDLE_TABLES, ACTIVE_TABLES, 1)
        shipped = record.shipped.setdefault(key, [])
        before, now = copy.read_bytes(), path.read_bytes() if path.is_file() else b""
        if before == now or digest(now) not in shipped:
            continue
        # So that a later installation knows the text as one of ours.
        record.shipped[key] = list(dict.fromkeys([*shipped, digest(before)]))
        record.write(layout.path(_RECORD))
        _put(copy, path, before)
        yield Returned(name, "/systemd/" in name and units.changes_service(now, before))


def _put(copy: Path, path: Path, text: bytes) -> None:
    status = copy.stat()
    target = path.resolve()  # a link to it stays
    owner = (status.st_uid, status.st_gid)
    files.write_atomic(target, text, mode=status.st_mode & 0o7777, owner=owner)
