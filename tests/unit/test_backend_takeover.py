"""Takeovers where a real Glance cannot be made to misbehave at will.

tests/e2e/test_takeover.py has those on the test bed's Glance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import retry
from cloudkeeper.wire import communicator_1x_pb2 as pb
from tests.e2e.images_backend import Client
from tests.simulators.openstack import Answer
from tests.unit import backend_site
from tests.unit.backend_site import BackendSite

REFERENCE = "egi_vm_images/ubuntu:24.04"
LIST = "registry.egi.eu/egi_vm_images/ops"
IMPORT, RELEASE = [("take-over", "import")], [("take-over", "release")]
DATA = b"the disk that the list names"
DIGEST = "sha256:37ffcf5346f857b45113bb711edd99e3811fc52f5d9315333a5c626e6b67346e"
"""Of `DATA`, by sha256sum."""
MESSAGE = pb.Appliance(identifier=REFERENCE, image_list_identifier=LIST, vo="ops")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackendSite]:
    monkeypatch.setattr(retry, "_sleep", lambda _: None)
    with backend_site.made(tmp_path) as made:
        yield made


def upload(site: BackendSite, **changes: Any) -> dict[str, Any]:
    """Put an image of the catch-all into Glance; return it."""
    long_ago = (datetime.now(UTC) - timedelta(hours=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
    image = {
        "id": "7",
        "owner": "one",
        "status": "active",
        "visibility": "private",
        "os_hidden": False,
        "name": f"registry.egi.eu {REFERENCE}",
        "tags": ["atrope-catchall"],
        "min_ram": 0,
        "created_at": long_ago,
        "updated_at": long_ago,
        "appdb_id": f"registry.egi.eu/{REFERENCE}-sha256:{'0' * 64}",
        "image_hash": DIGEST,
        "size": len(DATA),
        "os_hash_algo": "sha512",
        "os_hash_value": "5" * 128,
        "APPLIANCE_ATTRIBUTES": json.dumps({"eu.egi.cloud.image_ref": REFERENCE}),
        **changes,
    }
    site.glance.images[image["id"]] = image
    site.glance.files[image["id"]] = DATA
    return dict(image)


def candidate(client: Client, word: list[tuple[str, str]]) -> dict[str, str]:
    """Return the attributes of the one image that could be handed over."""
    request = pb.ImageListIdentifier(image_list_identifier=LIST)
    found, status = client.stream("Appliances", request, metadata=[("vo", "ops"), *word])
    assert status == "SUCCESS"
    (image,) = found
    return dict(image.attributes)


def hand_over(client: Client, word: list[tuple[str, str]]) -> tuple[str, str]:
    return client.call("UpdateAppliance", MESSAGE, metadata=word)


def test_one_patch_each_way(site: BackendSite) -> None:
    before = upload(site)
    expected = {"holder": "atrope-catchall", "owner": "ops", "hindrance": ""}
    with site.running() as client:
        assert candidate(client, IMPORT) == expected
        for word in (IMPORT, RELEASE):
            site.glance.requests.clear()
            assert client.call("PreAction")[0] == "SUCCESS"
            assert [hand_over(client, word) for _ in range(2)] == [("SUCCESS", "")] * 2
            assert client.call("PostAction")[0] == "SUCCESS"
            patches = [one for one in site.glance.requests if one.startswith("PATCH")]
            assert patches == ["PATCH /v2/images/7"]
            assert not [one for one in site.glance.requests if one.startswith(("PUT", "POST"))]
            # The data are read once, and only to be taken over.
            read = site.glance.requests.count("GET /v2/images/7/file")
            assert (read, site.glance.images["7"]["image_hash"]) == (int(word is IMPORT), DIGEST)
            if word is IMPORT:
                assert candidate(client, RELEASE) == expected
                assert site.glance.images["7"]["APPLIANCE_STATUS"] == "ACTIVE"
    assert site.glance.images["7"] == before
    assert site.record()["counts"]["given_back"] == 1


FORGED = f"sha256:{'1' * 64}"
OTHER = "VO ops: egi_vm_images/ubuntu:24.04: its data are not those of its image_hash, so the next"


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        # A member of the project wrote the digest of the list beside data of another image.
        ({"image_hash": FORGED}, 200, DIGEST),
        # Glance's own digest is proof enough, and cannot be written by users.
        ({"image_hash": FORGED, "os_hash_algo": "sha256", "os_hash_value": "A" * 64}, 500, None),
        # Glance does not let the account read the data.
        ({"image_hash": FORGED}, 403, "unknown"),
    ],
)
def test_what_an_image_says_of_its_data_is_not_believed(
    site: BackendSite, changes: dict[str, Any], code: int, expected: str | None
) -> None:
    """The next sync finds another digest than the list's, and uploads the image again."""
    before = upload(site, **changes)
    expected = expected or f"sha256:{'a' * 64}"

    def fault(_: str, path: str) -> Answer | None:
        return Answer(code, {}) if path.endswith("/file") and code != 200 else None

    site.glance.fault = fault
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        assert client.call("PostAction")[0] == "SUCCESS"
        assert site.glance.images["7"]["image_hash"] == expected
        (note,) = site.record()["notes"]["taken_over_with_other_data"]
        assert note.startswith(OTHER)
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, RELEASE) == ("SUCCESS", "")
    assert site.glance.images["7"] == before


