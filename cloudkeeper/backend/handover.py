"""The patches that make an image of another manager ours, and make it the other manager's again.

Both are functions of the image. The second one finds all that it needs in the property
`properties.TAKEN_OVER`, as JSON: ``tags``, those of the other manager; ``was``, the properties that
it had written, for as long as the image still describes the same artefact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.core.cloud.glance import Image
from cloudkeeper.backend import properties
from cloudkeeper.backend.properties import ATTRIBUTES, TAKEN_OVER, ApplianceKey, State, operation
from cloudkeeper.model import LAYER_KEY, REFERENCE_KEY

_IDENTITY = "appdb_id"
_THEIRS = (
    "name",
    "min_ram",
    _IDENTITY,
    LAYER_KEY,
    "image_list",
    "project",
    "os_distro",
    "os_version",
    "architecture",
    "vmcatcher_event_ad_mpuri",
    "vmcatcher_event_dc_description",
    ATTRIBUTES,
)
"""What atrope writes and a metadata update of ours writes, too."""
_STANDARD = ("name", "min_ram")
_GLANCES = frozenset(
    {
        *("id", "status", "visibility", "protected", "checksum", "owner", "size", "virtual_size"),
        *(
            "container_format",
            "disk_format",
            "created_at",
            "updated_at",
            "tags",
            "min_disk",
            "self",
        ),
        *("file", "schema", "os_hash_algo", "os_hash_value", "os_hidden", "stores", "locations"),
        "direct_url",
    }
)
"""Glance's own fields, beside `_STANDARD`; all others are properties."""
# Bytes of a property; `properties.describe` has the same limit.
_LONGEST = 65_000

Operations = list[dict[str, object]]


def taking(
    image: Image, key: ApplianceKey, *, tags: Sequence[str], backend_id: str, digest: str
) -> Operations:
    """Return the patch that makes an image with the tags of another manager ours.

    ``digest`` is that of its data.
    """
    image_id = str(image["id"])
    kept = [tag for tag in image.get("tags", ()) if tag not in tags]
    mpuri = str(image.get(_IDENTITY) or image.get("vmcatcher_event_ad_mpuri") or "")
    wanted = {
        properties.VO: key.vo,
        properties.LIST: key.list_id,
        properties.ID: key.identifier,
        properties.TITLE: str(image.get("name") or ""),
        properties.MPURI: mpuri,
        properties.STATUS: State.ACTIVE.value,
        **properties.mark(backend_id, image_id),
        TAKEN_OVER: _memory(image, tags),
        LAYER_KEY: digest,
    }
    found = attributes(image)
    if found.get(REFERENCE_KEY) != key.identifier:
        wanted[ATTRIBUTES] = json.dumps({**found, REFERENCE_KEY: key.identifier}, sort_keys=True)
    return [
        operation("replace", "tags", kept),
        *(operation("add", name, value) for name, value in wanted.items()),
    ]


def giving_back(image: Image) -> Operations:
    """Return the patch that gives an image back: our marks removed, the tags as they were."""
    memory = recall(image)
    tags = list(dict.fromkeys([*image.get("tags", ()), *memory["tags"]]))
    was: Mapping[str, Any] = memory["was"]
    # A newer artefact is described by the properties that it has now.
    is_same = was and was.get(_IDENTITY) == image.get(_IDENTITY)
    names = [*(_THEIRS if is_same else ()), *properties.own_names(image)]
    patch = [operation("replace", "tags", tags)]
    if properties.HIDDEN in image:
        patch.append(operation("replace", "os_hidden", value=False))
    for name in names:
        if name in was and image.get(name) != was[name]:
            patch.append(operation("replace" if name in _STANDARD else "add", name, was[name]))
        elif name not in was and name in image and name not in _STANDARD:
            patch.append(operation("remove", name))
    ours = [name for name in sorted(image) if properties.is_ours(name) and name != ATTRIBUTES]
    return patch + [operation("remove", name) for name in ours]


def recall(image: Image) -> dict[str, Any]:
    """Return the values that a takeover has stored; those that users have spoiled are empty."""
    try:
        found = json.loads(str(image.get(TAKEN_OVER) or "{}"))
    except (ValueError, RecursionError):
        found = {}
    found = found if isinstance(found, dict) else {}
    tags, was = found.get("tags"), found.get("was")
    return {
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "was": was if isinstance(was, dict) else {},
    }


def inherited(image: Image) -> dict[str, str]:
    """Return the property by which a new version of an image can be given back as well."""
    tags = recall(image)["tags"]
    return {TAKEN_OVER: json.dumps({"tags": tags})} if tags else {}


def attributes(image: Image) -> dict[str, Any]:
    """Return the attributes that another manager has written; none if they are not JSON."""
    try:
        found = json.loads(str(image.get(ATTRIBUTES) or "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _memory(image: Image, tags: Sequence[str]) -> str:
    was = {name: value for name, value in image.items() if name not in _GLANCES}
    text = json.dumps({"tags": list(tags), "was": was}, sort_keys=True)
    # Without the properties, those of that moment stay: decoration never costs the image.
    return text if len(text.encode()) <= _LONGEST else json.dumps({"tags": list(tags)})
