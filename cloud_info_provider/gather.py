"""From OpenStack to facts: the offer of each VO's project, several VOs at a time.

One VO takes five requests: token, flavors with their extra specs, images, servers (counted page by
page), quotas. A failure is the reason of its VO and stops no other VO.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from appliance.core import causes, clock
from appliance.core.cloud import identity, offer, vo
from appliance.core.cloud.compute import Servers
from appliance.core.cloud.hops import LoginFailure
from appliance.core.cloud.session import Scope
from appliance.core.run import log
from appliance.core.run.errors import (
    CHECK_LOGS,
    ApplianceError,
    ConfigurationError,
    Problem,
    Unavailable,
)
from cloud_info_provider import conversion
from cloud_info_provider.facts import Endpoint, Facts, Flavor, OfferedImage, ServerCounts, Share
from cloud_info_provider.provider_account import ProviderAccount
from cloud_info_provider.settings import ProviderSettings, ShareSettings

logger = logging.getLogger(__name__)

_AT_ONCE = 8
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Unread:
    """Why a VO could not be read; ``error`` is None for an unexpected answer."""

    reason: str
    error: ApplianceError | None = None


@dataclass(frozen=True, slots=True)
class _Answered:
    """A VO that was read, and when."""

    share: Share
    at: datetime


def gather(account: ProviderAccount, shares: Sequence[ShareSettings]) -> Facts:
    """Return the facts of all shares; raises `Unavailable` if none could be read."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="vo") as pool:
        results = list(pool.map(lambda share: _attempt(account, share), shares))
    answered = [result for result in results if isinstance(result, _Answered)]
    failed: dict[str, _Unread] = {}
    for share, result in zip(shares, results, strict=True):
        if isinstance(result, _Unread):
            failed.setdefault(share.vo, result)
    if not answered:
        raise _common_cause(account, shares, failed)
    reasons = {
        share.vo: _placed(share, failed[share.vo].reason) for share in shares if share.vo in failed
    }
    return Facts(
        tuple(result.share for result in answered),
        reasons,
        answered=max(result.at for result in answered),
    )


def _common_cause(
    account: ProviderAccount, shares: Sequence[ShareSettings], failed: dict[str, _Unread]
) -> ApplianceError:
    """Return what is reported if no VO could be read: one line if one cause explains all."""
    first = next(iter(failed.values()))
    if isinstance(first.error, LoginFailure):
        return first.error
    if all(unread.reason == first.reason for unread in failed.values()):
        return Unavailable("no VO could be read", first.reason)
    if not any(share.account for share in shares):
        # A wrong password looks like a missing role in each project. A login without a project
        # raises the common cause, which is then reported once.
        try:
            account.cloud(shares[0].region).unscoped  # noqa: B018  logs in, or raises
        except ApplianceError as error:
            return error
    listed = "; ".join(f"{name}: {unread.reason}" for name, unread in failed.items())
    return Unavailable("no VO could be read", listed)


def _placed(share: ShareSettings, reason: str) -> str:
    """Return a reason with the place of the VO in the file, if it does not name one."""
    has_place = not share.place or share.place in reason
    return reason if has_place else f"{reason} ({share.place})"


def own_share(account: ProviderAccount) -> ShareSettings:
    """Return the share of a configuration that names none: the account's own project.

    The VO is that of the project's property in Keystone.

    Raises:
        ConfigurationError: there is not exactly one such project, or its VO is unknown.

    """
    configuration = account.configuration
    access = configuration.access
    found = identity.own_projects(account.cloud(access.region or ""), configuration.project)
    if len(found) != 1:
        count = f"{len(found)} projects are" if found else "no project is"
        words = f"{count} named {configuration.project!r} for this account; set OS_PROJECT_ID"
        raise _without_shares(configuration, words)
    try:
        name = vo.vo_of(found[0], mapping=vo.VOMapping(configuration.yaml_file))
    except vo.NoVO as error:
        words = f"{error.subject}: {error.cause}; write compute.shares.VO.auth.project_id"
        raise _without_shares(configuration, words) from error
    name = name.lstrip("/")
    return ShareSettings(name, found[0].id, access.region or "", (f"VO:{name}",), {})