def test_glances_own_digest_of_the_right_data_saves_the_reading(site: BackendSite) -> None:
    upload(site, os_hash_algo="sha256", os_hash_value=DIGEST.removeprefix("sha256:"))
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        assert client.call("PostAction")[0] == "SUCCESS"
    assert site.glance.images["7"]["image_hash"] == DIGEST
    assert "GET /v2/images/7/file" not in site.glance.requests
    assert "notes" not in site.record() or not site.record()["notes"]


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_data_that_cannot_be_read_to_their_end_stay_where_they_are(
    site: BackendSite, size: int
) -> None:
    before = upload(site, size=size)
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        status, message = hand_over(client, IMPORT)
        assert status.startswith("ERROR")
        assert f"with other than the {size} bytes of the image" in message
    assert site.glance.images["7"] == before


@pytest.mark.parametrize("code", [403, 409])
def test_a_patch_that_glance_refuses_leaves_the_image(site: BackendSite, code: int) -> None:
    before = upload(site)
    with site.running() as client:
        site.glance.fault = lambda method, _: Answer(code, {}) if method == "PATCH" else None
        assert client.call("PreAction")[0] == "SUCCESS"
        status, message = hand_over(client, IMPORT)
        assert status.startswith("ERROR")
        assert f"Glance answers {code} to PATCH /v2/images/7" in message
        site.glance.fault = lambda *_: None
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        assert client.call("PostAction")[0] == "SUCCESS"
    assert site.glance.images["7"]["tags"] == []
    assert before["tags"] == ["atrope-catchall"]
    assert len(site.record()["failures"]) == 1


@pytest.mark.parametrize("word", [IMPORT, RELEASE])
def test_a_patch_whose_answer_is_lost_is_done(
    site: BackendSite, word: list[tuple[str, str]]
) -> None:
    """The transport repeats it, and Glance refuses to remove a property that is gone."""
    before = upload(site)
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        after = {IMPORT[0]: dict(site.glance.images["7"]), RELEASE[0]: before}[word[0]]
        if word is IMPORT:
            site.glance.images["7"] = dict(before)
            assert client.call("PreAction")[0] == "SUCCESS"

        def fault(method: str, _: str) -> Answer | None:
            if method != "PATCH":
                return None
            site.glance.images["7"] = dict(after)
            return Answer(409, {})

        site.glance.fault = fault
        assert hand_over(client, word) == ("SUCCESS", "")
    assert site.glance.images["7"] == after


def test_an_image_that_changed_since_it_was_listed_stays(site: BackendSite) -> None:
    """The catch-all, or a person, was faster."""
    upload(site)
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        site.glance.images["7"]["tags"] = ["somebody's"]
        status, message = hand_over(client, IMPORT)
    assert (status, message) == (
        "ERROR_RESOURCE_STATE",
        "image 7: is no longer one of atrope-catchall; run again",
    )
    assert "APPLIANCE_STATUS" not in site.glance.images["7"]


@pytest.mark.parametrize("spoiled", ["no JSON", "{}"])
def test_an_image_whose_memory_is_spoiled_is_not_given_back(
    site: BackendSite, spoiled: str
) -> None:
    upload(site)
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        site.glance.images["7"]["cloudkeeper_taken_over"] = spoiled
        assert client.call("PreAction")[0] == "SUCCESS"
        status, message = hand_over(client, RELEASE)
    assert status == "ERROR_RESOURCE_STATE"
    assert message.startswith("image 7: its property cloudkeeper_taken_over names no tag; add ")


def test_two_images_of_a_manager_are_named(site: BackendSite) -> None:
    upload(site)
    upload(site, id="8", tags=["atrope"])
    with site.running() as client:
        status, message = hand_over(client, IMPORT)
    assert status == "ERROR_RESOURCE_STATE"
    assert "project one sees it twice, 7 and 8; delete one of them" in message


def test_an_unknown_word_changes_nothing(site: BackendSite) -> None:
    before = upload(site)
    with site.running() as client:
        status, message = hand_over(client, [("take-over", "steal")])
    assert (status, message) == ("ERROR", "take-over: 'steal' is unknown")
    assert site.glance.images["7"] == before


def test_a_hidden_image_is_visible_again_when_it_is_given_back(site: BackendSite) -> None:
    """Its list had ended, and the site hides such images."""
    before = upload(site)
    with site.running() as client:
        assert client.call("PreAction")[0] == "SUCCESS"
        assert hand_over(client, IMPORT) == ("SUCCESS", "")
        assert client.call("UpdateAppliance", MESSAGE, metadata=[("hide", "yes")])[0] == "SUCCESS"
        assert site.glance.images["7"]["os_hidden"] is True
        assert hand_over(client, RELEASE) == ("SUCCESS", "")
    assert site.glance.images["7"] == before
