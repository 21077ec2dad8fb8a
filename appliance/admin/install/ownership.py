"""Giving the account of the containers what releases that ran as root have left in its directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.admin import account
from appliance.admin.inventory import CONTAINERS

_STATE = ("caso", "ssm", "cloudkeeper", "cloudkeeper-os", "bdii")
PLACES = (
    *("/var/spool/apel", "/var/spool/caso", "/image_data"),
    *(f"/var/lib/fedcloud/{name}" for name in _STATE),
    # The directory that these are in is root's, who writes the jobs' own records there.
    *(f"/var/lib/fedcloud/runs/{name}" for name in CONTAINERS),
)


def give(top: Path) -> tuple[int, list[Path]]:
    """Give a directory and all below it to the account, following no link below it and leaving no file system.

    Returns how many things changed hands, and files with a second name somewhere, which are left as
    they are: that name may be one of the system's.
    """
    changed, doubtful = 0, list[Path]()
    if not top.is_dir():
        return changed, doubtful
    device = top.lstat().st_dev
    changed += _give(top.name, os.lstat(top), top, None)
    for directory, folders, names, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in [*folders, *names]:
            path = Path(directory, name)
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if status.st_dev != device:
                if name in folders:
                    folders.remove(name)
            elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and not _is_ours(status):
                doubtful.append(path)
            else:
                changed += _give(name, status, path, descriptor)
    return changed, doubtful


def _is_ours(status: os.stat_result) -> bool:
    return (status.st_uid, status.st_gid) == (account.ID, account.ID)


def _give(name: str, status: os.stat_result, path: Path, descriptor: int | None) -> int:
    if _is_ours(status):
        return 0
    target = path if descriptor is None else name
    os.chown(target, account.ID, account.ID, dir_fd=descriptor, follow_symlinks=False)
    return 1


def places(root: Path) -> Iterator[Path]:
    """Yield the directories that belong to the account.

    Their names stand in directories of root's: a link there is the administrator's, such as one to
    a volume for images.
    """
    for place in PLACES:
        path = root / place.lstrip("/")
        if path.is_symlink():
            target = path.readlink()
            path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
        yield path
