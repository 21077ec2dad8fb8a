"""The cloud record: the use of one server from its creation to a moment, as EGI defines it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from appliance.core.version import __version__

CLOUD_TYPE = f"egi-fedcloud-appliance/{__version__} (OpenStack)"


class ServerStatus(enum.StrEnum):
    """The status of a server.

    The repository reads only `COMPLETED`: the end time counts then.
    """

    STARTED = "started"
    COMPLETED = "completed"
    ERROR = "error"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The speed of one core of a flavor."""

    type: str
    value: float


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """The use of one server, cumulative since ``start``. Times are whole seconds, aware, in UTC.

    `caso.wire.cloud` has the names of these fields on the wire.
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
    """None while the server lives."""
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
        """Return the CPU time: of all allotted cores, whether they were busy or not."""
        return self.wall * self.cpu_count

    @property
    def measured(self) -> datetime:
        """Return the moment by which the repository chooses the month of the record."""
        return (
            self.end
            if self.end is not None and self.status is ServerStatus.COMPLETED
            else self.start + self.wall
        )
