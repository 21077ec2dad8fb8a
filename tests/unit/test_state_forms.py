"""`appliance upgrade --check` on the state: from, to, and whether there is a way back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.upgrade import state_forms
from appliance.core import state_tables
from appliance.core.state_tables import StateForm
from appliance.core.version import __version__
from caso.ledger import schema
from tests.testbed import bundle as bundles
from tests.unit import backup_site
from tests.unit.upgrade_site import NEWER, make_bundles, make_host

pytestmark = [pytest.mark.root, pytest.mark.programs("openssl")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles")
    make_bundles(directory)
    return directory


@pytest.fixture
def lines(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Return a function that checks a bundle with changed forms, and returns its lines on state."""
    host, bundle = tmp_path / "host", tmp_path / "newer"
    make_host(host, made)
    backup_site.ledger(host / "var/lib/fedcloud/caso/ledger.sqlite", {"vm-1": 3600})
    backup_site.journal(host / "var/lib/fedcloud/ssm/sent.sqlite", {"vm-1": 3600})
    shutil.copytree(made / f"fedcloud-appliance-{NEWER}", bundle)

    def check(**changes: dict[str, int]) -> list[str]:
        path = bundle / state_tables.BUNDLE_FILE
        forms = json.loads(path.read_text())
        changed = [one | changes.get(one["name"].replace(" ", "_"), {}) for one in forms]
        path.write_text(json.dumps(changed))
        bundles.seal(bundle, key=made / "key.pem")
        before = backup_site.snapshot(host)
        assert main(["upgrade", "--check", "--from", str(bundle), "--root", str(host)]) == 1
        assert backup_site.snapshot(host) == before
        names = (*(one["name"] for one in forms), "state")
        shown = capsys.readouterr().out.splitlines()
        return [line for line in shown if line.startswith(names)]

    return check


def test_the_versions_are_those_of_the_programs() -> None:
    assert len(schema.STEPS) == state_tables.LEDGER
    assert state_tables.read(state_tables.text()) == state_tables.FORMS


def test_nothing_changes(lines: Callable[..., list[str]]) -> None:
    assert lines() == [
        "ledger: 1 -> 1; a way back changes nothing",
        f"memory: none -> 3; after a way back {__version__} makes its own again",
        "sent journal: 1 -> 1; a way back changes nothing",
        f"run records: none -> 1; after a way back {__version__} leaves it alone",
    ]


def test_tables_that_change(lines: Callable[..., list[str]]) -> None:
    found = lines(ledger={"version": 2}, sent_journal={"version": 3, "readable_by": 2})
    assert found[0] == f"ledger: 1 -> 2; after a way back {__version__} reads it as it is"
    words = f"NO WAY BACK after the first run: {__version__} cannot read it"
    assert found[2] == f"sent journal: 1 -> 3; {words}"


def test_a_bundle_of_a_release_without_forms(made: Path, tmp_path: Path) -> None:
    assert state_forms.of_bundle(tmp_path) == ()
    (tmp_path / state_tables.BUNDLE_FILE).write_text('[{"name": "ledger"}]')
    assert state_forms.of_bundle(tmp_path) == ()


@pytest.mark.parametrize(
    ("form", "is_refused"),
    [
        (StateForm("ledger", "/ledger", 2, 2), True),
        (StateForm("ledger", "/ledger", 2, 1), False),
        (StateForm("ledger", "/ledger", 2, 2, is_remade=True), False),
        (StateForm("ledger", "/another", 2, 1), True),
        (StateForm("ledger", "/ledger", 1, 1), True),
    ],
)
def test_a_way_back_from_newer_tables(
    form: StateForm, *, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_forms, "_FORMS", (form,))
    assert state_forms.prevents_way_back("/ledger", 2, 1) is is_refused
    assert not state_forms.prevents_way_back("/ledger", 1, 1)


def test_a_memory_of_another_release_is_remade(tmp_path: Path) -> None:
    """The claim of the table: the program replaces it."""
    from caso.memory.store import MemoryFile

    path = tmp_path / "memory.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE of_tomorrow (id)")
    memory = MemoryFile(path)
    with memory.transaction() as opened:
        assert opened is not None
    memory.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (state_tables.MEMORY,)
