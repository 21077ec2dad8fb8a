"""The session of all requests to a cloud, and to the issuer of an account's tokens.

Every request of every client passes `Transport.request`. There it is counted, and retried if the
service is only busy (429, 5xx, dropped or refused connections): four attempts with growing pauses.
A lasting failure is reported in one line that names the host. If a service says how long to wait
(Retry-After), all threads leave it alone for that time. keystoneauth itself renews a token that was
refused (401).
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import requests
from keystoneauth1 import exceptions, session

from appliance.core import causes, clock, hosts, proxy, retry
from appliance.core.cloud import hops
from appliance.core.cloud.bounded import BoundedSession
from appliance.core.cloud.clocks import Clocks
from appliance.core.cloud.login import Access
from appliance.core.run import log, place
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.version import __version__

logger = logging.getLogger(__name__)

_BUSY = frozenset({429, 500, 502, 503, 504})
_ATTEMPTS = 4
_LONGEST_PAUSE = 8.0
"""Seconds between two attempts, unless the service asks for more."""
_LONGEST_WAIT = 60.0
"""Seconds of a service's Retry-After that are obeyed at most."""
_SPREAD = 0.5
"""Seconds over which threads spread their return to a service that all left alone."""
_KEYSTONE = "Keystone"
_SERVICES = {
    "block-storage": "Cinder",
    "compute": "Nova",
    "image": "Glance",
    "network": "Neutron",
    "object-store": "Swift",
}
"""Names of services by their type in the catalog, for messages."""


@dataclass(slots=True)
class ServiceUse:
    """The requests to one service."""

    requests: int = 0
    errors: int = 0
    """Answers that it is busy or broken (429, 5xx), and connections that failed."""
    seconds: float = 0
    """Until the answers were complete, without pauses and without the logins on the way."""


class _Busy(Exception):
    """The service answered that it is busy."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(
            f"{hosts.of_url(response.url)} answers"
            f" {response.status_code} {response.reason}".rstrip()
        )
        self.response = response
        self.is_announced = False
        """Whether the service said how long to wait, which a line has reported."""


class _Pauses:
    """Services that all threads leave alone for the time that the service asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[str, float] = {}

    def begin(self, place: str, seconds: float) -> bool:
        """Note that ``place`` asked for a pause; return whether this begins a new one."""
        now = time.monotonic()
        with self._lock:
            is_new = self._ends.get(place, 0.0) <= now
            self._ends[place] = max(self._ends.get(place, 0.0), now + seconds)
        return is_new

    def wait(self, place: str) -> None:
        """Wait until the pause of ``place`` is over."""
        with self._lock:
            left = self._ends.get(place, 0.0) - time.monotonic()
        if left > 0:
            time.sleep(left + random.uniform(0, _SPREAD))  # noqa: S311  spreads, protects nothing


