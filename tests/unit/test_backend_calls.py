"""The backend's calls where a real Glance cannot be made to misbehave at will.

tests/e2e/test_backend.py has those on the test bed's Glance.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.core import retry
from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e.images_backend import LIST, ONE, Client, Offer
from tests.e2e.images_cloud import sha512sum
from tests.simulators.openstack import Answer
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

pytestmark = pytest.mark.programs("qemu-img")

HIDE = [("hide", "yes")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackendSite]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    with backend_site.made(tmp_path) as made:
        yield made


def offer(site: BackendSite, name: str = "one") -> Offer:
    return Offer.make(site.root / "images", f"{name}.qcow2")


@pytest.mark.long
def test_calls_for_several_images_run_side_by_side(site: BackendSite) -> None:
    """The feature "parallel": into one project and into two, with updates among them."""
    names = [f"{ONE[:-2]}{number:02d}" for number in range(12)]
    offers = {name: offer(site, name) for name in names}

    def message(name: str, version: str) -> pb.Appliance:
        vo = "ops" if int(name[-2:]) % 2 else "biomed"
        return offers[name].message(identifier=name, title=name, vo=vo, version=version)

    with site.running() as client, ThreadPoolExecutor(4) as pool:
        assert client.call("PreAction")[0] == "SUCCESS"
        for version in ("1", "2"):
            if version == "2":
                offers |= {name: offer(site, f"{name}-second") for name in names[:6]}
            method = "AddAppliance" if version == "1" else "UpdateAppliance"
            calls = [pool.submit(client.call, method, message(name, version)) for name in names]
            assert [call.result() for call in calls] == [("SUCCESS", "")] * len(names)
        assert client.call("PostAction")[0] == "SUCCESS"
        listed = client.appliances()
    assert site.glance.shown() == sorted(names)
    assert {name: listed[name].version for name in names} == dict.fromkeys(names, "2")
    stored = {image["name"]: image["os_hash_value"] for image in site.glance.images.values()}
    assert stored == {name: sha512sum(offers[name].path) for name in names}
    counts = site.record()["counts"]
    assert (counts["added"], counts["updated"]) == (12, 6)


@pytest.mark.parametrize("method", ["PUT", "GET", "PATCH"])
def test_a_glance_that_sees_changes_late_is_asked_again(site: BackendSite, method: str) -> None:
    """F-M10: 404, or the record as it was, right after an accepted change."""
    with site.running() as client:
        site.glance.stale[method] = 2
        assert client.run(("AddAppliance", offer(site).message())) == [("SUCCESS", "")]
    (image,) = site.glance.images.values()
    assert (image["APPLIANCE_STATUS"], image["os_hidden"]) == ("ACTIVE", False)
    assert site.glance.stale[method] == 0


def test_an_accepted_upload_that_is_not_found_is_asked_for_again(site: BackendSite) -> None:
    """F-M10 as it was found: GET answers 404 right after the upload."""
    answers = iter([Answer(404, {}), Answer(404, {})])

    def fault(method: str, path: str) -> Answer | None:
        is_record = method == "GET" and path.startswith("/v2/images/")
        return next(answers, None) if is_record else None

    with site.running() as client:
        site.glance.fault = fault
        assert client.run(("AddAppliance", offer(site).message())) == [("SUCCESS", "")]
    assert site.glance.shown() == ["Example image [Ubuntu/22.04/KVM]"]


def test_a_glance_that_never_sees_the_upload_is_left_after_some_attempts(site: BackendSite) -> None:
    with site.running() as client:
        site.glance.stale["GET"] = 1000
        ((status, message),) = client.run(("AddAppliance", offer(site).message()))
    assert status == "ERROR_RESOURCE_STATE"
    assert "Glance has queued" in message
    reads = [line for line in site.glance.requests if line.startswith("GET /v2/images/")]
    assert len(reads) == 5
    assert site.glance.images == {}


def test_a_deleted_image_is_not_waited_for(site: BackendSite) -> None:
    """The refusals of F-M10: what was not just changed is asked for once."""
    with site.running() as client:
        client.run(("AddAppliance", offer(site).message()))
        client.call("PreAction")
        site.glance.images.clear()
        status, _ = client.call("UpdateAppliance", offer(site).message(with_image=False, title="x"))
    assert status == "ERROR_RESOURCE_NOT_FOUND"
    assert sum(line.startswith("PATCH ") for line in site.glance.requests) == 2


def _page(title: str, text: str) -> str:
    """Return an error as WebOb renders it."""
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1>{text}<br /></body>"


QUOTA = "Image exceeds the storage quota: The size of the data 5 will exceed the limit. 0 bytes"
OVER = "Resource image_count_total is over limit of 1 due to current usage 1 and delta 1"
SCHEMA = "Provided object does not match schema 'image': 'qcow2' is not one of [None, 'raw']"


@pytest.mark.parametrize(
    ("method", "code", "text", "words", "remedy", "is_final"),
    [
        ("PUT", 415, "Image failed safety checks", "unsafe", "gpt_safety_checks_nonfatal", True),
        (
            "PUT",
            415,
            "Image disk_format qcow2 does not match stream data raw",
            "does not recognise the file as qcow2",
            "require_image_format_match = false in [image_format] of glance-api.conf",
            True,
        ),
        (
            "PUT",
            413,
            "The incoming image is too large: The provided image is too large.",
            "Glance's limit for one image",
            "raise image_size_cap",
            True,
        ),
        ("PUT", 413, "Image storage media is full: x", "store is full", "free space", False),
        ("PUT", 413, QUOTA, "quota for images is used up", "user_storage_quota", False),
        ("POST", 413, OVER, "quota for images is used up", "image_count_total", False),
        ("POST", 403, "Denying attempt: quota", "quota for images is used up", "Keystone", False),
        ("PUT", 413, "nginx", "or a proxy before it", "client_max_body_size", False),
        ("PUT", 409, "Image status transition", "changed or deleted", "the next run", False),
        ("PUT", 410, "Image could not be found", "changed or deleted", "who else", False),
        ("POST", 400, SCHEMA, "accept the format qcow2", "disk_formats in [image_format]", True),
        (
            "POST",
            413,
            "The limit has been exceeded on the number of allowed image properties.",
            "more properties than",
            "image_property_quota",
            False,
        ),
    ],
)
def test_glances_refusals_in_our_words(
    site: BackendSite, method: str, code: int, text: str, words: str, remedy: str, is_final: bool
) -> None:
    """F-M11; the texts are those of Glance 33's sources."""

    def fault(asked: str, path: str) -> Answer | None:
        is_struck = asked == method and (method == "PUT" or path == "/v2/images")
        return Answer(code, _page(f"{code} Some Title", text)) if is_struck else None

    with site.running() as client:
        client.call("PreAction")
        site.glance.fault = fault
        message, call = client.failure("AddAppliance", offer(site).message())
    assert words in message
    assert remedy in message
    assert f"(Glance: {code} {text}"[:60] in message
    assert (call.get("verdict") == "final") is is_final
    assert site.glance.images == {}


