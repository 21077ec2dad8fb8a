"""Requests to a registry: JSON in bounded pages, manifests by digest, layers as streams.

Only https. Listings come from the configured host alone: a redirect of a page, or a link to the
next one, that leaves it is refused. A layer, which has a digest, may be redirected to a store of
the registry, which then gets no credentials of ours.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin, urlsplit

from appliance.core import retry
from appliance.core.download import resume
from appliance.core.download.answers import Answer, BrokenBody
from appliance.core.download.downloader import Downloader, Question, Timeouts, conditions_of
from appliance.core.download.partial import PartialData
from appliance.core.download.resume import Attempt
from appliance.core.registry import names
from appliance.core.registry.login import FORBIDDEN, UNAUTHORIZED, Login
from appliance.core.registry.names import Digest
from appliance.core.run.errors import Unavailable
from appliance.core.trust.errors import Malformed, Tampered

OK, NOT_MODIFIED, NOT_FOUND = 200, 304, 404
MAX_BYTES = 4 * 2**20
"""Bytes of a manifest (as the distribution specification bounds them) or of a page."""
MOST_PAGES = 1000
"""Pages of one listing; with 100 items each, far more than a registry of images has."""
_NEXT = re.compile(r'<([^<>]*)>\s*;\s*rel="?next"?', re.ASCII)
_ASK = "ask the registry's administrators"
_DENIED = frozenset({UNAUTHORIZED, FORBIDDEN})
_TIMEOUTS = Timeouts()
# Attempts to read a page that breaks, and the longest pause between them in seconds.
_TRIES, _LONGEST_PAUSE = 3, 5.0
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RegistryAnswer:
    """A whole answer of a registry: status, headers, content."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)
    is_home: bool = True
    """Whether the registry itself has sent it, and not a host that it redirects to."""


