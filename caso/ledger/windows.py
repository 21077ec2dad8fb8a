"""Checkpoints and windows: up to when, and for which times, a stream has delivered everything.

Windows that touch are one. Between two windows is a gap: a time that was never delivered. A window
that another program delivered is not known: its amounts are not in the ledger. When it is
delivered again, the known window replaces that part of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from caso.ledger import names
from caso.ledger.model import Span, Stream, moment_of, seconds
from caso.ledger.store import LedgerFile

SECOND = timedelta(seconds=1)
"""Windows include both ends, so one that begins a second after another touches it."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a stream has come."""

    checkpoint: datetime | None
    """The start of its next window; None before its first one."""
    spans: tuple[Span, ...] = ()
    """Its windows, oldest first."""

    @property
    def end(self) -> datetime | None:
        """Return the last moment that was delivered."""
        return max((span.end for span in self.spans), default=None)

    def gaps(self) -> list[Span]:
        """Return the times between windows, oldest first."""
        return [
            Span(earlier.end + SECOND, later.start - SECOND)
            for earlier, later in zip(self.spans, self.spans[1:], strict=False)
            if later.start > earlier.end + SECOND
        ]

    def unknown(self) -> list[Span]:
        """Return the times that another program delivered."""
        return [span for span in self.spans if not span.is_known]


def with_span(spans: Iterable[Span], new: Span) -> list[Span]:
    """Return windows with another one, sorted, none touching another of its sort.

    A known window cuts unknown ones; an unknown one fills only what no window covers.
    """
    spans = list(spans)
    if new.is_known:
        unknown = [part for span in spans if not span.is_known for part in _without(span, [new])]
        known = _merged([*(span for span in spans if span.is_known), new])
    else:
        known = [span for span in spans if span.is_known]
        unknown = [*(span for span in spans if not span.is_known), *_without(new, known)]
    return sorted([*known, *_merged(unknown)], key=lambda span: span.start)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans of one sort, sorted, with those that touch as one."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end + SECOND:
            merged[-1] = replace(merged[-1], end=max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _without(span: Span, others: Sequence[Span]) -> list[Span]:
    """Return the parts of a span that no other covers."""
    parts = [span]
    for other in others:
        pieces = [
            piece
            for part in parts
            for piece in (
                replace(part, end=min(part.end, other.start - SECOND)),
                replace(part, start=max(part.start, other.end + SECOND)),
            )
        ]
        parts = [piece for piece in pieces if piece.start <= piece.end]
    return parts


class Windows:
    """The checkpoints and windows in a ledger."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def reached(self, stream: Stream) -> Reached:
        """Return how far a stream has come."""
        with self._file.reading() as connection:
            number = names.find_stream(connection, stream)
            return Reached(None) if number is None else _reached(connection, number)

    def all(self) -> dict[Stream, Reached]:
        """Return how far each stream has come."""
        with self._file.reading() as connection:
            return {
                stream: _reached(connection, number)
                for number, stream in names.read_streams(connection).items()
            }

    def assume(self, stream: Stream, span: Span) -> None:
        """Note a time that another program delivered, or a ledger that is lost."""
        with self._file.transaction() as connection:
            number = self._file.numbers.stream(connection, stream)
            add(connection, number, replace(span, is_known=False))

    def set_back(self, streams: Iterable[Stream], checkpoint: datetime) -> None:
        """Move later checkpoints back, because a person asked for it; windows stay."""
        with self._file.transaction() as connection:
            for stream in streams:
                connection.execute(
                    "UPDATE streams SET checkpoint = :at WHERE id = :id AND checkpoint > :at",
                    {"at": seconds(checkpoint), "id": names.find_stream(connection, stream)},
                )


def add(connection: sqlite3.Connection, stream: int, new: Span) -> None:
    """Add a window to those of a stream, in the caller's transaction."""
    whole = replace(new, start=moment_of(seconds(new.start)), end=moment_of(seconds(new.end)))
    spans = with_span(_spans(connection, stream), whole)
    connection.execute("DELETE FROM windows WHERE stream = ?", (stream,))
    connection.executemany(
        "INSERT INTO windows (stream, start, end, is_known) VALUES (?, ?, ?, ?)",
        ((stream, seconds(one.start), seconds(one.end), one.is_known) for one in spans),
    )


def advance(connection: sqlite3.Connection, stream: int, checkpoint: int) -> None:
    """Move a checkpoint on; a batch never moves it back."""
    connection.execute(
        "UPDATE streams SET checkpoint = max(coalesce(checkpoint, 0), ?) WHERE id = ?",
        (checkpoint, stream),
    )


def _reached(connection: sqlite3.Connection, stream: int) -> Reached:
    query = "SELECT checkpoint FROM streams WHERE id = ?"
    [(checkpoint,)] = connection.execute(query, (stream,)).fetchall()
    return Reached(
        None if checkpoint is None else moment_of(checkpoint), tuple(_spans(connection, stream))
    )


def _spans(connection: sqlite3.Connection, stream: int) -> list[Span]:
    query = "SELECT start, end, is_known FROM windows WHERE stream = ? ORDER BY start"
    return [
        Span(moment_of(start), moment_of(end), bool(is_known))
        for start, end, is_known in connection.execute(query, (stream,))
    ]