def test_a_frontend_that_only_asks_hears_who_made_an_image(site: BackendSite) -> None:
    """An image of cloudkeeper-os 0.9 has no mark; the next run gives it one, and says no more."""
    with site.running() as client:
        client.run(("AddAppliance", offer(site).message()))
        (image,) = site.glance.images.values()
        assert client.lists() == {LIST}
        assert "unmarked" not in client.appliances()[ONE].attributes
        del image["APPLIANCE_BACKEND"]
        before = dict(image)
        assert client.lists() == {LIST}
        assert client.appliances()[ONE].attributes["unmarked"] == "cloudkeeper-os 0.9"
        assert image == before
        client.call("PreAction")
        assert "APPLIANCE_BACKEND" in site.glance.images[image["id"]]
        assert "unmarked" not in client.appliances()[ONE].attributes
        client.call("PostAction")


def test_users_find_a_whole_version_at_every_request_of_an_update(site: BackendSite) -> None:
    """The old one, then both, then the new one; nothing else is ever visible."""
    older, newer = offer(site), offer(site, "newer")
    with newer.path.open("ab") as file:
        file.write(bytes(65536))
    newer.sha512 = sha512sum(newer.path)
    seen: list[set[str]] = []

    def look(_method: str, _path: str) -> None:
        images = site.glance.images.values()
        visible = [one for one in images if not one["os_hidden"] and one["status"] == "active"]
        found = {str(one["os_hash_value"]) for one in visible}
        if found not in seen[-1:]:
            seen.append(found)

    with site.running() as client:
        client.run(("AddAppliance", older.message()))
        site.glance.fault = look
        client.run(("UpdateAppliance", newer.message()))
        client.run()
    old, new = older.sha512, newer.sha512
    assert seen == [{old}, {old, new}, {new}]


