"""Downloads over HTTP from servers that may be hostile: verified, and limited in size and time.

Redirects are followed here and not by requests: at most five, never from https to http, and
credentials are sent to the first host only. Connection failures and the answers 429 and 5xx are
retried with growing pauses, not before the time that the server asks for (``Retry-After``). Bodies
that break are resumed (`appliance.core.download.resume`). A server that sends header or body too
slowly is given up (`appliance.core.download.pace`).
"""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3

from appliance.core import clock, proxy, retry
from appliance.core.download import answers, connections, deadline, resume
from appliance.core.download.answers import Answer
from appliance.core.download.connections import Transient
from appliance.core.download.pace import Pace
from appliance.core.download.partial import PartialData, StillWrong
from appliance.core.download.resume import Asking, Attempt, ResumedBody
from appliance.core.hosts import SCHEMES
from appliance.core.run.errors import AccessDenied, ApplianceError, Unavailable
from appliance.core.trust.ca_directory import CADirectory

_LENGTH = re.compile("[0-9]{1,18}")
_SECONDS = re.compile("[0-9]{1,9}")
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIED = frozenset({401, 403})
_ASK = "ask its administrators"
_RETRIED = frozenset({429, 500, 502, 503, 504})
_ASKS_TO_WAIT = frozenset({429, 503})
_OK, _NOT_MODIFIED = 200, 304
# Seconds between two attempts.
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of a download: ``total`` covers all attempts, the others single waits.

    In each ``window``, a body must bring `pace.LEAST` bytes.
    """

    connect: timedelta = timedelta(seconds=20)
    read: timedelta = timedelta(seconds=60)
    total: timedelta = timedelta(minutes=5)
    window: timedelta = timedelta(seconds=60)

    def within(self, most: Timeouts) -> Timeouts:
        """Return these limits, none longer than that of ``most``."""
        return Timeouts(
            min(self.connect, most.connect),
            min(self.read, most.read),
            min(self.total, most.total),
            min(self.window, most.window),
        )


_ENDLESS = Timeouts(timedelta.max, timedelta.max, timedelta.max, timedelta.max)
PROMPT = Timeouts(
    timedelta(seconds=8), timedelta(seconds=8), timedelta(seconds=20), timedelta(seconds=8)
)
"""Limits for a check: a server that works answers within a second."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request: its URL, the ``name`` that stands for it in messages, and what goes with it.

    ``authorization`` is the value of the header of this name; no other host gets it.
    ``expected`` are the statuses that the caller handles, every other one is an error.
    """

    url: str
    name: str
    authorization: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    expected: frozenset[int] = frozenset({_OK})


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file, and the version that its server gives it: ``ETag`` and ``Last-Modified``."""

    content: bytes = field(repr=False)
    etag: str = ""
    modified: str = ""


