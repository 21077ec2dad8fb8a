"""A reader of a site's JSON that takes what EGI's information system takes, and no more.

Written from the description of that service, not from our writer: which fields it reads, how it
finds a share's VO, images and flavors, and that a site that lacks one of these fields disappears.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

REGISTRY = "registry.egi.eu"


class NoSite(Exception):
    """The document is not one of a site, so the site disappears."""


@dataclass(frozen=True)
class ReadImage:
    """An image as users of the service see it."""

    id: str
    name: str
    marketplace: str
    identifier: str
    version: str


@dataclass(frozen=True)
class ReadFlavor:
    """A flavor with the objects of its accelerators."""

    name: str
    accelerators: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ReadShare:
    """The offer to one VO."""

    name: str
    vo: str
    project_id: str
    images: tuple[ReadImage, ...]
    flavors: tuple[ReadFlavor, ...]


@dataclass(frozen=True)
class ReadSite:
    """A site, as the service lists it."""

    name: str
    gocdb_id: str
    url: str
    expires: datetime
    shares: tuple[ReadShare, ...]

    def is_fresh(self, now: datetime | None = None) -> bool:
        return (now or datetime.now(UTC)) < self.expires

    def share(self, vo: str) -> ReadShare:
        (found,) = (share for share in self.shares if share.vo == vo)
        return found


def read(text: str) -> ReadSite:
    """Return the site that a published text describes."""
    try:
        return _site(json.loads(text, parse_constant=_refuse))
    except (LookupError, TypeError, ValueError) as error:
        raise NoSite(repr(error)) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _site(document: dict[str, list[dict[str, Any]]]) -> ReadSite:
    service, endpoint = document["CloudComputingService"][0], document["CloudComputingEndpoint"][0]
    created = datetime.fromisoformat(service["CreationTime"])
    return ReadSite(
        name=service["Associations"]["AdminDomain"][0],
        gocdb_id=service["OtherInfo"]["gocdb_id"],
        url=endpoint["URL"],
        expires=created + timedelta(seconds=service["Validity"]),
        shares=tuple(
            _share(document, share, vo)
            for share in document["Share"]
            for vo in _vos(document, share["ID"])[:1]
        ),
    )


def _vos(document: dict[str, list[dict[str, Any]]], share: str) -> list[str]:
    return [
        policy["Associations"]["PolicyUserDomain"][0]
        for policy in document["MappingPolicy"]
        if share in policy["Associations"]["Share"]
    ]


def _share(document: dict[str, list[dict[str, Any]]], share: dict[str, Any], vo: str) -> ReadShare:
    images = [
        _image(image)
        for image in document["CloudComputingImage"]
        if share["ID"] in image["Associations"]["Share"]
    ]
    flavors = [
        _flavor(document, flavor)
        for flavor in document["CloudComputingInstanceType"]
        if share["ID"] in flavor["Associations"]["Share"]
    ]
    return ReadShare(share["Name"], vo, share["ProjectID"], tuple(images), tuple(flavors))


def _image(image: dict[str, Any]) -> ReadImage:
    other = image.get("OtherInfo", {})
    is_of_registry = REGISTRY in image["MarketplaceURL"]
    return ReadImage(
        id=image["ID"],
        name=image["Name"],
        marketplace=image["MarketplaceURL"],
        identifier=other["eu.egi.cloud.image_ref"] if is_of_registry else "",
        version=other["eu.egi.cloud.tag"] if is_of_registry else "",
    )


def _flavor(document: dict[str, list[dict[str, Any]]], flavor: dict[str, Any]) -> ReadFlavor:
    wanted = flavor["Associations"].get("CloudComputingVirtualAccelerator", [])
    found = [one for one in document["CloudComputingVirtualAccelerator"] if one["ID"] in wanted]
    return ReadFlavor(flavor["Name"], tuple(found))
