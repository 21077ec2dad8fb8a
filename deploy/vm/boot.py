"""The boot partition: a FAT file system that BIOS and UEFI boot from, made without a mount.

    /fedcloud/VERSION/{linux,initrd}  /loader/entries/  /syslinux.cfg   by boot-partition
    /EFI/BOOT/BOOTX64.EFI  /EFI/systemd/systemd-bootx64.efi             systemd-boot, for UEFI
    /ldlinux.sys  /ldlinux.c32  /menu.c32  /libutil.c32                 syslinux, for BIOS

BOOTX64.EFI is what a firmware starts that has no variables. `bootctl update`, which systemd runs,
renews both copies of systemd-boot.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deploy import images
from deploy.vm.identity import BuildIdentity

PROGRAM = "usr/lib/fedcloud/boot-partition"
MODULES = Path("/usr/lib/syslinux/modules/bios")
_LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_SETTINGS = "timeout 3\nconsole-mode keep\neditor no\n"


def make(tree: Path, target: Path, identity: BuildIdentity, *, size: int) -> None:
    """Make the file system of ``size`` bytes with the kernel of a tree."""
    place = tree / "boot/efi"
    images.quietly([tree / PROGRAM, "--root", tree, "--is-good"])
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
        (place / name).parent.mkdir(parents=True)
        shutil.copy(tree / _LOADER, place / name)
    (place / "loader/loader.conf").write_text(_SETTINGS)
    for name in ("ldlinux.c32", "menu.c32", "libutil.c32"):
        shutil.copy(MODULES / name, place)
    pack(place, target, identity, size=size)
    for path in place.iterdir():  # the machine mounts the partition here
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def pack(place: Path, target: Path, identity: BuildIdentity, *, size: int) -> None:
    """Make a FAT file system with the files of a directory, and syslinux."""
    target.unlink(missing_ok=True)
    for path in sorted(place.rglob("*")):
        os.utime(path, (identity.epoch, identity.epoch))
    # --invariant would set the serial number, too, so it comes before it.
    # For mtools: its clock, its zone, and no look at the geometry.
    settings = {
        "SOURCE_DATE_EPOCH": str(identity.epoch),
        "TZ": "UTC",
        "MTOOLS_SKIP_CHECK": "1",
    }
    images.quietly(
        ["mkfs.vfat", "-F", "32", "--invariant", "-n", "FEDCLOUD", "-i", identity.serial, "-C",
         target, str(size // 1024)]
    )  # fmt: skip
    tops = sorted(place.iterdir())
    images.quietly(["mcopy", "-i", target, "-s", "-m", "-Q", *tops, "::/"], settings)
    images.quietly(["syslinux", "--install", target], settings)
