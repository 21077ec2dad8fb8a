"""What calls that run side by side do to the images that VOs share, without a Glance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.core.cloud.glance import Glance
from cloudkeeper.backend.data_places import DataPlaces
from cloudkeeper.backend.images import ProjectImages
from cloudkeeper.backend.ownership import Ownership
from cloudkeeper.backend.properties import ApplianceKey, ImageRecord
from cloudkeeper.backend.run import Run
from cloudkeeper.backend.shares import SharedImages, name_of
from cloudkeeper.backend.tally import RunTally
from cloudkeeper.model import Appliance, ApplianceId, ListId

REFERENCE = ApplianceId("egi_vm_images/ubuntu:24.04")
PROJECTS = {"ops": "one", "biomed": "two"}


def list_id(vo: str) -> ListId:
    return ListId(f"registry.egi.eu/egi_vm_images/{vo}")


def image(number: int, **more: Any) -> dict[str, Any]:
    """Return an image in the project of the VO ops."""
    return {
        "id": f"i{number}",
        "owner": "one",
        "status": "active",
        "created_at": f"2026-11-0{number}T00:00:00Z",
        "APPLIANCE_BACKEND": f"b i{number}",
        "APPLIANCE_STATUS": "ACTIVE",
        "APPLIANCE_VO": "ops",
        "APPLIANCE_IMAGE_LIST_ID": list_id("ops"),
        "APPLIANCE_ID": REFERENCE,
        **more,
    }


def project(name: str, ownership: Ownership) -> ProjectImages:
    return ProjectImages(
        name=name,
        project_id=name,
        glance=cast("Glance", None),
        ownership=ownership,
        tally=cast("RunTally", None),
        visibility="private",
        places=cast("DataPlaces", None),
    )


def shares(ownership: Ownership) -> SharedImages:
    by_vo = {vo: project(name, ownership) for vo, name in PROJECTS.items()}
    reached = {one.project_id: one for one in by_vo.values()}
    return SharedImages(False, ownership, cast("RunTally", None), by_vo, reached)


def test_copies_are_uploaded_side_by_side(tmp_path: Path) -> None:
    """Each VO waited for the upload of the VO before, and failed after 35 minutes of waiting."""
    ownership = Ownership(tmp_path)
    found, claimed = shares(ownership), list[bool]()
    key = ApplianceKey("ops", list_id("ops"), REFERENCE)

    def offer(appliance: Appliance, **_: object) -> Mapping[str, str]:
        del appliance
        claimed.append(ownership.is_claimed(name_of(key)))
        return {}

    images: Any = SimpleNamespace(project_id="one", shared={}, versions=lambda _: [], offer=offer)
    appliance = Appliance(REFERENCE, list_id("ops"), vo="ops")
    found.offer(images, appliance, is_wanted=lambda: True)
    # An image that several VOs use is handed on by one call at a time.
    stated = json.dumps([["biomed", list_id("biomed"), "two", True]])
    record = ImageRecord("i", key, cast("Any", None), {"cloudkeeper_shared": stated}, "b")
    images.versions = lambda _: [record]
    found.offer(images, appliance, is_wanted=lambda: True)
    assert claimed == [False, True]


def test_an_image_that_another_call_shares_meanwhile_breaks_no_listing(tmp_path: Path) -> None:
    found = shares(Ownership(tmp_path))
    two = found.projects["two"]

    class Slow(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            two.shared.setdefault("i9", image(9))
            return super().__getitem__(name)

    two.shared["i1"] = Slow(image(1))
    assert found.used(two) == []


def test_a_repair_waits_for_no_call_of_a_killed_frontend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upload may wait half an hour for Glance: PreAction waited as well, and then failed."""
    ownership = Ownership(tmp_path)
    found, released = shares(ownership), list[str]()
    one, two = found.projects["one"], found.projects["two"]
    stated = json.dumps([["biomed", list_id("biomed"), "two", True]])
    for number in (1, 2):
        one.keep(f"i{number}", made := image(number, cloudkeeper_shared=stated))
        two.shared[f"i{number}"] = made
    monkeypatch.setattr(ProjectImages, "replace", lambda _, record, __: released.append(record.id))
    with ownership.claim(name_of(ApplianceKey("ops", list_id("ops"), REFERENCE))):
        found.repair()
        assert released == []
    found.repair()
    assert released == ["i1"]


def test_a_run_that_ends_with_a_bug_has_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the run before stayed in its place."""
    closed, lines, empty = list[str](), list[str](), dict[str, str]()
    run: Any = object.__new__(Run)
    run.tally = SimpleNamespace(fail=lines.append)
    monkeypatch.setattr(Run, "close", lambda _: closed.append("closed"))
    monkeypatch.setattr(Run, "_settle_misplaced", lambda _: empty["x"])
    with pytest.raises(KeyError):
        run.finish()
    assert closed == ["closed"]
    assert lines == ["bug in cloudkeeper-os: KeyError: 'x'"]
