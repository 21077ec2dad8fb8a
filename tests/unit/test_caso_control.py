import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.checkpoint import Checkpoints
from caso.cmds import control
from caso.messengers.batch import Staging
from tests import foreign

CONFIG = """\
[DEFAULT]
site_name = TEST
messengers = ssm
spooldir = {0}/caso
projects = ops
[keystone_auth]
auth_type = v3password
auth_url = https://keystone.example.org/v3
username = u
user_domain_name = Default
password = geheim
[ssm]
output_path = {0}/out
"""


def shown(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *flags: str,
    verb: str = "checkpoints",
) -> tuple[int, list[str]]:
    (root / "caso.conf").write_text(CONFIG.format(root))
    (root / "caso.conf").chmod(0o600)
    monkeypatch.setattr(
        sys, "argv", ["caso", verb, "--config-file", str(root / "caso.conf"), *flags]
    )
    status = control.main()
    return status, capsys.readouterr().out.splitlines()


def test_checkpoints_are_reported_with_their_age(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caso").mkdir()
    moment = datetime.now(UTC) - timedelta(hours=2, seconds=30)
    (tmp_path / "caso/lastrun.ops").write_text(str(moment))  # as cASO writes it
    status, lines = shown(tmp_path, capsys, monkeypatch)
    assert status == 0
    assert lines[0].startswith(
        f"lastrun.ops: accounted up to {moment:%Y-%m-%d %H:%M:%S}+00:00, 2:00:3"
    )


def test_broken_files_and_waiting_batches_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caso").mkdir()
    (tmp_path / "caso/lastrun.ops").write_text("")
    (tmp_path / "caso/lastrun.dir").mkdir()
    status, lines = shown(tmp_path, capsys, monkeypatch)
    assert (status, lines) == (
        1,
        ["lastrun.dir: cannot be read: is a directory", "lastrun.ops: has no time"],
    )


def test_foreign_names_in_the_staging_area_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-H1: the administrator reads the lines of the next run before it."""
    area = Staging(tmp_path / "out", Checkpoints(tmp_path / "caso")).path
    foreign.make(area)
    (area / "p.foreign").mkdir()
    status, lines = shown(tmp_path, capsys, monkeypatch)
    assert status == 1
    assert f"{area}/pipe: skipped: is a pipe; if nobody needs it: rm {area}/pipe" in lines
    assert any(
        line.startswith(f"{area}/p.foreign: another program made it, or a file in it")
        for line in lines
    )


def test_the_configuration_alone_can_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "caso").mkdir()
    (tmp_path / "caso/lastrun.ops").write_text("")
    status, lines = shown(tmp_path, capsys, monkeypatch, "--check-config")
    assert (status, lines[0]) == (0, "configuration is good")


@pytest.mark.parametrize("verb", ["projects", "mapping-migrate"])
def test_the_other_programs_of_caso_are_verbs(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They read the same configuration; without --nodry-run a migration only prints commands."""
    (tmp_path / "voms.json").write_text('{"ops": {"projects": ["p1"]}}')
    mapping = ("--mapping-file", str(tmp_path / "voms.json"))
    if verb == "mapping-migrate":
        status, lines = shown(tmp_path, capsys, monkeypatch, *mapping, verb=verb)
        assert (status, lines) == (0, ["openstack project set --property VO=ops p1"])
    status, lines = shown(tmp_path, capsys, monkeypatch, *mapping, "--check-config", verb=verb)
    assert (status, lines[0]) == (0, "configuration is good")
