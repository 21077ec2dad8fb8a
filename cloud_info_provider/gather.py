"""From OpenStack to facts: the offer of each VO's project, several VOs at a time.

One VO takes five requests: token, flavors with their extra specs, images, servers (counted page by
page), quotas. A failure is the reason of its VO and stops no other VO.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from appliance.core.cloud import identity, offer, vo
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.project import by_name_or_id
from appliance.core.cloud.session import Cloud, Scope
from appliance.core.run import log
from appliance.core.run.errors import ApplianceError, ConfigurationError, Problem, Unavailable
from cloud_info_provider import issuer
from cloud_info_provider.facts import (
    Accelerators,
    Endpoint,
    Facts,
    Flavor,
    OfferedImage,
    ServerCounts,
    Share,
)
from cloud_info_provider.settings import ProviderSettings, ShareSettings

logger = logging.getLogger(__name__)

_AT_ONCE = 8
# States of servers, as Nova names them.
_SUSPENDED, _HALTED = "SUSPENDED", "SHUTOFF"


@dataclass(slots=True)
class ProviderAccount:
    """The configured account in each region of its cloud."""

    configuration: ProviderSettings
    _cloud: Cloud | None = None
    _regions: dict[str, Cloud] = field(default_factory=dict)
    _services: dict[str, tuple[offer.Compute, Endpoint]] = field(default_factory=dict)
    # Held during requests, so that the threads of all VOs share one login and one look-up.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """Return the number of requests sent."""
        return self._cloud.transport.requests if self._cloud else 0

    def cloud(self, region: str) -> Cloud:
        """Return the cloud in a region; an empty name stands for the first of the catalog."""
        with self._lock:
            if self._cloud is None:
                self._cloud = Cloud(self.configuration.access)
            if region not in self._regions:
                self._regions[region] = self._cloud.in_region(region)
            return self._regions[region]

    def service(self, scope: Scope, region: str) -> tuple[offer.Compute, Endpoint]:
        """Return a region's compute service and its endpoint, found with the first project."""
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


def gather(account: ProviderAccount, shares: Sequence[ShareSettings]) -> Facts:
    """Return the facts of all shares; raises `Unavailable` if none could be read."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vo") as pool:
        results = list(pool.map(lambda share: _attempt(account, share), shares))
    failed = {
        share.vo: result
        for share, result in zip(shares, results, strict=True)
        if isinstance(result, str)
    }
    if len(failed) == len(shares):
        # A wrong password looks like a missing role in each project. A login without a project
        # raises the common cause, which is then reported once.
        account.cloud(shares[0].region).unscoped  # noqa: B018  logs in, or raises
        listed = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise Unavailable("no VO could be read", listed)
    return Facts(tuple(result for result in results if isinstance(result, Share)), failed)


def own_share(account: ProviderAccount) -> ShareSettings:
    """Return the share of a configuration that names none: the account's own project.

    The VO is that of the project's property in Keystone.

    Raises:
        ConfigurationError: there is not exactly one such project, or its VO is unknown.

    """
    configuration = account.configuration
    access = configuration.access
    found = by_name_or_id(
        identity.projects(account.cloud(access.region or "")), configuration.project
    )
    if len(found) > 1 and access.project_domain_id:
        found = [project for project in found if project.domain_id == access.project_domain_id]
    if len(found) != 1:
        count = f"{len(found)} projects are" if found else "no project is"
        words = f"{count} named {configuration.project!r} for this account; set OS_PROJECT_ID"
        raise _without_shares(configuration, words)
    try:
        name = vo.vo_of(found[0], mapping=vo.VOMapping(configuration.yaml_file))
    except vo.NoVO as error:
        words = f"{error.subject}: {error.cause}; write compute.shares.VO.auth.project_id"
        raise _without_shares(configuration, words) from error
    return ShareSettings(name, found[0].id, access.region or "", (f"VO:{name}",), {})


def _without_shares(configuration: ProviderSettings, words: str) -> ConfigurationError:
    text = f"is not set, and {words}"
    return ConfigurationError([Problem(configuration.yaml_file, 0, "compute.shares", text)])


def _attempt(account: ProviderAccount, share: ShareSettings) -> Share | str:
    """Return a VO's share, or the reason why it could not be read."""
    try:
        return _read(account, share)
    except ApplianceError as error:
        reason = str(error)
    except Exception as error:  # an unexpected answer must stop this VO only
        logger.debug("%s", share.vo, exc_info=True)
        reason = f"unexpected answer from the cloud: {type(error).__name__}: {error}"
    return log.redact(" ".join(reason.split()))


