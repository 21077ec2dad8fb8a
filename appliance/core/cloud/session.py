"""An account's sessions with a cloud: a token for each scope, used by all services."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from keystoneauth1 import exceptions
from keystoneauth1.adapter import Adapter
from keystoneauth1.plugin import AUTH_INTERFACE

from appliance.core import clock, hosts
from appliance.core.cloud.login import Access
from appliance.core.cloud.tokens import Tokens
from appliance.core.cloud.transport import Transport
from appliance.core.run.errors import CHECK_LOGS, Unavailable

if TYPE_CHECKING:
    from glanceclient.common.http import SessionClient as Glance
    from keystoneauth1.access import AccessInfo
    from keystoneauth1.identity import BaseIdentityPlugin
    from keystoneclient.v3.client import Client as Keystone
    from novaclient.client import SessionClient as Nova


class Scope:
    """Clients of the services, in the scope of a project, of the system, or without scope."""

    def __init__(self, transport: Transport, plugin: BaseIdentityPlugin, access: Access) -> None:
        self.access = access
        self.kept: dict[str, list[dict[str, Any]]] = {}
        """Short listings that the readers of this scope share, by the service's type."""
        self._transport = transport
        self._plugin = plugin
        self._endpoints = {"interface": access.interface, "region_name": access.region}

    @property
    def _token(self) -> AccessInfo:
        return self._plugin.get_access(self._transport)

    @property
    def project_id(self) -> str | None:
        """Return the id of the token's project."""
        return self._token.project_id

    @property
    def project_name(self) -> str | None:
        """Return the name of the token's project."""
        return self._token.project_name

    @property
    def project_domain_name(self) -> str | None:
        """Return the name of the domain of the token's project."""
        return self._token.project_domain_name

    @property
    def roles(self) -> Sequence[str]:
        """Return the names of the token's roles."""
        return self._token.role_names or ()

    def catalog_hosts(self) -> set[str]:
        """Return the host names of all endpoints in the token's catalog."""
        catalog = self._token.service_catalog.normalize_catalog()
        endpoints = itertools.chain.from_iterable(service["endpoints"] for service in catalog)
        return {hosts.name_of_url(endpoint["url"] or "") for endpoint in endpoints}

    def regions(self) -> list[str]:
        """Return the regions of the catalog that have Nova, in its order."""
        found = self._token.service_catalog.get_endpoints_data(
            service_type="compute", interface=self.access.interface
        )
        names = (one.region_name for endpoints in found.values() for one in endpoints)
        return [*dict.fromkeys(name for name in names if name)]

    def catalog(self) -> dict[str, str]:
        """Return the URL of each type of service, of the account's interface and region."""
        data = self._token.service_catalog.get_endpoints_data(**self._endpoints)
        return {name: str(found[0].url or "") for name, found in data.items() if found}

    @cached_property
    def identity(self) -> Adapter:
        """Return an HTTP adapter for the Keystone that gave the token."""
        return Adapter(
            session=self._transport, auth=self._plugin, endpoint_override=self.access.auth_url
        )

    @cached_property
    def keystone(self) -> Keystone:
        """Return keystoneclient's client, for the Keystone that gave the token."""
        from keystoneclient.v3.client import Client  # noqa: PLC0415  start-up is a cost

        return Client(session=self._transport, auth=self._plugin, interface=AUTH_INTERFACE)

    @cached_property
    def nova(self) -> Nova:
        """Return novaclient's HTTP adapter; each request chooses its microversion."""
        from novaclient.api_versions import APIVersion  # noqa: PLC0415  start-up is a cost
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
    def compute(self) -> Adapter:
        """Return an HTTP adapter for Nova, which needs no novaclient; see `nova`."""
        return self._adapter("compute")

    @cached_property
    def glance(self) -> Glance:
        """Return glanceclient's HTTP adapter."""
        from glanceclient.common.http import SessionClient  # noqa: PLC0415  start-up is a cost

        return SessionClient(session=self._transport, auth=self._plugin, **self._endpoints)

    def image_url(self) -> str:
        """Return the URL of the scope's Glance, which the paths in its answers continue."""
        url = str(self.glance.get_endpoint() or "")
        return url.rstrip("/").removesuffix("/v2")

    @cached_property
    def object_store(self) -> Adapter:
        """Return an HTTP adapter for Swift; paths continue the URL of the account."""
        return self._adapter("object-store")

    @cached_property
    def block_storage(self) -> Adapter:
        """Return an HTTP adapter for Cinder; paths continue the URL of the project."""
        return self._adapter("block-storage")

    @cached_property
    def image(self) -> Adapter:
        """Return an HTTP adapter for single requests to Glance, which need no glanceclient."""
        return self._adapter("image")

    @cached_property
    def network(self) -> Adapter:
        """Return an HTTP adapter for Neutron."""
        return self._adapter("network")

    def service(self, service_type: str) -> Adapter:
        """Return an HTTP adapter for a service by its type; paths continue its URL."""
        return self._adapter(service_type)

    def offers(self, service_type: str) -> bool:
        """Check whether the token's catalog has a service, in the region of the account."""
        catalog = self._token.service_catalog
        found = catalog.get_endpoints_data(service_type=service_type, **self._endpoints)
        return any(found.values())

    def _adapter(self, service_type: str) -> Adapter:
        return Adapter(
            session=self._transport,
            auth=self._plugin,
            service_type=service_type,
            interface=self.access.interface,
            region_name=self.access.region,
        )


