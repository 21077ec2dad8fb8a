"""The cloud record: what one server used from its creation to a moment, as EGI defines it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.core.version import __version__

CLOUD_TYPE = f"egi-fedcloud-appliance/{__version__} (OpenStack)"


class ServerStatus(enum.StrEnum):
    """What became of a server. Only `COMPLETED` means something to the repository: the end time then counts."""

    STARTED = "started"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How fast a flavor's core is."""

    type: str
    value: float


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """One server's use, cumulative since ``start``. Times are whole seconds, aware, in UTC.

    The names are those of the definition, in the language of this code; `caso.wire.cloud` has the
    wire's.
    """

    vm_uuid: str
    site: str
    service: str
    vo: str
    project_id: str
    user_id: str
    status: ServerStatus
    start: datetime
    end: datetime | None
    """None while the server goes on."""
    wall: timedelta
    cpu_count: int
    memory: int
    """MiB."""
    disk: int
    """GB."""
    name: str = ""
    user_name: str | None = None
    public_ips: int = 0
    image: str | None = None
    benchmark: Benchmark | None = None
    cloud_type: str = CLOUD_TYPE

    @property
    def cpu(self) -> timedelta:
        """Return the CPU time: that of the cores allotted, used or not."""
        return self.wall * self.cpu_count

    @property
    def measured(self) -> datetime:
        """Return the moment that decides, at the repository, to which month the record belongs."""
        return (
            self.end
            if self.end is not None and self.status is ServerStatus.COMPLETED
            else self.start + self.wall
        )
