"""Conversion of disk images by ``qemu-img``, under limits of memory, time and output.

qemu-img reads images that anybody may have written. It gets fixed formats, so that it does not
guess, and only the ``file`` driver, so that it opens no network connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.core.run.errors import LocalFailure
from cloudkeeper.formats import Disk, Unusable, check_virtual_size
from cloudkeeper.model import Format

# Bytes of address space.
_MEMORY = 2 * 2**30
# Without the last, each of its threads reserves address space of its own.
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "MALLOC_ARENA_MAX": "2",
}
_MISSING = "is not an executable program"
_INSTALL = "install qemu-utils, or correct qemu-img in cloudkeeper.yml"
# Bytes of disk a second: the slowest rate of a conversion, for the time beyond ``patience``.
_SLOWEST = 10 * 2**20
_FULL = os.strerror(errno.ENOSPC)
# Bytes that a target may have beyond its disk, together with 2 % of the disk, for its tables.
_OVERHEAD = 64 * 2**20
# Seconds for the program to say its version.
_QUICK = 20
_VERSION = re.compile(r"version ([0-9][0-9A-Za-z.+~-]{0,40})", re.ASCII)
# `qemu-img measure` came with this release, in 2017.
_OLDEST = (2, 10)


@dataclass(frozen=True, slots=True)
class QemuImg:
    """The program at ``binary``; ``patience`` limits a call, a conversion gets more by its size."""

    binary: Path = Path("/usr/bin/qemu-img")
    patience: timedelta = timedelta(seconds=600)

    def fault(self) -> str:
        """Return why the program cannot be used, and the remedy; empty if it can."""
        if not os.access(self.binary, os.X_OK):
            return f"{self.binary} {_MISSING}; {_INSTALL}"
        found = re.search(r"([0-9]+)\.([0-9]+)", _named(self.binary))
        if found is None:
            return f"{self.binary} does not report its version; {_INSTALL}"
        if (int(found[1]), int(found[2])) < _OLDEST:
            least = ".".join(map(str, _OLDEST))
            return f"{self.name} is older than {least}, the first that can be used; {_INSTALL}"
        return ""

    def virtual_size(self, disk: Disk) -> int:
        """Return the size in bytes of the disk that a server will see.

        Raises:
            Unusable: the disk cannot be opened, is too large, or consists of several files.
            LocalFailure: the program is missing.

        """
        found = self._ask("info", disk)
        details = found.get("format-specific", {}).get("data", {})
        # `formats` has checked the headers; this checks how the program itself reads them.
        if found.get("backing-filename") or found.get("encrypted") or details.get("data-file"):
            raise Unusable(
                disk.path.name, "depends on another file or on a key; an image must be complete"
            )
        if len(details.get("extents", ())) > 1:
            raise Unusable(disk.path.name, "has several extents; an image must be one file")
        size = int(found["virtual-size"])
        # A VMDK may have a second header at its end, and qemu-img uses that one.
        check_virtual_size(disk.path.name, size)
        return size

    def needed_bytes(self, disk: Disk) -> int:
        """Return the bytes that a copy of the disk needs, without its holes."""
        return int(self._ask("measure", disk, "-O", str(Format.QCOW2))["required"])

    def convert(self, disk: Disk, into: Format, target: Path) -> None:
        """Write the disk to ``target`` in another format.

        Raises:
            Unusable: the conversion fails or does not end in time.
            LocalFailure: the file system is full.

        """
        size = self.virtual_size(disk)
        patience = self.patience + timedelta(seconds=size // _SLOWEST)
        limit = size + size // 50 + _OVERHEAD
        self._run(
            disk,
            ["convert", "-O", into.driver, *_source(disk), str(target)],
            patience=patience,
            largest_file=limit,
        )

    @property
    def name(self) -> str:
        """The program and its version, as far as it says one."""
        return _named(self.binary)

    def _ask(self, command: str, disk: Disk, *options: str) -> dict[str, Any]:
        arguments = [command, "--output=json", *options, *_source(disk)]
        found = json.loads(self._run(disk, arguments, patience=self.patience, largest_file=0))
        if not isinstance(found, dict):
            raise Unusable(disk.path.name, f"qemu-img {command} reported nothing")
        return found

    def _run(
        self, disk: Disk, arguments: list[str], *, patience: timedelta, largest_file: int
    ) -> str:
        seconds = int(patience.total_seconds())
        limits = [f"--as={_MEMORY}", f"--cpu={seconds}", f"--fsize={largest_file}", "--core=0"]
        # prlimit(1) sets the limits and becomes the program; preexec_fn is not safe with threads.
        command = ["prlimit", *limits, "--", str(self.binary), *arguments]
        if not os.access(self.binary, os.X_OK):
            raise LocalFailure(self.binary, _MISSING, _INSTALL)
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_ENVIRONMENT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            _running.add(process.pid)
            try:
                output, complaint = process.communicate(timeout=seconds)
            except BaseException as error:
                # Also at an interrupt: the program, in a session of its own, would go on.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise Unusable(
                        disk.path.name, f"qemu-img did not end within {seconds} s"
                    ) from None
                raise
            finally:
                _running.discard(process.pid)
        if process.returncode:
            if _FULL in complaint:
                raise LocalFailure(
                    disk.path.parent,
                    "the file system became full during a conversion",
                    "free some space; the next run retries",
                )
            words = " ".join(complaint.replace(str(disk.path), disk.path.name).split())[-300:]
            raise Unusable(
                disk.path.name,
                f"qemu-img {arguments[0]} failed ({process.returncode}): {words or 'no message'}",
            )
        return output


def choose_target(
    found: Format, accepted: Sequence[Format], *, name: str, is_refused: bool
) -> Format | None:
    """Return the format to convert a file to; None if it is uploaded as it is.

    If Glance refuses the file as it is (``is_refused``), it is rewritten. The data of a raw disk
    stay the same in a raw file, so that it needs another format; without one Glance decides.

    Raises:
        Unusable: no accepted format is one that the file can be converted to.

    """
    if found in accepted and not is_refused:
        return None
    if found is Format.ISO:
        raise Unusable(
            name,
            "is an ISO image, which starts as a CD but not as a disk",
            "in cloudkeeper.yml, add iso to formats to offer it as a CD",
        )
    targets = [each for each in accepted if each.is_target]
    if is_refused and found is Format.RAW:
        targets = [each for each in targets if each is not Format.RAW]
    if found in targets:
        return found
    if targets:
        return targets[0]
    if found in accepted:
        return None
    raise Unusable(
        name,
        f"cannot be converted to {accepted[0]}, the only accepted format",
        "in cloudkeeper.yml, add a disk format to formats",
    )


@functools.cache  # it stays the same during a run
def _named(binary: Path) -> str:
    command = [str(binary), "--version"]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=_ENVIRONMENT,
            timeout=_QUICK, check=True, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # the conversion itself reports what is wrong
        found = ""
    version = _VERSION.search(found)
    return f"qemu-img {version[1]}" if version else "qemu-img"


_running: set[int] = set()


def end_all() -> None:
    """Kill the programs of all threads: the process is about to stop."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def _source(disk: Disk) -> list[str]:
    """Return the argument for a disk: one file in one format, without any guess of qemu-img."""
    file: dict[str, Any] = {"driver": "file", "filename": str(disk.path)}
    if disk.offset is not None:
        file = {"driver": "raw", "offset": disk.offset, "size": disk.size, "file": file}
    return [f"json:{json.dumps({'driver': disk.format.driver, 'file': file})}"]
