"""`cloudkeeper` as its users start it, disks of every format, and independent checks of them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from cloudkeeper.cmds import frontend

PROGRAM = Path(sys.prefix) / "bin" / "cloudkeeper"
BOOT_SECTOR = (
    bytes(446) + struct.pack("<BBHBBHII", 0x80, 0, 2, 0x83, 0, 3, 1, 2047) + bytes(48) + b"\x55\xaa"
)
"""A partition table with one entry: Glance accepts no raw disk without."""


@dataclass
class Done:
    """The output of a run."""

    returncode: int
    stdout: str
    stderr: str


def run(*command: str) -> Done:
    """Run the program's main function in this process; starting Python takes longer than a test."""
    output, errors = io.StringIO(), io.StringIO()
    handler, mask = signal.getsignal(signal.SIGTERM), os.umask(0o022)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = frontend.main(command)
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.umask(mask)
        logging.captureWarnings(capture=False)
        for opened in logging.getLogger().handlers[:]:
            if isinstance(opened, logging.FileHandler):
                logging.getLogger().removeHandler(opened)
                opened.close()
    return Done(status, output.getvalue(), errors.getvalue())


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def sha512(content: bytes) -> str:
    """Return the SHA-512 by coreutils."""
    done = subprocess.run(["sha512sum"], input=content, capture_output=True, check=True)
    return done.stdout.split()[0].decode()


def make_disks(path: Path) -> dict[str, bytes]:
    """Return small images by name: disk ``one`` in every format, disk ``two`` as raw and qcow2."""
    for name in ("one", "two"):
        raw = path / f"{name}.raw"
        raw.write_bytes(BOOT_SECTOR + f"content of disk {name} ".encode() * 9000)
        os.truncate(raw, 2**20)
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path / f"{name}.qcow2")
    options = ("-o", "subformat=streamOptimized")
    qemu_img("convert", "-f", "raw", "-O", "vmdk", *options, path / "one.raw", path / "one.vmdk")
    (path / "one.ovf").write_text("<Envelope/>")
    with tarfile.open(path / "one.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("one.ovf", "one.vmdk"):
            archive.add(path / name, arcname=name)
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix != ".ovf"}
