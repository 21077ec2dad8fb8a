"""Downloads that survive broken connections: the body goes on where it was cut.

    200 ── cut at byte N ── pause ── Range: bytes=N-, If-Range ─┬ 206, the rest of the same file
             ^                                                  ├ 200, the same file: skip N bytes
             |                                                  └ anything else: refused by name
             └──────────────── cut again, with progress ────────┘

Each request begins at the first URL again, because the URLs that it redirects to may have expired,
and so may the token of a registry. Servers are asked for a range even if they do not offer it
(``Accept-Ranges``). The consumer has the first N bytes already, so the rest must be of the same
file: ETag, date and total size may not differ (RFC 9110, 13.1.5 and 14.4). A file without ETag and
date is resumed if its size is known and still the same; a mixture of two files of one size would
have a wrong digest, which the consumer checks before anybody sees the file.

The number of cuts has no limit as long as each attempt brings new bytes; attempts that bring none
are limited, with growing pauses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from appliance.core import retry
from appliance.core.download.answers import Answer, BrokenBody, over
from appliance.core.download.connections import Transient
from appliance.core.download.deadline import Deadline
from appliance.core.download.pace import Pace
from appliance.core.run.errors import Unavailable

OK, PARTIAL, NOT_SATISFIABLE = 200, 206, 416
EXPECTED = frozenset({OK, PARTIAL, NOT_SATISFIABLE})
"""The answers to a request for a range that are judged here."""
TRIES = 8
"""Attempts in a row that bring no byte; with the pauses between them, about a minute."""
LONGEST_PAUSE = 30.0
"""Seconds between two of them."""
LONGEST_ASKED = 120.0
"""Seconds; a server that asks to wait longer (``Retry-After``) is left to the next run."""

_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)
_AGAIN = "the next run starts again"


class CannotResume(Unavailable):
    """The server no longer has the file whose first bytes have come."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a request is sent: until when, how often at most, and with which further headers."""

    limit: Deadline
    rate: Pace
    tries: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def pause(self, error: Exception, due: float) -> float | None:
        """Return the seconds to wait after an error; None if there is no time for it."""
        asked = error.after if isinstance(error, Transient) else 0.0
        wait = asked + due  # a random part, too: other clients were asked the same
        is_long = asked > LONGEST_ASKED or wait > self.limit.remaining
        return None if is_long else wait


Asking = Callable[[Attempt], AbstractContextManager[Answer]]
"""Sends the request for a file, with whatever login it needs."""


