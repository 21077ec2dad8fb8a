"""One image of a registry for the projects of several VOs, where Glance can be made to misbehave.

tests/e2e/test_shared_images.py has it on the test bed's Glance.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import empty_pb2 as pb_empty

from appliance.core import retry
from appliance.core.run.errors import ConfigurationError
from appliance.core.run.layout import Layout
from cloudkeeper.backend import settings
from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e.images_backend import Client
from tests.simulators.openstack import Answer
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

REFERENCE = "egi_vm_images/ubuntu:24.04"
NAME = f"registry.egi.eu {REFERENCE}"
PROJECTS = {"ops": "one", "biomed": "two", "vo.example.org": "three"}
MAPPING = {vo: {"project": project} for vo, project in PROJECTS.items()}
SHARE, COPY = "image_sharing = share", "image_sharing = copy"
ADMIN = "four"
"""A project of no VO, whose administrator has been given the image by hand."""
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def disk(version: str) -> bytes:
    """Return a raw disk with a boot sector."""
    return b"\0" * 510 + b"\x55\xaa" + version.encode().ljust(512, b".")


@dataclass
class SharingSite:
    """A backend for three VOs; ``versions`` are those that each VO has been seen to find."""

    site: BackendSite
    requests: list[str] = field(default_factory=list)

    @property
    def glance(self) -> Any:
        return self.site.glance

    def configure(self, option: str = SHARE, mapping: dict[str, Any] | None = None) -> None:
        self.site.configure(option, mapping or MAPPING)

    def message(
        self, vo: str, version: str, *, with_image: bool = True, **more: Any
    ) -> pb.Appliance:
        content = disk(version)
        path = self.site.root / "images" / f"{version}.raw"
        path.write_bytes(content)
        layer = f"sha256:{hashlib.sha256(content).hexdigest()}"
        image: dict[str, Any] = {
            "mode": "LOCAL",
            "location": str(path),
            "format": "RAW",
            "checksum": hashlib.sha512(content).hexdigest(),
            "size": len(content),
        }
        values: dict[str, Any] = {
            "identifier": REFERENCE,
            "title": NAME,
            "mpuri": f"registry.egi.eu/{REFERENCE}-{layer}",
            "group": "egi_vm_images",
            "version": version,
            "vo": vo,
            "image_list_identifier": list_id(vo),
            "attributes": {"eu.egi.cloud.image_ref": REFERENCE, "image_hash": layer},
            **({"image": image} if with_image else {}),
        }
        return pb.Appliance(**(values | more))

    def sync(self, client: Client, wanted: Mapping[str, str]) -> list[tuple[str, str]]:
        """Make a run as our frontend does: all VOs are compared first; return the failures."""
        if client.call("PreAction")[0] != "SUCCESS":
            return [("ERROR", "PreAction")]
        changes: list[tuple[str, pb.Appliance]] = []
        for vo in PROJECTS:
            found = client.appliances(list_id(vo), vo=vo)
            if vo in wanted:
                message = self.message(vo, wanted[vo])
                layer = message.attributes["image_hash"]
                if REFERENCE not in found:
                    changes.append(("AddAppliance", message))
                elif found[REFERENCE].attributes["image_hash"] != layer:
                    changes.append(("UpdateAppliance", message))
            elif REFERENCE in found:
                changes.append(("RemoveAppliance", self.message(vo, "x", with_image=False)))
        outcomes = [client.call(method, message) for method, message in changes]
        client.call("PostAction")
        return [outcome for outcome in outcomes if outcome[0] != "SUCCESS"]

    def finds(self) -> dict[str, list[str]]:
        """Return the versions that the users of each VO find, by the bytes in Glance's store."""
        return {vo: self.found(project) for vo, project in PROJECTS.items()}

    def found(self, project: str) -> list[str]:
        files = {self.glance.files[one] for one in self.glance.found_by(project, NAME)}
        return sorted(content[512:].decode().strip(".") for content in files)

    def memberships(self) -> dict[str, dict[str, str]]:
        """Return the members of all images, by the version of each."""
        return {
            self.glance.images[one]["APPLIANCE_VERSION"]: members
            for one, members in self.glance.members.items()
            if members
        }


def list_id(vo: str) -> str:
    return f"registry.egi.eu/egi_vm_images/{vo}"


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(PROJECTS, version)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharingSite]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    with backend_site.made(tmp_path, projects=[*PROJECTS.values(), ADMIN]) as made:
        found = SharingSite(made)
        found.configure()
        yield found


