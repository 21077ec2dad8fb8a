"""Images that another manager keeps: recognised by tag and atrope's names, and by nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeeper.backend.others import held
from cloudkeeper.model import ListId

REFERENCE = "egi_vm_images/ubuntu:24.04"
LIST = ListId("registry.egi.eu/egi_vm_images/ops")
IMAGE: dict[str, Any] = {
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
    (found,) = held([IMAGE | more], list_id=LIST, vo="ops")
    tag = (IMAGE | more)["tags"][-1]
    assert (found.identifier, found.list_id, found.vo) == (REFERENCE, LIST, "ops")
    assert found.attributes == {"holder": tag}


@pytest.mark.parametrize(
    "more",
    [
        {"tags": []},
        {"tags": ["atrope2"]},
        {"status": "queued"},
        {"image_type": "snapshot"},
        {"APPLIANCE_BACKEND": "id id"},
        {"appdb_id": None, "name": "ubuntu 24.04"},
        {"appdb_id": f"registry.egi.eu/other/ubuntu:24.04-sha256:{'0' * 64}", "name": ""},
        {"appdb_id": f"example.org/{REFERENCE}-sha256:{'0' * 64}", "name": ""},
    ],
)
def test_other_images(more: dict[str, Any]) -> None:
    assert list(held([IMAGE | more], list_id=LIST, vo="ops")) == []


@pytest.mark.parametrize("list_id", ["9d5c0a10-0000-4000-8000-0000000000a0", "x/y/biomed"])
def test_other_lists(list_id: str) -> None:
    assert list(held([IMAGE], list_id=ListId(list_id), vo="ops")) == []
