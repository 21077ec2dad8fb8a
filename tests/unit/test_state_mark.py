"""The mark of a site's state: a directory that is empty where it was not is refused (R19)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin import settings
from appliance.admin.command import main
from appliance.admin.install.__main__ import PROGRAM as INSTALLER
from appliance.admin.state import mark
from appliance.core.run import cli
from appliance.core.run.layout import Layout
from tests import documents
from tests.unit import backup_site
from tests.unit.backup_site import put

pytestmark = pytest.mark.root

STATE, OF_HOST = "var/lib/fedcloud", "opt/fedcloud/state-id"
OF_STATE = f"{STATE}/state-id"
LEDGER = f"{STATE}/caso/ledger.sqlite"
LOST, FOREIGN = "lacks the state that this host has had since", "is the state of another"


@pytest.fixture
def host() -> Iterator[Path]:
    """Return a site with state, in a directory that the account can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = backup_site.make(Path(name) / "host")
        yield root


@pytest.fixture
def marked(host: Path) -> Path:
    """Return a site that the installer of this release has marked."""
    assert mark.establish(Layout(host))
    return host


def call(root: Path, *words: str) -> int:
    return main([words[0], "--root", str(root), *words[1:]])


def ids(root: Path) -> list[str]:
    """Return the id in the state, and those that the host has had."""
    lines = [
        *(root / OF_STATE).read_text().splitlines(),
        *(root / OF_HOST).read_text().splitlines(),
    ]
    for line in lines:
        assert re.fullmatch(r"[0-9a-f]{16} \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line)
    return [line.split()[0] for line in lines]


def empty(root: Path) -> Path:
    """Unmount the state: the directory is there and empty. Return where the volume is."""
    volume = root.parent / "volume"
    (root / STATE).rename(volume)
    (root / STATE).mkdir()
    return volume


def remount(volume: Path, root: Path) -> None:
    shutil.rmtree(root / STATE)
    shutil.copytree(volume, root / STATE)
    for path in (root / STATE).rglob("*"):
        source = (volume / path.relative_to(root / STATE)).stat()
        os.chown(path, source.st_uid, source.st_gid)


def test_a_first_installation(tmp_path: Path) -> None:
    assert mark.establish(Layout(tmp_path))
    state, of_host = ids(tmp_path)
    assert state == of_host
    assert (tmp_path / OF_STATE).stat().st_mode & 0o777 == 0o644
    assert not mark.establish(Layout(tmp_path))
    assert ids(tmp_path) == [state, state]


def test_an_upgrade_of_a_release_without_marks(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(host, "state") == 0
    assert "has no mark" in capsys.readouterr().out
    before = backup_site.snapshot(host)
    mark.require(Layout(host))
    assert backup_site.snapshot(host) == before
    assert mark.establish(Layout(host))
    assert len(set(ids(host))) == 1
    assert call(host, "state") == 0


REFUSED = {
    "a job": ("run", "caso"),
    "a verb of a job": ("run", "caso", "--", "gaps"),
    "the check of a job": ("run", "caso", "--check-config"),
    "a check": ("check",),
    "a start": ("start",),
    "a schedule": ("schedule", "cron"),
    "a date": ("schedule", "--since", "2026-01-01"),
    "a flow": ("flows", "--on", "images"),
    "a backup": ("backup", "--unencrypted", "/tmp/none"),
    "the state": ("state",),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_an_unmounted_state_is_refused(
    marked: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    volume = empty(marked)
    words = tuple(word.replace("/tmp", str(tmp_path)) for word in words)
    assert call(marked, *words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in (out + err).splitlines() if line]
    assert len(lines) == 1
    assert f"{marked / STATE}: {LOST}" in lines[0]
    assert "mount its volume" in lines[0]
    assert "appliance state --accept" in lines[0]
    # Nothing that a later run could take for the site's memory; a record says that it failed.
    left = {path.name for path in (marked / STATE).rglob("*") if path.is_file()}
    assert left <= {"job-caso.json", "job-caso.prom"}
    remount(volume, marked)
    assert call(marked, "state") == 0


@pytest.mark.parametrize("is_native", [False, True])
def test_an_emptied_state_of_a_host_without_containers_too(
    marked: Path, is_native: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What says that there are no containers is in the state, and was lost with it."""
    if is_native:
        put(marked / settings.RUNTIME_FILE[1:], "native\n")
    for path in [*(marked / STATE).iterdir()]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for job in ("caso", "ssmsend", "cloudkeeper"):
        assert call(marked, "run", job) == (0 if job == "cloudkeeper" else 2)
    assert LOST in capsys.readouterr().err
    record = json.loads((marked / STATE / "runs/jobs/job-caso.json").read_text())
    assert LOST in str(record["failures"])


def test_services_are_not_started(marked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty(marked)
    assert main(["service", "prepare", "bdii", "--root", str(marked)]) == 0
    assert LOST in capsys.readouterr().err
    # What the unit has as RestartPreventExitStatus.
    with pytest.raises(SystemExit) as ended:
        main(["service", "run", "bdii", "--root", str(marked)])
    assert ended.value.code == 78
    assert LOST in capsys.readouterr().err


def bundle(folder: Path) -> Path:
    for name in ("SHA256SUMS", "images.lock", "requirements.txt", "files/docker-compose.yml"):
        put(folder / name, "")
    return folder


def test_an_installation_does_not_make_a_new_site(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty(marked)
    before = backup_site.snapshot(marked)
    words = ["--root", str(marked), str(bundle(tmp_path / "bundle"))]
    assert cli.main(INSTALLER, words) == 2
    assert LOST in capsys.readouterr().err
    assert backup_site.snapshot(marked) == before


def test_an_empty_state_is_accepted(marked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ids(marked)[0]
    volume = empty(marked)
    (command,) = documents.block("restore.md", "accept").commands()
    assert call(marked, *shlex.split(command)[1:]) == 0
    out = capsys.readouterr().out
    assert "accepted as the state of this host" in out
    assert "run the bundle's install again" in out
    second, *kept = ids(marked)
    assert second != first
    assert kept == [first, second]
    assert call(marked, "state") == 0
    mark.require(Layout(marked))
    assert not mark.establish(Layout(marked))
    # The volume that was given up comes back: it is not taken for the new one.
    remount(volume, marked)
    capsys.readouterr()
    assert call(marked, "run", "caso") == 2
    assert FOREIGN in capsys.readouterr().err
    assert call(marked, "state", "--accept") == 0
    assert ids(marked) == [first, first, second, first]
    # Accepted twice: nothing to do.
    assert call(marked, "state", "--accept") == 0
    assert ids(marked) == [first, first, second, first]


def test_the_state_of_another_host_is_refused(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    mark.establish(Layout(other))
    shutil.copy(other / OF_STATE, marked / OF_STATE)
    for words in (("run", "caso"), ("state",), ("check",)):
        assert call(marked, *words) == 2
        err = capsys.readouterr().err
        assert f"{FOREIGN} installation, {ids(other)[0]}" in err
        assert "appliance state --accept" in err
    assert call(marked, "state", "--accept") == 0
    assert ids(marked)[0] == ids(marked)[-1] == ids(other)[0]


def test_a_volume_comes_to_a_new_host(marked: Path, tmp_path: Path) -> None:
    """It is mounted before the installation, which has no mark of its own to compare."""
    new = tmp_path / "new"
    shutil.copytree(marked / STATE, new / STATE)
    mark.require(Layout(new))
    assert mark.establish(Layout(new))
    assert set(ids(new)) == set(ids(marked))


def test_a_restore_on_the_host_that_has_lost_it(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "plain")
    assert call(marked, "backup", "--unencrypted", target) == 0
    own = ids(marked)[0]
    ledger = (marked / LEDGER).stat().st_size
    shutil.rmtree(marked / STATE)
    assert call(marked, "restore", target) == 0
    assert not (marked / STATE).exists()
    assert call(marked, "restore", target, "--apply") == 0
    assert "run the bundle's install again" in capsys.readouterr().out
    assert ids(marked) == [own, own]
    assert (marked / LEDGER).stat().st_size == ledger
    assert call(marked, "state") == 0


def test_a_restore_on_another_host_keeps_the_mark_of_that(
    marked: Path, host: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, new = str(tmp_path / "plain"), host.parent / "new"
    assert call(marked, "backup", "--unencrypted", target) == 0
    put(new / STATE / "version", "1.0.0\n")
    mark.establish(Layout(new))
    own = ids(new)[0]
    assert own != ids(marked)[0]
    assert call(new, "restore", target, "--apply") == 0
    assert ids(new) == [own, own]
    # Its directory is that of a third host: no restore writes there.
    (new / OF_STATE).write_text((marked / OF_STATE).read_text())
    capsys.readouterr()
    assert call(new, "restore", target, "--apply") == 2
    assert FOREIGN in capsys.readouterr().err


@pytest.mark.parametrize("name", [OF_STATE, OF_HOST])
@pytest.mark.parametrize("text", ["", "\x00\x00\n", "0123456789abcdef\n", "x" * 10**5])
def test_a_damaged_mark(
    marked: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (marked / name).write_text(text)
    assert call(marked, "run", "caso") in (2, 3)
    err = capsys.readouterr().err
    assert str(marked / name) in err
    assert "Traceback" not in err
    if len(text) < 10**5:
        assert "appliance state --accept" in err
        assert call(marked, "state", "--accept") == 0
        assert call(marked, "state") == 0


def test_an_installation_that_was_killed_between_the_marks(tmp_path: Path) -> None:
    """The state is marked first, so the next one finds a volume of a host without a mark."""
    mark.establish(Layout(tmp_path))
    (tmp_path / OF_HOST).unlink()
    mark.require(Layout(tmp_path))
    assert mark.establish(Layout(tmp_path))
    assert len(set(ids(tmp_path))) == 1


def test_an_acceptance_that_was_killed_between_the_marks(marked: Path) -> None:
    before = (marked / OF_HOST).read_text()
    empty(marked)
    assert call(marked, "state", "--accept") == 0
    (marked / OF_HOST).write_text(before)
    assert call(marked, "run", "caso") == 2
    assert call(marked, "state", "--accept") == 0
    assert call(marked, "state") == 0


def test_the_file_of_the_host_does_not_grow_without_end(marked: Path) -> None:
    for _ in range(60):
        (marked / OF_STATE).unlink()
        mark.accept(Layout(marked))
    assert len((marked / OF_HOST).read_text().splitlines()) == 50
    mark.require(Layout(marked))
