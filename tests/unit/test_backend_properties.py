"""Recognition of our images and their properties; the names are those of cloudkeeper-os 0.9.9."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from appliance.core.registry import names
from appliance.core.registry.client import RegistryClient
from appliance.core.registry.login import Login
from appliance.core.registry.names import TaggedArtefact
from appliance.core.run.errors import ApplianceError
from cloudkeeper.backend import properties
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord, State
from cloudkeeper.backend.versions import left_behind, outdated
from cloudkeeper.frontend.registry import kept
from cloudkeeper.frontend.registry.kept import KeptByDigest
from cloudkeeper.frontend.registry.manifests import Manifests
from cloudkeeper.frontend.registry.project import RegistryProject
from cloudkeeper.frontend.registry.referrers import Referrers
from cloudkeeper.frontend.registry.sboms import SBOMs
from cloudkeeper.frontend.registry.tags import TagHistory
from cloudkeeper.model import Appliance, ApplianceId, ListId
from cloudkeeper.wire import own_properties
from tests import golden_properties
from tests.testbed.oci_registry import described_as

OWNER = "0123456789abcdef0123456789abcdef"
HERE = "1d7e3f4a-0000-4000-8000-000000000001"
SYNCED = "2026-11-24T12:00:00Z"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def image(number: Any = 1, **properties_: Any) -> dict[str, Any]:
    identifier = f"00000000-0000-4000-8000-{number:012}"
    return {
        "id": identifier,
        "owner": OWNER,
        "status": "active",
        "created_at": f"2026-11-24T10:00:{number:02}Z",
        "APPLIANCE_ID": "one",
        "APPLIANCE_IMAGE_LIST_ID": "list",
        "APPLIANCE_VO": "ops",
        "APPLIANCE_STATUS": "ACTIVE",
        "APPLIANCE_BACKEND": f"{HERE} {identifier}",
    } | properties_


def record(number: Any = 1, **more: Any) -> ImageRecord:
    found = properties.recognise(image(number, **more), owner=OWNER)
    assert found is not None
    return found


def appliance(**more: Any) -> Appliance:
    made = Appliance(
        ApplianceId("one"), ListId("list"), vo="ops", title="One", attributes={"hv:version": "1"}
    )
    return replace(made, **more)


@pytest.mark.parametrize(
    "more",
    [
        {"owner": "somebody else"},
        {"image_type": "snapshot"},
        {"base_image_ref": "x", "APPLIANCE_BACKEND": None},
        {"instance_uuid": "x"},
        {"block_device_mapping": "[]"},
        {"APPLIANCE_BACKEND": f"{HERE} 00000000-0000-4000-8000-000000000099"},
        {"APPLIANCE_BACKEND": HERE},
        {"APPLIANCE_ID": ""},
        {"APPLIANCE_IMAGE_LIST_ID": None},
        {"APPLIANCE_STATUS": "active"},
        {"APPLIANCE_STATUS": None},
    ],
)
def test_images_that_are_not_ours(more: dict[str, Any]) -> None:
    assert properties.recognise(image(**more), owner=OWNER) is None


def test_images_that_are_ours() -> None:
    assert record().key == ApplianceKey("ops", ListId("list"), ApplianceId("one"))
    assert record(APPLIANCE_BACKEND=None).backend_id == ""
    assert record(APPLIANCE_STATUS="EOL").state is State.EOL
    assert record(base_image_ref="").backend_id == HERE


@pytest.mark.parametrize(
    ("ram", "mib"),
    [
        (0, 0),
        (1, 1),
        (2**20, 1),
        (2**20 + 1, 2),
        (2147483648, 2048),
        (2**63 - 1, 2**31 - 1),
        (-5, 0),
    ],
)
def test_minimum_memory_is_rounded_up_to_mib(ram: int, mib: int) -> None:
    assert properties.standard(appliance(ram=ram))["min_ram"] == mib


def test_an_image_without_title_is_named_by_its_identifier() -> None:
    assert properties.standard(appliance(title=""))["name"] == "one"


@pytest.mark.parametrize(
    ("stated", "written"),
    [("x86_64", "x86_64"), ("i386", "i686"), ("AMD64", "x86_64"), ("riscv", None), ("", None)],
)
def test_only_architectures_that_nova_knows(stated: str, written: str | None) -> None:
    assert properties.describe(appliance(architecture=stated)).get("architecture") == written


def test_a_value_that_is_too_long_is_refused() -> None:
    attributes = {f"ad:{number}": "x" * 1000 for number in range(66)}
    with pytest.raises(ApplianceError, match="APPLIANCE_ATTRIBUTES is longer than"):
        properties.describe(appliance(attributes=attributes))


def test_values_that_cannot_be_read_count_as_none() -> None:
    broken = record(
        APPLIANCE_RAM="much", APPLIANCE_EXPIRATION_DATE=str(2**62), APPLIANCE_ATTRIBUTES="{"
    )
    found = properties.read(broken)
    assert (found.ram, found.expires, dict(found.attributes)) == (0, None, {})


def test_properties_are_read_as_written() -> None:
    stated = appliance(
        ram=2**31,
        cores=2,
        expires=NOW,
        description="añil\n\u2028",
        attributes={"dc:title": "\U0001f680"},
    )
    written = image(**properties.describe(stated))
    found = properties.recognise(written, owner=OWNER)
    assert found is not None
    assert properties.read(found) == stated


def test_a_description_that_is_right_needs_no_patch() -> None:
    stated = appliance()
    written = record(**properties.describe(stated), **properties.standard(stated))
    assert properties.difference(written, stated, backend_id=HERE) == []


def test_patches_escape_names_and_leave_others_alone() -> None:
    stated = appliance()
    written = record(
        **properties.describe(stated),
        **properties.standard(stated),
        **{"ad:a/b~c": "x", "hw_disk_bus": "scsi"},
    )
    patch = properties.difference(written, stated, backend_id=HERE)
    assert patch == [{"op": "remove", "path": "/ad:a~1b~0c"}]


OWN = {"property:hw_disk_bus": "scsi", "property:hw_qemu_guest_agent": "yes"}


def described(**more: str) -> dict[str, Any]:
    """Return what Glance has of an image with the site's own properties, and ``more``."""
    stated = appliance(attributes={"hv:version": "1", **OWN})
    return {**properties.describe(stated), **properties.standard(stated), **more}


