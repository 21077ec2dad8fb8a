"""What EGI's information service serves of a site, or what an object in a store says of it.

The service has listings of its own: ``/sites/``, ``/site/NAME/projects``, ``/site/NAME/images``. It
shows neither flavors nor times. A URL that ends in ``.json`` is that of an object.
"""

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
from urllib.parse import quote, urljoin, urlsplit

from appliance.admin.diff import view
from appliance.admin.diff.view import SiteView
from appliance.core import causes, hosts, proxy, site_document
from appliance.core.run.errors import CHECK_LOGS, Unavailable
from appliance.core.version import __version__

_LARGEST = 64 * 2**20
_MOST_REDIRECTS = 3
_ANSWER = 4
"""Times the limit for one byte, in which a whole answer must end."""
_OK = 200
_REDIRECTS = (301, 302, 307, 308)


@dataclass(frozen=True, slots=True)
class Reader:
    """How to reach the service: authorities that verify it, proxies of the host, patience."""

    authorities: Path | None
    proxies: Mapping[str, str]
    timeout: timedelta

    def get(self, url: str) -> Any:
        """Return the JSON at a URL; a redirect is followed on the same host alone.

        Raises:
            Unavailable: there is none.

        """
        for _ in range(_MOST_REDIRECTS):
            with proxy.environment(self.proxies):
                answer = self._ask(url)
            if answer.status not in _REDIRECTS:
                break
            url = _redirected(url, answer.location)
        where, path = hosts.of_url(url), urlsplit(url).path or "/"
        if answer.status != _OK:
            words = f"answers {answer.status} {answer.reason} to GET {path}".rstrip()
            raise Unavailable(where, words, "check --url, or try again later")
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            words = f"the answer to GET {path} is not JSON"
            raise Unavailable(where, words, "check --url, and a proxy before it") from error

    def _ask(self, url: str) -> _Answer:
        where, seconds = hosts.of_url(url), _ANSWER * self.timeout.total_seconds()
        has_expired = threading.Event()
        try:
            with contextlib.closing(self._connection(url)) as connection:
                connection.connect()
                with _cut_after(seconds, connection.sock, has_expired):
                    answer = _exchange(connection, url)
        except ssl.SSLCertVerificationError as error:
            words = f"its TLS certificate is not trusted: {error.verify_message}"
            remedy = "name a file that holds its authority as FEDCLOUD_CA_BUNDLE"
            raise Unavailable(where, words, remedy) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if has_expired.is_set():
                raise _late(where, seconds) from error
            cause = getattr(error, "strerror", None) or causes.of_connection(error)
            if proxy.is_refusal(error):
                raise Unavailable(where, *proxy.explain(url, error, cause)) from error
            words = f"cannot be reached: {cause}"
            raise Unavailable(where, words, "check --url, the network and the proxy") from error
        if has_expired.is_set():
            raise _late(where, seconds)
        if len(answer.body) > _LARGEST:
            raise Unavailable(where, f"its answer has more than {_LARGEST >> 20} MiB", CHECK_LOGS)
        return answer

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts, seconds = urlsplit(url), self.timeout.total_seconds()
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port or 80, timeout=seconds)
        file = str(self.authorities) if self.authorities else None
        tls = ssl.create_default_context(cafile=file)
        return proxy.https_connection(host, parts.port or 443, timeout=seconds, tls=tls)


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads to; raises `Unavailable` for a place on another host."""
    where, words = hosts.of_url(url), f"redirects {urlsplit(url).path or '/'} to"
    try:
        target = urljoin(url, location)
        is_same = urlsplit(target).netloc == urlsplit(url).netloc
    except ValueError:
        raise Unavailable(where, f"{words} no URL: {location[:120]!r}", CHECK_LOGS) from None
    if not is_same:
        raise Unavailable(where, f"{words} {hosts.of_url(target)}", "write that URL with --url")
    return target


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer, read to its end."""

    status: int
    reason: str
    location: str
    body: bytes


def _exchange(connection: http.client.HTTPConnection, url: str) -> _Answer:
    """Send the request, and return the answer."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept": "application/json", "User-Agent": f"appliance/{__version__}"}
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    body = answer.read(_LARGEST + 1)
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


def _late(where: str, seconds: float) -> Unavailable:
    words = f"its answer did not end within {seconds:g} s"
    return Unavailable(where, words, "try again later, or with a larger --timeout")


def read(reader: Reader, url: str, *, name: str, gocdb_id: str) -> SiteView | None:
    """Return what is served of a site; None if the service does not list it.

    Raises:
        Unavailable: the service cannot be reached, or answers something else.

    """
    if urlsplit(url).path.endswith(".json"):
        return _object(reader, url)
    base = url.rstrip("/")
    try:
        sites = [_known(one, "id", "name", "url") for one in reader.get(f"{base}/sites/")]
        ours = [one for one in sites if _is_ours(one, name, gocdb_id)]
        if not ours:
            return None
        # The service lists a second object of one GOCDB id under NAME-ID.
        ours.sort(key=lambda one: one["name"] != name)
        place = f"{base}/site/{quote(ours[0]['name'], safe='')}"
        projects = [_known(one, "id", "name") for one in reader.get(f"{place}/projects")]
        images = reader.get(f"{place}/images")
        return SiteView(
            name=ours[0]["name"],
            url=ours[0]["url"],
            projects=view.projects_by_vo((one["name"], one["id"]) for one in projects),
            images=view.offers(map(_image, images)),
            others=tuple(one["name"] for one in ours[1:]),
        )
    except (TypeError, LookupError, AttributeError) as error:
        words = "its answers are not those of EGI's information service"
        raise Unavailable(hosts.of_url(url), words, "check --url") from error


def _object(reader: Reader, url: str) -> SiteView:
    try:
        return view.of_document(site_document.load(json.dumps(reader.get(url)).encode()))
    except ValueError as error:
        raise Unavailable(url, str(error), "check --url") from error


def _is_ours(one: Mapping[str, str], name: str, gocdb_id: str) -> bool:
    return one["name"] == name or bool(gocdb_id and one["id"] == gocdb_id)


def _known(one: Mapping[str, object], *names: str) -> dict[str, str]:
    return {name: str(one[name]) for name in names}


def _image(one: Mapping[str, Any]) -> tuple[str, str, str]:
    identifier = str(one.get("egi_id") or one.get("appdb_id") or "")
    row = view.image_row(identifier, str(one.get("version") or ""), str(one["id"]))
    return str(one.get("vo") or ""), *row
