"""C50: what the services of the BDII and the records of its cycles say, and once healed nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.admin.check import information
from appliance.admin.check.probe import CheckedSite
from appliance.admin.runtime import native
from appliance.core.run.record import RunRecord
from bdii.service.cycle import Updater
from bdii.sources.last_good import Waiting
from tests.unit.test_check_host import rows, site

pytestmark = pytest.mark.root


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckedSite:
    """Return a site whose resource BDII runs, as a stand-in of systemctl says."""
    monkeypatch.setattr(native, "_SYSTEMCTL", str(tmp_path / "systemctl"))
    show(tmp_path, "activating")
    return site(tmp_path)


def show(root: Path, state: str) -> None:
    """Let systemctl say a state; a unit is activating while its program waits for an answer."""
    program = root / "systemctl"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in *cloudbdii.service*) echo LoadState=loaded; echo UnitFileState=enabled\n'
        f"echo ActiveState={state};; *) echo LoadState=not-found;; esac\n"
    )
    program.chmod(0o755)


def cycle(made: CheckedSite, *failures: str, **counts: float) -> Path:
    """Write the record of a cycle that has just ended."""
    record = RunRecord("bdii-resource")
    record.counts |= {"entries": 9, "entries_stale": 0, "deletions_waiting": 0} | counts
    for line in failures:
        record.fail(line)
    directory = made.layout.runs / "bdii"
    record.write(directory)
    return directory / "bdii-resource.json"


def test_a_service_that_does_not_run(served: CheckedSite) -> None:
    """C50.a, with the reason of the last cycle."""
    cycle(served, "slapd cannot be started: the port is in use")
    assert list(information.find(served)) == []
    show(served.layout.root, "failed")
    (found,) = information.find(served)
    assert (found.identifier, found.option, found.is_error) == ("C50.a", "cloudbdii", True)
    assert "see systemctl status " in found.text
    assert "slapd cannot be started: the port is in use" in found.text
    show(served.layout.root, "active")  # it runs, and nobody listens
    (found,) = information.find(served)
    assert (found.identifier, found.option) == ("C50.a", "cloudbdii")
    assert "does not answer" in found.text
    show(served.layout.root, "activating")
    assert list(information.find(served)) == []


def test_cycles_that_have_stopped(served: CheckedSite) -> None:
    """C50.d: after two cycles, which the configuration may make longer."""
    path = cycle(served)
    served.now += timedelta(minutes=13)
    assert list(information.find(served)) == []
    served.now += timedelta(minutes=3)
    (found,) = information.find(served)
    assert rows([found]) == [("C50.d", str(path), 0)]
    assert "restart cloudbdii" in found.text
    configuration = served.layout.path("/etc/bdii/bdii.conf")
    configuration.parent.mkdir(parents=True)
    configuration.write_text("BDII_BREATHE_TIME=600\n")
    assert list(information.find(served)) == []


def test_entries_that_are_stale(served: CheckedSite) -> None:
    """C50.e: a warning, with the reason."""
    path = cycle(served, "provider: VO ops: no role", entries_stale=7)
    (found,) = information.find(served)
    assert rows([found]) == [("C50.e", str(path), 0)]
    assert not found.is_error
    assert found.text.startswith("7 entries are stale: provider: VO ops: no role; ")
    cycle(served, deletions_waiting=1)  # as after each removal in the cloud
    assert list(information.find(served)) == []


def test_a_shrink_that_is_held(served: CheckedSite) -> None:
    """C50.e: by the line of the cycle, as the service writes it."""
    cloud = _result_of_a_held_shrink()
    path = cycle(served, *cloud, deletions_waiting=6)
    (found,) = information.find(served)
    assert rows([found]) == [("C50.e", str(path), 0)]
    assert "6 of 9 entries would be deleted at once: kept until" in found.text


def _result_of_a_held_shrink() -> list[str]:
    """Return the problems of a cycle of the service itself."""
    updater = SimpleNamespace(
        settings=SimpleNamespace(shrink_hold=timedelta(hours=1)), published=range(9)
    )
    collected = SimpleNamespace(last={}, unheard=(), waiting=Waiting(6, is_held=True), problems=())
    return list(Updater._result(cast("Any", updater), cast("Any", collected)).problems)
