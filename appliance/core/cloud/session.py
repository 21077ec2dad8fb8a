"""One account's sessions with one cloud: a token for each scope, reused by all services.

Every request of every client passes `Transport.request`. There it is counted, repeated when the cloud is only busy
(429, 5xx, dropped or refused connections: four attempts, backing off, Retry-After honoured), and a failure that stays
is told in one line that names the host. keystoneauth renews a token that expired (401) by itself.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import stamina
from keystoneauth1 import exceptions, session
from keystoneauth1.plugin import AUTH_INTERFACE
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from appliance.core import clock, proxy
from appliance.core.cloud import login
from appliance.core.cloud.bounded import BoundedSession
from appliance.core.cloud.locks import Locks
from appliance.core.cloud.login import Access
from appliance.core.run import place
from appliance.core.run.errors import AccessDenied, Unavailable
from appliance.core.version import __version__

if TYPE_CHECKING:
    import requests
    from glanceclient.common.http import SessionClient as Glance
    from keystoneauth1.identity import BaseIdentityPlugin
    from keystoneclient.v3.client import Client as Keystone
    from novaclient.client import SessionClient as Nova

logger = logging.getLogger(__name__)

_BUSY = frozenset({429, 500, 502, 503, 504})
_ATTEMPTS = 4
_LONGEST_WAIT = 60.0


class _Busy(Exception):
    """The service answered that it cannot answer now."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{_host(response.url)} answers {response.status_code} {response.reason}".rstrip())
        self.response = response