class Downloader:
    """Downloads with the anchors of a CA directory or context, in up to ``attempts`` attempts.

    That is the number of attempts to get an answer. With one attempt, nothing is resumed either.
    No limit of a download is longer than that of ``most``.
    """

    def __init__(
        self,
        trust: CADirectory | ssl.SSLContext,
        *,
        attempts: int = 3,
        most: Timeouts = _ENDLESS,
    ) -> None:
        proxy.check()
        self._attempts, self._most = attempts, most
        self._session = connections.session(trust)

    def fetch(
        self,
        url: str,
        *,
        name: str,
        max_bytes: int,
        user: str = "",
        password: str = "",
        timeouts: Timeouts = Timeouts(),
    ) -> bytes:
        """Return the content of ``url``; messages call it ``name``, because a URL may hold a token.

        Raises:
            Unavailable: it cannot be fetched, takes too long, or is larger than ``max_bytes``.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        question = Question(url, name, basic(user, password))
        return self.fetch_again(question, None, max_bytes=max_bytes, timeouts=timeouts).content

    def fetch_again(
        self,
        question: Question,
        known: Fetched | None,
        *,
        max_bytes: int,
        timeouts: Timeouts = Timeouts(),
    ) -> Fetched:
        """Return the file of a question; ``known`` itself if the server says that it is the same.

        Raises:
            ApplianceError: as for `fetch`.

        """
        conditions = conditions_of(known) if known else {}
        if conditions:
            question = replace(
                question,
                headers={**question.headers, **conditions},
                expected=question.expected | {_NOT_MODIFIED},
            )
        content = bytearray()
        with self._resuming(question, timeouts=timeouts) as answer:
            if answer.status == _NOT_MODIFIED and known is not None:
                return known
            for block in answer.blocks:
                content += block
                if len(content) > max_bytes:
                    raise Unavailable(
                        question.name,
                        f"is larger than {max_bytes} bytes, the limit for an image list",
                        "check that the URL is that of an image list",
                    )
            headers = answer.headers
        return Fetched(bytes(content), headers.get("ETag", ""), headers.get("Last-Modified", ""))

    @contextlib.contextmanager
    def stream(
        self,
        url: str,
        *,
        name: str,
        user: str = "",
        password: str = "",
        timeouts: Timeouts = Timeouts(),
        partial: PartialData | None = None,
    ) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """Open ``url``; yield its size, if the server sends it, and an iterator over its blocks.

        With ``partial`` data, these are the blocks after them; see `resumed`.

        Raises:
            Unavailable: it cannot be fetched; the iterator over the blocks raises it, too.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        question = Question(url, name, basic(user, password))
        with self._resuming(question, timeouts=timeouts, partial=partial) as answer:
            yield answer.size, answer.blocks

    def _resuming(
        self, question: Question, *, timeouts: Timeouts, partial: PartialData | None = None
    ) -> contextlib.AbstractContextManager[Answer]:
        refused = conditions_of(partial.refused) if partial and partial.refused else {}
        first = replace(question, headers={**question.headers, **refused})
        if refused:
            first = replace(first, expected=first.expected | {_NOT_MODIFIED})

        def ask(attempt: Attempt) -> contextlib.AbstractContextManager[Answer]:
            asked = question if attempt.headers else first
            return self.ask(asked, timeouts=timeouts, attempt=attempt)

        return self.resumed(ask, name=question.name, timeouts=timeouts, partial=partial)

    @contextlib.contextmanager
    def resumed(
        self,
        ask: Asking,
        *,
        name: str,
        timeouts: Timeouts,
        partial: PartialData | None = None,
    ) -> Iterator[Answer]:
        """Send a request and yield its answer, whose body is resumed where it breaks.

        ``partial`` data are bytes that an earlier run has received: the body is what follows them.
        Without such bytes, it gets the version of the file.

        ``ask`` sends the request, at first and again; the second time it must expect the answers
        of `resume.EXPECTED`, which `ask` of this class does by itself.

        Raises:
            CannotResume: the server no longer has the file of the ``partial`` data.
            StillWrong: it still has the version that was refused.
            ApplianceError: as for ``ask``; also from within the blocks.

        """
        timeouts = timeouts.within(self._most)
        with deadline.limit(timeouts.total) as limit, contextlib.ExitStack() as stack:
            attempt = Attempt(limit, Pace(timeouts.window), self._attempts)
            if partial and partial.number:
                before = _answer_before(partial)
                body = ResumedBody(before, ask, attempt, stack, name=name, received=partial.number)
                yield replace(before, blocks=body.rest())
                return
            first = stack.enter_context(ask(attempt))
            if partial:
                _note_version(first, partial)
                if partial.refused and _is_still(first, partial, partial.refused):
                    raise StillWrong(name, "the server has not changed it since it was refused")
            body = ResumedBody(first, ask, attempt, stack, name=name)
            yield replace(first, blocks=iter(body))

    @contextlib.contextmanager
    def ask(
        self,
        question: Question,
        *,
        timeouts: Timeouts = Timeouts(),
        attempt: Attempt | None = None,
    ) -> Iterator[Answer]:
        """Send a request and yield the answer, which ends with the block.

        ``attempt`` is a part of a longer download.

        Raises:
            Unavailable: the server cannot be reached or its answer is not one of those expected;
                also from within the blocks.
            AccessDenied: the server rejects the credentials.
            Untrusted: the server's certificate is not trusted.

        """
        timeouts = timeouts.within(self._most)
        with contextlib.ExitStack() as stack:
            if attempt is None:
                limit = stack.enter_context(deadline.limit(timeouts.total))
                attempt = Attempt(limit, Pace(timeouts.window), self._attempts)
            elif attempt.headers:
                question = replace(
                    question,
                    headers={**question.headers, **attempt.headers},
                    expected=question.expected | resume.EXPECTED,
                )
            yield stack.enter_context(self._asked(question, attempt, timeouts=timeouts))

    @contextlib.contextmanager
    def _asked(
        self, question: Question, attempt: Attempt, *, timeouts: Timeouts
    ) -> Iterator[Answer]:
        name, limit = question.name, attempt.limit
        try:
            response, place = retry.call(
                lambda: self._open(question, attempt, timeouts=timeouts),
                on=Transient,
                attempts=attempt.tries,
                longest=_LONGEST_PAUSE,
                decide=attempt.pause,
            )
        except ApplianceError as error:
            if limit.is_over:  # the error is that of the shut connection
                seconds = int(timeouts.total.total_seconds())
                words = f"is too slow: the server sent no answer within {seconds} s"
                raise Unavailable(name, words, answers.RETRIED) from error
            raise
        try:
            with response:
                length = response.headers.get("Content-Length", "")
                size = int(length) if _LENGTH.fullmatch(length) else None
                rate, host = attempt.rate, _host(place)
                if not attempt.headers:
                    rate.restart()
                blocks = answers.read(
                    response, name=name, host=host, size=size, limit=limit, rate=rate
                )
                is_home = _origin(place) == _origin(urlsplit(question.url))
                yield Answer(
                    response.status_code, response.headers, size, blocks, host, is_home=is_home
                )
        finally:
            limit.forget()

    def _open(
        self, question: Question, attempt: Attempt, *, timeouts: Timeouts
    ) -> tuple[requests.Response, SplitResult]:
        """Follow redirects; return the answer and the URL that it is from."""
        url, name = question.url, question.name
        start = place = urlsplit(url)
        for _ in range(_MAX_REDIRECTS + 1):
            if start.scheme == "https" and place.scheme != "https":
                raise Unavailable(name, f"the server redirects from https to {place.scheme}", _ASK)
            if place.scheme not in SCHEMES:
                raise Unavailable(name, f"the server redirects to {place.scheme}", _ASK)
            is_home = _origin(place) == _origin(start)
            response = self._get(url, question, attempt, is_home=is_home, timeouts=timeouts)
            if response.status_code not in _REDIRECTS:
                return _checked(response, question, place, is_home=is_home), place
            response.close()
            try:
                url = urljoin(url, response.headers.get("Location", ""))
                place = urlsplit(url)
            except ValueError:
                raise Unavailable(name, "the server redirects to an invalid URL", _ASK) from None
        raise Unavailable(name, f"the server redirects more than {_MAX_REDIRECTS} times", _ASK)

    def _get(
        self,
        url: str,
        question: Question,
        attempt: Attempt,
        *,
        is_home: bool,
        timeouts: Timeouts,
    ) -> requests.Response:
        headers = dict(question.headers)
        if question.authorization and is_home:
            headers["Authorization"] = question.authorization
        limit, longest = attempt.limit, timeouts.connect + timeouts.read
        host, seconds = _host(urlsplit(url)), longest.total_seconds()
        words = f"is too slow: {host} did not send its whole header within {seconds:g} s"
        try:
            with limit.registering(), limit.waiting(longest):
                response = self._session.get(
                    url,
                    headers=headers,
                    auth=connections.anonymous,
                    stream=True,
                    allow_redirects=False,
                    timeout=(timeouts.connect.total_seconds(), timeouts.read.total_seconds()),
                )
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            if limit.is_stalled:
                raise Unavailable(question.name, words, answers.RETRIED) from error
            raise connections.translated(error, url, question.name) from error
        if limit.is_stalled:  # the end of the connection looks like that of the header
            response.close()
            raise Unavailable(question.name, words, answers.RETRIED)
        return response


