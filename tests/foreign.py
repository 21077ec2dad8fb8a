"""What others leave in directories of our programs, and a user who may not use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

NAMES = ("directory", "dangling", "loop", "pipe", "socket", "device", "\udcff\n'x", "locked")
NOBODY = 65534
_DROP = (
    f"import os\nif os.geteuid() == 0: os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
)


def make(directory: Path, *, prefix: str = "", suffix: str = "") -> list[Path]:
    """Make one of each kind under ``prefix`` + name + ``suffix``, and return what was made.

    A device is made by root only. ``locked`` is a directory that none but its owner may enter.
    """

    def path(name: str) -> Path:
        return directory / f"{prefix}{name}{suffix}"

    directory.mkdir(parents=True, exist_ok=True)
    path("directory").mkdir()
    path("dangling").symlink_to("nowhere")
    path("loop").symlink_to(path("loop").name)
    os.mkfifo(path("pipe"))
    # paths of sockets are short
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(directory):
        server.bind(path("socket").name)
    with contextlib.suppress(PermissionError):
        os.mknod(path("device"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(path("\udcff\n'x"))
    path("locked").mkdir(mode=0o700)
    return [path(name) for name in NAMES if os.path.lexists(path(name))]


@contextlib.contextmanager
def open_to_all() -> Iterator[Path]:
    """Yield a directory that every user may enter and change; pytest's own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="foreign-"))
    try:
        directory.chmod(0o777)
        yield directory
    finally:
        shutil.rmtree(directory)


def as_nobody(
    code: str, *, modules: str = "appliance.core.files, caso.messengers.batch, bdii.service.state"
) -> str:
    """Run Python code, our modules at hand, as a user who owns nothing; return its output."""
    modules = f"import {modules}\n"  # before the checkout may be closed to us
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    words = [sys.executable, "-c", f"{modules}{_DROP}{code}"]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, timeout=60, env=env
    ).stdout


@contextlib.contextmanager
def acting_as_nobody() -> Iterator[str]:
    """Let this process act as a user who owns nothing, if it is root's; yield its user and group as
    chown has them.

    For code that has imported all that it needs, and whose coverage is wanted.
    """
    if os.geteuid() != 0:
        yield f"{os.geteuid()}:{os.getegid()}"
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield f"{NOBODY}:{NOBODY}"
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@contextlib.contextmanager
def small_disk(directory: Path, *, size: str) -> Iterator[Path]:
    """Yield a small file system at ``directory``: for tests that are marked with root."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True
    )
    try:
        yield directory
    finally:
        # at once, also while a failed test still has files open there
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass


def remount(directory: Path, options: str) -> None:
    """Change the options of a file system, such as ``ro``."""
    command = ["mount", "-o", f"remount,{options}", str(directory)]
    subprocess.run(command, check=True)
