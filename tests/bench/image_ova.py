"""The OVA of a raw disk beside qemu-img, which makes the VMDK alone.

The VMDK of qemu-img has neither footer nor end of stream; that aside, both deflate the same grains
by the same library. What an OVA needs besides, a digest of the disk and a copy into an archive, is
measured as the commands that an administrator would type after qemu-img.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench import usage
from tests.bench.usage import Usage

_MIB = 2**20
_CONVERT = "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized {raw} peer.vmdk"
_WRAP = "sha256sum peer.vmdk >peer.mf && tar -cf peer.ova --format=ustar peer.mf peer.vmdk"


def _blocks(size: int) -> Iterator[bytes]:
    """Yield MiBs that deflate to about a half everywhere, as programs do."""
    plain = bytes(range(256))
    for _ in range(size):
        noise = os.urandom(_MIB // 2)
        yield b"".join(noise[at : at + 256] + plain for at in range(0, _MIB // 2, 256))


def _make(raw: Path, size: int) -> None:
    """Make a disk with ``size`` MiB of data in pieces of 16 MiB, and as many holes."""
    with raw.open("wb") as file:
        for number, block in enumerate(_blocks(size)):
            file.seek((number + number // 16 * 16) * _MIB)
            file.write(block)
        file.truncate(2 * size * _MIB)


def _row(case: str, value: float, unit: str) -> None:
    print(f"image_ova\t{case}\t{value:.2f}\t{unit}", flush=True)


def _show(name: str, used: Usage) -> None:
    for what, value, unit in (
        ("CPU", used.cpu, "s"),
        ("wall", used.wall, "s"),
        ("memory", used.memory, "MiB"),
    ):
        _row(f"{name}: {what}", value, unit)


def measure(raw: Path, directory: Path) -> None:
    """Print the rows of one run on a raw disk; files go to a directory."""
    os.sync()

    def shell(text: str) -> Usage:
        command = f"cd {directory} && {text.format(raw=raw)}"
        return usage.run(["/bin/bash", "-c", command])

    converted, wrapped = shell(_CONVERT), shell(_WRAP)
    ours = usage.run([sys.executable, "-m", "deploy.ova", str(raw), "--into", str(directory)])
    (ova,) = directory.glob("FedCloud-*.ova")
    _show("ours", ours)
    _show("qemu-img", converted)
    _row("qemu-img + sha256sum + tar: wall", converted.wall + wrapped.wall, "s")
    _row("ours: CPU", ours.cpu / converted.cpu, "x qemu-img")
    peer = Usage(converted.wall + wrapped.wall, converted.cpu + wrapped.cpu, 0)
    _row("ours: CPU", ours.cpu / peer.cpu, "x qemu-img + sha256sum + tar")
    _row("ours: wall", ours.wall / peer.wall, "x qemu-img + sha256sum + tar")
    _row("ours: size of the OVA", ova.stat().st_size / _MIB, "MiB")
    _row("qemu-img: size of the VMDK", (directory / "peer.vmdk").stat().st_size / _MIB, "MiB")
    subprocess.run(["tar", "xf", ova, "-C", directory, "--wildcards", "*.vmdk"], check=True)
    (disk,) = directory.glob("FedCloud-*.vmdk")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", raw, disk], check=True)


def main() -> None:
    """Measure a disk that is made, or a given one."""
    parser = argparse.ArgumentParser(prog="scripts/bench image_ova", description=__doc__)
    parser.add_argument("raw", nargs="?", type=Path, help="raw disk (default: one that is made)")
    parser.add_argument("--size", type=int, default=512, help="MiB of data (default: 512)")
    parser.add_argument("--times", type=int, default=1, help="runs (default: 1)")
    arguments = parser.parse_args()
    for _ in range(arguments.times):
        with tempfile.TemporaryDirectory(prefix="ova", dir="/var/tmp") as directory:
            raw = arguments.raw
            if raw is None:
                raw = Path(directory, "disk.raw")
                _make(raw, arguments.size)
            measure(raw.absolute(), Path(directory))


if __name__ == "__main__":
    main()
