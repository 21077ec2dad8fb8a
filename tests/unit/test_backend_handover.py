"""The patches of a takeover and of its end: the second one undoes the first one exactly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudkeeper.backend import handover
from cloudkeeper.backend.properties import ApplianceKey
from cloudkeeper.model import ApplianceId, ListId

REFERENCE = "egi_vm_images/ubuntu:24.04"
KEY = ApplianceKey("ops", ListId("registry.egi.eu/egi_vm_images/ops"), ApplianceId(REFERENCE))
IDENTITY = f"registry.egi.eu/{REFERENCE}-sha256:{'0' * 64}"
ATTRIBUTES = json.dumps({"eu.egi.cloud.tag": "24.04", "eu.egi.cloud.image_ref": REFERENCE})
DIGEST = f"sha256:{'2' * 64}"
"""Of the data, which is not the one that the image names."""
IMAGE: dict[str, Any] = {
    "id": "7",
    "name": f"registry.egi.eu {REFERENCE}",
    "tags": ["atrope-catchall", "of the site"],
    "min_ram": 0,
    "appdb_id": IDENTITY,
    "image_hash": f"sha256:{'1' * 64}",
    "os_distro": "ubuntu",
    "hw_disk_bus": "scsi",
    "APPLIANCE_ATTRIBUTES": ATTRIBUTES,
}


def patched(image: dict[str, Any], patch: handover.Operations) -> dict[str, Any]:
    """Return an image after a patch, by the rules of Glance: RFC 6902 on the first level."""
    changed = dict(image)
    for step in patch:
        name = str(step["path"])[1:].replace("~1", "/").replace("~0", "~")
        if step["op"] == "add":
            assert name not in ("name", "tags", "min_ram")
        else:
            assert name in changed, step
        if step["op"] == "remove":
            del changed[name]
        else:
            changed[name] = step["value"]
    return changed


def taken(image: dict[str, Any], *tags: str) -> dict[str, Any]:
    wanted = tags or ("atrope-catchall",)
    return patched(image, handover.taking(image, KEY, tags=wanted, backend_id="b", digest=DIGEST))


def test_a_takeover_adds_our_marks_and_takes_the_tag() -> None:
    image = taken(IMAGE)
    assert image["tags"] == ["of the site"]
    added = {name: image[name] for name in image.keys() - IMAGE.keys()}
    memory = json.loads(added.pop("cloudkeeper_taken_over"))
    assert added == {
        "APPLIANCE_VO": "ops",
        "APPLIANCE_IMAGE_LIST_ID": "registry.egi.eu/egi_vm_images/ops",
        "APPLIANCE_ID": REFERENCE,
        "APPLIANCE_TITLE": f"registry.egi.eu {REFERENCE}",
        "APPLIANCE_MPURI": IDENTITY,
        "APPLIANCE_STATUS": "ACTIVE",
        "APPLIANCE_BACKEND": "b 7",
    }
    assert memory["tags"] == ["atrope-catchall"]
    assert memory["was"]["APPLIANCE_ATTRIBUTES"] == image["APPLIANCE_ATTRIBUTES"] == ATTRIBUTES


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"APPLIANCE_ATTRIBUTES": None},
        {"APPLIANCE_ATTRIBUTES": "no JSON"},
        {"APPLIANCE_ATTRIBUTES": "[]"},
        {"appdb_id": None},
        {"name": "renamed"},
    ],
)
def test_the_end_of_a_takeover_restores_the_image(changes: dict[str, Any]) -> None:
    image = {name: value for name, value in (IMAGE | changes).items() if value is not None}
    ours = taken(image)
    assert json.loads(ours["APPLIANCE_ATTRIBUTES"])["eu.egi.cloud.image_ref"] == REFERENCE
    end = patched(ours, handover.giving_back(ours))
    assert {**end, "tags": sorted(end["tags"])} == image


def test_what_a_metadata_update_has_changed_is_restored() -> None:
    ours = taken(IMAGE) | {
        "name": "x",
        "min_ram": 512,
        "os_distro": "y",
        "os_version": "24.04",
        "APPLIANCE_ATTRIBUTES": "{}",
        "APPLIANCE_RAM": "0",
    }
    end = patched(ours, handover.giving_back(ours))
    assert {**end, "tags": sorted(end["tags"])} == IMAGE


def test_properties_that_the_site_sets_on_a_source_end_with_the_takeover() -> None:
    own = {"APPLIANCE_PROPERTIES": '["hw_disk_bus", "hw_qemu_guest_agent"]'}
    ours = taken(IMAGE) | own | {"hw_disk_bus": "virtio", "hw_qemu_guest_agent": "yes"}
    end = patched(ours, handover.giving_back(ours))
    assert {**end, "tags": sorted(end["tags"])} == IMAGE


def test_a_newer_artefact_keeps_its_own_description() -> None:
    newer = {"appdb_id": IDENTITY.replace("0", "2"), "os_distro": "y", "APPLIANCE_ATTRIBUTES": "{}"}
    newer["image_hash"] = f"sha256:{'3' * 64}"
    ours = taken(IMAGE) | newer
    end = patched(ours, handover.giving_back(ours))
    assert {**end, "tags": sorted(end["tags"])} == IMAGE | newer


def test_two_tags_of_managers_return_together() -> None:
    image = IMAGE | {"tags": ["atrope", "atrope-catchall"]}
    ours = taken(image, "atrope-catchall", "atrope")
    assert ours["tags"] == []
    end = patched(ours, handover.giving_back(ours))
    assert sorted(end["tags"]) == ["atrope", "atrope-catchall"]


def test_a_new_version_inherits_the_tag_only() -> None:
    inherited = handover.inherited(taken(IMAGE))
    assert inherited == {"cloudkeeper_taken_over": '{"tags": ["atrope-catchall"]}'}
    assert handover.inherited(IMAGE) == {}


@pytest.mark.parametrize(
    "spoiled", ["no JSON", "[]", '{"tags": "x"}', '{"tags": [1]}', "", "[" * 60_000]
)
def test_a_memory_that_users_have_spoiled_names_no_tag(spoiled: str) -> None:
    assert handover.recall({"cloudkeeper_taken_over": spoiled}) == {"tags": [], "was": {}}


@pytest.mark.parametrize("spoiled", ["no JSON", "[]", "", "[" * 60_000])
def test_attributes_that_users_have_spoiled_are_none(spoiled: str) -> None:
    assert handover.attributes({"APPLIANCE_ATTRIBUTES": spoiled}) == {}


def test_a_memory_too_long_for_glance_keeps_the_tag() -> None:
    image = IMAGE | {"APPLIANCE_ATTRIBUTES": json.dumps({"x": "y" * 65_000})}
    ours = taken(image)
    assert len(ours["cloudkeeper_taken_over"]) < 100
    end = patched(ours, handover.giving_back(ours))
    assert (sorted(end["tags"]), end["appdb_id"]) == (sorted(IMAGE["tags"]), IDENTITY)
