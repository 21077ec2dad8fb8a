"""The cloud as read, as one JSON object for scripts and people: a pure function.

    {"site": NAME, "endpoint": URL, "answered": TIME, "gocdb_id": …, "failed": {VO: REASON},
     "shares": [{"vo": …, "project_id": …, "servers": {…}, "flavors": [ID, …], "images": [ID, …]}],
     "flavors": [{"id": …, "name": …, "vcpus": …}], "images": [{"id": …, "name": …}]}

Fields have the names of `cloud_info_provider.facts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from cloud_info_provider.facts import Flavor, OfferedImage, Share
from cloud_info_provider.formats.published_cloud import PublishedCloud, Rendering

_Thing = TypeVar("_Thing", Flavor, OfferedImage)


def render(cloud: PublishedCloud) -> Rendering:
    """Return the JSON text, indented."""
    facts = cloud.facts
    shares = sorted(facts.shares, key=lambda share: (share.vo, share.project_id))
    flavors = _distinct(share.flavors for share in shares)
    images = _distinct(share.images for share in shares)
    document = {
        "site": cloud.site.name,
        "endpoint": cloud.endpoint,
        "answered": facts.answered.replace(microsecond=0).isoformat(),
        "gocdb_id": facts.gocdb.id,
        "failed": dict(sorted(facts.failed.items())),
        "shares": [_share(share) for share in shares],
        "flavors": [asdict(flavor) for flavor in flavors],
        "images": [asdict(image) for image in images],
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    return Rendering(f"{text}\n", len(shares) + len(flavors) + len(images))


def _share(share: Share) -> dict[str, Any]:
    return {
        "vo": share.vo,
        "project_id": share.project_id,
        "project_name": share.project_name,
        "project_domain": share.project_domain,
        "endpoint": asdict(share.endpoint),
        "servers": asdict(share.servers),
        "quotas": dict(share.quotas),
        "flavors": [flavor.id for flavor in share.flavors],
        "images": [image.id for image in share.images],
    }


def _distinct(offers: Iterable[Sequence[_Thing]]) -> list[_Thing]:
    found = dict.fromkeys(thing for things in offers for thing in things)
    return sorted(found, key=lambda thing: thing.id)