def test_a_converted_file_is_hashed_by_the_backend_alone(site: BackendSite) -> None:
    """Without the key of our frontends, a file without a checksum stays refused."""
    one = offer(site)
    unproven = one.message(image={"checksum": ""})
    converted = [("converted", "yes")]
    with site.running() as client:
        client.call("PreAction")
        status, words = client.call("AddAppliance", unproven)
        assert status == "ERROR_APPLIANCE_TRANSFER"
        assert "has no SHA-512 or SHA-256, so it cannot be verified" in words
        assert site.glance.images == {}
        assert client.call("AddAppliance", unproven, metadata=converted) == ("SUCCESS", "")
        client.call("PostAction")
    (image,) = site.glance.images.values()
    assert (image["status"], image["os_hash_value"]) == ("active", sha512sum(one.path))


def test_a_hidden_image_is_shown_again_without_a_transfer(site: BackendSite) -> None:
    """F-M7."""
    one = offer(site)
    with site.running() as client:
        client.run(("AddAppliance", one.message()))
        client.call("PreAction")
        hidden = client.call("UpdateAppliance", one.message(with_image=False), metadata=HIDE)
        assert hidden == ("SUCCESS", "")
        assert site.glance.shown() == []
        assert client.appliances(vo="")[ONE].attributes["hidden"] == "yes"
        assert client.appliances(vo="")[ONE].attributes["disk_format"] == "qcow2"
        # cloudkeeper 1.7.1 sends no VO, and would update an image for an attribute of ours.
        assert dict(client.appliances()[ONE].attributes) == dict(one.message().attributes)
        client.call("PostAction")
        client.run()
        assert site.glance.shown() == []
        client.run(("UpdateAppliance", one.message(with_image=False)))
        assert "hidden" not in client.appliances(vo="")[ONE].attributes
    assert site.glance.shown() == ["Example image [Ubuntu/22.04/KVM]"]
    assert sum(line.startswith("PUT ") for line in site.glance.requests) == 1
    (image,) = site.glance.images.values()
    assert "cloudkeeper_hidden" not in image


def test_hiding_counts_as_removing(site: BackendSite) -> None:
    one = offer(site)
    names = [f"image-{number}" for number in range(5)]
    with site.running() as client:
        client.run(*(("AddAppliance", one.message(identifier=name)) for name in names))
        client.call("PreAction")
        results = [
            client.call(
                "UpdateAppliance", one.message(with_image=False, identifier=name), metadata=HIDE
            )[0]
            for name in names
        ]
    assert results == ["SUCCESS"] * 3 + ["ERROR_RESOURCE_STATE"] * 2


def test_a_new_version_of_a_hidden_image_is_visible(site: BackendSite) -> None:
    one = offer(site)
    with site.running() as client:
        client.run(("AddAppliance", one.message()))
        client.call("PreAction")
        client.call("UpdateAppliance", one.message(with_image=False), metadata=HIDE)
        newer = offer(site, "newer")
        with newer.path.open("ab") as file:
            file.write(bytes(65536))
        newer.sha512 = sha512sum(newer.path)
        assert client.call("UpdateAppliance", newer.message()) == ("SUCCESS", "")
        client.call("PostAction")
    assert site.glance.shown() == ["Example image [Ubuntu/22.04/KVM]"]
    assert len(site.glance.images) == 1


def _add(client: Client, one: Offer, names: list[str]) -> None:
    client.run(*(("AddAppliance", one.message(identifier=name)) for name in names))


NAMES = [f"image-{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("options", "is_local", "is_removed"),
    [
        ("", True, True),
        ("", False, False),
        ("removals = confirmed", False, True),
        ("removals = limited", True, False),
        ("removals = none", True, False),
    ],
)
def test_a_frontend_lifts_the_limit_only_where_the_configuration_lets_it(
    tmp_path: Path, options: str, *, is_local: bool, is_removed: bool
) -> None:
    """F-M4: over the socket of this host by default, over TCP not."""
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    with backend_site.made(tmp_path, options=options) as site, site.running(tcp=not is_local) as to:
        _add(to, offer(site), NAMES)
        to.call("PreAction", metadata=[("allow-remove", "6")])
        status, message = to.call("RemoveImageList", request)
        assert status == ("SUCCESS" if is_removed else "ERROR_RESOURCE_STATE"), message
        assert len(site.glance.images) == (0 if is_removed else 6)


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "many"])
def test_a_confirmation_that_is_no_number_of_images_confirms_nothing(
    site: BackendSite, number: str
) -> None:
    with site.running() as client:
        _add(client, offer(site), NAMES)
        assert client.call("PreAction", metadata=[("allow-remove", number)]) == ("SUCCESS", "")
        request = pb.ImageListIdentifier(image_list_identifier=LIST)
        assert client.call("RemoveImageList", request)[0] == "ERROR_RESOURCE_STATE"


