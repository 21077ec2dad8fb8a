"""A volume, from Cinder's description of it: what it was since when, and the records of that. Pure.

field        rule (cASO's; where it differs, why)
size         GiB, as provisioned, whether it is used or attached
start, end   see `caso.kinds.storage`: whole months, where cASO has windows
owner        ``user_id``; the project is the one that is accounted
attached     to the first of the attachments, since ``attached_at``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from appliance.core import clock
from caso.kinds.months import ExtractionWindow
from caso.kinds.storage import StorageRecord, VolumeState, segments
from caso.kinds.text import fit
from caso.sources.history import KnownState, SeenThing
from caso.sources.source import ProjectContext

Volume = dict[str, Any]
States = Sequence[KnownState]


@dataclass(frozen=True, slots=True)
class PresentVolume:
    """A volume as Cinder describes it now."""

    id: str
    size: int
    user_id: str
    created: datetime
    updated: datetime | None
    name: str = ""
    status: str = ""
    attached_to: str | None = None
    attached_at: datetime | None = None

    @property
    def facts(self) -> dict[str, object]:
        """Return what a record needs once the volume is deleted."""
        return {"size": self.size, "created": self.created.isoformat()}


def describe(volume: Volume) -> PresentVolume:
    """Return a volume from Cinder's description.

    Raises:
        LookupError, TypeError, ValueError: it has no usable id, size or time of creation.

    """
    size = volume["size"]
    if type(size) is not int or size < 0:  # a bool is an int
        raise ValueError(f"size {size!r}")
    created = clock.parse(volume["created_at"])
    if created.timestamp() <= 0:  # there would be a record for each month since then
        raise ValueError(f"created_at {volume['created_at']!r}, before OpenStack existed")
    attached_to, attached_at = _attachment(volume.get("attachments"))
    return PresentVolume(
        id=volume["id"],
        size=size,
        user_id=_text(volume.get("user_id")),
        created=created,
        updated=_moment(volume.get("updated_at")),
        name=_text(volume.get("name")),
        status=_text(volume.get("status")),
        attached_to=attached_to,
        attached_at=attached_at,
    )


def _text(value: object) -> str:
    return fit(value) if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    try:
        return clock.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _attachment(attachments: object) -> tuple[str | None, datetime | None]:
    """Return server and time of the first attachment, if there is a usable one."""
    try:
        first = attachments[0]  # type: ignore[index]
        server, moment = _text(first.get("server_id")), _moment(first.get("attached_at"))
    except (LookupError, TypeError, AttributeError):
        return None, None
    return (server, moment) if server and moment else (None, None)


def with_present(
    volume: PresentVolume, states: States, elsewhere: KnownState | None, window: ExtractionWindow
) -> list[KnownState]:
    """Return the states of a volume up to the present one.

    ``states`` are those that earlier runs saw in this project, ``elsewhere`` is the last one in
    another project.
    """
    last = states[-1] if states else None
    if last is not None and last.until is None:
        if last.facts == volume.facts and (last.user or "") == volume.user_id:
            return list(states)
        since = _changed(volume, last, window)
        before = [*states[:-1], replace(last, until=since)]
    else:
        ended = [one for one in (last, elsewhere) if one is not None]
        earlier = max(ended, key=lambda one: one.since, default=None)
        since = volume.created if earlier is None else _changed(volume, earlier, window)
        before = list(states)
    return [*before, KnownState(since, None, volume.facts, volume.user_id)]


def _changed(volume: PresentVolume, last: KnownState, window: ExtractionWindow) -> datetime:
    """Return when a volume became what it is now."""
    # Cinder changes `updated_at` for other reasons as well, so it may be too late. Up to the start
    # of the window, the volume has been accounted as it was before.
    since = min(max(volume.updated or window.end, window.start), window.end)
    return max(since, last.until or last.since + timedelta(seconds=1))


def seen(volume: PresentVolume, state: KnownState) -> SeenThing:
    """Return a volume as the history takes it."""
    return SeenThing(volume.id, volume.facts, volume.user_id or None, state.since)


def records(
    volume_id: str,
    states: States,
    window: ExtractionWindow,
    context: ProjectContext,
    *,
    project_id: str,
) -> Iterator[StorageRecord]:
    """Yield the records of a volume in the months that the window touches, oldest first."""
    born = clock.parse(str(states[-1].facts["created"]))
    known = [
        VolumeState(state.since, state.until, int(str(state.facts["size"])), state.user or "")
        for state in states
    ]
    for segment in segments(known, born, window):
        user_id = segment.state.user_id
        yield StorageRecord(
            volume_id=volume_id,
            segment=segment.name,
            site=context.names.site,
            service=context.names.service,
            vo=context.vo,
            project_id=project_id,
            user_id=fit(user_id),
            user_name=fit(context.user_name(user_id) or "") or None if user_id else None,
            size=segment.state.size,
            start=segment.start,
            end=segment.end,
            created=born,
        )


def decorate(record: StorageRecord, volume: PresentVolume) -> StorageRecord:
    """Return a record with what Cinder shows of the volume now."""
    attached = None
    if volume.attached_at is not None and volume.attached_at < record.end:
        attached = record.end - max(record.start, volume.attached_at)
    return replace(
        record,
        name=volume.name,
        status=volume.status,
        attached_to=volume.attached_to if attached else None,
        attached=attached,
    )
