"""A restore killed at each system call, finished by the next run."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin import account
from appliance.admin.command import main
from appliance.admin.install.ownership import PLACES
from tests.e2e.killpoints import Command, KillMatrix
from tests.unit import backup_site

pytestmark = [pytest.mark.root, pytest.mark.programs("strace")]

CALLS = ("fsync", "rename", "renameat2", "unlink", "mkdir")


@pytest.fixture
def hosts() -> Iterator[Path]:
    """Return a directory that the account can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    "sample", [pytest.param(2, id="two"), pytest.param(None, id="all", marks=pytest.mark.matrix)]
)
def test_a_killed_restore_is_finished_by_the_next(
    sample: int | None, hosts: Path, tmp_path: Path
) -> None:
    site = backup_site.make(tmp_path / "site")
    backup, new = tmp_path / "backup", hosts / "new"
    assert main(["backup", "--root", str(site), "--unencrypted", str(backup)]) == 0

    def prepare() -> Command:
        shutil.rmtree(new, ignore_errors=True)
        for name in PLACES:
            path = new / name.lstrip("/")
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, account.ID, account.ID)
        backup_site.put(new / "var/lib/fedcloud/version", "1.0.0\n")
        # An older state: it is kept aside, and its journal must not meet the new ledger.
        backup_site.ledger(new / "var/lib/fedcloud/caso/ledger.sqlite", {"vm-1": 60})
        words = ["--root", str(new), "--replace-older-state", "--apply"]
        program = "from appliance.admin.command import main; import sys; sys.exit(main())"
        return Command([sys.executable, "-c", program, "restore", str(backup), *words])

    def verify() -> None:
        found = files_of(new)
        wanted = files_of(site)
        assert {name: found.get(name) for name in wanted} == wanted
        assert not (new / "var/lib/fedcloud/restore.json").exists()
        assert not [*new.rglob("*.tmp")]

    KillMatrix(prepare, verify, syscalls=CALLS).run(sample=sample, seed=20261130)


def files_of(root: Path) -> dict[str, bytes]:
    """Return messages, checkpoints and configuration."""
    tops = ("var/spool", "etc/caso", "etc/apel", "var/lib/fedcloud/caso")
    return {
        str(path.relative_to(root)): path.read_bytes()
        for top in tops
        for path in (root / top).rglob("*")
        if path.is_file() and not path.name.endswith((".lock", ".sqlite"))
    }