def test_three_vos_one_upload(site: SharingSite) -> None:
    """F-M13: the bytes that Glance has taken are those of one file; all three find the image."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    assert site.finds() == {vo: ["1"] for vo in PROJECTS}
    (image,) = site.glance.images.values()
    assert image["owner"] == "one"
    assert image["visibility"] == "shared"
    assert site.memberships() == {"1": {"two": "accepted", "three": "accepted"}}
    uploads = [one for one in site.glance.requests if one.startswith("PUT") and "/file" in one]
    assert len(uploads) == 1
    counts = site.site.record()["counts"]
    assert counts["uploaded_bytes"] == len(disk("1"))
    assert (counts["added"], counts["shared"], counts["images"]) == (1, 2, 1)
    # A run without changes asks for nothing but the two listings of each project.
    site.glance.requests.clear()
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    asked = [one for one in site.glance.requests if "/v2/images" in one]
    assert asked == ["GET /v2/images"] * 6


def test_calls_side_by_side_upload_once(site: SharingSite) -> None:
    """The feature "parallel": the others wait for the first upload, and share it."""
    with site.site.running() as client, ThreadPoolExecutor(3) as pool:
        assert client.call("PreAction")[0] == "SUCCESS"
        for version, method in (("1", "AddAppliance"), ("2", "UpdateAppliance")):
            messages = [site.message(vo, version) for vo in PROJECTS]
            calls = [pool.submit(client.call, method, one) for one in messages]
            assert [call.result() for call in calls] == [("SUCCESS", "")] * 3
        assert client.call("PostAction")[0] == "SUCCESS"
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    assert len(site.glance.images) == 1
    assert site.site.record()["counts"]["uploaded_bytes"] == 2 * len(disk("1"))


def test_copy_is_the_default(site: SharingSite) -> None:
    site.configure("")
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    assert site.finds() == {vo: ["1"] for vo in PROJECTS}
    assert sorted(one["owner"] for one in site.glance.images.values()) == ["one", "three", "two"]
    assert site.glance.members == {}
    assert not any("cloudkeeper_shared" in one for one in site.glance.images.values())


def test_images_of_signed_lists_are_not_shared(site: SharingSite) -> None:
    """A list is for one VO, and names its images itself."""
    with site.site.running() as client:
        for number, vo in enumerate(PROJECTS):
            message = site.message(vo, "1", image_list_identifier=f"7c1d2e3f-000{number}")
            assert client.call("AddAppliance", message) == ("SUCCESS", "")
    assert len(site.glance.images) == 3


def test_vos_in_one_project_need_no_member(site: SharingSite) -> None:
    site.configure(mapping={**MAPPING, "biomed": {"project": "one"}})
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        assert site.memberships() == {"1": {"three": "accepted"}}
        assert site.sync(client, everywhere("2")) == []
        assert site.found("one") == ["2"]
        assert site.sync(client, {"biomed": "2"}) == []
    assert (site.found("one"), site.found("three")) == (["2"], [])
    (image,) = site.glance.images.values()
    assert image["APPLIANCE_VO"] == "biomed"
    assert "cloudkeeper_shared" not in image


@contextmanager
def watched(site: SharingSite, among: Iterable[str] = PROJECTS) -> Iterator[None]:
    """Check before each request that a VO that found the image still finds one good version."""
    had = {vo for vo, found in site.finds().items() if found and vo in among}

    def look(method: str, path: str) -> None:
        del path
        lost = [vo for vo in had if not site.finds()[vo]]
        assert not lost, f"{lost} lost the image before {method}"

    before = site.glance.fault

    def fault(method: str, path: str) -> Answer | None:
        try:
            look(method, path)
        except AssertionError as error:
            broken.append(str(error))
        found: Answer | None = before(method, path)
        return found

    broken: list[str] = []
    site.glance.fault = fault
    yield
    look("the end", "")
    site.glance.fault = before
    assert broken == []


def test_an_update_reaches_all_at_once(site: SharingSite) -> None:
    """Whichever VO asks first: the new version is uploaded into the project of the old one."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (old,) = site.glance.images
        with watched(site):
            assert client.call("PreAction")[0] == "SUCCESS"
            assert client.call("UpdateAppliance", site.message("biomed", "2"))[0] == "SUCCESS"
            assert site.finds() == {vo: ["2"] for vo in PROJECTS}
            for vo in ("ops", "vo.example.org"):
                assert client.call("UpdateAppliance", site.message(vo, "2"))[0] == "SUCCESS"
            assert client.call("PostAction")[0] == "SUCCESS"
    (image,) = site.glance.images.values()
    assert image["id"] != old
    assert (image["owner"], image["APPLIANCE_VO"]) == ("one", "ops")
    assert site.memberships() == {"2": {"two": "accepted", "three": "accepted"}}
    assert site.site.record()["counts"]["uploaded_bytes"] == len(disk("2"))


@pytest.mark.parametrize("leaving", [*PROJECTS])
def test_a_vo_that_leaves_takes_nothing_from_others(site: SharingSite, leaving: str) -> None:
    """The owner's project holds the image for the others until its next version."""
    staying = {vo: "1" for vo in PROJECTS if vo != leaving}
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (before,) = site.glance.images
        assert site.sync(client, staying) == []
        assert {vo: site.finds()[vo] for vo in staying} == {vo: ["1"] for vo in staying}
        assert list(site.glance.images) == [before]
        assert REFERENCE not in client.appliances(list_id(leaving), vo=leaving)
        is_owner = leaving == "ops"
        assert site.finds()[leaving] == (["1"] if is_owner else [])
        client.run()
        notes = site.site.record().get("notes", {}).get("images_held_for_others", [])
        assert len(notes) == is_owner
        if is_owner:
            assert notes[0].startswith(f"project one: holds image {before} for VO biomed, vo.")
        with watched(site, staying):
            assert site.sync(client, dict.fromkeys(staying, "2")) == []
        assert site.finds() == {**{vo: ["2"] for vo in staying}, leaving: []}
        assert len(site.glance.images) == 1
        assert site.sync(client, {}) == []
    assert site.glance.images == {}