def _without_shares(configuration: ProviderSettings, words: str) -> ConfigurationError:
    text = f"is not set, and {words}"
    return ConfigurationError([Problem(configuration.yaml_file, 0, "compute.shares", text)])


def _attempt(account: ProviderAccount, share: ShareSettings) -> _Answered | _Unread:
    """Return a VO's share, or the reason why it could not be read."""
    try:
        return _Answered(_read(account, share), clock.now())
    except ApplianceError as error:
        return _Unread(log.redact(" ".join(str(error).split())), error)
    except Exception as error:  # an unexpected answer must stop this VO only
        logger.debug("%s", share.vo, exc_info=True)
        reason = f"unexpected answer from the cloud: {causes.of_answer(error)}"
        return _Unread(log.redact(" ".join(reason.split())))


def _read(account: ProviderAccount, share: ShareSettings) -> Share:
    scope = account.scope(share)
    service, endpoint = account.service(scope, share.region)
    found = described(
        account, share, scope, endpoint, offer.flavors(scope, service), offer.images(scope)
    )
    return replace(
        found,
        servers=_counted(share.vo, Servers(scope).living()),
        quotas={**found.quotas, **offer.quotas(scope)},
    )


def described(
    account: ProviderAccount,
    share: ShareSettings,
    scope: Scope,
    endpoint: Endpoint,
    flavors: Iterable[Mapping[str, Any]],
    images: Iterable[Mapping[str, Any]],
) -> Share:
    """Return a VO's share with these flavors and images, without servers and Nova's quotas.

    Raises:
        Unavailable: none of the flavors, or of the images, can be understood.

    """
    configuration = account.configuration
    names = configuration.properties
    glance = scope.image_url()
    made = _converted(share.vo, "flavor", flavors, lambda item: conversion.flavor(item, names))
    offered = _converted(
        share.vo, "image", images, lambda item: conversion.image(item, glance, names)
    )
    return Share(
        vo=share.vo,
        project_id=share.project_id,
        project_name=scope.project_name or "",
        project_domain=scope.project_domain_name or "",
        endpoint=endpoint,
        # sorted, so that the same offer is the same text in each run
        flavors=tuple(sorted(_chosen(made, configuration), key=lambda flavor: flavor.id)),
        images=tuple(sorted(_published(offered, configuration), key=lambda image: image.id)),
        servers=ServerCounts(),
        quotas=configuration.site.quotas,
    )


def _converted(
    vo: str,
    kind: str,
    items: Iterable[Mapping[str, Any]],
    convert: Callable[[Mapping[str, Any]], T],
) -> list[T]:
    """Return flavors or images; those that cannot be understood are left out and reported.

    Raises:
        Unavailable: none of them can be understood, so the answer itself is wrong.

    """
    found, faults = list[T](), list[str]()
    for item in items:
        try:
            found.append(convert(item))
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            faults.append(f"{kind} {str(item.get('id'))[:64]!r}: {causes.of_answer(error)}")
    if faults and not found:
        raise Unavailable(f"the cloud's {kind}s", f"cannot be understood: {faults[0]}", CHECK_LOGS)
    for fault in faults:
        logger.warning("VO %s: left out, because it cannot be understood: %s", vo, fault)
    return found


def _counted(vo: str, listed: Iterable[Mapping[str, Any]]) -> ServerCounts:
    """Return the counts of servers, also of those whose cores cannot be understood."""
    counts, faults = conversion.servers(listed)
    if faults:
        words = "VO %s: cores of %d servers left out, because they cannot be understood: %s"
        logger.warning(words, vo, len(faults), faults[0])
    return counts


def _chosen(flavors: Iterable[Flavor], configuration: ProviderSettings) -> Iterator[Flavor]:
    wanted = {"all": (True, False), "public": (True,), "private": (False,)}
    return (each for each in flavors if each.is_public in wanted[configuration.select_flavors])


def _published(
    images: Iterable[OfferedImage], configuration: ProviderSettings
) -> Iterator[OfferedImage]:
    return (image for image in images if image.marketplace or configuration.all_images)