def test_own_properties_are_written_and_read() -> None:
    """The names that users know, beside the list of those that the site sets."""
    written = described()
    assert (written["hw_disk_bus"], written["hw_qemu_guest_agent"]) == ("scsi", "yes")
    assert json.loads(written["APPLIANCE_PROPERTIES"]) == ["hw_disk_bus", "hw_qemu_guest_agent"]
    assert json.loads(written["APPLIANCE_ATTRIBUTES"]) == {"hv:version": "1"}
    assert properties.read(record(**written)).attributes == {"hv:version": "1", **OWN}


def test_a_change_of_own_properties_is_one_patch_that_leaves_others_alone() -> None:
    """hw_rng_model was set by hand and stays, hw_qemu_guest_agent has left the file."""
    wanted = appliance(attributes={"hv:version": "1", "property:hw_disk_bus": "virtio"})
    patch = properties.difference(
        record(**described(hw_rng_model="virtio")), wanted, backend_id=HERE
    )
    assert patch == [
        {"op": "add", "path": "/hw_disk_bus", "value": "virtio"},
        {"op": "add", "path": "/APPLIANCE_PROPERTIES", "value": '["hw_disk_bus"]'},
        {"op": "remove", "path": "/hw_qemu_guest_agent"},
    ]
    bare = appliance(attributes={"hv:version": "1"})
    patch = properties.difference(record(**described(hw_rng_model="virtio")), bare, backend_id=HERE)
    removed = ["APPLIANCE_PROPERTIES", "hw_disk_bus", "hw_qemu_guest_agent"]
    assert patch == [{"op": "remove", "path": f"/{name}"} for name in removed]


def test_another_update_removes_no_own_property() -> None:
    wanted = appliance(title="Two", attributes={"hv:version": "1", **OWN})
    patch = properties.difference(record(**described()), wanted, backend_id=HERE)
    assert [each["path"] for each in patch] == ["/name", "/APPLIANCE_TITLE"]


@pytest.mark.parametrize(
    "name", ["owner", "appdb_id", "APPLIANCE_ID", "image_type", "os_glance_x", "a b", "Project"]
)
def test_the_backend_sets_no_property_of_a_forbidden_name(name: str) -> None:
    """A frontend that is not ours, and a list of names that a user of the project has spoilt."""
    plain = appliance()
    spoilt = appliance(attributes={**plain.attributes, f"property:{name}": "x"})
    assert properties.describe(spoilt) == properties.describe(plain)
    held = record(**{**described(), "APPLIANCE_PROPERTIES": json.dumps([name, 7, "hw_disk_bus"])})
    assert f"property:{name}" not in properties.read(held).attributes
    patch = properties.difference(held, plain, backend_id=HERE)
    removed = [each["path"] for each in patch if each["op"] == "remove"]
    assert removed == ["/APPLIANCE_PROPERTIES", "/hw_disk_bus"]


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', "[" * 100_000])
def test_a_list_of_own_properties_that_users_have_spoilt_holds_none(text: str) -> None:
    held = record(**described(APPLIANCE_PROPERTIES=text))
    assert properties.read(held).attributes == {"hv:version": "1"}


