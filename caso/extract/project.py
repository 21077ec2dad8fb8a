"""One project's usage, from Nova's pages to a committed batch. Memory holds a page, and the ids already seen."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from appliance.core import clock
from appliance.core.cloud.compute import Server, Servers
from appliance.core.cloud.identity import UserNames
from appliance.core.cloud.image import ImageProperties
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run.errors import LocalFailure, Unavailable
from caso import quarantine, validation
from caso.batch import Batch
from caso.checkpoint import BEGINNING
from caso.extract.nova import Names, NotUnderstood, ProjectContext, records
from caso.months import ExtractionWindow
from caso.records import CloudRecord
from caso.selection import Selected
from caso.settings import CasoConfiguration
from caso.wire import cloud as wire

logger = logging.getLogger(__name__)

OVERLAP = timedelta(minutes=5)
"""How far before its window a run looks for changes. Nova stamps a change before it commits it, and its hosts' clocks
differ from Keystone's: without this, such a change would belong to no window. What is seen twice
gives equal records.
"""

IMAGE_PROPERTY = "vmcatcher_event_ad_mpuri"
"""Where vmcatcher and cloudkeeper put an endorsed image's URL."""


@dataclass(slots=True)
class Shared:
    """What all projects of a run share: the cloud, and what has been asked for once."""

    cloud: Cloud
    configuration: CasoConfiguration
    users: UserNames
    images: ImageProperties = field(default_factory=lambda: ImageProperties(IMAGE_PROPERTY))
    told: set[str] = field(default_factory=set)

    def warn_once(self, line: str) -> None:
        """Log a warning that would repeat for each server."""
        if line not in self.told:
            self.told.add(line)
            logger.warning(line)


@dataclass(slots=True)
class ProjectTally:
    """What one project gave."""

    servers: int = 0
    records: Counter[str] = field(default_factory=Counter)
    """By month, ``2026-11``."""
    wall: Counter[str] = field(default_factory=Counter)
    """Seconds since each server's creation, by month."""
    refused: list[str] = field(default_factory=list)
    is_unkept: bool = False
    """Whether a refused record could not be written to the quarantine."""


def extract(
    selected: Selected, window: ExtractionWindow, shared: Shared, batch: Batch | None
) -> ProjectTally:
    """Ask Nova for a project's servers and add their records to the batch; None only counts them."""
    scope = shared.cloud.project(selected.project.id)
    source = _source(selected.vo, scope, shared)
    start = window.start - OVERLAP if window.start > BEGINNING else BEGINNING
    reach = replace(window, start=start)
    tally = ProjectTally()
    for server in servers(Servers(scope), reach.start):
        made = 0
        try:
            for record in records(server, reach, source):
                made += 1
                _add(record, tally, shared.configuration, batch)
        except NotUnderstood as error:
            _refuse(
                str(server.get("id")),
                str(error),
                json.dumps(server),
                tally,
                shared.configuration,
                batch,
            )
        except ArithmeticError as error:  # figures that no machine has
            reason = f"its figures make no sense: {error}"
            _refuse(
                str(server.get("id")),
                reason,
                json.dumps(server),
                tally,
                shared.configuration,
                batch,
            )
        tally.servers += made > 0
    return tally


def servers(listing: Servers, since: datetime) -> Iterator[Server]:
    """Yield each server that lived since a moment once.

    The living come first: one that is deleted between the two listings is then in the second one at
    least, where in the other order it could be in neither. Which of both descriptions counts is all
    the same, because what happens during the run happens after the window's end.

    Raises `Unavailable` when the second listing lacks a server that the first one says has changed:
    Nova leaves out what a cell of its own does not tell in time, and with it would go what was
    deleted there.
    """
    seen: set[str] = set()
    awaited: set[str] = set()
    if since <= BEGINNING:  # the changed ones are then all there are
        listing.check_cells()
        yield from listing.changed(since)
        return
    for server in listing.living():
        seen.add(server["id"])
        if _has_changed(server, since):
            awaited.add(server["id"])
        yield server
    for server in listing.changed(since):
        awaited.discard(server["id"])
        if server["id"] not in seen:
            yield server
    if awaited:
        raise Unavailable(
            f"server {min(awaited)}",
            "has changed, but Nova's listing of changed servers lacks it: a cell did not answer in time",
            "look into Nova's logs; the next run goes on from here",
        )


def _has_changed(server: Server, since: datetime) -> bool:
    """Say whether a server must be in the listing of changed ones. Nova shows seconds, and now where it has no time."""
    updated = server.get("updated")
    is_launched = bool(server.get("OS-SRV-USG:launched_at"))
    return is_launched and isinstance(updated, str) and updated >= f"{since:%Y-%m-%dT%H:%M:%SZ}"


def _source(vo: str, scope: Scope, shared: Shared) -> ProjectContext:
    names: Names = shared.configuration.names
    return ProjectContext(
        vo=vo,
        names=names,
        user_name=lambda user_id: shared.users.get(user_id, scope),
        image=lambda image_id: shared.images.get(image_id, scope) or image_id,
        warn=shared.warn_once,
    )


def _add(
    record: CloudRecord, tally: ProjectTally, configuration: CasoConfiguration, batch: Batch | None
) -> None:
    text = wire.render(record, version=configuration.version or wire.VERSIONS[0])
    month = record.measured
    if found := validation.faults(record, now=clock.now()):
        _refuse(
            f"{record.vm_uuid}-{month:%Y%m}", "; ".join(found), text, tally, configuration, batch
        )
        return
    name = f"{month:%Y-%m}"
    tally.records[name] += 1
    tally.wall[name] += record.wall // timedelta(seconds=1)
    if batch is not None:
        batch.add(text, month=month.replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def _refuse(
    key: str,
    reason: str,
    text: str,
    tally: ProjectTally,
    configuration: CasoConfiguration,
    batch: Batch | None,
) -> None:
    more = ""
    if batch is not None:
        try:
            directory = configuration.spool / "quarantine"
            more = f"; see {quarantine.set_aside(directory, key=key, reason=reason, text=text)}"
        except OSError as error:  # the project's good records are sent all the same
            tally.is_unkept = True
            more = f"; not kept: {LocalFailure.from_os(error)}"
    tally.refused.append(f"record {key}: not sent: {reason}{more}")
