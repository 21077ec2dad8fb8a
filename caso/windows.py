"""The windows of a project: from when to when each kind of record is extracted.

    known                                    the window begins at
    the ledger's checkpoint                  that; each kind and messenger has its own
    a lastrun file that is earlier than      the file's time: an administrator has set it back,
    all of them                              for all kinds, messengers and regions
    a lastrun file that is later than all    the ledger's: cASO has run meanwhile, or the ledger is
                                             an older copy. What was delivered since is not known
    a lastrun file alone                     the file's time: cASO ran before, or the ledger is lost
    nothing                                  the beginning

The file holds the least checkpoint of all regions of a project. So once the ledger knows of one of
them, another one begins at its own checkpoint, or at the beginning.

APEL keeps the last record of a month. So a window that ends inside a month of which more was
delivered before is extended to the end of that month, or to what was delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from appliance.core import clock
from appliance.core.run.errors import LocalFailure
from caso.checkpoint import Checkpoints
from caso.kinds.months import BEGINNING, SECOND, ExtractionWindow, first_moment, next_month
from caso.ledger.ledger import Ledger
from caso.ledger.model import Span, Stream, first_second, month_text
from caso.ledger.windows import Reached
from caso.selection import Selected
from caso.settings import CasoConfiguration
from caso.sources.listing import OVERLAP

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KindWindow:
    """The window of a kind, and whether its checkpoint moves to the window's end."""

    window: ExtractionWindow
    moves: bool = True

    @property
    def checkpoint(self) -> datetime | None:
        """Return the start of the next window, if the checkpoint moves."""
        # Windows include both ends, so the next one begins a second later, as in cASO 5.2.2.
        return self.window.end + SECOND if self.moves else None


