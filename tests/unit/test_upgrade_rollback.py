"""`appliance upgrade --rollback`: what is selected, and when there is no way back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.install.plan import digest
from appliance.admin.install.record import InstallRecord
from tests.unit import backup_site
from tests.unit.backup_site import put

pytestmark = pytest.mark.root

LEDGER = "var/lib/fedcloud/caso/ledger.sqlite"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return a host that was upgraded from 1.0.0 to 99.0."""
    root = backup_site.make(tmp_path / "host")
    for version in ("1.0.0", "99.0"):
        put(root / f"opt/fedcloud/{version}-0123/bin/appliance", "", 0o755)
        (root / "opt/fedcloud" / version).symlink_to(f"{version}-0123")
    put(root / "var/lib/fedcloud/version", "99.0\n")
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/appliance").symlink_to("/opt/fedcloud/99.0/bin/appliance")
    record = {
        "before": "1.0.0",
        "after": "99.0",
        "state": "done",
        "tables": {f"/{LEDGER}": 1, "/var/lib/fedcloud/ssm/sent.sqlite": 1},
        "faults": [],
    }
    put(root / "var/lib/fedcloud/upgrade.json", json.dumps(record))
    return root


def go_back(host: Path, *words: str) -> int:
    return main(["upgrade", "--rollback", "--root", str(host), *words])


def test_only_the_choice_of_a_version_changes(
    host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = backup_site.snapshot(host)
    assert go_back(host, "--check") == 1
    assert backup_site.snapshot(host) == before
    assert go_back(host) == 0
    after = backup_site.snapshot(host)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"var/lib/fedcloud/upgrade.json", "var/lib/fedcloud/version"}
    link = (host / "usr/local/bin/appliance").readlink()
    assert str(link) == "/opt/fedcloud/1.0.0/bin/appliance"
    assert (host / "var/lib/fedcloud/version").read_text() == "1.0.0\n"
    assert go_back(host) == 0
    assert "nothing to undo" in capsys.readouterr().out


def test_a_killed_way_back_is_finished(host: Path) -> None:
    """Killed when only the version had been written."""
    put(host / "var/lib/fedcloud/version", "1.0.0\n")
    assert go_back(host) == 0
    link = (host / "usr/local/bin/appliance").readlink()
    assert str(link) == "/opt/fedcloud/1.0.0/bin/appliance"


def test_replaced_files_come_back_unless_edited(host: Path) -> None:
    """Each is as the newer version ships it, but for one that was edited since."""
    kept = host / "var/lib/fedcloud/upgrade/files"
    shipped = {}
    for name in ("etc/caso/caso.conf", "etc/apel/sender.cfg"):
        put(kept / name, "of 1.0.0\n")
        put(host / name, "of 99.0\n")
        shipped[f"/{name}"] = [digest(b"of 99.0\n")]
    put(host / "etc/apel/sender.cfg", "edited\n")
    record = host / "var/lib/fedcloud/install.json"
    InstallRecord("99.0", "0" * 64, shipped).write(record)
    for _ in range(2):
        assert go_back(host) == 0
        assert (host / "etc/caso/caso.conf").read_text() == "of 1.0.0\n"
        assert (host / "etc/apel/sender.cfg").read_text() == "edited\n"
    # The next installation sees a text of ours, and replaces it.
    assert digest(b"of 1.0.0\n") in InstallRecord.read(record).shipped["/etc/caso/caso.conf"]


def _newer_tables(host: Path) -> None:
    with sqlite3.connect(host / LEDGER) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


def _no_programs(host: Path) -> None:
    (host / "opt/fedcloud/1.0.0").unlink()


def _by_hand(host: Path) -> None:
    put(host / "var/lib/fedcloud/version", "100.0\n")


def _no_record(host: Path) -> None:
    (host / "var/lib/fedcloud/upgrade.json").unlink()


def _bad_record(host: Path) -> None:
    put(host / "var/lib/fedcloud/upgrade.json", "[]")


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (_newer_tables, 3, "has tables of version 2, and 1.0.0 knows 1"),
        (_no_programs, 3, "is not complete here any more"),
        (_by_hand, 2, "100.0 is in use"),
        (_no_record, 2, "no upgrade was made"),
        (_bad_record, 2, "is not the record of an upgrade"),
    ],
)
def test_no_way_back(
    spoil: Callable[[Path], None],
    status: int,
    words: str,
    host: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Among them a ledger that the version before cannot read."""
    spoil(host)
    before = backup_site.snapshot(host)
    for flags in ((), ("--check",)):
        assert go_back(host, *flags) == status
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert backup_site.snapshot(host) == before


def test_flags_that_contradict(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--root", str(host)]) == 2
    assert "needs one of --from BUNDLE and --rollback; add one" in capsys.readouterr().err
    assert go_back(host, "--from", "/nonexistent") == 2
    assert "--rollback: contradicts --from BUNDLE; leave out one" in capsys.readouterr().err
