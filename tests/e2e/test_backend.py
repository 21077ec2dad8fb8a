"""`cloudkeeper-os` on a real Keystone and Glance, seen from Glance's database and its files."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e import images_cloud
from tests.e2e.images_backend import LIST, ONE, TWO, Backend, Client, Offer, started
from tests.e2e.images_cloud import PASSWORD, Cloud

pytestmark = pytest.mark.glance


@pytest.fixture(scope="module")
def running(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend.create(tmp_path_factory.mktemp("site"), cloud)
    with started(backend):
        yield backend


@pytest.fixture
def backend(cloud: Cloud, running: Backend) -> Backend:
    cloud.empty()
    for path in running.images.iterdir():
        path.unlink()
    return running


@pytest.fixture
def client(backend: Backend) -> Client:
    return backend.client()


def test_an_appliance_is_added(cloud: Cloud, backend: Backend, client: Client) -> None:
    """R06: the account has the role `member` in the projects, and no other."""
    offer = Offer.make(backend.images)
    assert client.run(("AddAppliance", offer.message())) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert (row.owner, row.status, row.visibility, row.os_hidden) == (
        cloud.projects["img-ops"],
        "active",
        "private",
        0,
    )
    assert (row.name, row.disk_format, row.container_format) == (
        "Example image [Ubuntu/22.04/KVM]",
        "qcow2",
        "bare",
    )
    assert (row.min_ram, row.min_disk, row.virtual_size) == (2048, 2, 2 * 2**30)
    assert images_cloud.sha512sum(cloud.file(row.id)) == offer.sha512
    found = dict(row.properties)
    assert json.loads(found.pop("APPLIANCE_ATTRIBUTES"))["sl:osname"] == "Ubuntu"
    assert found.pop("APPLIANCE_BACKEND").endswith(f" {row.id}")
    description = "Image of the example site, with a line break\nand UTF-8: añil"
    mpuri = f"https://appdb.egi.eu/store/vo/image/{ONE}:7/"
    assert found == {
        "APPLIANCE_ID": ONE,
        "APPLIANCE_IMAGE_LIST_ID": LIST,
        "APPLIANCE_TITLE": "Example image [Ubuntu/22.04/KVM]",
        "APPLIANCE_DESCRIPTION": description,
        "APPLIANCE_MPURI": mpuri,
        "APPLIANCE_GROUP": "General group",
        "APPLIANCE_RAM": "2147483648",
        "APPLIANCE_CORE": "2",
        "APPLIANCE_VERSION": "2026.01.31",
        "APPLIANCE_ARCHITECTURE": "x86_64",
        "APPLIANCE_OPERATING_SYSTEM": "Linux Ubuntu 22.04",
        "APPLIANCE_VO": "ops",
        "APPLIANCE_EXPIRATION_DATE": "1924991999",
        "APPLIANCE_STATUS": "ACTIVE",
        "vmcatcher_event_ad_mpuri": mpuri,
        "vmcatcher_event_dc_description": description,
        "vmcatcher_event_dc_identifier": ONE,
        "architecture": "x86_64",
        "os_type": "linux",
        "os_distro": "ubuntu",
        "os_version": "22.04",
    }


def test_an_added_appliance_is_listed(backend: Backend, client: Client) -> None:
    offer = Offer.make(backend.images)
    sent = offer.message(
        attributes={"dc:title": "astral \U0001f680", "hv:version": "1", "sl:comments": ""}
    )
    client.run(("AddAppliance", sent), ("AddAppliance", offer.message(identifier=TWO, vo="biomed")))
    client.call("PreAction")
    assert client.lists() == {LIST}
    found = client.appliances()
    sent.ClearField("image")
    assert found[ONE] == sent
    assert set(found) == {ONE, TWO}
    assert client.appliances("another list") == {}


def test_characters_that_glance_refuses_do_not_cost_the_image(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    offer = Offer.make(backend.images)
    assert client.run(
        ("AddAppliance", offer.message(title="Rocket \U0001f680" + "x" * 300, description=""))
    ) == [("SUCCESS", "")]
    assert cloud.active().name == ("Rocket \ufffd" + "x" * 300)[:255]


def test_adding_the_same_appliance_again_moves_no_data(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    before = cloud.active()
    seen = len(cloud.bed.access_log("glance").read_text().splitlines())
    assert (
        client.run(("AddAppliance", offer.message()), ("UpdateAppliance", offer.message()))
        == [("SUCCESS", "")] * 2
    )
    lines = cloud.bed.access_log("glance").read_text().splitlines()[seen:]
    assert cloud.active() == before
    # two listings a project
    assert len([line for line in lines if '"GET /v2/images?' in line]) == len(lines) == 4


def test_new_data_replace_the_old_ones(cloud: Cloud, backend: Backend, client: Client) -> None:
    client.run(("AddAppliance", Offer.make(backend.images).message()))
    before = cloud.active()
    newer = Offer.make(backend.images, "two.qcow2")
    assert client.run(("UpdateAppliance", newer.message(version="2026.02"))) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert row.id != before.id
    assert row.properties["APPLIANCE_VERSION"] == "2026.02"
    assert images_cloud.sha512sum(cloud.file(row.id)) == newer.sha512
    assert before.id not in cloud.files()
    assert backend.record()["counts"]["updated"] == 1


def test_a_failed_update_leaves_the_old_image_alone(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    client.run(("AddAppliance", Offer.make(backend.images).message()))
    before = cloud.rows()
    newer = Offer.make(backend.images, "two.qcow2")
    with newer.path.open("r+b") as file:
        file.seek(newer.path.stat().st_size // 2)
        file.write(b"?")
    ((status, message),) = client.run(("UpdateAppliance", newer.message()))
    assert status == "ERROR_APPLIANCE_TRANSFER"
    assert message.startswith(f"{newer.path}: its sha512 is ")
    assert cloud.rows() == before
    assert backend.record()["status"] == 1


def test_metadata_change_in_place(cloud: Cloud, backend: Backend, client: Client) -> None:
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    before = cloud.active()
    cloud.patch(before.id, [{"op": "add", "path": "/hw_qemu_guest_agent", "value": "yes"}])
    changed = offer.message(
        with_image=False,
        title="New title",
        ram=512 * 2**20,
        attributes={"hv:version": "8"},
        group="",
    )
    assert client.run(("UpdateAppliance", changed)) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert (row.id, row.name, row.min_ram, row.checksum) == (
        before.id,
        "New title",
        512,
        before.checksum,
    )
    assert row.properties["APPLIANCE_ATTRIBUTES"] == '{"hv:version": "8"}'
    assert (row.properties["APPLIANCE_GROUP"], row.properties["hw_qemu_guest_agent"]) == ("", "yes")
    assert client.run(("UpdateAppliance", offer.message(with_image=False, identifier=TWO)))[0][
        0
    ] == ("ERROR_APPLIANCE_NOT_FOUND")


def test_removal(cloud: Cloud, backend: Backend, client: Client) -> None:
    """R06: with the same role."""
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()), ("AddAppliance", offer.message(identifier=TWO)))
    first = next(row for row in cloud.rows() if row.properties["APPLIANCE_ID"] == ONE)
    removed = pb.Appliance(identifier=ONE, vo="ops", image_list_identifier=LIST)
    assert client.run(("RemoveAppliance", removed)) == [("SUCCESS", "")]
    assert [row.properties["APPLIANCE_ID"] for row in cloud.rows()] == [TWO]
    assert first.id not in cloud.files()
    assert client.run(("RemoveAppliance", removed)) == [("SUCCESS", "")]


def test_removal_of_a_list_in_all_projects(cloud: Cloud, backend: Backend, client: Client) -> None:
    offer = Offer.make(backend.images)
    client.run(
        ("AddAppliance", offer.message()),
        ("AddAppliance", offer.message(vo="biomed")),
        ("AddAppliance", offer.message(image_list_identifier="another")),
    )
    assert len(cloud.rows()) == 3
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    assert client.run(("RemoveImageList", request)) == [("SUCCESS", "")]
    assert [row.properties["APPLIANCE_IMAGE_LIST_ID"] for row in cloud.rows()] == ["another"]


def test_images_of_others_are_never_touched(cloud: Cloud, backend: Backend, client: Client) -> None:
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    ours = cloud.active()
    copied = {
        name: value
        for name, value in ours.properties.items()
        if name.startswith(("APPLIANCE", "vmcatcher"))
    }
    unmarked = {name: value for name, value in copied.items() if name != "APPLIANCE_BACKEND"}
    theirs = {
        cloud.put_image("img-ops", b"of cinder", **copied),
        cloud.put_image(
            "img-ops", b"of nova", **copied, base_image_ref=ours.id, image_type="snapshot"
        ),
        cloud.put_image("img-ops", b"of nova and 0.9", **unmarked, base_image_ref=ours.id),
        cloud.put_image("img-ops", b"no list", APPLIANCE_ID=ONE, APPLIANCE_STATUS="ACTIVE"),
    }
    public = cloud.put_image("img-biomed@elsewhere", b"public", **unmarked)
    cloud.patch(public, [{"op": "replace", "path": "/visibility", "value": "public"}])
    before = {row.id: row for row in cloud.rows() if row.id != ours.id}
    assert set(before) == theirs | {public}

    client.call("PreAction")
    assert set(client.appliances()) == {ONE}
    newer = Offer.make(backend.images, "two.qcow2")
    removed = pb.Appliance(identifier=ONE, vo="ops", image_list_identifier=LIST)
    changes = [
        ("UpdateAppliance", newer.message()),
        ("UpdateAppliance", newer.message(with_image=False, title="New")),
        ("RemoveAppliance", removed),
        ("RemoveImageList", pb.ImageListIdentifier(image_list_identifier=LIST)),
    ]
    assert client.run(*changes) == [("SUCCESS", "")] * 4
    assert {row.id: row for row in cloud.rows()} == before


def test_an_image_that_cannot_be_deleted_is_hidden_and_deleted_later(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    image = cloud.active().id
    cloud.patch(image, [{"op": "replace", "path": "/protected", "value": True}])
    removed = pb.Appliance(identifier=ONE, vo="ops", image_list_identifier=LIST)
    assert client.run(("RemoveAppliance", removed)) == [("SUCCESS", "")]
    (row,) = cloud.rows()
    assert (row.id, row.state, row.os_hidden, row.visibility) == (image, "EOL", 1, "private")
    assert backend.record()["counts"]["still_in_use"] == 1
    client.call("PreAction")
    assert client.appliances() == {}
    cloud.patch(image, [{"op": "replace", "path": "/protected", "value": False}])
    client.call("PostAction")
    assert cloud.rows() == []


def test_images_of_0_9_are_adopted(cloud: Cloud, backend: Backend, client: Client) -> None:
    """In the form of cloudkeeper-os 0.9.9, and of its fork with a property for each attribute."""
    offer = Offer.make(backend.images)
    sent = offer.message()
    common = {
        "APPLIANCE_ID": ONE, "APPLIANCE_IMAGE_LIST_ID": LIST, "APPLIANCE_VO": "ops",
        "APPLIANCE_TITLE": sent.title, "APPLIANCE_DESCRIPTION": sent.description,
        "APPLIANCE_MPURI": sent.mpuri, "APPLIANCE_GROUP": sent.group,
        "APPLIANCE_RAM": str(sent.ram), "APPLIANCE_CORE": "2", "APPLIANCE_VERSION": sent.version,
        "APPLIANCE_ARCHITECTURE": "x86_64", "APPLIANCE_OPERATING_SYSTEM": sent.operating_system,
        "APPLIANCE_EXPIRATION_DATE": str(sent.expiration_date), "APPLIANCE_STATUS": "ACTIVE",
        "vmcatcher_event_ad_mpuri": sent.mpuri,
    }  # fmt: skip
    blob = json.dumps(dict(sent.attributes))
    data = offer.path.read_bytes()
    first = cloud.put_image(
        "img-ops", data, disk_format="qcow2", **common, APPLIANCE_ATTRIBUTES=blob
    )
    split = {**common, **dict(sent.attributes), "APPLIANCE_ID": TWO}
    second = cloud.put_image("img-ops", data, disk_format="qcow2", **split)
    client.call("PreAction")
    found = client.appliances()
    without = offer.message(with_image=False)
    assert found[ONE] == without
    assert found[TWO].attributes == without.attributes
    changes = [
        ("AddAppliance", sent),
        ("UpdateAppliance", offer.message(identifier=TWO, title="New")),
    ]
    assert client.run(*changes) == [("SUCCESS", "")] * 2
    rows = {row.id: row for row in cloud.rows()}
    assert set(rows) == {first, second}
    assert rows[second].properties["APPLIANCE_TITLE"] == "New"
    assert json.loads(rows[second].properties["APPLIANCE_ATTRIBUTES"]) == dict(sent.attributes)
    assert not [name for name in rows[second].properties if name.startswith(("dc:", "hv:", "sl:"))]
    newer = Offer.make(backend.images, "two.qcow2")
    client.run(("UpdateAppliance", newer.message()))
    assert first not in {row.id for row in cloud.rows()}


def of_0_9(offer: Offer, **more: str) -> dict[str, str]:
    """Return the properties that cloudkeeper-os 0.9.9 gives to the image of an offer."""
    sent = offer.message()
    return {
        "APPLIANCE_ID": ONE, "APPLIANCE_IMAGE_LIST_ID": LIST, "APPLIANCE_VO": "ops",
        "APPLIANCE_STATUS": "ACTIVE",
        "APPLIANCE_TITLE": sent.title, "APPLIANCE_ATTRIBUTES": json.dumps(dict(sent.attributes)),
    } | more  # fmt: skip


def properties_of(cloud: Cloud, image: str) -> dict[str, str]:
    (row,) = [row for row in cloud.rows() if row.id == image]
    return row.properties


def test_a_copy_of_an_image_of_0_9_is_its_user_s(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    """Cinder copies the properties of an image to a volume, and to an image of that volume."""
    properties = of_0_9(Offer.make(backend.images))
    original = cloud.put_image("img-ops", b"original", **properties)
    client.run()
    before = cloud.put_image("img-ops", b"made before we came", **properties)
    after = cloud.put_image("img-ops", b"made since", **properties_of(cloud, original))
    client.call("PreAction")
    assert set(client.appliances()) == {ONE}
    removed = pb.Appliance(identifier=ONE, vo="ops", image_list_identifier=LIST)
    assert client.run(("RemoveAppliance", removed)) == [("SUCCESS", "")]
    assert {row.id for row in cloud.rows()} == {before, after}


def test_images_of_0_9_that_cannot_be_distinguished_are_ignored(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    offer = Offer.make(backend.images)
    theirs = {cloud.put_image("img-ops", name, **of_0_9(offer)) for name in (b"original", b"copy")}
    client.call("PreAction")
    assert client.appliances() == {}
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    assert (
        client.run(("RemoveImageList", request), ("AddAppliance", offer.message()))
        == [("SUCCESS", "")] * 2
    )
    (line,) = backend.record()["failures"]
    assert all(image in line for image in theirs)
    assert line.endswith("so none is used; delete the copies")
    ours = {row.id for row in cloud.rows()} - theirs
    assert len(ours) == 1
    client.run()
    assert backend.record()["failures"] == []
    assert {row.id for row in cloud.rows()} == theirs | ours


def test_a_frontend_that_only_asks_changes_nothing(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    """A dry run has no PreAction, so nothing is repaired; its listing is read from the cloud."""
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    (record_file,) = backend.root.glob("var/lib/fedcloud/runs/cloudkeeper-os.json")
    found = record_file.read_bytes()
    mark = cloud.active().properties["APPLIANCE_BACKEND"].split()[0]
    for state in ("STAGING", "ACTIVE"):
        image = str(uuid.uuid4())
        more = {"APPLIANCE_STATUS": state, "APPLIANCE_BACKEND": f"{mark} {image}"}
        cloud.put_image("img-ops", b"left by a killed run", id=image, **of_0_9(offer, **more))
    cloud.put_image("img-ops", b"of 0.9", **of_0_9(offer, APPLIANCE_ID=TWO))
    before = cloud.rows()
    assert client.lists() == {LIST}
    made_by = {key: one.attributes["unmarked"] for key, one in client.appliances().items()}
    assert made_by == {ONE: "", TWO: "cloudkeeper-os 0.9"}
    assert cloud.rows() == before
    cloud.put_image(
        "img-ops", b"of another list", **of_0_9(offer, APPLIANCE_IMAGE_LIST_ID="another")
    )
    assert client.lists() == {LIST, "another"}
    assert set(client.appliances("another")) == {ONE}
    assert client.call("PostAction") == ("SUCCESS", "")
    assert record_file.read_bytes() == found
    client.run()
    assert len(cloud.rows()) == len(before) + 1 - 2


def test_a_vo_that_moves_to_another_project(cloud: Cloud, backend: Backend, tmp_path: Path) -> None:
    """Its images in the old project, now of another VO, do not keep it from getting new ones."""
    first, second = (
        {"ops": {"tenant": "img-ops"}},
        {"ops": {"tenant": "img-biomed"}, "biomed": {"tenant": "img-ops"}},
    )
    moving = Backend.create(tmp_path, cloud, mapping=first)
    offer = Offer.make(moving.images)
    with started(moving) as client:
        client.run(("AddAppliance", offer.message()))
    Backend.create(tmp_path, cloud, mapping=second)
    moving.config.write_text(
        re.sub(r"grpc_socket = .+", f"grpc_socket = {moving.socket}", moving.config.read_text())
    )
    with started(moving) as client:
        client.call("PreAction")
        assert (client.lists(), client.appliances()) == (set(), {})
        assert client.call("AddAppliance", offer.message()) == ("SUCCESS", "")
        client.call("PostAction")
        (line,) = moving.record()["failures"]
    assert line.startswith("project img-ops: was the project of VO ops, and keeps 1 image of it")
    assert [len(cloud.rows(project)) for project in ("img-ops", "img-biomed")] == [1, 1]


def test_a_vo_without_a_project_is_reported_before_any_download(
    backend: Backend, client: Client
) -> None:
    client.call("PreAction")
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    assert client.stream("Appliances", request, metadata=[("vo", "nobody")]) == ([], "ERROR")
    assert client.stream("Appliances", request, metadata=[("vo", "ops")]) == ([], "SUCCESS")
    client.call("PostAction")


CLAIMS = {
    "location=/etc/passwd": "is not below the image directory",
    "location={images}/../../../../etc/out": "is not below the image directory",
    "location={images}/link": "is not below the image directory",
    "location={images}/fifo": "is not a regular file",
    "location={images}": "is not a regular file",
    "location={images}/none": "cannot be opened: no such file or directory",
    "location={images}/a\0b": "cannot be opened: embedded null byte",
    "location=": "is not below the image directory",
    "size=17": "bytes, but the frontend sent 17",
    "checksum=": "has no SHA-512 or SHA-256",
    "format=OVA": "ova is an archive, not a disk format",
    "mode=REMOTE": "its location is not a URL of a web server",
}


def test_claims_of_a_frontend_about_files_are_checked(
    cloud: Cloud, backend: Backend, client: Client
) -> None:
    offer = Offer.make(backend.images)
    (backend.root / "secret").write_text("of the host")
    (backend.images / "link").symlink_to(backend.root / "secret")
    os.mkfifo(backend.images / "fifo")
    changes: list[tuple[str, object]] = []
    for change in CLAIMS:
        name, _, text = change.partition("=")
        value = (
            text.format(images=backend.images)
            if name == "location"
            else int(text)
            if name == "size"
            else text
        )
        changes.append(("AddAppliance", offer.message(identifier=change, image={name: value})))
    *refused, neighbour = client.run(*changes, ("AddAppliance", offer.message()))
    for (status, message), said in zip(refused, CLAIMS.values(), strict=True):
        assert status == "ERROR_APPLIANCE_TRANSFER"
        assert said in message
    assert neighbour == ("SUCCESS", "")
    assert len(cloud.rows()) == 1
    assert len(backend.record()["failures"]) == len(CLAIMS)


def test_each_vo_stands_for_itself(cloud: Cloud, backend: Backend, tmp_path: Path) -> None:
    """Projects by name in the configured domain, by id, and in other domains."""
    mapping = {
        "by-name": {"tenant": "img-biomed"},
        "by-id": {"project": cloud.projects["img-ops"]},
        "elsewhere": {"projects": ["img-biomed"], "domain": "elsewhere"},
        "closed": {"project": "img-closed"},
        "misplaced": {"project": "img-ops", "domain": "elsewhere"},
    }
    other = Backend.create(tmp_path, cloud, mapping=mapping)
    offer = Offer.make(other.images)
    with started(other) as client:
        outcomes = client.run(
            *(("AddAppliance", offer.message(vo=vo)) for vo in (*mapping, "unknown"))
        )
    *good, closed, misplaced, unknown = outcomes
    assert good == [("SUCCESS", "")] * 3
    assert closed[0] == misplaced[0] == "ERROR_RESOURCE_NOT_FOUND"
    assert "the account 'images-e2e' sees no project img-closed at " in closed[1]
    assert "; correct the mapping, or run: openstack" in closed[1]
    assert "no project img-ops in domain elsewhere" in misplaced[1]
    place = f"{tmp_path}/etc/cloudkeeper-os/mapping.json"
    assert unknown == (
        "ERROR",
        f"VO unknown: is mapped to no project; to accept its images, add it to {place}",
    )
    assert {row.properties["APPLIANCE_VO"]: row.owner for row in cloud.rows()} == {
        "by-name": cloud.projects["img-biomed"],
        "by-id": cloud.projects["img-ops"],
        "elsewhere": cloud.projects["img-biomed@elsewhere"],
    }


def test_two_vos_in_one_project(cloud: Cloud, backend: Backend, tmp_path: Path) -> None:
    other = Backend.create(
        tmp_path, cloud, mapping={"one": {"tenant": "img-ops"}, "two": {"tenant": "img-ops"}}
    )
    offer = Offer.make(other.images)
    with started(other) as client:
        client.run(
            ("AddAppliance", offer.message(vo="one")), ("AddAppliance", offer.message(vo="two"))
        )
        removed = pb.Appliance(identifier=ONE, vo="one", image_list_identifier=LIST)
        assert client.run(("RemoveAppliance", removed)) == [("SUCCESS", "")]
    assert [row.properties["APPLIANCE_VO"] for row in cloud.rows("img-ops")] == ["two"]


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (
            (r"password = ", "password = x"),
            "ERROR_AUTHENTICATION",
            "refuses the account 'images-e2e': wrong name",
        ),
        (
            (r":\d+/v3", ":9/v3"),
            "ERROR_RESOURCE_RETRIEVAL",
            "cannot be reached: connection refused",
        ),
        ((r"cafile = ", "#"), "ERROR_RESOURCE_RETRIEVAL", "its TLS certificate is not trusted"),
    ],
)
def test_a_cloud_that_rejects_the_account(
    cloud: Cloud, tmp_path: Path, change: tuple[str, str], status: str, said: str
) -> None:
    other = Backend.create(tmp_path, cloud, options="debug = true")
    other.config.write_text(re.sub(*change, other.config.read_text()))
    with started(other) as client:
        answer = client.call("PreAction")
        assert client.call("AddAppliance", Offer.make(other.images).message())[0] == status
    assert answer[0] == status
    assert said in answer[1]
    assert PASSWORD not in other.log.read_text() + answer[1]
    assert other.record()["status"] == 3


def test_a_visibility_that_the_account_may_not_set(
    cloud: Cloud, backend: Backend, tmp_path: Path
) -> None:
    other = Backend.create(tmp_path, cloud, options="image_visibility = public")
    with started(other) as client:
        ((status, message),) = client.run(("AddAppliance", Offer.make(other.images).message()))
    assert status == "ERROR_USER_NOT_AUTHORIZED"
    assert "Glance answers 403 to PATCH" in message
    assert cloud.rows() == []
    community = Backend.create(tmp_path, cloud, options="image_visibility = community")
    with started(community) as client:
        client.run(("AddAppliance", Offer.make(community.images).message()))
    assert cloud.active().visibility == "community"


def test_no_secret_in_the_log(cloud: Cloud, backend: Backend, tmp_path: Path) -> None:
    other = Backend.create(tmp_path, cloud, options="debug = true")
    with started(other) as client:
        client.run(("AddAppliance", Offer.make(other.images).message()))
    text = other.log.read_text()
    assert "keystoneauth" in text
    assert PASSWORD not in text
    assert not re.search(r"gAAAA[\w-]{50}", text)  # how Keystone's tokens begin


def test_metrics_and_record(backend: Backend, client: Client) -> None:
    offer = Offer.make(backend.images)
    client.run(("AddAppliance", offer.message()))
    record = backend.record()
    assert (record["program"], record["status"], record["failures"]) == ("cloudkeeper-os", 0, [])
    assert record["counts"] == {
        "added": 1,
        "uploaded_bytes": offer.path.stat().st_size,
        "images": 1,
    }
    metrics = (backend.root / "var/lib/fedcloud/runs/cloudkeeper-os.prom").read_text()
    assert 'fedcloud_run_images{program="cloudkeeper-os"} 1.0' in metrics


def test_a_second_backend_with_the_state_of_the_first(running: Backend) -> None:
    again = subprocess.run(
        [*running.command, "--grpc-socket", "/tmp/none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert f"{running.root}/var/lib/fedcloud/cloudkeeper-os/lock: running since" in again.stderr


def test_systemd_is_notified(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with started(Backend.create(tmp_path, cloud)):
            assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"STOPPING=1"