@dataclass(frozen=True, slots=True)
class ProjectWindows:
    """Decides the windows of projects."""

    configuration: CasoConfiguration
    checkpoints: Checkpoints
    ledger: Ledger

    def of(
        self,
        selected: Selected,
        streams: Mapping[str, Sequence[Stream]],
        beside: Sequence[Stream] = (),
        *,
        end: datetime,
    ) -> dict[str, KindWindow]:
        """Return the window of each kind of ``streams`` that has something to extract.

        ``beside`` are the streams of the project's other regions.

        Raises:
            LocalFailure: there is no time from which to go on, or one in the future.

        """
        reached = {
            stream: self.ledger.windows.reached(stream)
            for of_kind in streams.values()
            for stream in of_kind
        }
        lastrun = self._lastrun(selected, reached)
        others = [self.ledger.windows.reached(stream).checkpoint for stream in beside]
        moments = [one.checkpoint for one in reached.values()] + others
        least = _least([moment for moment in moments if moment is not None])
        is_set_back = lastrun is not None and least is not None and lastrun < least
        if lastrun is not None and is_set_back and not self.ledger.file.read_only:
            # At once, because the file moves on as soon as one region has been accounted.
            self.ledger.windows.set_back([*reached, *beside], lastrun)
        if any(others) and not is_set_back:
            # The file holds the least of all regions: it says nothing about this one.
            lastrun = None
        self._take_over(selected, reached, lastrun)
        windows: dict[str, KindWindow] = {}
        for kind, of_kind in streams.items():
            known = [reached[stream] for stream in of_kind]
            found = self._window(selected, kind, known, lastrun, end, is_set_back=is_set_back)
            if found is not None:
                windows[kind] = found
        return windows

    def _window(
        self,
        selected: Selected,
        kind: str,
        reached: Sequence[Reached],
        lastrun: datetime | None,
        end: datetime,
        *,
        is_set_back: bool,
    ) -> KindWindow | None:
        asked = self.configuration.period
        known = [lastrun if is_set_back else one.checkpoint or lastrun for one in reached]
        resumes = min((moment for moment in known if moment is not None), default=None)
        start = asked.start or _least(known)
        self._refuse_future(selected, start, lastrun)
        if start is None:
            start = self.configuration.since or BEGINNING
            start = min(start, resumes or start)
            what = f"{kind} records"
            if kind == "cloud":
                moment = start.isoformat()
                what = f"servers that existed on {moment} or later, each from its creation"
            logger.info("%s: first extraction: %s", selected.project, what)
            window = ExtractionWindow(start, end, is_first=True, resumes=resumes)
            return KindWindow(window) if start < end else None
        window = ExtractionWindow(self._kept(selected, start, reached), end)
        if asked.end is not None:
            window = self._extended(selected, window, reached, lastrun)
        moves = True
        if asked.start is not None and resumes is not None and resumes < window.start:
            line = (
                "%s: not extracted from %s to %s; its checkpoint stays, so that the next run"
                " begins there"
            )
            logger.warning(line, selected.project, resumes, window.start)
            moves = False
        return KindWindow(window, moves=moves) if window.start < window.end else None

    def _lastrun(self, selected: Selected, reached: Mapping[Stream, Reached]) -> datetime | None:
        """Return the checkpoint in cASO's files; None if there is none, or none is needed."""
        try:
            found = self.checkpoints.find((*selected.aliases, *selected.former))
        except LocalFailure as error:
            known = _least([one.checkpoint for one in reached.values()])
            asked = self.configuration.period.start
            if known is None and asked is None:
                raise
            logger.warning("%s: %s; going on from %s", error.subject, error.cause, asked or known)
            return None
        for path in found.broken:
            line = "%s: has no time; going on from %s, as the project's other file says"
            logger.warning(line, path, found.moment)
        for unreadable in found.unreadable:
            line = "%s; going on from %s, as the project's other file says"
            logger.warning(line, unreadable, found.moment)
        return found.moment

    def _take_over(
        self, selected: Selected, reached: dict[Stream, Reached], lastrun: datetime | None
    ) -> None:
        """Note what another program has delivered, or a ledger that is lost or newer."""
        if lastrun is None or lastrun > clock.now() + OVERLAP:
            return
        # A run for some kinds moves the file with them alone: no other program has moved it.
        known = max((one.checkpoint for one in reached.values() if one.checkpoint), default=None)
        if known is not None and lastrun <= known + SECOND:
            return
        if known is not None:
            logger.warning(
                "%s: accounted up to %s, but its ledger knows no more than up to %s: another"
                " program has run, or %s is an older copy; what is still there is extracted again",
                *(selected.project, lastrun, known, self.ledger.file.path),
            )
        for stream, one in reached.items():
            if (known is None or one.checkpoint is not None) and not self.ledger.file.read_only:
                span = Span(one.checkpoint or BEGINNING, lastrun - SECOND, is_known=False)
                self.ledger.windows.assume(stream, span)
                reached[stream] = self.ledger.windows.reached(stream)

    def _extended(
        self,
        selected: Selected,
        window: ExtractionWindow,
        reached: Sequence[Reached],
        lastrun: datetime | None,
    ) -> ExtractionWindow:
        ends = [one.end for one in reached if one.end is not None]
        # Nothing can be known of the time after now, even if a clock that was ahead delivered it.
        furthest = [*ends, lastrun - SECOND] if lastrun else ends
        end = extended(window.end, [min(one, clock.now()) for one in furthest])
        if end > window.end:
            logger.warning(
                "%s: extracted up to %s, not %s: more of this month was delivered before, and a"
                " part would replace it",
                *(selected.project, end.isoformat(), window.end.isoformat()),
            )
        return replace(window, end=end)

    def _kept(self, selected: Selected, start: datetime, reached: Sequence[Reached]) -> datetime:
        """Return a start that is not in months whose amounts were delivered and purged."""
        floor = self.ledger.retention.floor()
        if floor is None:
            return start
        first = first_second(floor)
        if start >= first or not any(span.start < first for one in reached for span in one.spans):
            return start
        if any(_lacks(one, start) for one in reached):
            return start
        logger.warning(
            "%s: extracted from %s, not %s: the ledger no longer has what was delivered before %s",
            *(selected.project, first.isoformat(), start.isoformat(), month_text(floor)),
        )
        return first

    def _refuse_future(
        self, selected: Selected, start: datetime | None, lastrun: datetime | None
    ) -> None:
        # Small differences are clocks that were corrected; then the window is empty.
        if start is None or start <= clock.now() + OVERLAP:
            return
        # A time in this file that is earlier than the ledger's is followed.
        holder = "has the time" if start == lastrun else "is missing, and the ledger has the time"
        raise LocalFailure(
            self.checkpoints.path(selected.aliases[0]),
            f"{holder} {start.isoformat()}, which is in the future",
            "check this host's clock, or correct the time",
        )


def extended(end: datetime, delivered: Sequence[datetime]) -> datetime:
    """Return the end of a window so that no month is delivered less far than before."""
    furthest = max(delivered, default=end)
    if furthest <= end:
        return end
    return min(furthest, next_month(first_moment(end)) - SECOND)


def _least(moments: Sequence[datetime | None]) -> datetime | None:
    """Return the earliest moment; None if one of them is missing."""
    known = [moment for moment in moments if moment is not None]
    return min(known) if known and len(known) == len(moments) else None


def _lacks(reached: Reached, moment: datetime) -> bool:
    """Check whether a moment after a checkpoint was not delivered."""
    if reached.checkpoint is None or moment < reached.checkpoint:
        return False
    return not any(span.start <= moment <= span.end for span in reached.spans)
