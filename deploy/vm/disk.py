"""The disk: a GPT with the boot partition and the root file system, written without a mount.

    sector 0       gptmbr.bin of syslinux, which starts the partition with the attribute "legacy"
    1 MiB          boot, 512 MiB: three kernels beside each other, and one that is being written
    513 MiB        root, ext4; cloud-init makes both grow at the first start

Programs of the tree make the file system: the host's may not know an order of files that is the
same for every build.
"""

from __future__ import annotations

import os
from pathlib import Path

from deploy import images
from deploy.vm.identity import BuildIdentity

MIB = 2**20
SIZE = 8 * 2**30
_START = MIB
BOOT_SIZE = 512 * MIB
_ROOT_START = _START + BOOT_SIZE
_ROOT_SIZE = SIZE - _ROOT_START - MIB  # the copy of the partition table is at the end
_SECTOR = 512
MASTER = Path("/usr/lib/syslinux/mbr/gptmbr.bin")
_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
_LINUX_ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"


def make(tree: Path, boot: Path, target: Path, identity: BuildIdentity) -> None:
    """Write a raw disk from a tree and the file of a boot partition."""
    divide(target, identity)
    copy = ["dd", f"if={boot}", f"of={target}", "bs=1M", f"seek={_START // MIB}"]
    images.quietly([*copy, "conv=notrunc,sparse"])
    _make_root(tree, target, identity)


def divide(target: Path, identity: BuildIdentity) -> None:
    """Write an empty disk with a partition table, and the program that BIOS starts."""
    with target.open("wb") as file:
        file.truncate(SIZE)
    images.quietly(["sfdisk", "--quiet", "--no-reread", target], stdin=_table(identity))
    with target.open("r+b") as file:
        file.write(MASTER.read_bytes())


def _table(identity: BuildIdentity) -> str:
    def line(name: str, start: int, size: int, rest: str) -> str:
        place = f"start={start // _SECTOR}, size={size // _SECTOR}"
        return f"{place}, uuid={identity.uuid(name)}, name={name}, {rest}\n"

    return (
        f"label: gpt\nlabel-id: {identity.uuid('disk')}\nunit: sectors\n"
        + line("boot", _START, BOOT_SIZE, f'type={_ESP}, attrs="LegacyBIOSBootable"')
        + line("root", _ROOT_START, _ROOT_SIZE, f"type={_LINUX_ROOT}")
    )


def _make_root(tree: Path, target: Path, identity: BuildIdentity) -> None:
    library = tree / "usr/lib/x86_64-linux-gnu"
    # Run by the tree's own loader, not by chroot: the tree is its input.
    program: list[str | Path] = [
        library / "ld-linux-x86-64.so.2",
        "--library-path",
        library,
        tree / "usr/sbin/mke2fs",
    ]
    extended = [
        f"hash_seed={identity.uuid('hash seed')}",
        f"offset={_ROOT_START}",
        "root_owner=0:0",
        "assume_storage_prezeroed=1",
    ]
    words = ["-q", "-F", "-t", "ext4", "-m", "1", "-L", "fedcloud-root"]
    words += ["-U", str(identity.uuid("root file system")), "-E", ",".join(extended)]
    images.quietly(
        [*program, *words, "-d", tree, target, f"{_ROOT_SIZE // 1024}k"],
        {
            "SOURCE_DATE_EPOCH": str(identity.epoch),
            "MKE2FS_CONFIG": os.fspath(tree / "etc/mke2fs.conf"),
        },
    )


def compress(raw: Path, target: Path) -> None:
    """Convert a raw disk to a qcow2 whose clusters zlib compresses, which every Glance reads."""
    options = "compat=1.1,compression_type=zlib"
    words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options]
    images.quietly([*words, raw, target])