def _checked(
    response: requests.Response, question: Question, place: SplitResult, *, is_home: bool
) -> requests.Response:
    status, name = response.status_code, question.name
    if status in question.expected and (is_home or status not in _DENIED):
        return response
    response.close()
    server = "the server" if is_home else f"{_host(place)}, to which the server redirects,"
    answer = f"{server} answers {status} {(response.reason or '')[:80]}".rstrip()
    if status in _DENIED:
        remedy = "check the access token in its URL" if is_home else _ASK
        raise AccessDenied(name, answer, remedy)
    if status not in _RETRIED:
        raise Unavailable(name, answer, "check its URL, or ask its administrators")
    after = _retry_after(response) if status in _ASKS_TO_WAIT else 0.0
    if after > resume.LONGEST_ASKED:
        answer += f" and asks to wait {after:.0f} s"
    raise Transient(name, answer, after=after)


def _retry_after(response: requests.Response) -> float:
    """Return the seconds that a server asks to wait, given as such or as a date; else 0."""
    text = response.headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max((moment - clock.now()).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return 0.0


def _answer_before(partial: PartialData) -> Answer:
    """Return the answer of an earlier run, of which a part has come."""
    versions = {"ETag": partial.etag, "Last-Modified": partial.modified}
    headers = {name: value for name, value in versions.items() if value}
    return Answer(_OK, headers, partial.total, iter(()))


def _note_version(first: Answer, partial: PartialData) -> None:
    partial.etag = first.headers.get("ETag", "")
    partial.modified = first.headers.get("Last-Modified", "")
    partial.total = first.size


def _is_still(first: Answer, found: PartialData, refused: PartialData) -> bool:
    """Check whether an answer is of the version that was refused; servers may ignore conditions."""
    if first.status == _NOT_MODIFIED:
        return True
    versions = [(one.etag, one.modified, one.total) for one in (found, refused)]
    return versions[0] == versions[1]


def conditions_of(known: Fetched | PartialData) -> dict[str, str]:
    """Return the headers by which a server sends a file only if it has another version of it."""
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.modified}
    return {name: value for name, value in headers.items() if value}


def basic(user: str, password: str) -> str:
    """Return the value of the header ``Authorization`` for an account; empty without one."""
    secret = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return f"Basic {secret}" if user or password else ""


def _origin(place: SplitResult) -> tuple[str, str]:
    return place.scheme, place.netloc


def _host(place: SplitResult) -> str:
    """Return HOST or HOST:PORT of a URL, without an account."""
    return place.netloc.rpartition("@")[2][:100]
