"""The usage of one project, from Nova's pages to the messages of a batch.

Memory holds one page of servers, and the ids of those already seen.
"""

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
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import LocalFailure, Unavailable
from appliance.core.run.log import Once
from caso import quarantine
from caso.batch import Batch
from caso.checkpoint import BEGINNING
from caso.extract.nova import NotUnderstood, ProjectContext, records
from caso.kinds import cloud as wire
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import ExtractionWindow
from caso.selection import Selected
from caso.settings import CasoConfiguration

logger = logging.getLogger(__name__)

OVERLAP = timedelta(minutes=5)
"""How far before its window a run looks for changes.

Nova stamps a change before it commits it, and the clocks of its hosts differ from Keystone's.
Without an overlap, such a change would be in no window. A change that two runs see gives equal
records.
"""

IMAGE_PROPERTY = "vmcatcher_event_ad_mpuri"
"""The image property in which vmcatcher and cloudkeeper keep an endorsed image's URL."""


@dataclass(slots=True)
class Shared:
    """The cloud and the answers that all projects of a run share."""

    cloud: Cloud
    configuration: CasoConfiguration
    users: UserNames
    images: ImageProperties = field(default_factory=lambda: ImageProperties(IMAGE_PROPERTY))
    warn_once: Once = field(default_factory=lambda: Once(logger))
    """Logs a warning that would repeat for each server."""


@dataclass(slots=True)
class ProjectTally:
    """The figures of one project."""

    servers: int = 0
    records: Counter[str] = field(default_factory=Counter)
    """Records by month, ``2026-11``."""
    wall: Counter[str] = field(default_factory=Counter)
    """Wall seconds since each server's creation, by month of the record."""
    refused: list[str] = field(default_factory=list)
    is_unkept: bool = False
    """Whether a refused record could not be written to the quarantine."""


def extract(
    selected: Selected, window: ExtractionWindow, shared: Shared, batch: Batch | None
) -> ProjectTally:
    """Add the records of a project's servers to the batch; without a batch, only count them."""
    scope = shared.cloud.project(selected.project.id)
    context = ProjectContext(
        vo=selected.vo,
        names=shared.configuration.names,
        user_name=lambda user_id: shared.users.get(user_id, scope),
        image=lambda image_id: shared.images.get(image_id, scope) or image_id,
        warn=shared.warn_once,
    )
    # 1970 stays 1970: Nova's filter takes no earlier time.
    start = window.start - OVERLAP if window.start > BEGINNING else BEGINNING
    reach = replace(window, start=start)
    tally = ProjectTally()
    for server in servers(Servers(scope), reach.start):
        made = 0
        try:
            for record in records(server, reach, context):
                made += 1
                _add(record, tally, shared.configuration, batch)
        except (NotUnderstood, ArithmeticError) as error:
            # The latter: figures too large to compute with, in `caso.kinds.cloud`.
            reason = str(error)
            if isinstance(error, ArithmeticError):
                reason = f"its figures cannot be computed: {error}"
            text = json.dumps(server)
            _refuse(str(server.get("id")), reason, text, tally, shared.configuration, batch)
        tally.servers += made > 0
    return tally


def servers(listing: Servers, since: datetime) -> Iterator[Server]:
    """Yield each server that lived since a moment, once.

    The living ones are listed first. A server that is deleted between the two listings is then in
    the second one; in the other order it could be in neither. It does not matter which of two
    descriptions counts: changes during the run are after the window's end.

    Raises:
        Unavailable: the second listing lacks a server that the first one shows as changed. Nova
            omits the servers of a cell that does not answer in time, so deleted ones are missing
            as well, and nothing else would show it.

    """
    seen: set[str] = set()
    awaited: set[str] = set()
    if since <= BEGINNING:  # then the listing of changed servers has all of them
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
            "has changed, but Nova's listing of changed servers lacks it: a cell did not answer in"
            " time",
            "look into Nova's logs; the next run continues from here",
        )


def _has_changed(server: Server, since: datetime) -> bool:
    """Check whether a server must be in the listing of changed servers."""
    # Nova shows the current time for a server that was never updated; one that was launched has
    # been. It shows seconds without a fraction, and so does the text to compare with.
    updated = server.get("updated")
    is_launched = bool(server.get("OS-SRV-USG:launched_at"))
    return is_launched and isinstance(updated, str) and updated >= f"{since:%Y-%m-%dT%H:%M:%SZ}"


def _add(
    record: CloudRecord, tally: ProjectTally, configuration: CasoConfiguration, batch: Batch | None
) -> None:
    # Without a version records are discarded, but a dry run checks them all the same.
    text = wire.render(record, version=configuration.version or wire.VERSIONS[0])
    month = record.measured
    if found := wire.faults(record, now=clock.now()):
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
        except OSError as error:  # the good records of the project are sent all the same
            tally.is_unkept = True
            more = f"; not kept: {LocalFailure.from_os(error)}"
    tally.refused.append(f"record {key}: not sent: {reason}{more}")
