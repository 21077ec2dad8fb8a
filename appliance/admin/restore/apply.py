"""Carrying out a restore: each file appears complete, and a killed run is finished by the next.

A mark is written before the first file and removed after the last; meanwhile no job starts. Files
of the account are written as the account, because it can replace directories by links.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import BinaryIO

from appliance.admin import account, changing
from appliance.admin.backup import archive
from appliance.admin.backup.der import DamagedBackup
from appliance.admin.backup.envelope import Unlock
from appliance.admin.install.ownership import PLACES
from appliance.admin.restore.plan import RestoredFile, RestorePlan
from appliance.admin.state import mark
from appliance.core import files
from appliance.core.run.layout import Layout

_ASIDE = "/var/lib/fedcloud/replaced"
_PIECE = 2**16
_BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite has beside a database."""


def run(plan: RestorePlan, path: Path, unlock: Unlock | None, layout: Layout) -> None:
    """Write what a plan has; the caller holds the locks.

    Raises:
        Unavailable: The backup has been altered since the plan was made; the mark stays.

    """
    begun = changing.restore_mark(layout)
    files.make_directory(begun.parent, mode=0o755)
    files.write_atomic(begun, f"{plan.digest}\n".encode(), mode=0o600)
    for one in plan.directories:
        _make(one, layout)
    wanted = {one.name: one for one in plan.writes}

    def take(name: str, _member: tarfile.TarInfo, content: BinaryIO) -> None:
        if one := wanted.get(name):
            _put(one, content, plan, layout)

    archive.read(path, unlock, take)
    mark.restored(layout)
    begun.unlink()
    files.sync_directory(begun.parent)


def _make(one: RestoredFile, layout: Layout) -> None:
    path = layout.path(one.target)
    if path.is_dir():
        return
    if one.name in PLACES:  # the directory above is root's
        files.make_directory(path, mode=one.mode)
        os.chown(path, account.ID, account.ID)
        return
    with _as_owner(one):
        files.make_directory(path, mode=one.mode)


def _as_owner(one: RestoredFile) -> ExitStack:
    stack = ExitStack()
    if one.is_of_account:
        stack.enter_context(account.as_account())
    return stack


def _put(one: RestoredFile, content: BinaryIO, plan: RestorePlan, layout: Layout) -> None:
    path = layout.path(one.target)
    if one.name in plan.manifest.schemas:
        with _as_owner(one):
            _settle(path)
    if one.name in plan.replaced:
        _keep_aside(path, layout)
    owner = (account.ID, account.ID) if one.is_of_account else (0, one.group)
    pieces = _verified(content, plan.manifest.digests[one.name], one.name)
    if path.is_symlink():
        path = path.resolve()  # the administrator has moved the file; the link stays
    parent_mode = 0o750 if one.is_of_account else 0o755
    if not path.parent.is_dir():
        _make(RestoredFile(one.name, _parent(one.target), parent_mode, one.group, True), layout)
    with _as_owner(one):
        files.write_atomic(path, pieces, mode=one.mode, owner=owner)


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _verified(content: BinaryIO, digest: str, name: str) -> Iterator[bytes]:
    """Yield a content; it must be the one that was read for the plan."""
    hashed = hashlib.sha256()
    while piece := content.read(_PIECE):
        hashed.update(piece)
        yield piece
    if hashed.hexdigest() != digest:
        raise DamagedBackup(f"{name} has changed while it was read")


def _settle(path: Path) -> None:
    """Bring a database of this host to one file, so that nothing of it meets the new one."""
    if path.exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for suffix in _BESIDE:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _keep_aside(path: Path, layout: Layout) -> None:
    """Keep the present file below ``/var/lib/fedcloud/replaced``, before it is replaced."""
    kept = layout.path(_ASIDE) / path.relative_to(layout.root)
    files.make_directory(kept.parent, mode=0o700)
    temporary = kept.with_name(f".{kept.name}.tmp")
    shutil.copy2(path, temporary)
    status = path.stat()
    os.chown(temporary, status.st_uid, status.st_gid)
    os.replace(temporary, kept)
    files.sync_directory(kept.parent)
