"""Additions to the attributes of an appliance: a site's own properties, its SBOM, its provenance.

The protocol of 1.x has one map of texts for all that it does not name. The site's properties of
Glance travel there as ``property:NAME``, the SBOM of an artefact as `SBOM`, and, with the data of
an image, what they were made from as ``provenance:NAME``. A backend that knows them announces
`PROPERTIES` and `PROVENANCE` (`cloudkeeper.wire.status`); to any other backend, those of 0.9.x
among them, they are not sent, so that none stores them under these names or moves data because of
them.

Sources of images cannot set them: what a list or an artefact calls so is dropped. Both sides refuse
the names of `fault`, which belong to Glance, to Nova, or to what describes an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from cloudkeeper.model import LAYER_KEY, SBOM_KEY

MOST = 64
"""Properties of a source: Glance keeps 128 of an image, of which this program needs some 40."""
LONGEST = 1000
"""Characters of a value."""
PROVENANCE = (
    "source_url",
    "source_digest",
    "source_version",
    "endorser",
    "conversion",
    "synced_at",
)
"""The names of a provenance: the file that was downloaded, without credentials; its digest; the
version of its list, or the digest of its manifest; who signed the list; how the file became the
image, with the program and its version; and the time of the transfer."""
OURS = "cloudkeeper_"
"""The prefix of properties of ours that are not cloudkeeper-os 0.9's."""
_PREFIX = "property:"
_MADE_FROM = "provenance:"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,254}", re.ASCII)
_OURS = ("appliance_", OURS, "vmcatcher_", "ad:", "dc:", "hv:", "sl:")
_DESCRIBING = frozenset(
    {
        *("appdb_id", LAYER_KEY, "image_list", "project"),
        *("architecture", "os_distro", "os_version"),
    }
)
"""Names that describe an image: atrope's, which monitoring and users read."""
_OF_LISTS = frozenset({"os_type"})
"""Names that describe an image of a signed list only."""
GLANCE = frozenset(
    {
        *("id", "name", "status", "visibility", "protected", "owner", "tags", "members", "self"),
        *("file", "schema", "schemas", "locations", "direct_url", "stores", "deleted"),
        *("created_at", "updated_at", "deleted_at", "checksum", "os_hidden", "os_hash_algo"),
        *("os_hash_value", "size", "virtual_size", "min_ram", "min_disk", "is_public"),
        *("container_format", "disk_format"),
    }
)
"""Glance's own fields, of its schema or of its older APIs."""
_NOVA = frozenset(
    {
        *("image_type", "image_location", "image_state", "user_id", "base_image_ref"),
        *("instance_uuid", "block_device_mapping", "bdm_v2", "root_device_name"),
    }
)
"""Names that make an image a snapshot of a server."""


def fault(name: str, *, of_list: bool = False) -> str:
    """Return why a site may not set a property of this name; empty if it may.

    ``of_list`` is for images of signed lists.
    """
    lower = name.lower()
    if not _NAME.fullmatch(name):
        return "is not a name of letters, digits and _ . : -"
    if lower in GLANCE or lower.startswith("os_glance_"):
        return "is a field of Glance itself"
    if lower in _NOVA:
        return "is a mark of Nova for snapshots of servers"
    if lower in _DESCRIBING or lower.startswith(_OURS) or (of_list and lower in _OF_LISTS):
        return "is set by cloudkeeper, as the image's source describes it"
    return ""


def added(
    attributes: Mapping[str, str], properties: Mapping[str, str], *, sbom: str = ""
) -> Mapping[str, str]:
    """Return the attributes of an image with the additions of this module, and no others."""
    own = {f"{_PREFIX}{name}": value for name, value in properties.items()}
    return MappingProxyType({**plain(attributes), **own, **({SBOM_KEY: sbom} if sbom else {})})


def plain(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """Return the attributes of an image without the additions of this module."""
    return {
        key: value
        for key, value in attributes.items()
        if key != SBOM_KEY and not key.startswith((_PREFIX, _MADE_FROM))
    }


def with_provenance(
    attributes: Mapping[str, str], provenance: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the attributes of an image whose data travel along, with what these were made from."""
    named = {f"{_MADE_FROM}{name}": value for name, value in provenance.items() if value}
    others = {key: value for key, value in attributes.items() if not key.startswith(_MADE_FROM)}
    return MappingProxyType({**others, **named})


def provenance_of(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return what the data of an image were made from, by the names of `PROVENANCE`."""
    found = {name: attributes.get(f"{_MADE_FROM}{name}", "")[:LONGEST] for name in PROVENANCE}
    return {name: value for name, value in found.items() if value}


def of(attributes: Mapping[str, str]) -> dict[str, str]:
    """Return the properties that a site sets on an image; those of forbidden names are dropped."""
    named = {
        key.removeprefix(_PREFIX): value
        for key, value in attributes.items()
        if key.startswith(_PREFIX)
    }
    return {name: value for name, value in sorted(named.items()) if not fault(name)}