def test_a_vo_returns_to_the_image_that_its_project_holds(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        assert site.sync(client, {"biomed": "1"}) == []
        assert site.sync(client, everywhere("1")) == []
    assert len(site.glance.images) == 1
    assert site.finds() == {vo: ["1"] for vo in PROJECTS}
    assert site.memberships() == {"1": {"two": "accepted", "three": "accepted"}}


def test_remove_image_list_of_one_vo_leaves_the_others(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        for vo in PROJECTS:
            assert site.finds()[vo] == ["1"]
            request = pb.ImageListIdentifier(image_list_identifier=list_id(vo))
            assert client.run(("RemoveImageList", request)) == [("SUCCESS", "")]
            assert list_id(vo) not in client.lists()
    assert site.glance.images == {}


def test_hiding_for_one_vo_hides_from_no_other(site: SharingSite) -> None:
    """ended-lists: hide; the last VO's image is hidden, and is shown to it again."""
    hide = [("hide", "yes")]
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        for vo in ("ops", "biomed", "vo.example.org"):
            assert client.call("PreAction")[0] == "SUCCESS"
            message = site.message(vo, "1", with_image=False)
            assert client.call("UpdateAppliance", message, metadata=hide)[0] == "SUCCESS"
            assert client.call("PostAction")[0] == "SUCCESS"
            if vo == "ops":
                assert site.found("two") == site.found("three") == ["1"]
            if vo == "biomed":
                assert (site.found("two"), site.found("three")) == ([], ["1"])
        assert site.found("three") == []
        assert len(site.glance.images) == 1
        assert client.call("PreAction")[0] == "SUCCESS"
        listed = client.appliances(list_id("vo.example.org"), vo="vo.example.org")
        assert listed[REFERENCE].attributes["hidden"] == "yes"
        assert client.call("UpdateAppliance", message)[0] == "SUCCESS"
    assert site.found("three") == ["1"]


def test_metadata_of_a_shared_image_change_once_for_all(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        client.call("PreAction")
        site.glance.requests.clear()
        for vo in reversed(PROJECTS):
            message = site.message(vo, "1", with_image=False, description="new words")
            assert client.call("UpdateAppliance", message) == ("SUCCESS", "")
    (image,) = site.glance.images.values()
    assert (image["APPLIANCE_DESCRIPTION"], image["APPLIANCE_VO"]) == ("new words", "ops")
    assert sum(one.startswith("PATCH") for one in site.glance.requests) == 1


def test_other_properties_of_the_site_are_another_image(site: SharingSite) -> None:
    """Two sources of one project: what one sets on its images must not reach the other's VO."""
    own = {"property:hw_disk_bus": "scsi"}
    with site.site.running() as client:
        first = site.message("ops", "1")
        assert client.run(("AddAppliance", first)) == [("SUCCESS", "")]
        other = site.message("biomed", "1", attributes={**first.attributes, **own})
        assert client.run(("AddAppliance", other)) == [("SUCCESS", "")]
        owners = {one["owner"]: one.get("hw_disk_bus") for one in site.glance.images.values()}
        assert owners == {"one": None, "two": "scsi"}
        newer = site.message("biomed", "2")
        newer.attributes.update(own)
        assert client.run(("UpdateAppliance", newer)) == [("SUCCESS", "")]
    assert site.finds() == {"ops": ["1"], "biomed": ["2"], "vo.example.org": []}


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("disk_format", "qcow2"),
        ("status", "deactivated"),
        ("APPLIANCE_BACKEND", "00000000-0000-4000-8000-000000000000 {id}"),
        ("os_hidden", True),
    ],
)
def test_what_is_not_certainly_the_same_is_not_shared(
    site: SharingSite, change: str, value: Any
) -> None:
    """Another layer or format, an image that is not to be used, and one of another backend."""
    with site.site.running() as client:
        assert client.run(("AddAppliance", site.message("ops", "1"))) == [("SUCCESS", "")]
        (image,) = site.glance.images.values()
        image[change] = value.format(id=image["id"]) if isinstance(value, str) else value
        assert client.run(("AddAppliance", site.message("biomed", "1"))) == [("SUCCESS", "")]
    assert sorted(one["owner"] for one in site.glance.images.values()) == ["one", "two"]
    assert site.memberships() == {}


def test_a_foreign_image_that_claims_to_be_shared_is_not_ours(site: SharingSite) -> None:
    """Whoever may publish images cannot make one count as a VO's, nor as one that we remove."""
    with site.site.running() as client:
        assert client.run(("AddAppliance", site.message("ops", "1"))) == [("SUCCESS", "")]
        (ours,) = site.glance.images.values()
        forged = {**ours, "id": "f", "owner": "stranger", "visibility": "public"}
        forged["APPLIANCE_BACKEND"] = f"{ours['APPLIANCE_BACKEND'].split()[0]} f"
        entry = ["biomed", list_id("biomed"), "two", True]
        forged |= {"cloudkeeper_shared": json.dumps([entry]), "name": "another"}
        site.glance.images["f"] = forged
        site.glance.files["f"] = b""
        client.call("PreAction")
        assert client.appliances(list_id("biomed"), vo="biomed") == {}
        client.call("PostAction")
        client.run(("RemoveAppliance", site.message("biomed", "1", with_image=False)))
    assert site.glance.images["f"] == forged


def forged(site: SharingSite, version: str, **changes: Any) -> str:
    """Have a user of project one put other data behind properties that are copied from ours."""
    ours = next(one for one in site.glance.images.values() if one["owner"] == "one")
    backend, content = ours["APPLIANCE_BACKEND"].split()[0], disk("evil")
    layer = site.message("ops", version).attributes["image_hash"]
    copied = {"id": "evil", "APPLIANCE_BACKEND": f"{backend} evil", "image_hash": layer}
    hashed = {"os_hash_value": hashlib.sha512(content).hexdigest(), "size": len(content)}
    created = {"created_at": "2027-01-01T00:00:00Z"}
    site.glance.images["evil"] = {**ours, **copied, **hashed, **created, **changes}
    site.glance.files["evil"] = content
    return "evil"


def test_users_of_one_project_can_share_no_other_data(site: SharingSite) -> None:
    """They write all properties of their images; Glance's digest and our memory are evidence."""
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        forged(site, "1")
        assert client.run(("AddAppliance", site.message("biomed", "1"))) == [("SUCCESS", "")]
        assert site.finds()["biomed"] == ["1"]
        forged(site, "2")
        assert client.run(("UpdateAppliance", site.message("biomed", "2"))) == [("SUCCESS", "")]
    assert site.finds()["biomed"] == ["2"]


@pytest.mark.parametrize("is_refused", [False, True])
def test_users_of_one_project_cannot_share_with_others(
    site: SharingSite, *, is_refused: bool
) -> None:
    """A use that they state without a member that has accepted gets nothing, also later.

    Nor does it when Glance refuses to remove the member.
    """
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        (ours,) = site.glance.images.values()
        ours |= {"visibility": "shared"}
        ours["cloudkeeper_shared"] = json.dumps([["biomed", list_id("biomed"), "two", True]])
        site.glance.members[ours["id"]] = {"two": "pending"}
        refusal = Answer(403, "planned") if is_refused else None
        site.glance.fault = lambda method, _: refusal if method == "DELETE" else None
        client.call("PreAction")
        site.glance.fault = lambda *_: None
        assert client.appliances(list_id("biomed"), vo="biomed") == {}
        assert client.call("UpdateAppliance", site.message("ops", "2")) == ("SUCCESS", "")
        client.call("PostAction")
        assert site.found("two") == []
        assert site.sync(client, {"ops": "2"}) == []
    assert site.finds() == {"ops": ["2"], "biomed": [], "vo.example.org": []}
    assert "cloudkeeper_shared" not in next(iter(site.glance.images.values()))


def test_a_forged_digest_hides_no_new_version_from_another_vo(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (ours,) = site.glance.images.values()
        ours["image_hash"] = site.message("ops", "2").attributes["image_hash"]
        wanted = {vo: "2" for vo in PROJECTS if vo != "ops"}
        assert site.sync(client, {**wanted, "ops": "2"}) == []
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}


@pytest.mark.parametrize("content", [None, "[", '{"other": 1}', "[]"])
def test_without_a_memory_the_digest_of_glance_is_evidence(
    site: SharingSite, content: str | None
) -> None:
    """A stream, of which only the source's SHA-256 is known, is then uploaded once more."""
    path = site.site.root / "var/lib/fedcloud/cloudkeeper-os/layers.json"
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
    (image,) = site.glance.images.values()
    assert json.loads(path.read_text()) == {image["id"]: image["image_hash"]}
    path.unlink()
    if content is not None:
        path.write_text(content)
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1", "biomed": "1"}) == []
        assert len(site.glance.images) == 1
        image["os_hash_value"] = "0" * 128
        assert site.sync(client, everywhere("1")) == []
    assert sorted(one["owner"] for one in site.glance.images.values()) == ["one", "three"]
    with site.site.running() as client:
        assert site.sync(client, {"vo.example.org": "1"}) == []
        client.run()
    assert set(json.loads(path.read_text())) <= set(site.glance.images)


@pytest.mark.parametrize(
    "spoiled", ["no JSON", "{}", '[["biomed"]]', '[["a", "b", 3, true]]', "[" * 100_000]
)
def test_a_spoiled_property_loses_no_image(site: SharingSite, spoiled: str) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (image,) = site.glance.images.values()
        image["cloudkeeper_shared"] = spoiled
        assert site.sync(client, everywhere("1")) == []
    assert site.finds() == {vo: ["1"] for vo in PROJECTS}
    assert len(site.glance.images) == 1


def test_an_image_that_a_user_has_deleted_is_removed_already(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        client.call("PreAction")
        site.glance.images.clear()
        removal = site.message("ops", "1", with_image=False)
        assert client.call("RemoveAppliance", removal) == ("SUCCESS", "")


def ask_to_share(
    site: SharingSite, client: Client, vo: str, formats: str = "qcow2,raw", **more: Any
) -> str:
    """Ask without data, as our frontend does before a download; return the digest reported."""
    message = site.message(vo, "1", with_image=False, **more)
    _, call = client._stub.UpdateAppliance.with_call(message, metadata=[("share", formats)])
    found = dict(call.trailing_metadata())
    assert found["status"] == "SUCCESS", found
    return str(found.get("digests", ""))


def test_a_vo_that_comes_later_needs_no_data(site: SharingSite) -> None:
    """The frontend asks before it downloads anything."""
    layer = site.message("ops", "1").attributes["image_hash"]
    with site.site.running() as client:
        client.call("PreAction")
        assert ask_to_share(site, client, "ops") == ""
        assert client.call("AddAppliance", site.message("ops", "1")) == ("SUCCESS", "")
        assert ask_to_share(site, client, "biomed", formats="qcow2") == ""
        other = {"eu.egi.cloud.image_ref": REFERENCE, "image_hash": f"sha256:{'0' * 64}"}
        assert ask_to_share(site, client, "biomed", attributes=other) == ""
        assert site.found("two") == []
        assert [ask_to_share(site, client, "biomed") for _ in range(2)] == [layer] * 2
        assert site.found("two") == ["1"]
        client.call("PostAction")
    assert site.site.record()["failures"] == []
    assert site.site.record()["counts"]["uploaded_bytes"] == len(disk("1"))


@pytest.mark.parametrize("option", [COPY, SHARE])
def test_only_a_backend_that_shares_is_asked(site: SharingSite, option: str) -> None:
    site.configure(option)
    with site.site.running() as client:
        _, call = client._stub.PreAction.with_call(pb_empty.Empty())
        features = dict(call.trailing_metadata())["features"].split(",")
        assert ("share" in features) is (option == SHARE)
        assert client.call("AddAppliance", site.message("ops", "1")) == ("SUCCESS", "")
        assert bool(ask_to_share(site, client, "biomed")) is (option == SHARE)


# Members of others.


def by_hand(site: SharingSite, status: str = "accepted") -> str:
    """Have an administrator share the first image with a project of no VO; return its id."""
    image: dict[str, Any] = next(iter(site.glance.images.values()))
    image["visibility"] = "shared"
    site.glance.members.setdefault(image["id"], {})[ADMIN] = status
    return str(image["id"])


@pytest.mark.parametrize("option", [COPY, SHARE])
def test_members_that_an_administrator_added_are_kept(site: SharingSite, option: str) -> None:
    """They were lost at every update: only those of images that were taken over were kept."""
    site.configure(option)
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1", "biomed": "1"}) == []
        by_hand(site)
        assert site.sync(client, {"ops": "2", "biomed": "2"}) == []
        (new,) = [one["id"] for one in site.glance.images.values() if one["owner"] == "one"]
        assert site.glance.members[new][ADMIN] == "pending"
        (line,) = site.site.record()["failures"]
        assert line == (
            f"image {new}: project {ADMIN}, a member of the older version, has not accepted it "
            f"yet; in that project, run: openstack image set --accept {new}"
        )
        site.glance.members[new][ADMIN] = "accepted"
        assert site.sync(client, {"ops": "2"}) == []
        assert site.found(ADMIN) == ["2"]
    assert site.memberships() == {"2": {ADMIN: "accepted"}}


def test_a_member_that_is_a_vo_s_project_finds_the_next_version_at_once(site: SharingSite) -> None:
    site.configure(COPY)
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        image = next(iter(site.glance.images.values()))
        image["visibility"] = "shared"
        site.glance.members[image["id"]] = {"two": "accepted", "three": "pending"}
        with watched(site):
            assert site.sync(client, {"ops": "2"}) == []
    assert site.memberships() == {"2": {"two": "accepted", "three": "pending"}}
    assert site.site.record()["failures"] == []


def test_members_from_before_an_image_was_private_do_not_find_it_again(site: SharingSite) -> None:
    """Glance keeps them, shows them to nobody, and lets them in when the image is shared again."""
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        image = next(iter(site.glance.images.values()))
        site.glance.members[image["id"]] = {ADMIN: "accepted", "three": "accepted"}
        assert (image["visibility"], site.found(ADMIN)) == ("private", [])
        assert site.sync(client, {"ops": "1", "biomed": "1"}) == []
    assert site.finds() == {"ops": ["1"], "biomed": ["1"], "vo.example.org": []}
    assert site.memberships() == {"1": {"two": "accepted"}}
    assert site.found(ADMIN) == []
    assert site.site.record()["failures"] == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_members_that_cannot_be_removed_keep_an_image_private(
    site: SharingSite, method: str
) -> None:
    """Its VO gets a failure; a stranger gets nothing."""
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        image = next(iter(site.glance.images.values()))
        site.glance.members[image["id"]] = {ADMIN: "accepted"}

        def fault(asked: str, path: str) -> Answer | None:
            is_meant = "/members" in path and asked == method
            return Answer(403, "403 Forbidden") if is_meant else None

        site.glance.fault = fault
        assert len(site.sync(client, {"ops": "1", "biomed": "1"})) == 1
        assert (site.found(ADMIN), site.found("one")) == ([], ["1"])
        site.glance.fault = lambda *_: None
        assert site.sync(client, {"ops": "1", "biomed": "1"}) == []
    assert (site.found(ADMIN), site.found("two")) == ([], ["1"])


def test_a_membership_that_was_there_before_stays_when_its_vo_leaves(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        image = next(iter(site.glance.images.values()))
        image["visibility"] = "shared"
        site.glance.members[image["id"]] = {"two": "accepted"}
        assert site.sync(client, everywhere("1")) == []
        assert site.sync(client, everywhere("2")) == []
        assert site.memberships() == {"2": {"two": "accepted", "three": "accepted"}}
        assert site.sync(client, {"ops": "2"}) == []
    assert site.memberships() == {"2": {"two": "accepted"}}


def test_public_images_have_no_members(site: SharingSite) -> None:
    """An administrator's members are of no use when the configuration shows images to all."""
    site.configure("image_visibility = community")
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        by_hand(site)
        assert site.sync(client, {"ops": "2"}) == []
    (image,) = site.glance.images.values()
    assert image["visibility"] == "community"


# Projects that cannot take part.


@pytest.mark.parametrize(
    ("method", "code", "remedy"),
    [
        ("PUT", 403, "Glance's policy must allow it add_member and modify_member"),
        ("POST", 403, "the account needs the role member in both projects"),
        ("POST", 413, "raise image_member_quota"),
        ("PUT", 409, ""),
        ("PUT", 500, ""),
    ],
)
def test_a_project_that_cannot_accept_costs_its_vo_only(
    site: SharingSite, method: str, code: int, remedy: str
) -> None:
    """At the first version and at the next one, with one clear line each."""

    def fault(found: str, path: str) -> Answer | None:
        is_member = "/members" in path
        if is_member and found == "POST":
            added.append(path)
        is_struck = path.endswith("/two") if method == "PUT" else len(added) in struck
        return Answer(code, "planned") if is_member and found == method and is_struck else None

    added: list[str] = []
    struck = {1}
    """Which requests to add a member are those for the project."""
    with site.site.running() as client:
        site.glance.fault = fault
        (failure,) = site.sync(client, everywhere("1"))
        assert "cannot be shared with project two: " in failure[1]
        assert f" {code} " in failure[1]
        assert remedy in failure[1]
        assert site.site.record()["failures"] == [f"{failure[1]} ({NAME})"]
        assert site.finds() == {"ops": ["1"], "biomed": [], "vo.example.org": ["1"]}
        assert site.memberships() == {"1": {"three": "accepted"}}
        site.glance.fault = lambda *_: None
        assert site.sync(client, everywhere("1")) == []
        added.clear()
        struck |= {2, 3}
        struck.discard(1)
        site.glance.fault = fault
        with watched(site):
            failures = site.sync(client, everywhere("2"))
        assert {text.partition(":")[0][:5] for _, text in failures} == {"image"}
        assert site.finds() == {"ops": ["1", "2"], "biomed": ["1"], "vo.example.org": ["2"]}
        site.glance.fault = lambda *_: None
        with watched(site):
            assert site.sync(client, everywhere("2")) == []
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    assert len(site.glance.images) == 1
    assert site.memberships() == {"2": {"two": "accepted", "three": "accepted"}}


def test_a_project_out_of_reach_keeps_its_version(site: SharingSite) -> None:
    """Its membership stays, others go on, and later it follows."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.glance.cloud.closed = frozenset({"two"})
    others = [vo for vo in PROJECTS if vo != "biomed"]
    with site.site.running() as client, watched(site):
        client.call("PreAction")
        for vo in others:
            assert client.call("UpdateAppliance", site.message(vo, "2")) == ("SUCCESS", "")
        client.call("PostAction")
    assert site.found("two") == ["1"]
    assert site.found("three") == ["2"]
    site.glance.cloud.closed = frozenset()
    with site.site.running() as client, watched(site):
        assert site.sync(client, everywhere("2")) == []
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    assert len(site.glance.images) == 1


def test_an_owner_out_of_reach_is_left_by_the_others(site: SharingSite) -> None:
    """They see the image, so nothing is uploaded twice; a new version goes to another owner."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.glance.cloud.closed = frozenset({"one"})
    with site.site.running() as client:
        client.call("PreAction")
        assert REFERENCE in client.appliances(list_id("biomed"), vo="biomed")
        described = site.message("biomed", "1", with_image=False, description="x")
        status, message = client.call("UpdateAppliance", described)
        assert status == "ERROR_RESOURCE_STATE"
        assert "shared by a project that cannot be reached" in message
        with watched(site):
            for vo in ("biomed", "vo.example.org"):
                assert client.call("UpdateAppliance", site.message(vo, "2")) == ("SUCCESS", "")
        client.call("PostAction")
    assert site.finds() == {"ops": ["1"], "biomed": ["2"], "vo.example.org": ["2"]}
    site.glance.cloud.closed = frozenset()
    with site.site.running() as client, watched(site):
        assert site.sync(client, everywhere("2")) == []
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    (image,) = site.glance.images.values()
    assert image["owner"] == "two"


# The mapping.


def test_a_vo_that_leaves_the_mapping_loses_its_membership(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    left = {vo: entry for vo, entry in MAPPING.items() if vo != "biomed"}
    site.configure(mapping=left)
    with site.site.running() as client:
        client.run()
    assert site.finds() == {"ops": ["1"], "biomed": [], "vo.example.org": ["1"]}
    assert site.memberships() == {"1": {"three": "accepted"}}
    assert site.site.record()["failures"] == []


def test_a_run_of_a_part_of_the_images_ends_no_membership(site: SharingSite) -> None:
    """`sync --vo`: what is outside its filter stays, until a run without one."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.configure(mapping={vo: entry for vo, entry in MAPPING.items() if vo != "biomed"})
    with site.site.running() as client:
        for is_partial in (True, False):
            metadata = [("partial", "yes")] if is_partial else []
            assert client.call("PreAction", metadata=metadata)[0] == "SUCCESS"
            assert client.call("PostAction")[0] == "SUCCESS"
            assert site.found("two") == (["1"] if is_partial else [])


def test_a_vo_with_a_new_project_keeps_the_old_one_until_the_new_one_has_the_image(
    site: SharingSite,
) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.configure(mapping={**MAPPING, "biomed": {"project": ADMIN}})
    with site.site.running() as client:
        client.run()
        assert site.found("two") == ["1"]
        assert site.sync(client, everywhere("1")) == []
    assert (site.found("two"), site.found(ADMIN)) == ([], ["1"])
    assert site.memberships() == {"1": {"three": "accepted", ADMIN: "accepted"}}


def test_many_memberships_of_a_vo_need_confirmation(site: SharingSite) -> None:
    """A VO that falls out of the mapping by mistake keeps its images, as with copies."""
    names = [f"egi_vm_images/x:{number}" for number in range(4)]
    with site.site.running() as client:
        client.call("PreAction")
        for number, name in enumerate(names):
            for vo in ("ops", "biomed"):
                message = site.message(vo, str(number), identifier=name)
                message.attributes["eu.egi.cloud.image_ref"] = name
                assert client.call("AddAppliance", message) == ("SUCCESS", "")
        client.call("PostAction")
    assert len(site.glance.images) == 4
    site.configure(mapping={"ops": {"project": "one"}})
    with site.site.running() as client:
        client.run()
        (line,) = site.site.record()["failures"]
        assert line.startswith("project two: was the project of VO biomed, and stays a member: ")
        assert "4 of its 4 images would be removed within a day" in line
        assert len(site.glance.found_by("two")) == 4
        client.call("PreAction", metadata=[("allow-remove", "4")])
        client.call("PostAction")
    assert site.glance.found_by("two") == []
    assert len(site.glance.images) == 4


def test_an_owner_that_leaves_the_mapping_holds_the_image(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.configure(
        f"{SHARE}\nformer_projects = remove",
        {vo: entry for vo, entry in MAPPING.items() if vo != "ops"},
    )
    with site.site.running() as client, watched(site, ("biomed", "vo.example.org")):
        client.run()
        assert site.finds() == {vo: ["1"] for vo in PROJECTS}
        client.run()  # a project that is no VO's is still known
        for vo in ("biomed", "vo.example.org"):
            assert client.run(("UpdateAppliance", site.message(vo, "2"))) == [("SUCCESS", "")]
            if vo == "biomed":
                break
    assert site.found("two") == site.found("three") == ["2"]
    (image,) = site.glance.images.values()
    assert image["owner"] == "two"


# The option.


def test_copies_stay_until_they_are_replaced(site: SharingSite, caplog: Any) -> None:
    """An upgrade and a change of the option move nothing."""
    site.configure(COPY)
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    before = {one: dict(image) for one, image in site.glance.images.items()}
    site.configure(SHARE)
    with site.site.running() as client, watched(site):
        caplog.set_level("INFO")
        assert site.sync(client, everywhere("1")) == []
        assert site.glance.images == before
        assert site.site.record()["counts"]["copies_to_share"] == 3
        words = "image_sharing = share: copies that stay until a new version replaces them: 3"
        assert words in caplog.text
        assert site.sync(client, everywhere("2")) == []
        client.run()
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    assert len(site.glance.images) == 1
    assert "copies_to_share" not in site.site.record()["counts"]


def test_shared_images_stay_until_each_vo_has_a_copy(site: SharingSite, caplog: Any) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    before = {one: dict(image) for one, image in site.glance.images.items()}
    site.configure(COPY)
    with site.site.running() as client, watched(site):
        caplog.set_level("INFO")
        assert site.sync(client, everywhere("1")) == []
        assert site.glance.images == before
        assert site.site.record()["counts"]["shares_to_copy"] == 1
        words = "image_sharing = copy: shared images that stay until each VO has another: 1"
        assert words in caplog.text
        client.call("PreAction")
        assert client.call("UpdateAppliance", site.message("ops", "2")) == ("SUCCESS", "")
        assert site.found("two") == site.found("three") == ["1"]
        assert client.call("UpdateAppliance", site.message("biomed", "2")) == ("SUCCESS", "")
        assert (site.found("two"), site.found("three")) == (["2"], ["1"])
        assert client.call("UpdateAppliance", site.message("vo.example.org", "2"))[0] == "SUCCESS"
        client.call("PostAction")
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    assert sorted(one["owner"] for one in site.glance.images.values()) == ["one", "three", "two"]
    assert site.memberships() == {}


@pytest.mark.parametrize("visibility", ["public", "community"])
def test_public_images_are_not_shared(site: SharingSite, visibility: str) -> None:
    site.configure(f"{SHARE}\nimage_visibility = {visibility}")
    path = site.site.root / "cloudkeeper-os.conf"
    with pytest.raises(ConfigurationError) as caught:
        settings.load(path, layout=Layout(site.site.root), overrides={})
    (problem,) = caught.value.problems
    assert str(problem) == (
        f"{path}:4: image_sharing: share: {visibility} images (image_visibility) need no members; "
        "write copy"
    )


# Kills.


def start(site: SharingSite, scenario: str) -> dict[str, str]:
    """Prepare a scenario; return what the killed run wants."""
    if scenario in ("update", "leave", "owner leaves", "to copies"):
        with site.site.running() as client:
            assert site.sync(client, everywhere("1")) == []
    if scenario == "to shares":
        site.configure(COPY)
        with site.site.running() as client:
            assert site.sync(client, everywhere("1")) == []
        site.configure(SHARE)
    if scenario == "to copies":
        site.configure(COPY)
    if scenario == "leave":
        return {"ops": "1", "vo.example.org": "1"}
    if scenario == "owner leaves":
        return {"biomed": "1", "vo.example.org": "1"}
    return everywhere("2")


SCENARIOS = ("add", "update", "leave", "owner leaves", "to shares", "to copies")


@dataclass
class Death:
    """Glance hears nothing more from the backend after its N-th write, which may be the last."""

    number: int
    is_heard: bool
    before: Any
    writes: list[str] = field(default_factory=list)
    is_dead: bool = False

    def fault(self, method: str, path: str) -> Answer | None:
        self.before(method, path)
        if method in WRITES and not self.is_dead:
            self.writes.append(f"{method} {path}")
            self.is_dead = len(self.writes) == self.number
            return Answer(400, "dead") if self.is_dead and not self.is_heard else None
        return Answer(400, "dead") if self.is_dead else None


QUICK = [("update", True), ("leave", True), ("owner leaves", True)]
DEATHS = [
    pytest.param(
        scenario,
        is_heard,
        id=f"{scenario}, {'after' if is_heard else 'before'} a write",
        marks=() if (scenario, is_heard) in QUICK else pytest.mark.matrix,
    )
    for scenario in SCENARIOS
    for is_heard in (True, False)
]


@pytest.mark.long
@pytest.mark.parametrize(("scenario", "is_heard"), DEATHS)
def test_killed_at_each_write(site: SharingSite, scenario: str, *, is_heard: bool) -> None:
    """The next run ends right, and meanwhile nobody is without a good version."""
    for number in itertools.count(1):
        for found in (site.glance.images, site.glance.files, site.glance.members):
            found.clear()
        site.configure()
        wanted = start(site, scenario)
        with watched(site, wanted):
            living = site.glance.fault
            death = Death(number, is_heard, living)
            site.glance.fault = death.fault
            with site.site.running() as client:
                site.sync(client, wanted)
            site.glance.fault = living
            with site.site.running() as client:
                assert site.sync(client, wanted) == [], death.writes
                assert site.sync(client, wanted) == [], death.writes
        check(site, scenario, wanted, death.writes)
        if not death.is_dead:
            break
    assert number > 1


def check(site: SharingSite, scenario: str, wanted: Mapping[str, str], writes: list[str]) -> None:
    found = site.finds()
    if scenario == "owner leaves":
        found["ops"] = []  # its project holds the image
    assert found == {vo: [wanted[vo]] if vo in wanted else [] for vo in PROJECTS}, writes
    number = 3 if scenario == "to copies" else 1
    assert len(site.glance.images) == number, writes
    assert {one["APPLIANCE_STATUS"] for one in site.glance.images.values()} == {"ACTIVE"}
    for image in site.glance.images.values():
        stated = json.loads(image.get("cloudkeeper_shared", "[]"))
        added = {project for _, _, project, is_added in stated if is_added}
        assert added == set(site.glance.members.get(image["id"], {})), writes


# Users of the owner's project, and changes beside a run.


def test_a_hidden_image_that_states_a_use_is_found_by_members_only(site: SharingSite) -> None:
    """A user of project one forged it, and the image of project two was deleted for it."""
    stated = json.dumps([["biomed", list_id("biomed"), "two", True]])
    with site.site.running() as client:
        assert site.sync(client, {"biomed": "1"}) == []
        (ours,) = site.glance.images.values()
        backend = ours["APPLIANCE_BACKEND"].split()[0]
        site.glance.images["f"] = {
            **ours,
            "id": "f",
            "owner": "one",
            "APPLIANCE_VO": "ops",
            "APPLIANCE_BACKEND": f"{backend} f",
            "APPLIANCE_IMAGE_LIST_ID": list_id("ops"),
            "cloudkeeper_shared": stated,
            "os_hidden": True,
            "cloudkeeper_hidden": "yes",
            "created_at": "2027-01-01T00:00:00Z",
            "image_hash": site.message("biomed", "2").attributes["image_hash"],
        }
        site.glance.files["f"] = disk("evil")
        with watched(site):
            client.call("PreAction")
            found = client.appliances(list_id("biomed"), vo="biomed")
            assert "hidden" not in found[REFERENCE].attributes
            assert site.sync(client, {"biomed": "2"}) == []
    assert site.found("two") == ["2"]


def test_an_image_that_is_no_longer_ours_is_not_deleted(site: SharingSite) -> None:
    """An administrator has taken our marks off it since the run began."""
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1"}) == []
        (image,) = site.glance.images.values()
        client.call("PreAction")
        for name in [name for name in image if name.startswith(("APPLIANCE_", "cloudkeeper_"))]:
            del image[name]
        removal = site.message("ops", "1", with_image=False)
        assert client.call("RemoveAppliance", removal) == ("SUCCESS", "")
        client.call("PostAction")
    assert list(site.glance.images) == [image["id"]]


def test_members_that_cannot_be_read_cost_no_run(site: SharingSite) -> None:
    """Glance gives no JSON when a proxy before it fails; only the repair is left undone."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (image,) = site.glance.images
        site.glance.members[image]["two"] = "rejected"
        site.glance.fault = lambda method, path: (
            Answer(200, "<p>proxy</p>") if (method, path[-8:]) == ("GET", "/members") else None
        )
        assert client.call("PreAction") == ("SUCCESS", "")
        client.call("PostAction")
        (line,) = site.site.record()["failures"]
        assert "/members without a JSON object" in line
        site.glance.fault = lambda *_: None
        assert site.sync(client, everywhere("1")) == []
    assert site.finds() == {vo: ["1"] for vo in PROJECTS}


def test_an_owner_without_room_keeps_no_new_version_from_others(site: SharingSite) -> None:
    """Its users could fill its quota, and no VO got an update any more."""

    def full(method: str, path: str) -> Answer | None:
        image = site.glance.images.get(path.removesuffix("/file").rpartition("/")[2], {})
        is_owner = method == "PUT" and path.endswith("/file") and image["owner"] == "one"
        return (
            Answer(413, "Denying attempt to upload image because it exceeds the quota")
            if (is_owner)
            else None
        )

    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        site.glance.fault = full
        with watched(site):
            (failure,) = site.sync(client, everywhere("2"))
        assert "quota for images is used up" in failure[1]
        assert site.site.record()["failures"][-1].endswith("; project two gets it, and shares it")
        site.glance.fault = lambda *_: None
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
    (image,) = site.glance.images.values()
    assert image["owner"] == "two"


def test_nonsense_about_members_costs_no_run(site: SharingSite) -> None:
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
        (image,) = site.glance.images
        site.glance.members[image]["two"] = "rejected"
        site.glance.fault = lambda _, path: (
            Answer(200, {"members": [{"name": "two"}]}) if path.endswith("/members") else None
        )
        assert client.run() == []
        (line,) = site.site.record()["failures"]
        assert "/members with a list that cannot be read" in line


def test_stated_uses_use_up_no_limit_of_removals(site: SharingSite) -> None:
    """A user of project one stated them, and an image of biomed could not be withdrawn."""
    with site.site.running() as client:
        assert site.sync(client, {"ops": "1", "biomed": "1"}) == []
        (image,) = site.glance.images.values()
        stated = json.loads(image["cloudkeeper_shared"])
        more = [["gone", list_id("biomed"), f"p{number}", True] for number in range(20)]
        more += [["vo.example.org", f"l/{number}", "three", True] for number in range(20)]
        image["cloudkeeper_shared"] = json.dumps(stated + more)
        site.glance.requests.clear()
        client.run()
        assert sum(one.endswith("/members") for one in site.glance.requests) == 2
        assert json.loads(image["cloudkeeper_shared"]) == stated
        assert site.site.record()["failures"] == []
        assert site.sync(client, {"ops": "1"}) == []
    assert site.finds() == {"ops": ["1"], "biomed": [], "vo.example.org": []}


def test_an_older_version_that_stays_shared_asks_for_no_download(site: SharingSite) -> None:
    """It counted as the VO's version, so each run downloaded the new one again."""
    with site.site.running() as client:
        assert site.sync(client, everywhere("1")) == []
    site.configure(COPY)
    with site.site.running() as client:
        site.glance.fault = lambda method, path: (
            Answer(403, "planned") if method == "DELETE" and "/members/" in path else None
        )
        assert site.sync(client, everywhere("2")) == []
        client.call("PreAction")
        found = client.appliances(list_id("biomed"), vo="biomed")
        assert found[REFERENCE].version == "2"
        client.call("PostAction")
        assert site.found("two") == ["1", "2"]
        site.glance.fault = lambda *_: None
        client.run()
    assert site.finds() == {vo: ["2"] for vo in PROJECTS}
