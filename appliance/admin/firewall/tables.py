"""iptables and ip6tables, the programs that the engine uses too, with either backend."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.core.run.errors import AccessDenied, LocalFailure, Unavailable

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_WAIT = "10"
"""Seconds to wait for another program that holds the lock of the tables."""
_TIMEOUT = 60
_INSTALL = (
    "apt-get install iptables, or set firewall: bdii_egress: false in /etc/fedcloud/appliance.yaml"
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The packet filter of one version of IP."""

    version: int

    @property
    def program(self) -> str:
        """Return the name of the program."""
        return "iptables" if self.version == 4 else "ip6tables"  # noqa: PLR2004  of IP

    def exists(self) -> bool:
        """Return whether this host has this version of IP."""
        return self.version == 4 or Path("/proc/net/if_inet6").exists()  # noqa: PLR2004  of IP

    def is_installed(self) -> bool:
        """Return whether the program is installed; without it there cannot be a chain."""
        return shutil.which(self.program, path=_PATH) is not None

    def rules(self) -> list[str]:
        """Return all rules of the table filter, as ``-S`` prints them, without quotes.

        Raises:
            Unavailable: The program is missing or fails.

        """
        return [line.replace('"', "") for line in self._run("-w", _WAIT, "-S").splitlines()]

    def apply(self, changes: Sequence[str]) -> None:
        """Make all changes or none of them; rules that they do not name stay.

        Raises:
            Unavailable: The program is missing or fails.

        """
        # iptables-restore applies a table as a whole; --noflush keeps the rules of others.
        text = "\n".join(["*filter", *changes, "COMMIT", ""])
        self._run("-w", _WAIT, "--noflush", suffix="-restore", stdin=text)

    def _run(self, *words: str, suffix: str = "", stdin: str = "") -> str:
        name = f"{self.program}{suffix}"
        path = shutil.which(name, path=_PATH)
        if path is None:
            raise Unavailable(name, "is not installed", _INSTALL)
        try:
            done = subprocess.run(
                [path, *words],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LocalFailure(name, str(error)) from error
        if done.returncode:
            # The legacy and the nft program print different texts for the same cause.
            words_ = " ".join(done.stderr.split())[:300] or f"exit status {done.returncode}"
            if "Permission denied" in words_ or "you must be root" in words_:
                raise AccessDenied(name, "only root can read the packet filter", "run this as root")
            remedy = f"{self.program} -S shows whether it works on this host"
            raise Unavailable(name, f"fails: {words_}", remedy)
        return done.stdout
