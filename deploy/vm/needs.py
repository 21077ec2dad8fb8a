"""What a build of the image needs of this host: root, programs, room on the disk, and a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from appliance.admin.upgrade.bundle import VerifiedBundle, verified
from appliance.core.run.errors import Unavailable, UsageError
from deploy.vm import boot, disk

ROOM = 4 * 10**9
"""Bytes that a build writes at most, the packages in its cache included."""
PROGRAMS: Mapping[str, str] = {
    "dd": "coreutils",
    "dockerd": "docker.io",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "qemu-img": "qemu-utils",
    "sfdisk": "fdisk",
    "syslinux": "syslinux",
    "tar": "tar",
    "unshare": "util-linux",
}
"""The Debian package of each program."""
FILES: Mapping[Path, str] = {disk.MASTER: "syslinux-common", boot.MODULES: "syslinux-common"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def check_host(path: str = _PATH, *, user: int | None = None) -> None:
    """Check that this is root, and that every program is here.

    Raises:
        UsageError: Another account runs the build.
        Unavailable: Programs are missing; the remedy names their packages.

    """
    if (os.geteuid() if user is None else user) != 0:
        raise UsageError("build-image", "only root can build an image", "run it with sudo")
    packages = {word for name, word in PROGRAMS.items() if shutil.which(name, path=path) is None}
    packages |= {word for file, word in FILES.items() if not file.exists()}
    if packages:
        words = " ".join(sorted(packages))
        raise Unavailable(words, "not installed", f"apt-get install {words}")


def check_room(directory: Path, *, room: int = ROOM) -> None:
    """Check that the disk of an existing directory has room for a build.

    Raises:
        Unavailable: It has less.

    """
    free = shutil.disk_usage(directory).free
    if free < room:
        cause = f"{free / 10**9:.1f} GB are free, a build needs {room / 10**9:.1f} GB"
        raise Unavailable(directory, cause, "free space, or name another directory with --work")


def find_bundle(named: Path | None, dist: Path, work: Path) -> Path:
    """Return the directory of the bundle: the one that was named, else the newest in ``dist``.

    That of a tar is unpacked below ``work``.

    Raises:
        Unavailable: There is none, or the tar cannot be read.

    """
    if named is None:
        found = sorted(dist.glob("fedcloud-appliance-*"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise Unavailable(
                dist,
                "holds no bundle",
                "build one with scripts/build, or name a directory or a tar",
            )
        named = found[-1]
    if not named.exists():
        raise Unavailable(named, "there is no such bundle", "name a directory or a tar")
    return named if named.is_dir() else _unpack(named, work / "bundle")


def _unpack(path: Path, target: Path) -> Path:
    target.mkdir()
    command: list[str | Path] = [
        "tar",
        "-C",
        target,
        "--no-same-owner",
        "--no-same-permissions",
        "-xf",
        path,
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    tops = list(target.iterdir())
    if done.returncode or len(tops) != 1 or not tops[0].is_dir() or tops[0].is_symlink():
        raise Unavailable(path, "is not a tar of a bundle", "get the bundle again")
    return tops[0]


def check_bundle(path: Path, key: Path | None, work: Path) -> VerifiedBundle:
    """Return a bundle whose signature and checksums hold; without ``key`` it may be unsigned.

    Raises:
        Unavailable: It is altered, incomplete, not signed, or signed with another key.
        UsageError: The key cannot be used.

    """
    if key is not None and not key.is_file():
        raise UsageError(key, "there is no such key", "name the publisher's public key")
    return verified(path, key, work)
