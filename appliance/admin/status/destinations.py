"""The destinations of accounting: what waits for each, and when a message was delivered last.

A destination is a configuration of the sender. Its spool is counted now; the last delivery is in
its run record.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.admin.inventory import Flow
from appliance.admin.settings import Host
from appliance.admin.status import services
from appliance.core import senders
from appliance.core.config import document, ini
from appliance.core.config.settings import Settings
from appliance.core.run.errors import ApplianceError, LocalFailure
from appliance.core.run.layout import Layout
from appliance.core.spool import Spool

_SPOOL = "/var/spool/apel/outgoing"
_FURTHER_KINDS = "openstack-*"
"""The spools that `caso.conf` has for volumes, addresses and accelerators."""


@dataclass(frozen=True, slots=True)
class DestinationState:
    """A destination; ``problem`` says why the number of waiting messages is unknown."""

    configuration: Path
    name: str
    """The topic or queue."""
    spool: Path
    now: datetime
    queued: int = 0
    delivered: datetime | None = None
    """When a message was delivered last; None if none has been."""
    problem: str = ""
    oldest: datetime | None = None
    """When the oldest message that waits was made."""

    @property
    def complaint(self) -> str:
        """Return the complaint about the destination; empty if there is none."""
        return f"accounting: {self.problem}" if self.problem else ""

    def __str__(self) -> str:
        last = "nothing delivered yet"
        if self.delivered is not None:
            last = f"last delivered {services.span(self.now - self.delivered)} ago"
        return f"Accounting: {self.name}: {last}, {self.queued} messages wait in {self.spool}"

    def as_json(self) -> object:
        """Return the value for `appliance status --json`."""
        return {
            "configuration": str(self.configuration),
            "destination": self.name,
            "spool": str(self.spool),
            "queued": None if self.problem else self.queued,
            "last_delivered": self.delivered and self.delivered.isoformat(),
        }


def of_sender(
    layout: Layout, host: Host, records: Mapping[str, Mapping[str, object]], *, now: datetime
) -> list[DestinationState]:
    """Return the destinations in the order of their configurations.

    ``records`` are the run records by program. A configuration that cannot be parsed is left out,
    because the sender's own record says so. Before the first run, and while accounting is off,
    there is no destination.
    """
    if not host.flows[Flow.ACCOUNTING]:
        return []
    found = []
    for path in senders.configurations(layout).paths:
        record = records.get(senders.record_name(path, layout))
        try:
            settings = Settings(document.read([path], ini.parse)) if record else None
        except ApplianceError:
            continue
        if record and settings:
            found.append(state_of(path, settings, record, layout=layout, now=now))
    return found


def unread(layout: Layout, host: Host) -> Iterator[str]:
    """Yield a complaint for each spool of a further kind that has messages and no reader.

    Other directories may belong to senders that we do not know. If a configuration cannot be
    parsed, it may be the reader; the sender's own record says that it is wrong.
    """
    if not host.flows[Flow.ACCOUNTING]:
        return
    try:
        paths = senders.configurations(layout).paths
        read = {
            _spool(Settings(document.read([path], ini.parse)), layout)
            for path in paths
            if path.exists()
        }
        for spool in sorted(layout.path(_SPOOL).glob(_FURTHER_KINDS)):
            if spool not in read and (queued := Spool(spool).count()):
                further = layout.path(senders.FURTHER)
                yield (
                    f"accounting: {queued} messages wait in {spool}, and nothing sends them:"
                    f" add a file for this spool to {further}"
                )
    except (ApplianceError, OSError):
        return


def _spool(settings: Settings, layout: Layout) -> Path:
    spool = settings.path("messaging", "path", default=layout.path(_SPOOL))
    # Paths of a configuration are those of the container, which has no root directory of its own.
    return spool if spool.is_relative_to(layout.root) else layout.path(str(spool))


def state_of(
    path: Path, settings: Settings, record: Mapping[str, object], *, layout: Layout, now: datetime
) -> DestinationState:
    """Return the state of a destination; ``record`` is its run record, which may be empty."""
    spool = _spool(settings, layout)
    kind = settings.text("messaging", "path_type", default="dirq")
    queued, oldest, problem = 0, None, ""
    try:
        if kind == "directory":
            times = [entry.stat().st_mtime for entry in _files(spool)]
            queued = len(times)
            oldest = datetime.fromtimestamp(min(times), UTC) if times else None
        else:
            elements = Spool(spool)
            queued, first = elements.count(), next(elements.names(), None)
            oldest = elements.made_at(first) if first else None
    except ApplianceError as error:
        problem = str(error)
    except OSError as error:
        problem = str(LocalFailure.from_os(error))
    return DestinationState(
        path,
        settings.text("messaging", "destination"),
        spool,
        now,
        queued,
        _delivered(record),
        problem,
        oldest,
    )


def _files(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))
    except FileNotFoundError:  # producers make it with their first message
        return


def _delivered(record: Mapping[str, object]) -> datetime | None:
    counts = record.get("counts")
    figure = counts.get(senders.LAST_DELIVERED) if isinstance(counts, dict) else None
    try:
        return datetime.fromtimestamp(figure, UTC) if isinstance(figure, int | float) else None
    except (ValueError, OverflowError, OSError):  # a container wrote it
        return None
