"""Images that count as present, whoever keeps them: by tag and atrope's names, or by name."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeeper.backend.others import Holding, held, is_relevant
from cloudkeeper.model import ListId

REFERENCE = "egi_vm_images/ubuntu:24.04"
LIST = ListId("registry.egi.eu/egi_vm_images/ops")
OWNERS = {"ops": "p1", "biomed": "p2"}
IMAGE: dict[str, Any] = {
    "id": "7",
    "owner": "p1",
    "name": f"registry.egi.eu {REFERENCE}",
    "status": "active",
    "tags": ["atrope-catchall"],
    "appdb_id": f"registry.egi.eu/{REFERENCE}-sha256:{'0' * 64}",
}


@pytest.mark.parametrize(
    "more",
    [{}, {"tags": ["x", "atrope"]}, {"appdb_id": None}, {"name": "renamed by somebody"}],
    ids=["catch-all", "atrope", "by name", "by identity"],
)
def test_images_of_another_manager(more: dict[str, Any]) -> None:
    (found,) = held([IMAGE | more], list_id=LIST, vo="ops", owners=OWNERS)
    tag = (IMAGE | more)["tags"][-1]
    assert (found.reference, found.holding, found.holder) == (REFERENCE, Holding.MANAGER, tag)
    assert is_relevant(IMAGE | more)
    reported = found.as_appliance(LIST, vo="ops")
    assert (reported.identifier, reported.list_id, reported.vo) == (REFERENCE, LIST, "ops")
    assert reported.attributes == {"holder": tag}


TAKEN = {
    "tags": [],
    "cloudkeeper_taken_over": '{"tags": ["atrope-catchall"]}',
    "APPLIANCE_BACKEND": "b 7",
    "APPLIANCE_STATUS": "ACTIVE",
    "APPLIANCE_VO": "ops",
    "APPLIANCE_IMAGE_LIST_ID": LIST,
    "APPLIANCE_ID": REFERENCE,
}
BIOMED = ListId("registry.egi.eu/egi_vm_images/biomed")


def test_an_image_taken_over_for_another_vo_counts_as_present() -> None:
    (found,) = held([IMAGE | TAKEN], list_id=BIOMED, vo="biomed", owners=OWNERS)
    assert (found.reference, found.holder) == (REFERENCE, "cloudkeeper for VO ops")
    assert found.holding is Holding.OTHER_VO


@pytest.mark.parametrize(
    "more",
    [
        {"id": "8"},
        {"owner": "p3"},
        {"APPLIANCE_STATUS": "EOL"},
        {"APPLIANCE_IMAGE_LIST_ID": "registry.egi.eu/other/ops"},
        {"cloudkeeper_taken_over": None},
    ],
    ids=["a copy", "a VO that moved away", "retired", "another list", "uploaded by us"],
)
def test_images_of_ours_that_say_nothing_about_another_vo(more: dict[str, Any]) -> None:
    found = held([IMAGE | TAKEN | more | {"name": ""}], list_id=BIOMED, vo="biomed", owners=OWNERS)
    assert list(found) == []


@pytest.mark.parametrize(
    "more", [{"tags": []}, {"tags": ["atrope2"]}, {"image_type": "snapshot"}, {"status": "queued"}]
)
def test_a_stranger_with_the_name_of_an_image(more: dict[str, Any]) -> None:
    image = IMAGE | {"tags": []} | more
    (found,) = held([image], list_id=LIST, vo="ops", owners=OWNERS)
    assert (found.reference, found.holding, found.holder) == (
        REFERENCE,
        Holding.NAMESAKE,
        "an unknown manager (image 7)",
    )
    assert is_relevant(image)


def test_a_manager_counts_before_a_stranger() -> None:
    images = [IMAGE | {"tags": [], "id": "8"}, IMAGE]
    found = held(images, list_id=LIST, vo="ops", owners=OWNERS)
    assert [one.holding for one in found] == [Holding.MANAGER, Holding.NAMESAKE]


@pytest.mark.parametrize(
    "more",
    [
        {"status": "queued"},
        {"tags": [], "name": f"example.org {REFERENCE}"},
        {"tags": [], "name": f"registry.egi.eu {REFERENCE} copy"},
        {"appdb_id": None, "name": "ubuntu 24.04"},
        {"appdb_id": f"registry.egi.eu/other/ubuntu:24.04-sha256:{'0' * 64}", "name": ""},
        {"appdb_id": f"example.org/{REFERENCE}-sha256:{'0' * 64}", "name": ""},
    ],
)
def test_other_images(more: dict[str, Any]) -> None:
    assert list(held([IMAGE | more], list_id=LIST, vo="ops", owners=OWNERS)) == []


@pytest.mark.parametrize("list_id", ["9d5c0a10-0000-4000-8000-0000000000a0", "x/y/biomed"])
def test_other_lists(list_id: str) -> None:
    assert list(held([IMAGE], list_id=ListId(list_id), vo="ops", owners=OWNERS)) == []
