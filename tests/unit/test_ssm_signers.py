"""The lists of accepted and of banned names."""

from pathlib import Path

import pytest

from ssm.receiving.signers import AcceptedSigners


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_written_by_any_editor(tmp_path: Path, mark: str, end: str) -> None:
    lines = ("/DC=EU/CN=one", "  /DC=EU/CN=two\t", "", "# /DC=EU/CN=three")
    (tmp_path / "dns").write_bytes((mark + end.join(lines)).encode())
    (tmp_path / "banned").write_bytes(f"{mark}/DC=EU/CN=two{end}".encode())
    names = AcceptedSigners(tmp_path / "dns", banned=tmp_path / "banned")
    assert [names.accepts(f"/DC=EU/CN={name}") for name in ("one", "two", "three")] == [
        True,
        True,
        False,
    ]
    assert [names.bans(f"/DC=EU/CN={name}") for name in ("one", "two")] == [False, True]
    assert not names.accepts("/DC=EU/CN=ONE")
