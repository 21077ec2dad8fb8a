"""Change of owner for files that earlier releases, running as root, have left."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.admin import account
from appliance.admin.inventory import CONTAINERS

_STATE = ("caso", "ssm", "cloudkeeper", "cloudkeeper-os", "cloud-info", "bdii")
PLACES = (
    *("/var/spool/apel", "/var/spool/caso", "/image_data"),
    *(f"/var/lib/fedcloud/{name}" for name in _STATE),
    # Not the directory above: root writes the records of jobs there.
    *(f"/var/lib/fedcloud/runs/{name}" for name in CONTAINERS),
)


def give(top: Path) -> tuple[int, list[Path]]:
    """Give a directory and all below it to the account.

    No link below it is followed, and other file systems are left out. A file with several hard
    links keeps its owner, because another name may be a file of the system. Returns how many owners
    changed, and the files with several links.
    """
    changed, doubtful = 0, list[Path]()
    for name, status, path, descriptor in _walk(top):
        if _is_doubtful(status):
            doubtful.append(path)
        else:
            changed += _give(name, status, path, descriptor)
    return changed, doubtful


def count(top: Path) -> int:
    """Return how many owners `give` would change."""
    return sum(not _is_ours(status) and not _is_doubtful(status) for _, status, _, _ in _walk(top))


def _walk(top: Path) -> Iterator[tuple[str, os.stat_result, Path, int | None]]:
    """Yield a directory and all below it on its file system: name, status, path and descriptor.

    The name is relative to the directory of the descriptor; without one, the path counts.
    """
    if not top.is_dir():
        return
    device = top.lstat().st_dev
    yield top.name, os.lstat(top), top, None
    # By descriptors: the account can replace a directory by a link while root walks below it.
    for directory, folders, names, descriptor in os.fwalk(top, follow_symlinks=False):
        for name in [*folders, *names]:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            # Another file system, such as a volume that the administrator has mounted here.
            if status.st_dev != device:
                if name in folders:
                    folders.remove(name)
            else:
                yield name, status, Path(directory, name), descriptor


def _is_doubtful(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and not _is_ours(status)


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

    The directories above are root's. A link is therefore the administrator's, such as one to a
    volume for images, and is followed.
    """
    for place in PLACES:
        path = root / place.lstrip("/")
        if path.is_symlink():
            target = path.readlink()
            path = root / str(target).lstrip("/") if target.is_absolute() else path.parent / target
        yield path
