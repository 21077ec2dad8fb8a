"""The accounts of a run: one login for each, and one look-up for each region, for all threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.core.cloud import offer
from appliance.core.cloud.hops import LoginFailure
from appliance.core.cloud.login import Access
from appliance.core.cloud.session import Cloud, Scope
from cloud_info_provider import account, certificate, refresh
from cloud_info_provider.account import LoginSettings
from cloud_info_provider.facts import Endpoint
from cloud_info_provider.settings import ProviderSettings, ShareSettings


@dataclass(slots=True)
class ProviderAccount:
    """The configured accounts in each region of their cloud."""

    configuration: ProviderSettings
    _clouds: dict[tuple[object, ...], Cloud] = field(default_factory=dict)
    _refused: dict[tuple[object, ...], LoginFailure] = field(default_factory=dict)
    _services: dict[str, tuple[offer.Compute, Endpoint]] = field(default_factory=dict)
    # Held during requests, so that the threads of all VOs share one login and one look-up.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """Return the number of requests sent."""
        return sum(cloud.transport.requests for cloud in {*self._clouds.values()})

    def cloud(self, region: str, login: LoginSettings | None = None, *, place: str = "") -> Cloud:
        """Return the cloud in a region; an empty name stands for the first of the catalog.

        ``login`` is a VO's own account; accounts with the same options log in once. ``place`` is
        where a region other than the account's is set.

        Raises:
            LoginFailure: the issuer gives no access token for a refresh token.

        """
        used = login or self.configuration.account
        with self._lock:
            key = _identity(used.access)
            if failure := self._refused.get(key):  # asking again could lock the client
                raise failure
            if key not in self._clouds:
                try:
                    self._clouds[key] = Cloud(self._with_token(used))
                except LoginFailure as error:
                    self._refused[key] = error
                    raise
            place = place if region != (used.access.region or "") else ""
            return self._clouds[key].in_region(region, place=place)

    @staticmethod
    def _with_token(login: LoginSettings) -> Access:
        if login.refresh is None:
            return login.access
        return account.with_token(login, refresh.access_token(login.refresh, login.access))

    def scope(self, share: ShareSettings) -> Scope:
        """Return the scope of a share's project."""
        return self.cloud(share.region, share.account, place=share.place).project(share.project_id)

    def service(self, scope: Scope, region: str) -> tuple[offer.Compute, Endpoint]:
        """Return a region's compute service and its endpoint, found with the first project."""
        with self._lock:
            if region not in self._services:
                service, access = offer.compute(scope), scope.access
                issuer = ""
                if not self.configuration.has_endpoint_facts:  # else Keystone's is published
                    issuer = certificate.issuer(
                        service.url, verify=access.verify, timeout=access.timeout
                    )
                newest = ".".join(map(str, service.microversion))
                self._services[region] = (
                    service,
                    Endpoint(service.url, service.version, newest, region, issuer),
                )
            return self._services[region]


def _identity(access: Access) -> tuple[object, ...]:
    """Return what two accounts have in common that are the same."""
    options: Mapping[str, str] = access.options
    plain = (access.auth_type, access.auth_url, access.verify, access.certificate, access.interface)
    return (*plain, *sorted(options.items()))
