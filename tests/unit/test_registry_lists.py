"""The lists of registries that this frontend has accepted: by VO, and never by a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core.run.errors import LocalFailure
from cloudkeeper.frontend.registry import accepted_lists
from cloudkeeper.model import ListId

OPS, OTHER = ListId("registry.example.org/images/ops"), ListId("registry.example.org/images/other")


def test_accepted_lists_are_kept_until_they_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "state/registry-lists.json"
    assert accepted_lists.read(path) == frozenset()
    accepted_lists.note(path, [OPS])
    accepted_lists.note(path, [OTHER])
    assert accepted_lists.read(path) == {OPS, OTHER}
    written = path.stat().st_ino
    accepted_lists.note(path, [OPS])  # each run does that
    assert path.stat().st_ino == written
    accepted_lists.forget(path, [OTHER])
    assert accepted_lists.read(path) == {OPS}


@pytest.mark.parametrize("text", ["", "{", "7", '{"a": 1}', "[1]", "[" * 9999])
def test_a_damaged_file_holds_none_and_is_replaced(tmp_path: Path, text: str) -> None:
    """At worst the images of an ended list stay, and a line says why."""
    path = tmp_path / "registry-lists.json"
    path.write_text(text)
    assert accepted_lists.read(path) == frozenset()
    accepted_lists.note(path, [OPS])
    assert accepted_lists.read(path) == {OPS}


def test_a_file_that_cannot_be_written_is_one_clear_failure(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(LocalFailure, match="state"):
        accepted_lists.note(tmp_path / "state/registry-lists.json", [OPS])
