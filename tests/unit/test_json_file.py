"""JSON files of state: what is damaged is damage, and a failed write loses nothing."""

import json
from pathlib import Path

import pytest

from appliance.core import json_file
from appliance.core.run.errors import LocalFailure


def test_what_is_written_is_read_again_in_a_new_directory(tmp_path: Path) -> None:
    path = tmp_path / "state/lists.json"
    json_file.write(path, {"é": ["1", 2, None]})
    assert json_file.read(path, limit=1000) == {"é": ["1", 2, None]}
    assert json.loads(path.read_bytes()) == {"é": ["1", 2, None]}
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damage_of_any_kind_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lists.json"
    path.write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011  the kind is all that callers see
        json_file.read(path, limit=1_000_000)


def test_a_file_that_is_long_missing_or_a_link_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    with pytest.raises(FileNotFoundError):
        json_file.read(path, limit=1000)
    path.write_text(f'"{"x" * 999}"')
    with pytest.raises(OSError, match="is longer than 1000 bytes"):
        json_file.read(path, limit=1000)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link"):
        json_file.read(tmp_path / "link", limit=2000)


def test_a_failed_write_names_the_file_and_keeps_the_former(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    json_file.write(path, ["former"])
    with pytest.raises(TypeError):
        json_file.write(path, {"no": object()})
    assert json_file.read(path, limit=1000) == ["former"]
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalFailure, match=r"state\.json"):
        json_file.write(tmp_path / "file/state.json", [])
