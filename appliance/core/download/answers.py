"""The answer to one request: its status, its headers, and its body block by block."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import urllib3

from appliance.core.download import pace
from appliance.core.download.connections import Transient, cause
from appliance.core.download.deadline import Deadline
from appliance.core.download.pace import Pace
from appliance.core.run.errors import Unavailable

if TYPE_CHECKING:
    import requests

BLOCK = 2**20
"""Bytes that are read at a time, at most."""
# The first blocks of a body are small: of a connection that is reset, what is read but not yet a
# whole block is lost, and each attempt must make progress.
_FIRST = 2**14
RETRIED = "the next run retries; if that recurs, ask its administrators"
"""The remedy for a server that is too slow."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a server whose body is read block by block.

    ``size`` is that of this body in bytes, None when the server does not announce it.
    """

    status: int
    headers: Mapping[str, str]
    """Names in any case."""
    size: int | None
    blocks: Iterator[bytes]
    host: str = ""
    """The host that answers: HOST or HOST:PORT."""
    is_home: bool = True
    """Whether that is the host that was asked, and no redirect led away from it."""


class BrokenBody(Transient):
    """The connection ended before the body did."""


def read(
    response: requests.Response,
    *,
    name: str,
    host: str,
    size: int | None,
    limit: Deadline,
    rate: Pace,
) -> Iterator[bytes]:
    """Yield the body of an answer; messages call it ``name``.

    Raises:
        BrokenBody: it ends early; all bytes that came have been yielded.
        Unavailable: the server is too slow.

    """
    received, amount = 0, _FIRST
    broken = ""
    while not broken:
        block = b""
        try:
            with limit.waiting(rate.window):
                block = response.raw.read(amount)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            block, broken = _partial(error), cause(error)
        if limit.is_stalled:  # the end that was read is the one that the deadline made
            broken = "no answer in time"
        received += len(block)
        if limit.is_over:
            raise over(name, received, limit, rate)
        if block:
            if (found := rate.add(len(block))) is not None:
                raise _slow(name, host, found, rate)
            given = time.monotonic()
            yield block
            rate.exclude(since=given)
            amount = min(2 * amount, BLOCK)
        elif not broken:
            break
    if broken:
        raise BrokenBody(name, f"the connection broke after {received} bytes: {broken}")
    if size is not None and received != size:
        raise BrokenBody(name, f"the connection ended after {received} of {size} bytes")


def over(name: str, received: int, limit: Deadline, rate: Pace) -> Unavailable:
    """Return the failure of a download whose total time is over; it names the slower side."""
    taken = rate.excluded
    if taken < limit.elapsed / 2:
        words = f"is too slow: only {received} bytes arrived in time"
        return Unavailable(name, words, RETRIED)
    words = f"took too long: {taken:.0f} of {limit.elapsed:.0f} s were spent on passing it on"
    return Unavailable(name, words, "check the speed of the disk, of the backend and of Glance")


def _partial(error: BaseException) -> bytes:
    """Return the bytes that came before a body in chunks broke; its reader holds them back."""
    found: object = error
    while isinstance(found, BaseException):
        if isinstance(found, http.client.IncompleteRead) and isinstance(found.partial, bytes):
            return found.partial
        found = found.args[-1] if found.args else None
    return b""


def _slow(name: str, host: str, found: float, rate: Pace) -> Unavailable:
    seconds = rate.window.total_seconds()
    words = (
        f"is too slow: {host} sends {pace.shown(found)}, less than the limit of"
        f" {pace.shown(rate.least)} over {seconds:g} s"
    )
    return Unavailable(name, words, RETRIED)
