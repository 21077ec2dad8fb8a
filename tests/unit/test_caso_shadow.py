"""The directory of a shadow: what it copies, what it keeps, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run.errors import Busy, LocalFailure
from caso import quarantine
from caso.cmds import control
from caso.shadow.directory import Shadow, SiteFiles
from tests.unit.test_caso_control import CONFIG
from tests.wire.test_cloud import FULL

_NOW = timedelta(0)
_HOLD = """
import sys
from pathlib import Path
from appliance.core.run.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def site(tmp_path: Path) -> SiteFiles:
    """Return the files of a site on which cASO has run."""
    state, spool = tmp_path / "caso", tmp_path / "out"
    state.mkdir()
    (state / "lastrun.ops").write_text("2026-11-22 07:22:42.712270+00:00")
    (state / "lastrun.biomed").write_text("2026-11-22 08:00:00+00:00")
    (state / "other").write_text("not a checkpoint")
    return SiteFiles(state, spool, state / "caso_should_not_run_in_parallel")


def add(site: SiteFiles, number: int) -> Path:
    """Put a message into the spool, as cASO does."""
    directory = site.spool / "6921f000"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"6921f0{number:02x}000000"
    path.write_text(f"message {number}")
    return path


def tree(path: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(one.relative_to(path)): (one.read_bytes(), one.stat().st_mtime_ns, one.stat().st_mode)
        for one in sorted(path.rglob("*"))
        if one.is_file()
    }


def kept(shadow: Shadow) -> list[str]:
    return [path.read_text() for path in sorted(shadow.theirs.glob("*/*"))]


def test_checkpoints_are_copied_once(site: SiteFiles, tmp_path: Path) -> None:
    assert not Shadow(tmp_path / "shadow").has_begun
    shadow = Shadow(tmp_path / "shadow")
    before = tree(site.state)
    shadow.begin(site, wait=_NOW)
    assert tree(site.state) == before
    assert {path.name for path in shadow.state.iterdir()} == {"lastrun.ops", "lastrun.biomed"}
    assert (shadow.state / "lastrun.ops").read_text() == "2026-11-22 07:22:42.712270+00:00"
    assert shadow.has_begun
    assert shadow.begun() == datetime(2026, 11, 22, 8, tzinfo=UTC)


def test_messages_are_kept_when_the_sender_takes_them_away(site: SiteFiles, tmp_path: Path) -> None:
    """Those that were there at the beginning belong to runs before the checkpoints."""
    shadow = Shadow(tmp_path / "shadow")
    first = add(site, 1)
    shadow.begin(site, wait=_NOW)
    second = add(site, 2)
    assert second.parent.joinpath(f"{second.name}.tmp").write_text("being written")
    assert shadow.keep(site.spool).linked == 1
    assert shadow.keep(site.spool).linked == 0
    first.unlink()
    second.unlink()
    add(site, 3)
    assert shadow.keep(site.spool).linked == 1
    assert kept(shadow) == ["message 2", "message 3"]


def test_a_beginning_that_was_cut_off_is_repeated(site: SiteFiles, tmp_path: Path) -> None:
    """The note is written last; without it, nothing has begun."""
    shadow = Shadow(tmp_path / "shadow")
    shadow.begin(site, wait=_NOW)
    (tmp_path / "shadow/shadow.json").unlink()
    (site.state / "lastrun.ops").write_text("2026-11-23 00:00:00+00:00")
    again = Shadow(tmp_path / "shadow")
    assert not again.has_begun
    again.begin(site, wait=_NOW)
    assert (again.state / "lastrun.ops").read_text() == "2026-11-23 00:00:00+00:00"


def test_a_broken_checkpoint_is_copied_as_it_is(site: SiteFiles, tmp_path: Path) -> None:
    """cASO skips such a project; our run reports it, and accounts the others."""
    (site.state / "lastrun.biomed").write_text("")
    shadow = Shadow(tmp_path / "shadow")
    shadow.begin(site, wait=_NOW)
    assert (shadow.state / "lastrun.biomed").read_text() == ""
    assert shadow.begun() == datetime(2026, 11, 22, 7, 22, 42, 712270, tzinfo=UTC)