def _read(account: ProviderAccount, share: ShareSettings) -> Share:
    scope = account.cloud(share.region).project(share.project_id)
    service, endpoint = account.service(scope, share.region)
    flavors = map(_flavor, offer.flavors(scope, service))
    glance = scope.image_url()
    images = (_image(item, glance) for item in offer.images(scope))
    is_for_all = account.configuration.all_images
    offered = [image for image in images if image.marketplace or is_for_all]
    return Share(
        vo=share.vo,
        project_id=share.project_id,
        project_name=scope.project_name or "",
        project_domain=scope.project_domain_name or "",
        endpoint=endpoint,
        # sorted, so that the same offer is the same text in each run
        flavors=tuple(sorted(flavors, key=lambda flavor: flavor.id)),
        images=tuple(sorted(offered, key=lambda image: image.id)),
        servers=_servers(scope),
        quotas=offer.quotas(scope),
    )


def _flavor(item: Mapping[str, Any]) -> Flavor:
    specs = {str(name): str(text) for name, text in (item.get("extra_specs") or {}).items()}
    return Flavor(
        id=str(item["id"]),
        name=str(item.get("name") or ""),
        vcpus=int(item["vcpus"]),
        ram=int(item["ram"]),
        disk=int(item["disk"]),
        ephemeral=int(item.get("OS-FLV-EXT-DATA:ephemeral") or 0),
        extra_specs=specs,
        is_public=item.get("os-flavor-access:is_public") is not False,
        has_infiniband=specs.get("infiniband", "").lower() == "true",
        accelerators=_accelerators(specs),
    )


def _accelerators(specs: Mapping[str, str]) -> Accelerators | None:
    """Return the accelerators that a flavor's properties describe; None if it has none."""
    text = specs.get("Accelerator:Number", "")
    try:
        number = float(text)
    except ValueError:
        return None
    if not 0 < number < math.inf:
        return None
    memory = specs.get("Accelerator:Memory", "")
    return Accelerators(
        type=specs.get("Accelerator:Type", "") or "GPU",
        number=int(number) if number.is_integer() else number,
        vendor=specs.get("Accelerator:Vendor", ""),
        model=specs.get("Accelerator:Model", ""),
        version=specs.get("Accelerator:Version", ""),
        memory=int(memory) if memory.isdecimal() else None,
        virtualization=specs.get("Accelerator:VirtualizationType", ""),
    )


def _image(item: Mapping[str, Any], glance: str) -> OfferedImage:
    """Return an image of the Glance at a URL.

    Its properties are those of cloudkeeper-os, ATROPE, vmcatcher and Glance itself.
    """

    def first(*names: str) -> str:
        return next((str(item[name]) for name in names if item.get(name)), "")

    attributes = _attributes(first("APPLIANCE_ATTRIBUTES"))
    texts = {name: value for name, value in attributes.items() if isinstance(value, str)}
    file = first("file")
    version = first("image_version", "vmcatcher_event_hv_version")
    return OfferedImage(
        id=str(item["id"]),
        name=first("name"),
        marketplace=first("vmcatcher_event_ad_mpuri", "marketplace"),
        base=texts.get("ad:base_mpuri", ""),
        description=first("vmcatcher_event_dc_description", "vmcatcher_event_dc_title"),
        version=version or texts.get("hv:version", ""),
        architecture=first("architecture"),
        os_type=first("os_type"),
        os_distribution=first("os_distro"),
        os_version=first("os_version"),
        file=f"{glance}{file}" if file else "",
        attributes=attributes,
    )


@lru_cache(maxsize=1024)  # the same images are offered to many VOs
def _attributes(text: str) -> Mapping[str, Any]:
    """Return the entry of an image list or registry, which is stored as a JSON object.

    The mapping is empty without such an entry, and if JSON cannot represent it once more: Python
    also reads ``NaN``.
    """
    try:
        entry = json.loads(text)
        json.dumps(entry, allow_nan=False)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _servers(scope: Scope) -> ServerCounts:
    states: Counter[str] = Counter()
    vcpus = 0
    for server in Servers(scope).living():
        states[str(server.get("status"))] += 1
        vcpus += int(server["flavor"].get("vcpus") or 0)
    suspended, halted = states.pop(_SUSPENDED, 0), states.pop(_HALTED, 0)
    return ServerCounts(running=states.total(), suspended=suspended, halted=halted, vcpus=vcpus)
