"""From OpenStack to facts: what each VO's project may use, several VOs at a time.

Five requests a VO: token, flavors with their extra specs, images, servers (counted page by page),
quotas. Whatever goes wrong with one VO is that VO's reason and stops no other.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from appliance.core.cloud import identity, offer, vo
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.project import by_name_or_id
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, ConfigurationError, Problem, Unavailable
from cloud_info_provider import issuer
from cloud_info_provider.facts import Endpoint, Facts, Flavor, OfferedImage, ServerCounts, Share
from cloud_info_provider.settings import ProviderSettings, ShareSettings

logger = logging.getLogger(__name__)

_AT_ONCE = 8
_SUSPENDED, _HALTED = "SUSPENDED", "SHUTOFF"


@dataclass(slots=True)
class CloudAccount:
    """The configured account in each region of its cloud."""

    configuration: ProviderSettings
    _cloud: Cloud | None = None
    _regions: dict[str, Cloud] = field(default_factory=dict)
    _services: dict[str, tuple[offer.Compute, Endpoint]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """Return how many requests were sent."""
        return self._cloud.transport.requests if self._cloud else 0

    def cloud(self, region: str) -> Cloud:
        """Return the cloud as its catalog shows it for a region; an empty one is the catalog's first."""
        with self._lock:
            if self._cloud is None:
                self._cloud = Cloud(self.configuration.access)
            if region not in self._regions:
                self._regions[region] = self._cloud.in_region(region)
            return self._regions[region]

    def service(self, scope: Scope, region: str) -> tuple[offer.Compute, Endpoint]:
        """Return the compute service of a region, as the first project finds it, and its endpoint."""
        with self._lock:
            if region not in self._services:
                service, access = offer.compute(scope), self.configuration.access
                name = issuer.read(service.url, verify=access.verify, timeout=access.timeout)
                newest = ".".join(map(str, service.microversion))
                self._services[region] = (
                    service,
                    Endpoint(service.url, service.version, newest, region, name),
                )
            return self._services[region]


def gather(account: CloudAccount, shares: Sequence[ShareSettings]) -> Facts:
    """Read all shares. Raises `Unavailable` when not one of them could be read."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vo") as pool:
        results = list(pool.map(lambda share: _attempt(account, share), shares))
    failed = {
        share.vo: result
        for share, result in zip(shares, results, strict=True)
        if isinstance(result, str)
    }
    if len(failed) == len(shares):
        # One cause for all is told once: a password that is wrong looks like a missing role in each
        # project.
        account.cloud(shares[0].region).unscoped  # noqa: B018  logs in, or raises
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise Unavailable("no VO could be read", listed)
    return Facts(tuple(result for result in results if isinstance(result, Share)), failed)


def own_share(account: CloudAccount) -> ShareSettings:
    """Return the only share of a configuration that names none: the account's own project, for the VO that it tells.

    Raises `ConfigurationError` when there is no such project, or more than one, or no VO is known
    for it.
    """
    configuration = account.configuration
    access = configuration.access
    found = by_name_or_id(
        identity.projects(account.cloud(access.region or "")), configuration.project
    )
    if len(found) > 1 and access.project_domain_id:
        found = [project for project in found if project.domain_id == access.project_domain_id]
    if len(found) != 1:
        text = f"{len(found) or 'no'} projects {configuration.project!r} for this account; write its id"
        raise ConfigurationError(
            [Problem(configuration.yaml_file, 0, "compute.shares", f"is not set, and {text}")]
        )
    try:
        name = vo.vo_of(found[0], mapping=vo.Mapping(configuration.yaml_file))
    except vo.NoVO as error:
        text = f"is not set, and {error.subject}: {error.cause}; write compute.shares.VO.auth.project_id"
        raise ConfigurationError(
            [Problem(configuration.yaml_file, 0, "compute.shares", text)]
        ) from error
    return ShareSettings(name, found[0].id, access.region or "", (f"VO:{name}",), {})


def _attempt(account: CloudAccount, share: ShareSettings) -> Share | str:
    """Return what a share offers, or why that cannot be told."""
    try:
        return _read(account, share)
    except ApplianceError as error:
        reason = str(error)
    except Exception as error:  # an answer that nobody expected stops this VO only
        logger.debug("%s", share.vo, exc_info=True)
        reason = f"an answer of the cloud is not understood: {type(error).__name__}: {error}"
    return log.redact(" ".join(reason.split()))


def _read(account: CloudAccount, share: ShareSettings) -> Share:
    scope = account.cloud(share.region).project(share.project_id)
    service, endpoint = account.service(scope, share.region)
    return Share(
        vo=share.vo,
        project_id=share.project_id,
        project_name=scope.project_name or "",
        project_domain=scope.project_domain_name or "",
        endpoint=endpoint,
        flavors=tuple(
            sorted(map(_flavor, offer.flavors(scope, service)), key=lambda flavor: flavor.id)
        ),
        images=tuple(sorted(_images(scope, account.configuration), key=lambda image: image.id)),
        servers=_servers(scope),
        quotas=offer.quotas(scope),
    )


def _flavor(told: Mapping[str, Any]) -> Flavor:
    specs = {str(name): str(text) for name, text in (told.get("extra_specs") or {}).items()}
    return Flavor(
        id=str(told["id"]),
        name=str(told.get("name") or ""),
        vcpus=int(told["vcpus"]),
        ram=int(told["ram"]),
        disk=int(told["disk"]),
        ephemeral=int(told.get("OS-FLV-EXT-DATA:ephemeral") or 0),
        extra_specs=specs,
    )


def _images(scope: Scope, configuration: ProviderSettings) -> Iterator[OfferedImage]:
    for told in offer.images(scope):
        image = _image(told)
        if image.marketplace or configuration.all_images:
            yield image


def _image(told: Mapping[str, Any]) -> OfferedImage:
    def first(*names: str) -> str:
        return next((str(told[name]) for name in names if told.get(name)), "")

    appliance = _appliance(first("APPLIANCE_ATTRIBUTES"))
    return OfferedImage(
        id=str(told["id"]),
        name=first("name"),
        marketplace=first("vmcatcher_event_ad_mpuri", "marketplace"),
        base=appliance.get("ad:base_mpuri", ""),
        description=first("vmcatcher_event_dc_description", "vmcatcher_event_dc_title"),
        version=first("image_version", "vmcatcher_event_hv_version")
        or appliance.get("hv:version", ""),
        architecture=first("architecture"),
        os_type=first("os_type"),
        os_distribution=first("os_distro"),
        os_version=first("os_version"),
    )


def _appliance(text: str) -> Mapping[str, str]:
    """Return the texts of what cloudkeeper-os keeps of an image list's entry: JSON; anything else tells nothing."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return (
        {name: value for name, value in told.items() if isinstance(value, str)}
        if isinstance(told, dict)
        else {}
    )


def _servers(scope: Scope) -> ServerCounts:
    states: Counter[str] = Counter()
    vcpus = 0
    for server in Servers(scope).living():
        states[str(server.get("status"))] += 1
        vcpus += int(server["flavor"].get("vcpus") or 0)
    suspended, halted = states.pop(_SUSPENDED, 0), states.pop(_HALTED, 0)
    return ServerCounts(running=states.total(), suspended=suspended, halted=halted, vcpus=vcpus)
