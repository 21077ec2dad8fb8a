"""The quarantine: what is kept can be listed, shown and restored; what was delivered goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from caso import quarantine
from caso.kinds.kind import UsageRecord
from caso.quarantine import Delivered
from tests.wire.records import GPUS, VOLUME
from tests.wire.test_cloud import FULL

LATER = datetime.now(UTC) + timedelta(hours=1)


def kept(root: Path, record: UsageRecord, kind: str, key: str = "k") -> Path:
    return quarantine.set_aside(
        root, key=key, reason="x is\n2", text="a: b", kind=kind, project="p", record=record
    )


def test_a_record_is_kept_and_restored(tmp_path: Path) -> None:
    path = kept(tmp_path, FULL, "cloud")
    (entry,) = quarantine.entries(tmp_path)
    assert (entry.path, entry.name) == (path, "k")
    assert (entry.reason, entry.text) == ("x is 2", "a: b\n")
    assert (entry.kind, entry.key, entry.month) == ("cloud", FULL.vm_uuid, "2026-11")
    assert (entry.project, entry.amount, entry.progress) == ("p", 86, 86)
    assert entry.restore() == FULL
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_was_not_understood_has_no_record(tmp_path: Path) -> None:
    quarantine.set_aside(tmp_path, key="vm", reason="r", text="{}", kind="cloud")
    (entry,) = quarantine.entries(tmp_path)
    assert entry.restore() is None
    assert quarantine.summary([entry]) == "1 of servers (unknown use)"


def test_a_file_of_an_earlier_version_is_shown_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("# refused: CpuCount is -2\nVMUUID: 1\n")
    (entry,) = quarantine.entries(tmp_path)
    assert (entry.reason, entry.text, entry.kind) == ("CpuCount is -2", "VMUUID: 1\n", "")
    assert quarantine.open_entries(tmp_path, lambda _: ()) == []
    assert (tmp_path / "old.txt").exists()


@pytest.mark.parametrize(
    ("delivered", "is_held"),
    [
        ([], True),
        ([Delivered("2026-11", 85, LATER)], True),
        ([Delivered("2026-10", 99, LATER)], True),
        ([Delivered("2026-11", 86, LATER)], False),
    ],
)
def test_held_until_as_much_is_delivered(
    delivered: list[Delivered], tmp_path: Path, *, is_held: bool
) -> None:
    path = kept(tmp_path, FULL, "cloud")
    held = quarantine.open_entries(tmp_path, lambda key: delivered if key == FULL.vm_uuid else [])
    assert bool(held) == path.exists() == is_held


@pytest.mark.parametrize("is_later", [False, True])
def test_held_until_the_thing_is_understood(tmp_path: Path, *, is_later: bool) -> None:
    path = quarantine.set_aside(tmp_path, key="vm", reason="r", text="{}", kind="cloud")
    at = LATER if is_later else LATER - timedelta(hours=2)
    quarantine.open_entries(tmp_path, lambda _: [Delivered("2026-11", 1, at)])
    assert path.exists() != is_later


def test_the_sums_are_by_kind(tmp_path: Path) -> None:
    kept(tmp_path, replace(FULL, wall=timedelta(hours=2)), "cloud", "a")
    kept(tmp_path, replace(FULL, wall=timedelta(hours=3)), "cloud", "b")
    kept(tmp_path, GPUS, "accelerator", "c")
    assert quarantine.summary(quarantine.entries(tmp_path)) == (
        "1 of servers with accelerators (2.0 h with accelerators in the month), 2 of servers"
        " (5.0 h of wall time since the servers' creation)"
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = kept(tmp_path, VOLUME, "storage")
    path.write_text(path.read_text().replace('"size": 20', '"size": "big"'))
    (entry,) = quarantine.entries(tmp_path)
    with pytest.raises(LocalFailure, match="its record cannot be read"):
        entry.restore()


@pytest.mark.parametrize("content", ["", "\n", "# refused: r\n# {\n", "# refused: r\n# [1]\n"])
def test_files_that_are_something_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(content)
    (tmp_path / "y.other").write_text("")
    (entry,) = quarantine.entries(tmp_path)
    assert entry.restore() is None


def test_no_directory_is_an_empty_one(tmp_path: Path) -> None:
    assert list(quarantine.entries(tmp_path / "none")) == []


def test_half_a_surrogate_pair_is_held(tmp_path: Path) -> None:
    kept(tmp_path, replace(FULL, vm_uuid="\ud800"), "cloud")

    def refuse(key: str) -> list[Delivered]:
        raise AssertionError(key)

    assert len(quarantine.open_entries(tmp_path, refuse)) == 1