def test_a_checkpoint_that_cannot_be_read_stops_the_beginning(
    site: SiteFiles, tmp_path: Path
) -> None:
    """Without it the shadow would account the whole history of the project."""
    (site.state / "lastrun.dir").mkdir()
    with pytest.raises(LocalFailure, match=r"lastrun\.dir: is a directory"):
        Shadow(tmp_path / "shadow").begin(site, wait=_NOW)
    assert not (tmp_path / "shadow/shadow.json").exists()


def test_a_site_without_checkpoints(tmp_path: Path) -> None:
    shadow = Shadow(tmp_path / "shadow")
    shadow.begin(SiteFiles(tmp_path / "a", tmp_path / "b", tmp_path / "a/lock"), wait=_NOW)
    assert shadow.begun() is None
    assert shadow.keep(tmp_path / "b").linked == 0


@pytest.fixture
def running(site: SiteFiles) -> Iterator[subprocess.Popen[str]]:
    """Yield a cASO that runs: it holds its lock until its input ends."""
    command = [sys.executable, "-c", textwrap.dedent(_HOLD), str(site.lock)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process


def test_it_does_not_begin_while_caso_runs(
    site: SiteFiles, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Checkpoints move before the messages of the run come."""
    content = site.lock.read_bytes()
    shadow = Shadow(tmp_path / "shadow")
    with pytest.raises(Busy, match="cASO is running since"):
        shadow.begin(site, wait=_NOW)
    assert site.lock.read_bytes() == content
    running.communicate("")
    shadow.begin(site, wait=_NOW)
    assert shadow.has_begun


def test_a_foreign_name_in_the_spool_is_reported(site: SiteFiles, tmp_path: Path) -> None:
    shadow = Shadow(tmp_path / "shadow")
    shadow.begin(site, wait=_NOW)
    good = add(site, 1)
    good.with_name("6921f0aa000000").mkdir()
    found = shadow.keep(site.spool)
    assert found.linked == 1
    assert ["is a directory" in str(failure) for failure in found.failures] == [True]


def test_our_records_that_were_set_aside_are_evidence(tmp_path: Path) -> None:
    shadow = Shadow(tmp_path / "shadow")
    assert shadow.set_aside() == frozenset()
    directory = shadow.state / "quarantine"
    record = replace(FULL, vm_uuid="8d8ff1a5-3f2c")
    quarantine.set_aside(directory, key="k", reason="r", text="t", kind="cloud", record=record)
    quarantine.set_aside(directory, key="v", reason="r", text="t", kind="storage", record=record)
    (directory / "README").touch()
    assert shadow.set_aside() == {("8d8ff1a5-3f2c", f"{FULL.measured:%Y-%m}")}


def test_servers_without_a_launch_are_kept(site: SiteFiles, tmp_path: Path) -> None:
    """Before the first time Nova is asked from the earliest checkpoint on."""
    shadow = Shadow(tmp_path / "shadow")
    shadow.begin(site, wait=_NOW)
    first = datetime(2026, 11, 22, 7, 22, 42, 712270, tzinfo=UTC)
    assert shadow.unlaunched() == (first, set())
    asked = datetime(2026, 11, 23, tzinfo=UTC)
    shadow.note_unlaunched(asked, {"b", "a"})
    assert shadow.unlaunched() == (asked, {"a", "b"})
    for text in ("", "[]", '{"asked": 1}', '{"asked": "x", "servers": []}'):
        (tmp_path / "shadow/unlaunched.json").write_text(text)
        assert shadow.unlaunched() == (first, set())


def test_a_configuration_without_messages_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "caso.conf"
    path.write_text(CONFIG.format(tmp_path).replace("messengers = ssm", "messengers = noop"))
    path.chmod(0o600)
    (tmp_path / "caso").mkdir()
    flags = ["--config-file", str(path), "--directory", str(tmp_path / "shadow")]
    monkeypatch.setattr(sys, "argv", ["caso", "shadow", *flags])
    assert control.main() == 2
    assert "the configuration has no ssm, so there are no messages" in capsys.readouterr().err
    assert not (tmp_path / "shadow").exists()