@pytest.mark.parametrize("text", ["{", "7", "[" * 60_000])
def test_attributes_that_users_have_spoilt_are_none(text: str) -> None:
    """One property of one image must not cost the project."""
    found = properties.read(record(**described(APPLIANCE_ATTRIBUTES=text)))
    assert "hv:version" not in found.attributes


def test_a_description_adopts_the_image_of_another_backend() -> None:
    stated = appliance()
    written = record(
        **properties.describe(stated), **properties.standard(stated), APPLIANCE_BACKEND=None
    )
    (operation,) = properties.difference(written, stated, backend_id="new")
    assert operation == {"op": "add", "path": "/APPLIANCE_BACKEND", "value": f"new {written.id}"}


def test_attributes_are_json_of_ascii() -> None:
    text = properties.describe(appliance(attributes={"b": "\U0001f680", "a": "ñ"}))[
        "APPLIANCE_ATTRIBUTES"
    ]
    assert text.isascii()
    assert list(json.loads(text).items()) == [("a", "ñ"), ("b", "\U0001f680")]


def test_orphans() -> None:
    mine, made, young, old = (
        record(number, APPLIANCE_STATUS="STAGING", **more)
        for number, more in enumerate(
            [
                {},
                {},
                {"APPLIANCE_BACKEND": "other 00000000-0000-4000-8000-000000000002"},
                {
                    "APPLIANCE_BACKEND": "other 00000000-0000-4000-8000-000000000003",
                    "created_at": (NOW - timedelta(hours=25)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            ]
        )
    )
    records = [mine, made, young, old, record(9)]
    assert left_behind(records, backend_id=HERE, kept=frozenset({made.id}), now=NOW) == [
        mine,
        old,
    ]


def test_all_versions_but_the_newest_are_outdated() -> None:
    old, new = record(1), record(2)
    without_data = record(3, status="queued")
    unmarked = record(4, APPLIANCE_BACKEND=None)
    hidden, other = record(5, APPLIANCE_STATUS="EOL"), record(6, APPLIANCE_ID="other")
    assert set(outdated_ids([without_data, new, old, unmarked, hidden, other])) == {
        old.id,
        without_data.id,
    }


def outdated_ids(records: list[ImageRecord]) -> list[str]:
    return [found.id for found in outdated(records)]


REFERENCE = "egi_vm_images/ubuntu:24.04"
LAYER = f"sha256:{'1' * 64}"
MANIFEST = f"sha256:{'2' * 64}"


def image_of_a_registry() -> Appliance:
    annotations = {
        "org.openstack.glance.os_distro": "ubuntu",
        "org.openstack.glance.os_version": "24.04",
        "org.openstack.glance.os_type": "linux",
        "org.openstack.glance.architecture": "x86_64",
        "eu.egi.cloud.tag": "24.04",
        "eu.egi.cloud.description": "Example",
    }
    return appliance(
        title=f"registry.egi.eu {REFERENCE}",
        description="Example",
        mpuri=f"registry.egi.eu/{REFERENCE}-{MANIFEST}",
        architecture="x86_64",
        attributes={
            **annotations,
            "eu.egi.cloud.image_ref": REFERENCE,
            "image_hash": LAYER,
        },
    )


def test_the_complete_set_of_properties_of_an_image_of_a_registry(tmp_path: Path) -> None:
    """From manifest and configuration to what Glance is given; a real Glance: test_images.py."""
    manifest = json.dumps(
        {
            "layers": [
                {
                    "mediaType": "application/x-qemu-disk",
                    "digest": LAYER,
                    "size": 7,
                    "annotations": described_as("24.04"),
                }
            ],
            "annotations": {"org.opencontainers.image.source": "https://git.example.org/images"},
        }
    ).encode()
    digest, sbom = names.digest_of(manifest), f"sha256:{'3' * 64}"
    tagged = TaggedArtefact("egi_vm_images/ubuntu", "24.04", digest)
    nothing: Any = None
    client = RegistryClient(nothing, Login(nothing, "registry.egi.eu"))
    manifests, sboms = KeptByDigest(tmp_path / "manifests"), KeptByDigest(tmp_path / "sboms")
    manifests.put(digest, manifest)
    known = json.dumps({"sboms": [sbom], "times": [0, 0]}).encode()
    sboms.put(kept.key_of("registry.egi.eu", tagged), known)
    listing: Any = Mock(artefacts=lambda _: [tagged])
    project = RegistryProject(
        "egi_vm_images",
        ("ops",),
        client,
        listing,
        Manifests(client, manifests),
        TagHistory(tmp_path / "tags.json"),
        SBOMs(Referrers(client), sboms),
        properties=tuple(golden_properties.OWN.items()),
    )
    (found,), warnings = project.fetch(at=NOW)
    (offer,) = found.offers
    name, wanted, annotations = golden_properties.expected(
        host="registry.egi.eu", manifest=digest, layer=LAYER, sbom=sbom, backend="x", synced=SYNCED
    )
    made_from = {
        "source_url": offer.source.uri,
        "source_digest": offer.source.digest,
        "source_version": offer.version,
        "synced_at": SYNCED,
    }
    sent = own_properties.with_provenance(offer.appliance.attributes, made_from)
    new = replace(offer.appliance, attributes=sent)
    written = properties.describe(new) | properties.provenance(new)
    assert json.loads(written.pop("APPLIANCE_ATTRIBUTES")) == annotations
    when_offered = {"APPLIANCE_STATUS", "APPLIANCE_BACKEND"}
    assert written == {key: wanted[key] for key in wanted.keys() - when_offered}
    assert (properties.standard(offer.appliance)["name"], warnings) == (name, [])
    held = properties.read(record(**written, APPLIANCE_ATTRIBUTES=json.dumps(annotations)))
    assert held.attributes == offer.appliance.attributes


def test_an_image_with_everything_has_no_more_properties_than_glance_keeps() -> None:
    """§7.17: 128; as many own properties as allowed, SBOM, provenance, marks, and all memories."""
    own = {f"hw_{number}": "x" for number in range(own_properties.MOST)}
    wanted = image_of_a_registry()
    attributes = own_properties.with_provenance(
        own_properties.added(wanted.attributes, own, sbom="x"),
        dict.fromkeys(own_properties.PROVENANCE, "x"),
    )
    full = replace(wanted, attributes=attributes)
    memories = (properties.STATUS, properties.HIDDEN, properties.SHARED, properties.TAKEN_OVER)
    written = properties.describe(full) | properties.provenance(full) | properties.mark("x", "y")
    assert own.keys() <= written.keys()
    assert len(written.keys() | set(memories)) <= 128


@pytest.mark.parametrize("name", ["cloudkeeper_hidden", "Cloudkeeper_source_url"])
def test_a_site_cannot_set_properties_of_ours(name: str) -> None:
    assert own_properties.fault(name) == "is set by cloudkeeper, as the image's source describes it"


def test_an_image_of_a_registry_has_atrope_s_properties() -> None:
    """The table of atrope's properties, beside marks of our own; the name is Glance's."""
    wanted = image_of_a_registry()
    written = properties.describe(wanted)
    ours = {name for name in written if name.startswith("APPLIANCE_")}
    assert {name: written[name] for name in written.keys() - ours} == {
        "appdb_id": f"registry.egi.eu/{REFERENCE}-{MANIFEST}",
        "vmcatcher_event_ad_mpuri": f"registry.egi.eu/{REFERENCE}-{MANIFEST}",
        "image_hash": LAYER,
        "image_list": "egi_vm_images",
        "project": "egi_vm_images",
        "os_distro": "ubuntu",
        "os_version": "24.04",
        "architecture": "x86_64",
        "vmcatcher_event_dc_description": "Example",
    }
    assert properties.standard(wanted)["name"] == f"registry.egi.eu {REFERENCE}"
    annotations = json.loads(written["APPLIANCE_ATTRIBUTES"])
    assert annotations == {
        name: value for name, value in wanted.attributes.items() if name != "image_hash"
    }
    assert annotations["eu.egi.cloud.image_ref"] == REFERENCE


def test_an_image_of_a_registry_is_read_again_with_its_digest() -> None:
    wanted = image_of_a_registry()
    found = properties.read(record(**properties.describe(wanted)))
    assert found.attributes == wanted.attributes
    assert found.mpuri == wanted.mpuri
