"""Debian's ``qemu-img``, kept on a short lead: fixed formats, files only, limits of memory, time and output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from appliance.core.run.errors import LocalFailure
from cloudkeeper.frontend.formats import Disk, Unusable, check_virtual_size
from cloudkeeper.model import Format

_MEMORY = 2 * 2**30
_SLOWEST = 10 * 2**20
"""Bytes of disk a second that a conversion must at least do, beside the time it is given anyway."""
_OVERHEAD = 64 * 2**20


@dataclass(frozen=True, slots=True)
class QemuImg:
    """The program at ``binary``; ``patience`` is what every call may take, to which a conversion adds for its size."""

    binary: Path = Path("/usr/bin/qemu-img")
    patience: timedelta = timedelta(seconds=600)

    def virtual_size(self, disk: Disk) -> int:
        """Return the size in bytes of the disk that a machine will see.

        :raises Unusable: it cannot be opened, is too large, or consists of more than its one file
        :raises LocalFailure: the program is missing
        """
        told = self._ask("info", disk)
        details = told.get("format-specific", {}).get("data", {})
        if told.get("backing-filename") or told.get("encrypted") or details.get("data-file"):
            raise Unusable(
                disk.path.name, "depends on another file or on a key; an image must be complete"
            )
        if len(details.get("extents", ())) > 1:
            raise Unusable(disk.path.name, "has several extents; an image must be one file")
        size = int(told["virtual-size"])
        # a VMDK may have a second header at its end, which is the one that counts
        check_virtual_size(disk.path, size)
        return size

    def needed_bytes(self, disk: Disk) -> int:
        """Return how much room the disk takes when it is written anew, holes left out."""
        return int(self._ask("measure", disk, "-O", str(Format.QCOW2))["required"])

    def convert(self, disk: Disk, into: Format, target: Path) -> None:
        """Write the disk to ``target`` in another format.

        :raises Unusable: the conversion fails or does not end in time
        """
        size = self.virtual_size(disk)
        patience = self.patience + timedelta(seconds=size // _SLOWEST)
        limit = size + size // 50 + _OVERHEAD
        self._run(
            disk,
            ["convert", "-O", str(into), *_source(disk), str(target)],
            patience=patience,
            largest_file=limit,
        )

    def _ask(self, command: str, disk: Disk, *options: str) -> dict[str, Any]:
        arguments = [command, "--output=json", *options, *_source(disk)]
        told = json.loads(self._run(disk, arguments, patience=self.patience, largest_file=0))
        if not isinstance(told, dict):
            raise Unusable(disk.path.name, f"qemu-img {command} told nothing of it")
        return told

    def _run(
        self, disk: Disk, arguments: list[str], *, patience: timedelta, largest_file: int
    ) -> str:
        seconds = int(patience.total_seconds())
        limits = [f"--as={_MEMORY}", f"--cpu={seconds}", f"--fsize={largest_file}", "--core=0"]
        command = ["prlimit", *limits, "--", str(self.binary), *arguments]
        if not os.access(self.binary, os.X_OK):
            raise LocalFailure(
                self.binary,
                "is no program that can be run",
                "install qemu-utils, or correct qemu-img",
            )
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, complaint = process.communicate(timeout=seconds)
            except (
                BaseException
            ) as error:  # also of an interrupt: the program must not outlive this one
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise Unusable(
                        disk.path.name, f"qemu-img did not end within {seconds} s"
                    ) from None
                raise
        if process.returncode:
            told = " ".join(complaint.replace(str(disk.path), disk.path.name).split())[-300:]
            raise Unusable(
                disk.path.name,
                f"qemu-img {arguments[0]} failed ({process.returncode}): {told or 'no words'}",
            )
        return output


def _source(disk: Disk) -> list[str]:
    """Return the arguments that name a disk: one file of one format, and no other way to read them."""
    file: dict[str, Any] = {"driver": "file", "filename": str(disk.path)}
    if disk.offset is not None:
        file = {"driver": "raw", "offset": disk.offset, "size": disk.size, "file": file}
    return [f"json:{json.dumps({'driver': str(disk.format), 'file': file})}"]