@dataclass(frozen=True, slots=True)
class RegistryClient:
    """One registry, by one way in. ``login.host`` is HOST or HOST:PORT."""

    client: Downloader
    login: Login

    @property
    def host(self) -> str:
        """The registry's name in references: HOST or HOST:PORT."""
        return self.login.host

    def get(
        self, path: str, *, scope: str, headers: Mapping[str, str] = _NOTHING
    ) -> RegistryAnswer:
        """Return the answer to a path, of status 200, 304 or 404.

        ``scope`` is the repository or project that the path belongs to.

        Raises:
            AccessDenied: the registry does not let us read it.
            Unavailable: the registry cannot be reached, or answers otherwise.
            Malformed: the answer is larger than `MAX_BYTES`.

        """
        return retry.call(
            lambda: self._get(path, scope=scope, headers=headers),
            on=BrokenBody,
            attempts=_TRIES,
            longest=_LONGEST_PAUSE,
            decide=lambda _, pause: pause,
        )

    def _get(self, path: str, *, scope: str, headers: Mapping[str, str]) -> RegistryAnswer:
        expected = frozenset({OK, NOT_MODIFIED, NOT_FOUND})
        with self._ask(path, scope=scope, headers=headers, expected=expected) as answer:
            content = bytearray()
            for block in answer.blocks:
                content += block
                if len(content) > MAX_BYTES:
                    raise Malformed(self._name(path), f"is larger than {MAX_BYTES >> 20} MiB")
            found = bytes(content)
            return RegistryAnswer(answer.status, answer.headers, found, answer.is_home)

    def pages(self, path: str, *, scope: str, may_be_missing: bool = False) -> Iterator[Any]:
        """Yield the JSON of a listing page by page, as its links lead.

        A listing that ``may_be_missing`` yields None when it does not exist.

        Raises:
            Unavailable: the listing does not exist, does not end, or leads to another host.
            ApplianceError: as for `get`.

        """
        seen: set[str] = set()
        while path:
            if path in seen or len(seen) >= MOST_PAGES:
                words = f"its listing does not end after {len(seen)} pages"
                raise Unavailable(f"{self.host}/{scope}", words, _ASK)
            seen.add(path)
            answer = self.get(path, scope=scope)
            if not answer.is_home:
                words = "its listing is redirected to another host; only layers may be there"
                remedy = "if the registry has moved, correct registry_host in sources.yaml"
                raise Unavailable(f"{self.host}/{scope}", words, remedy)
            if answer.status == NOT_FOUND and may_be_missing:
                yield None
                return
            if answer.status == NOT_FOUND:
                raise self.login.missing(scope)
            yield self._parsed(answer, path)
            path = self._next(answer, path, scope=scope)

    def blob(self, repository: str, digest: Digest, *, limit: int) -> bytes:
        """Return a blob of at most ``limit`` bytes.

        Raises:
            Tampered: what the registry sends has another digest.
            Malformed: it is larger.
            ApplianceError: as for `get`.

        """
        name, content = f"{self.host}/{repository}: blob {digest}", bytearray()
        with self.layer(repository, digest, timeouts=_TIMEOUTS) as (_, blocks):
            for block in blocks:
                content += block
                if len(content) > limit:
                    raise Malformed(name, f"is larger than {limit} bytes")
        if (found := names.digest_of(bytes(content))) != digest:
            raise Tampered(name, f"the bytes that came have digest {found}")
        return bytes(content)

    @contextlib.contextmanager
    def layer(
        self,
        repository: str,
        digest: Digest,
        *,
        timeouts: Timeouts,
        partial: PartialData | None = None,
    ) -> Iterator[tuple[int | None, Iterator[bytes]]]:
        """Yield size (None: not announced) and content of a layer.

        With ``partial`` data, the content is what follows them. It is resumed where it breaks, with
        a new token if the registry asks for one.

        Raises:
            ApplianceError: as for `get`; also from within the blocks.

        """
        path = f"/v2/{repository}/blobs/{digest}"
        refused = conditions_of(partial.refused) if partial and partial.refused else {}

        def ask(attempt: Attempt) -> contextlib.AbstractContextManager[Answer]:
            again = frozenset({NOT_MODIFIED}) if refused else frozenset()
            return self._ask(
                path,
                scope=repository,
                headers=_NOTHING if attempt.headers else refused,
                expected=frozenset({OK}) | (resume.EXPECTED if attempt.headers else again),
                timeouts=timeouts,
                attempt=attempt,
            )

        name = self._name(path)
        with self.client.resumed(ask, name=name, timeouts=timeouts, partial=partial) as answer:
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding.lower() != "identity":
                words = f"is sent with the Content-Encoding {encoding[:40]!r}, which changes it"
                raise Malformed(name, words, _ASK)
            yield answer.size, answer.blocks

    @contextlib.contextmanager
    def _ask(
        self,
        path: str,
        *,
        scope: str,
        expected: frozenset[int],
        headers: Mapping[str, str] = _NOTHING,
        timeouts: Timeouts = _TIMEOUTS,
        attempt: Attempt | None = None,
    ) -> Iterator[Answer]:
        """Send a request, and once more when the registry wants to know who asks.

        Harbor may answer 404 for what only an account may see.
        """
        name = self._name(path)
        for is_last in (False, True):
            sent = self.login.authorization(scope)
            question = Question(
                f"https://{self.host}{path}",
                name,
                sent,
                headers,
                expected | _DENIED | {NOT_FOUND},
            )
            with self.client.ask(question, timeouts=timeouts, attempt=attempt) as answer:
                is_hidden = answer.status == NOT_FOUND and self.login.can_prove(sent)
                if answer.status in expected and (is_last or not is_hidden):
                    yield answer
                    return
                if answer.status == NOT_FOUND and not is_hidden:
                    raise Unavailable(
                        name, "the registry no longer has it", "the next run lists the tags again"
                    )
                if is_last:
                    raise self.login.denied(scope)
                challenge = answer.headers.get("WWW-Authenticate", "")
            self.login.answer(challenge, scope=scope, sent=sent)

    def _name(self, path: str) -> str:
        return f"{self.host}{path.partition('?')[0]}"

    def _parsed(self, answer: RegistryAnswer, path: str) -> Any:
        try:
            return json.loads(answer.content)
        except (ValueError, RecursionError):
            kind = answer.headers.get("Content-Type", "").partition(";")[0][:60]
            words = f"answers {kind or 'something'} that is not JSON"
            raise Unavailable(self._name(path), words, _ASK) from None

    def _next(self, answer: RegistryAnswer, path: str, *, scope: str) -> str:
        found = _NEXT.search(answer.headers.get("Link", ""))
        if found is None:
            return ""
        try:
            link = urlsplit(urljoin(f"https://{self.host}{path}", found[1]))
        except ValueError:
            link = urlsplit("")
        if (link.scheme, link.netloc) != ("https", self.host):
            words = f"its link to the next page leads to {found[1][:120]!r}, another place"
            raise Unavailable(f"{self.host}/{scope}", words, _ASK)
        return f"{link.path}?{link.query}"
