"""What caso-mapping-migrate refuses before it asks anybody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caso.cmds import mapping_migrate

CONFIG = """\
[DEFAULT]
site_name = TEST
messengers = ssm
projects = ops
{0}
mapping_file = {1}/voms.json
[keystone_auth]
auth_type = v3password
auth_url = https://keystone.example.org/v3
username = u
user_domain_name = Default
password = geheim
"""


def migrate(root: Path, mapping: object, *flags: str, option: str = "") -> int:
    (root / "voms.json").write_text(json.dumps(mapping))
    (root / "caso.conf").touch(mode=0o600)
    (root / "caso.conf").write_text(CONFIG.format(option, root))
    return mapping_migrate.main(
        ["--root", str(root), "--config-file", str(root / "caso.conf"), *flags]
    )


@pytest.mark.parametrize("flags", [[], ["--nodry-run"]])
def test_a_project_with_two_vos(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one would win, unseen."""
    mapping = {"vo.x": {"projects": ["ops", "a"]}, "vo.y": {"projects": ["ops"]}}
    assert migrate(tmp_path, mapping, *flags) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        f"{tmp_path}/voms.json:1: ops: has several VOs: vo.x, vo.y; keep one of them" in shown.err
    )


def test_the_same_twice_and_other_domains_are_no_conflict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = {"vo.x": {"project": "ops", "domain": "a"}, "vo.y": {"project": "ops", "domain": "b"}}
    assert migrate(tmp_path, mapping) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("flags", [(), ("--nodry-run",)])
def test_nothing_to_copy(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate(tmp_path, {}, *flags) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path}/voms.json: names no project; nothing is to be copied\n"
    assert "Run these" not in shown.err


def test_no_tag_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        migrate(tmp_path, {"vo.x": {"projects": ["a"]}}, "--migrate-projects", option="caso_tag =")
        == 2
    )
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "--migrate-projects: the configuration has no tag; set caso_tag" in shown.err