class Transport(session.Session):
    """A keystoneauth session that counts, repeats and tells; safe for use by several threads."""

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
        self.keystone_offset: timedelta | None = None
        """How far Keystone's clock is before ours (positive) or behind; None until it has answered."""
        self._access = access
        self._lock = threading.Lock()
        set_on_retry_hooks([_tell_of_retry])

    # Of keystoneauth's long signature only what matters here has a name.
    def request(self, url: str, method: str, raise_exc: bool = True, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send a request as keystoneauth does; raises `Unavailable` when the service stays out of reach or busy."""
        try:
            for attempt in stamina.retry_context(
                on=_wait, attempts=_ATTEMPTS, timeout=None, wait_initial=0.5, wait_max=8, wait_jitter=0.5
            ):
                with attempt:
                    response = self._send(url, method, **kwargs)
        except _Busy as error:
            request_id = error.response.headers.get("x-openstack-request-id", "")
            remedy = f"look into its logs{f' for {request_id}' if request_id else ''}; the next run goes on from here"
            raise Unavailable(_host(error.response.url), f"still {_after_host(error)}", remedy) from error
        except exceptions.ConnectionError as error:
            raise _unreachable(error, url, self._access) from error
        except exceptions.HttpError as error:  # not of this request: of the one for a token in place of one that died
            raise AccessDenied(
                _host(self._access.auth_url),
                f"gives the account {self._access.account!r} no new token: answers {error.http_status}",
                "look whether account and project still exist, are enabled and belong together",
            ) from error
        except exceptions.CatalogException as error:
            raise _not_in_catalog(kwargs.get("endpoint_filter") or {}, self._access) from error
        if raise_exc and response.status_code >= 400:  # noqa: PLR2004  HTTP's errors
            raise exceptions.from_response(response, method, url)
        return response

    def _send(self, url: str, method: str, **kwargs: Any) -> requests.Response:
        with self._lock:
            self.requests += 1
        response = super().request(url, method, raise_exc=False, **kwargs)
        if response.url.startswith(self._access.auth_url):
            self._note_clock(response)
        if response.status_code in _BUSY:
            raise _Busy(response)
        return response

    def _note_clock(self, response: requests.Response) -> None:
        try:
            told = parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
        except (KeyError, ValueError):
            return
        offset = told - clock.now()
        with self._lock:
            if self.keystone_offset is None or offset < self.keystone_offset:
                self.keystone_offset = offset


class Scope:
    """What the account may do in one project, in the system, or before choosing either: the services' clients."""

    def __init__(self, transport: Transport, plugin: BaseIdentityPlugin, access: Access) -> None:
        self.access = access
        self._transport = transport
        self._plugin = plugin
        self._endpoints = {"interface": access.interface, "region_name": access.region}

    @property
    def project_id(self) -> str | None:
        """Return the project that the token is for."""
        found: str | None = self._plugin.get_access(self._transport).project_id
        return found

    @property
    def project_name(self) -> str | None:
        """Return the name of that project."""
        found: str | None = self._plugin.get_access(self._transport).project_name
        return found

    @property
    def project_domain_name(self) -> str | None:
        """Return the name of that project's domain."""
        found: str | None = self._plugin.get_access(self._transport).project_domain_name
        return found

    @cached_property
    def keystone(self) -> Keystone:
        """Return keystoneclient's client, for the Keystone that gave the token: it serves all regions."""
        from keystoneclient.v3.client import Client  # noqa: PLC0415  a heavy client, imported when used

        return Client(session=self._transport, auth=self._plugin, interface=AUTH_INTERFACE)

    @cached_property
    def nova(self) -> Nova:
        """Return novaclient's HTTP adapter; the microversion is given with each request."""
        from novaclient.api_versions import APIVersion  # noqa: PLC0415  a heavy client, imported when used
        from novaclient.client import SessionClient  # noqa: PLC0415

        return SessionClient(
            session=self._transport,
            auth=self._plugin,
            service_type="compute",
            api_version=APIVersion(),
            timings=False,
            **self._endpoints,
        )

    @cached_property
    def glance(self) -> Glance:
        """Return glanceclient's HTTP adapter."""
        from glanceclient.common.http import SessionClient  # noqa: PLC0415  a heavy client, imported when used

        return SessionClient(session=self._transport, auth=self._plugin, **self._endpoints)


class Cloud:
    """An account's view of its cloud. Creating it sends nothing."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.transport = Transport(access)
        self._locks = Locks()
        self._projects: dict[str, Scope] = {}

    @cached_property
    def host(self) -> str:
        """Return Keystone's host and port."""
        return _host(self.access.auth_url)

    def server_time(self) -> datetime:
        """Return the earlier of our clock and Keystone's; what happened before it, the cloud knows of."""
        return clock.now() + min(self.transport.keystone_offset or timedelta(0), timedelta(0))

    @cached_property
    def unscoped(self) -> Scope:
        """Log in; raises `AccessDenied` for a wrong name or password, `Unavailable` for a Keystone that is none."""
        plugin = login.plugin(self.access.auth_type, self.access.options)
        try:
            self._get_token(plugin)
        except exceptions.Unauthorized as error:
            raise AccessDenied(
                self.host,
                f"refuses the account {self.access.account!r}: wrong name, domain or password",
                f"correct [{self.access.section}]",
            ) from error
        except exceptions.HttpError as error:
            raise Unavailable(
                self.host,
                f"answers {error.http_status} where a Keystone gives a token",
                "check auth_url; it ends in /v3",
            ) from error
        except exceptions.InvalidResponse as error:
            raise Unavailable(self.host, "answers, but is no Keystone", "check auth_url; it ends in /v3") from error
        except exceptions.ClientException as error:
            raise Unavailable(self.host, f"no token: {error}", f"check [{self.access.section}]") from error
        return Scope(self.transport, plugin, self.access)

    @cached_property
    def system(self) -> Scope | None:
        """Return the scope of the whole system; None when it is switched off or the account has no role there."""
        if not self.access.uses_system_scope or self.access.is_bound:
            return None
        plugin = login.plugin(self.access.auth_type, self.access.options, system=True)
        try:
            self._get_token(plugin)
        except exceptions.ClientException as error:
            logger.debug("no system scope: %s", error)
            return None
        return Scope(self.transport, plugin, self.access)

    def _get_token(self, plugin: BaseIdentityPlugin) -> None:
        """Log in; raises keystoneauth's errors for what Keystone refuses, `Unavailable` for what is no Keystone."""
        try:
            plugin.get_access(self.transport)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unavailable(self.host, "answers, but is no Keystone", "check auth_url; it ends in /v3") from error

    def project(self, project_id: str) -> Scope:
        """Return the scope of a project; raises `AccessDenied` when the account has no role there.

        A credential that is bound to a project is never asked for another one.
        """
        with self._locks.of(project_id):  # one token a project, several projects at a time
            if project_id not in self._projects:
                self._projects[project_id] = self._login(project_id)
            return self._projects[project_id]

    def _login(self, project_id: str) -> Scope:
        if self.access.is_bound:
            bound_to = self.unscoped.project_id
            if project_id != bound_to:
                raise AccessDenied(
                    f"project {project_id}",
                    f"the credential {self.access.account!r} belongs to project {bound_to}",
                    "account this project with a credential of its own, or with a user and password",
                )
            return self.unscoped
        plugin = login.plugin(self.access.auth_type, self.access.options, project_id=project_id)
        try:
            self._get_token(plugin)
        except (exceptions.Unauthorized, exceptions.Forbidden) as error:
            raise AccessDenied(
                f"project {project_id}",
                f"{self.host} gives the account {self.access.account!r} no token for it",
                self.access.grant(f"--project {project_id}", self.access.role),
            ) from error
        except exceptions.ClientException as error:
            raise Unavailable(self.host, f"no token for project {project_id}: {error}") from error
        return Scope(self.transport, plugin, self.access)


@contextlib.contextmanager
def understood(host: str, service: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Tell what a client library makes of an answer that it does not understand as one line, whatever it raises.

    A proxy or a load balancer may answer in a service's stead, with status 200 and a page for people. Refusals that
    mean something to the caller, ``passing``, go on as they are; all else becomes `Unavailable`.
    """
    try:
        yield
    except passing:
        raise
    except exceptions.HttpError as error:
        raise Unavailable(host, f"{service} answers {error.http_status}: {_short(error.message)}") from error
    except (exceptions.ClientException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(host, f"the answer is none that {service} gives: {_short(repr(error))}") from error


def _short(text: object) -> str:
    return " ".join(str(text).split())[:120]


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _after_host(error: Exception) -> str:
    return str(error).partition(" ")[2]


def _wait(error: Exception) -> bool | float:
    """Decide whether to try again, and after how many seconds if the service itself told."""
    if isinstance(error, _Busy):
        told = error.response.headers.get("Retry-After", "")
        return min(float(told), _LONGEST_WAIT) if told.isdecimal() else True
    if isinstance(error, exceptions.SSLError) or proxy.is_refusal(error):
        return False
    return isinstance(error, exceptions.ConnectionError)


def _tell_of_retry(details: RetryDetails) -> None:
    error = details.caused_by
    site = _site_in(error)
    words = str(error) if isinstance(error, _Busy) else f"{_host(site)}: {_failure(error, site)[0]}"
    logger.warning("%s; trying again in %.1f s", words, details.wait_for)


_CAUSES = (
    r"certificate verify failed: ([^('\"]+)",
    r"(doesn't match)",
    r"\[Errno -?\d+\] ([\w ,]+)",
    r"(Remote end closed connection without response)",
    r"([Tt]imed out)",
)


def _cause(error: Exception) -> str:
    """Find the few words that matter in what requests and urllib3 wrap around an error."""
    text = str(error)
    for pattern in _CAUSES:
        if found := re.search(pattern, text):
            return found[1].strip().lower()
    return text.rpartition(": ")[2].strip("'\")(")[:100] or type(error).__name__


def _site_in(error: Exception) -> str:
    """Return the URL that an error names, as far as its host goes."""
    named = re.search(r"https?://[^/\s'\"]+", str(error))
    return named[0] if named else ""


def _unreachable(error: Exception, url: str, access: Access) -> Unavailable:
    site = _site_in(error) or (url if "//" in url else access.auth_url)
    host = _host(site)
    if isinstance(error, exceptions.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
        return Unavailable(host, "does not speak TLS", "correct the URL: https or http, and the port")
    if isinstance(error, exceptions.SSLError):
        return Unavailable(
            host,
            f"its TLS certificate is not trusted: {_cause(error)}",
            place.trust_remedy(f"set cafile in [{access.section}] to the authority that issued it")
            + ", or renew the certificate",
        )
    cause, remedy = _failure(error, site)
    return Unavailable(host, f"cannot be reached: {cause}", remedy)


_HUNG_UP = ("RemoteDisconnected", "ConnectionResetError", "BadStatusLine")
"""What a server that expects TLS makes of a plain request."""


def _failure(error: Exception, site: str) -> tuple[str, str]:
    """Return cause and remedy of a connection that could not be made."""
    if "ProxyError(" in str(error):  # requests' own, quoted by keystoneauth
        return proxy.explain(site, error, _cause(error))
    if site.startswith("http://") and any(word in str(error) for word in _HUNG_UP):
        return "it closes the connection on plain HTTP", "write https in the URL, if that port speaks TLS"
    return _cause(error), "check the URL, the network and the service"


def _not_in_catalog(wanted: dict[str, Any], access: Access) -> Unavailable:
    region = wanted.get("region_name")
    return Unavailable(
        _host(access.auth_url),
        f"its catalog has no {access.interface} endpoint for {wanted.get('service_type', 'the service')}"
        + (f" in region {region}" if region else ""),
        "correct region_name" if region else "look at `openstack catalog list` of this account",
    )
