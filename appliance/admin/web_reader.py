"""Bounded requests of the host to services of the web, verified and through the site's proxies."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from appliance.admin.mounts import site_files
from appliance.admin.runtime.native import authorities
from appliance.core import causes, hosts, proxy
from appliance.core.run.errors import CHECK_LOGS, Unavailable
from appliance.core.run.layout import Layout
from appliance.core.version import __version__

LARGEST = 64 * 2**20
"""Bytes of an answer."""
_MOST_REDIRECTS = 3
_ANSWER = 4
"""Times the limit for one byte, in which a whole answer must end."""
_OK, _MULTIPLE_CHOICES = 200, 300
_REDIRECTS = (301, 302, 307, 308)


@dataclass(frozen=True, slots=True)
class WebReader:
    """How to reach a service: authorities that verify it, proxies of the host, patience."""

    authorities: Path | None
    proxies: Mapping[str, str]
    timeout: timedelta
    setting: str = "--url"
    """Where an administrator corrects the URL."""
    patience: str = "try again later, or with a larger --timeout"
    """What to do where an answer takes too long."""

    def get(self, url: str) -> Any:
        """Return the JSON at a URL.

        Raises:
            Unavailable: there is none.

        """
        try:
            return json.loads(self.read(url, accept="application/json"))
        except (ValueError, RecursionError) as error:
            words = f"the answer to GET {urlsplit(url).path or '/'} is not JSON"
            remedy = f"check {self.setting}, and a proxy before it"
            raise Unavailable(hosts.of_url(url), words, remedy) from error

    def read(self, url: str, *, accept: str = "*/*") -> bytes:
        """Return what is at a URL; a redirect is followed on the same host alone.

        Raises:
            Unavailable: the service does not answer, or not with status 200.

        """
        for _ in range(_MOST_REDIRECTS):
            with proxy.environment(self.proxies):
                answer = self._ask(url, accept)
            if answer.status not in _REDIRECTS:
                break
            url = self._redirected(url, answer.location)
        where, path = hosts.of_url(url), urlsplit(url).path or "/"
        if answer.status != _OK:
            words = f"answers {answer.status} {answer.reason} to GET {path}".rstrip()
            raise Unavailable(where, words, f"check {self.setting}, or try again later")
        return answer.body

    def send(self, url: str, content: bytes | None) -> None:
        """Get a URL, or post content to it, for the effect; no redirect is followed.

        Raises:
            Unavailable: the service does not answer, or not with a status of success.

        """
        with proxy.environment(self.proxies):
            answer = self._ask(url, "*/*", content)
        if not _OK <= answer.status < _MULTIPLE_CHOICES:
            words = f"answers {answer.status} {answer.reason}".rstrip()
            raise Unavailable(hosts.of_url(url), words, f"check the URL in {self.setting}")

    def _ask(self, url: str, accept: str, content: bytes | None = None) -> _Answer:
        where, seconds = hosts.of_url(url), _ANSWER * self.timeout.total_seconds()
        has_expired = threading.Event()
        try:
            with contextlib.closing(self._connection(url)) as connection:
                connection.connect()
                with _cut_after(seconds, connection.sock, has_expired):
                    answer = _exchange(connection, url, accept, content)
        except ssl.SSLCertVerificationError as error:
            words = f"its TLS certificate is not trusted: {error.verify_message}"
            remedy = "name a file that holds its authority as FEDCLOUD_CA_BUNDLE"
            raise Unavailable(where, words, remedy) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if has_expired.is_set():
                raise self._late(where, seconds) from error
            cause = getattr(error, "strerror", None) or causes.of_connection(error)
            if proxy.is_refusal(error):
                raise Unavailable(where, *proxy.explain(url, error, cause)) from error
            words = f"cannot be reached: {cause}"
            remedy = f"check {self.setting}, the network and the proxy"
            raise Unavailable(where, words, remedy) from error
        if has_expired.is_set():
            raise self._late(where, seconds)
        if len(answer.body) > LARGEST:
            raise Unavailable(where, f"its answer has more than {LARGEST >> 20} MiB", CHECK_LOGS)
        return answer

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts, seconds = urlsplit(url), self.timeout.total_seconds()
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port or 80, timeout=seconds)
        file = str(self.authorities) if self.authorities else None
        tls = ssl.create_default_context(cafile=file)
        return proxy.https_connection(host, parts.port or 443, timeout=seconds, tls=tls)

    def _redirected(self, url: str, location: str) -> str:
        """Return where a redirect leads to; raises `Unavailable` for a place on another host."""
        where, words = hosts.of_url(url), f"redirects {urlsplit(url).path or '/'} to"
        try:
            target = urljoin(url, location)
            is_same = urlsplit(target).netloc == urlsplit(url).netloc
        except ValueError:
            raise Unavailable(where, f"{words} no URL: {location[:120]!r}", CHECK_LOGS) from None
        if not is_same:
            raise Unavailable(
                where, f"{words} {hosts.of_url(target)}", f"write that URL with {self.setting}"
            )
        return target

    def _late(self, where: str, seconds: float) -> Unavailable:
        words = f"its answer did not end within {seconds:g} s"
        return Unavailable(where, words, self.patience)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, read to its end."""

    status: int
    reason: str
    location: str
    body: bytes


def _exchange(
    connection: http.client.HTTPConnection, url: str, accept: str, content: bytes | None
) -> _Answer:
    """Send the request, and return the answer."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept": accept, "User-Agent": f"appliance/{__version__}"}
    method = "GET" if content is None else "POST"
    connection.request(method, target, body=content, headers=headers)
    answer = connection.getresponse()
    body = answer.read(LARGEST + 1)
    return _Answer(answer.status, answer.reason, answer.getheader("Location") or "", body)


@contextlib.contextmanager
def _cut_after(
    seconds: float, connected: socket.socket, has_expired: threading.Event
) -> Iterator[None]:
    """End a connection after some time: its own limit is one for each byte."""

    def cut() -> None:
        has_expired.set()
        with contextlib.suppress(OSError):
            # not the method of a TLS connection, which another thread is reading
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def of_site(
    layout: Layout, proxies: Mapping[str, str], *, timeout: timedelta, **words: str
) -> WebReader:
    """Return the reader of a site, with its authorities; ``words`` are fields of `WebReader`."""
    named = site_files.variables(layout).get("FEDCLOUD_CA_BUNDLE", "")
    return WebReader(Path(authorities(named)), proxies, timeout, **words)
