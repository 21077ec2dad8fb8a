"""Records that were not delivered for a day, as the ledger and the checkpoints say.

gaps        none of a project was delivered, or a time between two deliveries is missing
messenger   one messenger is behind the others that get the same records
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from appliance.core.run import place
from appliance.core.run.errors import ApplianceError
from caso.ledger.ledger import Ledger
from caso.ledger.model import Span, Stream
from caso.ledger.windows import Reached
from caso.selection import Selected
from caso.settings import CasoConfiguration

GAPS, MESSENGER = "gaps", "messenger"
_PATIENCE = timedelta(hours=26)
"""A day, and what a daily run may begin or last longer than the one before."""

Delivered = Mapping[Stream, Reached]


def read(configuration: CasoConfiguration, kinds: frozenset[str]) -> Delivered:
    """Return how far each stream of the configuration has come; nothing of a broken ledger.

    Streams of kinds, regions and messengers that are no longer configured are left out.
    """
    messengers = {one.name for one in configuration.messengers}
    access, regions = configuration.access, {one or "" for one in configuration.regions}
    with (
        contextlib.suppress(ApplianceError),
        Ledger(configuration.ledger, read_only=True) as ledger,
    ):
        return {
            stream: reached
            for stream, reached in ledger.windows.all().items()
            if stream.kind in kinds
            and stream.destination in messengers
            and stream.origin.keystone == access.auth_url
            and stream.origin.region in regions
        }
    return {}


def find(
    one: Selected, delivered: Delivered, accounted: datetime | None, *, at: datetime
) -> Iterator[tuple[str, str]]:
    """Yield what a project lacks at a time: `GAPS` or `MESSENGER`, with the text and the remedy.

    ``accounted`` is the checkpoint in a file, which counts for a project that the ledger has not.
    """
    ends: dict[str, dict[Stream, datetime]] = defaultdict(dict)
    for stream, reached in delivered.items():
        if stream.origin.project == one.project.id and reached.end is not None:
            group = f"{stream.kind} of {stream.origin.label}"
            ends[group][stream] = reached.end
            yield from ((GAPS, _hole(one, stream, span)) for span in reached.gaps())
    for of_group in ends.values():
        newest = max(of_group.values())
        if at - newest > _PATIENCE:
            yield GAPS, _silence(one, f"{next(iter(of_group)).kind} records", newest)
            continue
        for stream, end in of_group.items():
            if newest - end > _PATIENCE:
                yield MESSENGER, _behind(stream, end)
    if not ends and accounted is not None and at - accounted > _PATIENCE:
        yield GAPS, _silence(one, "records", accounted)


def _silence(one: Selected, what: str, end: datetime) -> str:
    return (
        f"VO {one.vo} has no {what} since {_time(end)}; look why the runs fail, then list what is"
        f" missing with {place.command('caso', 'caso', 'gaps')}, and extract it with"
        f" {place.command('caso', 'caso', 'gaps', '--fill')}"
    )


def _hole(one: Selected, stream: Stream, span: Span) -> str:
    return (
        f"VO {one.vo} has no {stream.kind} records by {stream.destination} from"
        f" {_time(span.start)} to {_time(span.end)}; extract them with"
        f" {place.command('caso', 'caso', 'gaps', '--fill')}"
    )


def _behind(stream: Stream, end: datetime) -> str:
    return (
        f"{stream.destination} has delivered {stream.kind} records until {_time(end)} only, others"
        " are a day further, so each run extracts that time again; repair the service of this"
        " messenger, or remove the messenger from this option"
    )


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