class Cloud:
    """A cloud as an account sees it. Creating the object sends no request."""

    def __init__(self, access: Access, *, tokens: Tokens | None = None) -> None:
        self.access = access
        self._tokens = tokens or Tokens(access, Transport(access))
        self.transport = self._tokens.transport

    def in_region(self, region: str, *, place: str = "") -> Cloud:
        """Return the cloud in a region of its catalog, with the same login and tokens.

        An empty region is the first one of the catalog. ``place`` says where it is set, if not
        among the options of the account.
        """
        places = {**self.access.places, "region_name": place} if place else self.access.places
        access = replace(self.access, region=region or None, places=places)
        return Cloud(access, tokens=self._tokens)

    @cached_property
    def host(self) -> str:
        """Return Keystone's host and port."""
        return hosts.of_url(self.access.auth_url)

    def server_time(self) -> datetime:
        """Return the earlier time of our clock and Keystone's: all events before it are known."""
        return clock.now() + min(self.transport.keystone_offset or timedelta(0), timedelta(0))

    @cached_property
    def unscoped(self) -> Scope:
        """Log in.

        Raises:
            LoginDenied: a hop of the login refuses the account.
            LoginUnavailable: a hop does not answer as it must.

        """
        return Scope(self.transport, self._tokens.unscoped(), self.access)

    @cached_property
    def system(self) -> Scope | None:
        """Return the scope of the system; None if it is off, or the account has no role in it."""
        if not self.access.uses_system_scope or self.access.is_bound:
            return None
        plugin = self._tokens.system()
        return Scope(self.transport, plugin, self.access) if plugin is not None else None

    def project(self, project_id: str) -> Scope:
        """Return the scope of a project.

        A credential that is bound to a project is never used for another one.

        Raises:
            AccessDenied: the account has no role there.
            LoginFailure: it cannot log in at all.

        """
        return Scope(self.transport, self._tokens.project(project_id), self.access)


@contextlib.contextmanager
def understood(
    host: str, service: str, *, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn the exceptions of client libraries about an unexpected answer into `Unavailable`.

    A proxy or load balancer may answer instead of a service, with status 200 and a page for
    people. Exceptions that the caller handles, ``passing``, stay as they are.
    """
    try:
        yield
    except passing:
        raise
    except exceptions.HttpError as error:
        raise Unavailable(
            host, f"{service} answers {error.http_status}: {_short(error.message)}", CHECK_LOGS
        ) from error
    except (exceptions.ClientException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(
            host, f"the answer is not one of {service}: {_short(repr(error))}", CHECK_LOGS
        ) from error


def _short(text: object) -> str:
    return " ".join(str(text).split())[:120]
