import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from caso.checkpoint import Checkpoints
from caso.cmds import control
from caso.messengers.batch import Staging
from caso.run import LOCK_NAME
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
        sys, "argv", ["caso", *verb.split(), "--config-file", str(root / "caso.conf"), *flags]
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


def test_a_purge_waits_for_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a listing that the run has not finished would be removed. Locks are a process's."""
    code = (
        "import sys; from pathlib import Path; from appliance.core.run import lock\n"
        "with lock.hold(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    )
    monkeypatch.setattr("caso.run.LOCK_WAIT", timedelta(0))
    path = tmp_path / "caso" / LOCK_NAME
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert shown(tmp_path, capsys, monkeypatch, verb="ledger purge") == (1, [])
        status, lines = shown(tmp_path, capsys, monkeypatch, "--dry-run", verb="ledger purge")
        holder.communicate()
    assert (status, lines[0].partition(" ")[0]) == (0, "months")
    status, lines = shown(tmp_path, capsys, monkeypatch, verb="ledger purge")
    assert (status, lines[0].partition(" ")[0]) == (0, "0")