class _Outages:
    """Services that could not be reached, for as long as finding that out took.

    Threads and projects that come later fail at once, so a region that is down costs a run the time
    of one request to it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Unavailable]] = {}

    def check(self, place: str) -> None:
        """Raise the error of a service that could not be reached a moment ago."""
        with self._lock:
            end, error = self._known.get(place, (0.0, None))
        if error is not None and time.monotonic() < end:
            raise error

    def note(self, place: str, error: Unavailable, *, since: float) -> None:
        """Note that the attempts that began at ``since`` all failed."""
        now = time.monotonic()
        with self._lock:
            self._known[place] = now + (now - since), error


class Transport(session.Session):
    """A keystoneauth session that counts, retries and reports; safe for several threads."""

    def __init__(self, access: Access) -> None:
        proxy.check()
        super().__init__(
            session=BoundedSession(),
            verify=access.verify,
            cert=access.certificate,
            timeout=access.timeout.total_seconds(),
            app_name="egi-fedcloud-appliance",
            app_version=__version__,
        )
        self.requests = 0
        self.services: dict[str, ServiceUse] = {}
        """The requests by service, such as ``Nova``."""
        self._nested = threading.local()
        """Seconds of requests that a thread has sent while another one of its own waited."""
        self.credential_ends: datetime | None = None
        """When the application credential ends; None if it does not, or if that is unknown."""
        self.keystone_offset: timedelta | None = None
        """How far Keystone's clock is ahead of ours; negative if behind, None before an answer."""
        self.clocks = Clocks()
        self._access = access
        self._lock = threading.Lock()
        self._pauses = _Pauses()
        self._outages = _Outages()
        self.warn_once = log.Once(logger)
        """Logs a warning that would repeat with each token."""
        self._retried: set[str] = set()

    # keystoneauth's signature is long; only the arguments that matter here have names.
    def request(  # type: ignore[override]
        self,
        url: str,
        method: str,
        raise_exc: bool = True,
        attempts: int = 0,
        **kwargs: Any,
    ) -> requests.Response:
        """Send a request as keystoneauth does, in up to ``attempts`` attempts, 0 for the account's.

        Raises:
            Unavailable: the service stays busy or cannot be reached.
            AccessDenied: Keystone gives no new token in place of a dead one.

        """
        if hops.is_secret_bearer(url, method, self._access):
            kwargs["redirect"] = False
        where, begun = _place(url, kwargs), time.monotonic()
        self._outages.check(where)
        try:
            response = retry.call(
                lambda: self._send(url, method, **kwargs),
                on=(_Busy, exceptions.ConnectionError),
                attempts=attempts or self._access.attempts or _ATTEMPTS,
                longest=_LONGEST_PAUSE,
                decide=self._decide,
            )
        except _Busy as error:
            request_id = error.response.headers.get("x-openstack-request-id", "")
            remedy = f"check its logs for {request_id}" if request_id else "check its logs"
            raise Unavailable(
                hosts.of_url(error.response.url),
                f"still {_after_host(error)}",
                f"{remedy}; the next run continues from here",
            ) from error
        except exceptions.ConnectionError as error:
            failure = _unreachable(error, url, self._access)
            if _is_unmade(error):  # otherwise it may be this one request that breaks the service
                self._outages.note(where, failure, since=begun)
            raise failure from error
        except exceptions.HttpError as error:  # of the request for a token in place of a dead one
            raise AccessDenied(
                hosts.of_url(self._access.auth_url),
                f"gives the account {self._access.account!r} no new token: answers"
                f" {error.http_status}",
                "check that account and project exist and are enabled, and that the account has a"
                " role in the project",
            ) from error
        except exceptions.CatalogException as error:
            wanted = kwargs.get("endpoint_filter") or {}
            raise not_in_catalog(wanted, self._access) from error
        if raise_exc and response.status_code >= 400:  # noqa: PLR2004  HTTP's errors
            raise exceptions.from_response(response, method, url)
        return response

    def _send(self, url: str, method: str, **kwargs: Any) -> requests.Response:
        where = _place(url, kwargs)
        self._pauses.wait(where)
        sent = clock.now()
        with self._counted(_service(url, kwargs, self._access)) as use:
            try:
                response = super().request(url, method, raise_exc=False, **kwargs)
            except exceptions.ConnectionError:
                hops.note(url, None)
                raise
            if response.status_code in _BUSY:
                with self._lock:
                    use.errors += 1
        hops.note(url, response)
        self._note_clock(response, kwargs, sent)
        if response.status_code in _BUSY:
            raise self._busy(where, response)
        return response

    @contextlib.contextmanager
    def _counted(self, service: str) -> Iterator[ServiceUse]:
        """Count a request and its time."""
        with self._lock:
            self.requests += 1
            use = self.services.setdefault(service, ServiceUse())
            use.requests += 1
        begun, before = time.monotonic(), getattr(self._nested, "seconds", 0.0)
        self._nested.seconds = 0.0  # keystoneauth logs in while a request waits for its token
        try:
            yield use
        except exceptions.ConnectionError:
            with self._lock:
                use.errors += 1
            raise
        finally:
            took = time.monotonic() - begun
            with self._lock:
                use.seconds += took - self._nested.seconds
            self._nested.seconds = before + took

    def _busy(self, place: str, response: requests.Response) -> _Busy:
        error = _Busy(response)
        seconds = _seconds_to_wait(response)
        if seconds:
            error.is_announced = True
            if self._pauses.begin(place, seconds):
                logger.warning("%s; trying again in %.1f s", error, seconds)
        return error

    def _decide(self, error: Exception, pause: float) -> float | None:
        """Return and log the seconds to wait before the next attempt; None for no further one.

        The first line about a failure warns; the other threads and attempts only repeat it. A
        connection that cannot even be made is reported when all attempts have failed.
        """
        if isinstance(error, _Busy) and error.is_announced:
            return 0.0  # `_Pauses` waits, for all threads alike
        if isinstance(error, exceptions.SSLError) or proxy.is_refusal(error):
            return None
        site = _site_in(error)
        words = (
            str(error)
            if isinstance(error, _Busy)
            else f"{hosts.of_url(site)}: {_failure(error, site)[0]}"
        )
        with self._lock:
            is_known = words in self._retried or _is_unmade(error)
            self._retried.add(words)
        level = logging.DEBUG if is_known else logging.WARNING
        logger.log(level, "%s; trying again in %.1f s", words, pause)
        return pause

    def note_token(self, issued: datetime, *, sent: datetime) -> None:
        """Note when Keystone issued a token that was requested at the time ``sent``."""
        received, host = clock.now(), hosts.of_url(self._access.auth_url)
        self.clocks.note_token(_KEYSTONE, host, issued, sent=sent, received=received)
        with self._lock:
            if self.keystone_offset is None:
                self.keystone_offset = issued - received

    def _note_clock(
        self, response: requests.Response, options: dict[str, Any], sent: datetime
    ) -> None:
        # Tokens end by Keystone's clock, so the answers of other hosts to a login do not count.
        is_keystone = response.url.startswith(self._access.auth_url)
        wanted = options.get("endpoint_filter") or {}
        service = _KEYSTONE if is_keystone else _SERVICES.get(wanted.get("service_type", ""), "")
        # The answer of a cache is as old as its header Age says.
        if not service or "Date" not in response.headers or "Age" in response.headers:
            return
        offset = self.clocks.note_date(
            service,
            hosts.of_url(response.url),
            response.headers["Date"],
            sent=sent,
            received=clock.now(),
            region="" if is_keystone else wanted.get("region_name") or "",
        )
        with self._lock:
            # The header is older than its arrival, so the smallest offset is the safe one.
            if (
                is_keystone
                and offset is not None
                and (self.keystone_offset is None or offset < self.keystone_offset)
            ):
                self.keystone_offset = offset


