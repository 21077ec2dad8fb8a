"""The machine that a site runs on: the kernel's files, and the commands that report its state."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LIMIT = 8
"""Seconds that a command may take."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine; tests have one with other directories."""

    proc: Path = Path("/proc")
    run: Path = Path("/run")
    path: str = _PATH
    """The directories of commands, separated by colons."""

    @property
    def has_systemd(self) -> bool:
        """Check whether systemd is the machine's first process, sd_booted(3)."""
        return (self.run / "systemd/system").is_dir()

    def ask(self, command: Sequence[str]) -> tuple[int, str]:
        """Return exit status and output of a command; 127 if there is none, 124 if it hangs."""
        words = ["/usr/bin/env", "-i", f"PATH={self.path}", "LC_ALL=C.UTF-8", *command]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return 124, ""
        except OSError:
            return 127, ""
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def is_active(self, unit: str) -> bool:
        """Check whether systemd runs a unit."""
        return self.ask(["systemctl", "is-active", "--quiet", unit])[0] == 0

    def state(self, unit: str) -> str:
        """Return systemd's word for the state of a unit: active, failed, activating, inactive."""
        return self.ask(["systemctl", "is-active", unit])[1].strip()

    def text(self, name: str) -> str:
        """Return a file of the kernel, ``meminfo``; empty if it cannot be read."""
        try:
            return (self.proc / name).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def memory(self) -> int:
        """Return the bytes of memory that the kernel has; 0 if it does not say."""
        for line in self.text("meminfo").splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if name == "MemTotal" and words[:1] and words[0].isdecimal():
                return int(words[0]) * 1024
        return 0
