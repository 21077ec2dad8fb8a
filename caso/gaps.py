"""Times that were not delivered, and extracting them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from appliance.core import clock
from appliance.core.run.record import RunRecord
from caso import run
from caso.kinds.months import ExtractionWindow
from caso.ledger.model import Span, Stream
from caso.ledger.windows import Reached
from caso.project import ProjectOutcome
from caso.selection import select
from caso.settings import CasoConfiguration, Period
from caso.windows import KindWindow, extended


def fill(
    configuration: CasoConfiguration, record: RunRecord, *, unknown: bool
) -> Iterator[ProjectOutcome]:
    """Extract the gaps of the selected projects, oldest first; ``unknown`` times as well.

    No checkpoint moves. What would take delivered hours back is withheld. Projects that cannot be
    accounted are in the failures of ``record``.
    """
    period = Period(None, clock.now())  # explicit: what listings show now is not of the gap
    with run.opened(replace(configuration, is_dry_run=False, period=period), record) as accounting:
        stuck = accounting.recover().stuck
        selected, failures = select(accounting.cloud, accounting.configuration)
        if failures and not selected:
            raise failures[0]
        for unusable in failures:
            record.fail(str(unusable))
        for one, region in itertools.product(selected, accounting.regions):
            if (error := stuck.get(region.origin(one).label)) is not None:
                failure = region.about(one, error)
                yield ProjectOutcome(one, region.region, failures=(failure,))
                continue
            for kind, streams in region.streams(one).items():
                for span, reached in _missing(accounting, streams, unknown=unknown):
                    ends = [min(reached.end, clock.now())] if reached.end is not None else []
                    window = ExtractionWindow(span.start, extended(span.end, ends))
                    windows = {kind: KindWindow(window, moves=False)}
                    yield region.account_again(one, windows)


def _missing(
    accounting: run.AccountingRun, streams: Iterable[Stream], *, unknown: bool
) -> Iterator[tuple[Span, Reached]]:
    """Yield the times that one of the streams of a kind lacks, each once."""
    seen: set[Span] = set()
    for stream in streams:
        reached = accounting.ledger.windows.reached(stream)
        found = [*reached.gaps(), *(reached.unknown() if unknown else ())]
        for span in sorted(found, key=lambda span: span.start):
            if span not in seen:
                seen.add(span)
                yield span, reached