def _place(url: str, options: dict[str, Any]) -> str:
    """Return the destination of a request: a host, or a service of the catalog in a region."""
    if "//" in url:
        return hosts.of_url(url)
    wanted = options.get("endpoint_filter") or {}
    return f"{wanted.get('service_type', '')} {wanted.get('region_name') or ''}".strip()


def _service(url: str, options: dict[str, Any], access: Access) -> str:
    """Return the name of the service that a request is for."""
    kind = (options.get("endpoint_filter") or {}).get("service_type", "")
    if not kind and "//" in url and hosts.of_url(url) != hosts.of_url(access.auth_url):
        return "other"  # the issuer of an account's tokens
    return _SERVICES.get(kind, _KEYSTONE)


def _seconds_to_wait(response: requests.Response) -> float:
    """Return the seconds that the service asks to wait; 0 if it does not say.

    Retry-After may also be a date (RFC 9110, 10.2.3), which no OpenStack service sends.
    """
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdecimal() else 0.0


def _after_host(error: Exception) -> str:
    return str(error).partition(" ")[2]


def _is_unmade(error: Exception) -> bool:
    """Check whether a connection was never made: refused, or a name that does not resolve."""
    if isinstance(error.__context__, requests.exceptions.ConnectTimeout):
        return True
    text = str(error)  # of urllib3, quoted by requests and keystoneauth
    return "Failed to establish a new connection" in text or "Failed to resolve" in text


def _site_in(error: Exception) -> str:
    """Return the URL that an error names, up to its host."""
    named = re.search(r"https?://[^/\s'\"]+", str(error))
    return named[0] if named else ""


def _unreachable(error: Exception, url: str, access: Access) -> Unavailable:
    site = _site_in(error) or (url if "//" in url else access.auth_url)
    host = hosts.of_url(site)
    if isinstance(error, exceptions.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
        return Unavailable(
            host, "does not speak TLS", "correct the URL: https or http, and the port"
        )
    if isinstance(error, exceptions.SSLError):
        return Unavailable(
            host,
            f"its TLS certificate is not trusted: {causes.of_connection(error)}",
            place.trust_remedy(f"set {access.trust_option} to the authority that issued it")
            + ", or renew the certificate",
        )
    cause, remedy = _failure(error, site)
    if host == hosts.of_url(access.auth_url) and "auth_url" in access.places:
        remedy = remedy.replace("the URL", access.place("auth_url"))
    return Unavailable(host, f"cannot be reached: {cause}", remedy)


_HUNG_UP = ("RemoteDisconnected", "ConnectionResetError", "BadStatusLine")
"""Errors of a plain request to a server that expects TLS."""


def _failure(error: Exception, site: str) -> tuple[str, str]:
    """Return cause and remedy of a connection that could not be made."""
    if "ProxyError(" in str(error):  # requests' own, quoted by keystoneauth
        return proxy.explain(site, error, causes.of_connection(error))
    if site.startswith("http://") and any(word in str(error) for word in _HUNG_UP):
        return (
            "it closes the connection on plain HTTP",
            "write https in the URL if that port expects TLS",
        )
    return causes.of_connection(error), "check the URL, the network and the service"


def not_in_catalog(wanted: Mapping[str, Any], access: Access) -> Unavailable:
    """Return the error for a service that a token's catalog lacks, in one region or at all."""
    region = wanted.get("region_name")
    name = "region_name"
    remedy = f"correct {access.place(name) if name in access.places else name}"
    if not region:
        remedy = "check `openstack catalog list` with this account"
    return Unavailable(
        hosts.of_url(access.auth_url),
        f"its catalog has no {access.interface} endpoint for"
        f" {wanted.get('service_type', 'the service')}"
        + (f" in region {region}" if region else ""),
        remedy,
    )
