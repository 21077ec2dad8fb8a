"""The machine that an OVA describes: its names, and the hardware that its disk agrees with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

ADAPTER = "lsilogic"
"""Controller of the disk: the one that VMware, VirtualBox and Debian's kernel all have."""
HARDWARE = 13
"""Version of VMware's virtual hardware: ESXi 6.5 and Workstation 14, which read SHA-256 first."""


class OvaError(Exception):
    """The OVA cannot be made or used; the message is one line."""


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A machine of a Debian ``release``, with the appliance's ``version``, built on a ``day``."""

    release: str
    version: str
    day: date
    memory: int = 2048
    """MiB."""
    processors: int = 2

    @property
    def name(self) -> str:
        """The name of the OVA and of the files in it, without what follows the dot."""
        return f"FedCloud-Appliance.Debian.{self.release}-{self.day:%Y.%m.%d}"

    @property
    def disk(self) -> str:
        """The name of the disk in the OVA, as VirtualBox would give it."""
        return f"{self.name}-disk001.vmdk"