def test_new_runs_and_restarts_do_not_reset_the_limit(site: BackendSite) -> None:
    """F-M4: PreAction and RemoveAppliance in a loop."""
    one = offer(site)
    with site.running() as client:
        _add(client, one, NAMES)
    for name in NAMES:
        with site.running() as client:
            client.run(("RemoveAppliance", one.message(with_image=False, identifier=name)))
    assert len(site.glance.images) == 3


REMAPPED = {"ops": {"project": "two"}}


def test_images_in_a_former_project_are_kept_and_counted(site: BackendSite) -> None:
    """F-M7: a project that no VO has any more was not looked at."""
    with site.running() as client:
        _add(client, offer(site), NAMES[:2])
    site.configure(mapping=REMAPPED)
    for _ in range(2):
        with site.running() as client:
            client.run()
        (line,) = site.record()["failures"]
        assert line == (
            "project one: was the project of VO ops, and keeps 2 images of it "
            "(former_projects: keep); correct the mapping, or set hide or remove"
        )
    assert len(site.glance.images) == 2


@pytest.mark.parametrize("policy", ["hide", "remove"])
def test_images_in_a_former_project_go_after_the_new_one_has_them(
    site: BackendSite, policy: str
) -> None:
    """F-M1, F-M7: additions in the new project come before removals in the old one."""
    one = offer(site)
    with site.running() as client:
        _add(client, one, NAMES[:2])
    old = set(site.glance.images)
    site.configure(f"former_projects = {policy}", REMAPPED)
    with site.running() as client:
        client.run(("AddAppliance", one.message(identifier=NAMES[0])))
        (line,) = site.record()["failures"]
        assert line.endswith("keeps 1 image that the VO's new project does not have yet")
        assert len(site.glance.shown()) == 2
        client.run(("AddAppliance", one.message(identifier=NAMES[1])))
        assert site.record()["failures"] == []
        assert len(site.glance.shown()) == 2
        kept = old & set(site.glance.images)
        assert len(kept) == (2 if policy == "hide" else 0)
        client.run()
        assert site.record()["failures"] == []


def test_many_images_in_a_former_project_need_confirmation(site: BackendSite) -> None:
    one = offer(site)
    with site.running() as client:
        _add(client, one, NAMES)
    site.configure("former_projects = remove", {"biomed": {"project": "two"}})
    with site.running() as client:
        client.run()
        (line,) = site.record()["failures"]
        assert "6 of its 6 images would be removed within a day" in line
        assert "--allow-remove 6" in line
        assert len(site.glance.images) == 6
        client.call("PreAction", metadata=[("allow-remove", "6")])
        client.call("PostAction")
    assert site.glance.images == {}


def test_a_former_project_that_is_closed_is_reported_once(site: BackendSite) -> None:
    with site.running() as client:
        _add(client, offer(site), NAMES[:2])
    site.configure(mapping=REMAPPED)
    site.glance.cloud.closed = frozenset({"one"})
    failures = []
    for _ in range(2):
        with site.running() as client:
            client.run()
        failures.append(len(site.record()["failures"]))
    assert failures == [1, 0]


def test_images_of_another_backend_in_a_shared_project_stay(site: BackendSite) -> None:
    """Two backends, each with the mapping of its own VOs, on one project."""
    with site.running() as client:
        _add(client, offer(site), NAMES[:2])
    (site.root / "var/lib/fedcloud/cloudkeeper-os/id").unlink()
    shared = {"biomed": {"project": "one"}, "other": {"project": "two"}}
    site.configure("former_projects = remove", shared)
    with site.running() as client:
        client.run()
    (line,) = site.record()["failures"]
    assert "was the project of VO ops, and keeps 2 images of another backend" in line
    assert len(site.glance.images) == 2
