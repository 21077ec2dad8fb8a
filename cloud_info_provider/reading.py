"""A run up to its output: the cloud is read, and what others know of it is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from cloud_info_provider import auditor, gather
from cloud_info_provider.endpoint_lookup import STATE, EndpointLookup
from cloud_info_provider.facts import Facts
from cloud_info_provider.formats.published_cloud import PublishedCloud
from cloud_info_provider.provider_account import ProviderAccount
from cloud_info_provider.settings import ProviderSettings, ShareSettings


def read(configuration: ProviderSettings, layout: Layout, record: RunRecord) -> PublishedCloud:
    """Return the cloud with its description, and record the figures.

    Raises:
        Unavailable: no VO could be read, or not each of them if all are needed.

    """
    lookup = None
    if configuration.has_endpoint_facts:
        lookup = EndpointLookup(configuration, layout.path(STATE))
        lookup.start()
    facts, shares = _offer(configuration, record)
    if configuration.auditor:
        facts = replace(facts, auditor_role=auditor.has_role(configuration.auditor))
    if lookup:
        entry, certificate = lookup.finish()
        facts = replace(facts, gocdb=entry, certificate=certificate)
    record.counts |= {"vos": len(facts.shares), "vos_failed": len(facts.failed)}
    record.add("flavors", len({flavor.id for share in facts.shares for flavor in share.flavors}))
    record.add("images", len({image.id for share in facts.shares for image in share.images}))
    access = configuration.access
    return PublishedCloud(
        facts,
        configuration.site,
        shares,
        configuration.endpoint,
        access.auth_url,
        access.auth_type,
    )


def _offer(
    configuration: ProviderSettings, record: RunRecord
) -> tuple[Facts, Sequence[ShareSettings]]:
    """Return the facts, and the shares that were asked for."""
    if configuration.offer:
        return configuration.offer.facts, configuration.shares
    account = ProviderAccount(configuration)
    # the figures of a run that fails before the first VO is read
    record.counts |= {"vos": 0, "vos_failed": max(len(configuration.shares), 1)}
    try:
        shares = configuration.shares or (gather.own_share(account),)
        facts = gather.gather(account, shares)
    finally:
        record.add("requests", account.requests)
    if facts.failed and configuration.needs_all_vos:
        listed = "; ".join(f"{vo}: {reason}" for vo, reason in sorted(facts.failed.items()))
        raise Unavailable("--exit-on-share-errors", listed)
    return facts, shares