class ResumedBody:
    """The blocks of a file, of one answer after the other; ``stack`` holds the present one."""

    def __init__(
        self,
        first: Answer,
        ask: Asking,
        attempt: Attempt,
        stack: ExitStack,
        *,
        name: str,
        received: int = 0,
    ) -> None:
        self._first = first
        self._ask = ask
        self._attempt = attempt
        self._stack = stack
        self._name = name
        self._total = first.size
        self._received = received

    def rest(self) -> Iterator[bytes]:
        """Yield the blocks after those that were received before; the server is asked now.

        Raises:
            CannotResume: it no longer has the same file.
            ApplianceError: as for iterating.

        """
        blocks = self._call()
        self._first = replace(self._first, size=self._total, blocks=blocks)
        return iter(self)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the blocks.

        Raises:
            Unavailable: the file cannot be resumed, or the server is too slow.
            ApplianceError: as for the request.

        """
        blocks = self._first.blocks
        while True:
            try:
                for block in blocks:
                    self._received += len(block)
                    yield block
                if self._total is None or self._received == self._total:
                    return
            except BrokenBody as error:
                self._refuse_unknown(error)
            if self._received == self._total:
                return
            blocks = self._resume()

    def _refuse_unknown(self, error: BrokenBody) -> None:
        """Raise an error after which nothing would show that the rest is of the same file."""
        if self._attempt.tries <= 1 or (self._total is None and not _validator(self._first)):
            raise error

    def _resume(self) -> Iterator[bytes]:
        """Return at least one further block; retry as often as `TRIES` allows."""
        retry.wait(next(retry.pauses()))
        return self._call()

    def _call(self) -> Iterator[bytes]:
        try:
            return retry.call(
                self._continue,
                on=Transient,
                attempts=TRIES,
                longest=LONGEST_PAUSE,
                decide=self._attempt.pause,
            )
        except Transient as error:
            if self._attempt.limit.is_over:
                limit, rate = self._attempt.limit, self._attempt.rate
                raise over(self._name, self._received, limit, rate) from error
            total = "" if self._total is None else f" of {self._total}"
            words = f"broke after {self._received}{total} bytes and cannot be resumed"
            raise Unavailable(self._name, f"{words}: {error.cause}", _AGAIN) from error

    def _continue(self) -> Iterator[bytes]:
        self._stack.close()
        headers = {"Range": f"bytes={self._received}-"}
        if validator := _validator(self._first):
            headers["If-Range"] = validator
        attempt = Attempt(self._attempt.limit, self._attempt.rate, 1, headers)
        answer = self._stack.enter_context(self._ask(attempt))
        self._check(answer)
        self._attempt.rate.forgive()
        rest = answer.blocks
        if answer.status == OK:
            rest = _after(rest, self._received)
        # The attempt has succeeded when it brings new bytes, not when it is answered.
        first = next(rest, b"")
        if not first:
            raise BrokenBody(self._name, "the connection ended before any further byte")
        return _chained(first, rest)

    def _check(self, answer: Answer) -> None:
        """Check that an answer has the rest of the file.

        Raises:
            Unavailable: it does not.

        """
        if answer.status == NOT_SATISFIABLE:
            raise self._refused(answer, "answers 416: it has no such byte")
        is_same = self._is_same_version(answer)
        total = answer.size if answer.status == OK else self._total_of_range(answer)
        if self._total is not None and total not in (None, self._total):
            words = f"has another file now: it has {total} bytes, and had {self._total}"
            raise self._refused(answer, words)
        if answer.status == OK and total is None and not is_same:
            raise self._refused(answer, "begins again, without a size or an ETag")
        self._total = self._total or total

    def _is_same_version(self, answer: Answer) -> bool:
        """Check whether there is an ETag or date that has not changed.

        Raises:
            Unavailable: it has changed.

        """
        is_same = False
        for header in ("ETag", "Last-Modified"):
            before, now = self._first.headers.get(header), answer.headers.get(header)
            if before and now and before != now:
                words = f"has another file now: its {header} is {now[:80]}, and was {before[:80]}"
                raise self._refused(answer, words)
            is_same = is_same or bool(before and now)
        return is_same

    def _total_of_range(self, answer: Answer) -> int | None:
        """Return the total size that a partial answer gives; None: it does not know it."""
        text = answer.headers.get("Content-Range", "")
        found = _RANGE.fullmatch(text.strip())
        if found is None:
            raise self._refused(answer, f"sends the Content-Range {text[:80]!r}")
        start, end = int(found[1]), int(found[2])
        total = None if found[3] == "*" else int(found[3])
        is_consistent = start <= end and (total is None or end < total)
        is_whole = answer.size in (None, end - start + 1)
        if start != self._received or not is_consistent or not is_whole:
            raise self._refused(answer, f"sends the Content-Range {text[:80]!r}")
        return total

    def _refused(self, answer: Answer, words: str) -> CannotResume:
        cause = f"cannot be resumed at byte {self._received}: {answer.host} {words}"
        return CannotResume(self._name, cause, _AGAIN)


def _validator(answer: Answer) -> str:
    """Return what stands for the version of a file in ``If-Range``; a weak ETag does not."""
    etag = answer.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    return answer.headers.get("Last-Modified", "")


def _after(blocks: Iterator[bytes], number: int) -> Iterator[bytes]:
    """Yield what follows the first ``number`` bytes."""
    for block in blocks:
        if number < len(block):
            yield block[number:] if number else block
        number = max(number - len(block), 0)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
