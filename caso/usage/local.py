"""The hours of the site's own projects, which no messenger sends: from Nova, as far as it knows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from appliance.core import clock
from appliance.core.cloud import identity
from appliance.core.cloud.project import Project
from appliance.core.cloud.session import Cloud
from appliance.core.run.errors import ApplianceError
from caso.kinds.cloud import CloudRecord
from caso.kinds.months import ExtractionWindow
from caso.ledger.model import LedgerRow, Month, first_second, month_of
from caso.selection import find
from caso.settings import CasoConfiguration
from caso.sources import registry as sources
from caso.sources.source import ProjectContext, Unaccountable
from caso.usage import hours
from caso.usage.hours import Owned, Spent

logger = logging.getLogger(__name__)


def spent(
    configuration: CasoConfiguration,
    chosen: Sequence[Month],
    vo: str,
    failures: list[ApplianceError],
) -> Iterator[Spent]:
    """Yield the use of the local projects since the first of the chosen months.

    A project that cannot be counted becomes a failure, and stops no other.
    """
    now = clock.now().replace(microsecond=0)
    first = min(chosen, default=month_of(now))
    begin = first_second(first)
    window = ExtractionWindow(begin, now, is_first=True)
    try:
        cloud = Cloud(configuration.access)
        known = identity.projects(cloud)
    except ApplianceError as error:
        failures.append(error)
        return
    for wanted in configuration.local_projects:
        for region in configuration.regions:
            try:
                project = find(cloud, known, wanted)
                owned = _owned(cloud.in_region(region), configuration, project, window, vo)
                found = list(hours.spent(owned))
            except ApplianceError as error:
                failures.append(error)
            else:
                yield from (one for one in found if one.month >= first)


def _owned(
    cloud: Cloud,
    configuration: CasoConfiguration,
    project: Project,
    window: ExtractionWindow,
    vo: str,
) -> Iterator[Owned]:
    context = ProjectContext(
        vo=vo,
        names=configuration.names,
        user_name=lambda _user: None,
        image=lambda image: image,
        warn=lambda line: logger.warning("%s: %s", project, line),
    )
    scope = cloud.project(project.id)
    for found in sources.source("nova").records(scope, window, context):
        if isinstance(found, Unaccountable):
            logger.warning("%s: server %s: not counted: %s", project, found.key, found.reason)
        elif isinstance(found.record, CloudRecord):
            yield Owned("cloud", cloud.access.region or "", project.id, _row(found.record))


def _row(record: CloudRecord) -> LedgerRow:
    return LedgerRow(
        record.key,
        month_of(record.measured),
        record.amount,
        record.measured,
        record.vo,
        record.user_id,
        int(record.cpu.total_seconds()),
    )
