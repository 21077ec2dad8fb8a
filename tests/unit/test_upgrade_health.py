"""An upgrade on a booted host: services that are not healthy afterwards, and those to start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from appliance.admin.install import host
from appliance.admin.machine import Machine
from appliance.admin.settings import Host, load
from appliance.admin.upgrade import health, record, rollback
from appliance.admin.upgrade.record import UpgradeRecord
from appliance.core.run.layout import Layout
from tests.simulators import docker_engine
from tests.simulators.docker_engine import Engine

SYSTEMCTL = """\
#!/bin/sh
case "$1:$3" in {states}) exit 0 ;; esac
exit 1
"""


def machine(directory: Path, *states: str) -> Machine:
    """Return a machine whose systemctl answers yes to these questions, ``is-active:bdii``."""
    directory.mkdir(exist_ok=True)
    (directory / "systemctl").write_text(SYSTEMCTL.format(states="|".join(states)))
    (directory / "systemctl").chmod(0o755)
    return Machine(path=f"{directory}:/usr/bin:/bin")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Return the engine of this host, where bdii.service is active."""
    etc = tmp_path / "etc/fedcloud"
    etc.mkdir(parents=True)
    found = machine(tmp_path / "bin", "is-active:bdii")
    monkeypatch.setattr(health, "Machine", lambda: found)

    def load_here(_layout: Layout) -> Host:
        return load(Layout(tmp_path))

    monkeypatch.setattr("appliance.admin.settings.load", load_here)
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as served,
    ):
        (etc / "appliance.yaml").write_text(f"engine:\n  socket: {served.socket}\n")
        yield served


def add(engine: Engine, service: str, state: str, health: str) -> None:
    project = {"com.docker.compose.project": "fedcloud", "com.docker.compose.service": service}
    states: Mapping[str, object] = {"Status": state, "Health": {"Status": health}}
    engine.add(f"fedcloud_{service}_1", labels=project, state=states)


def unwell(engine: Engine) -> Sequence[str]:
    return list(health._unwell(Layout(Path("/"))).values())


def test_containers_that_are_not_healthy(engine: Engine) -> None:
    """The unit is active while the engine restarts a container again and again."""
    add(engine, "cloudbdii", "running", "healthy")
    add(engine, "sitebdii", "running", "starting")
    assert unwell(engine) == []
    add(engine, "cloudbdii", "running", "unhealthy")
    add(engine, "sitebdii", "restarting", "starting")
    assert unwell(engine) == [
        "the container of cloudbdii is running and unhealthy; see appliance logs cloudbdii",
        "the container of sitebdii is restarting and starting; see appliance logs sitebdii",
    ]


def test_containers_of_a_unit_that_does_not_run(engine: Engine) -> None:
    add(engine, "cloudkeeper-os", "exited", "unhealthy")
    assert unwell(engine) == []


def test_an_engine_that_does_not_answer(engine: Engine) -> None:
    engine.failure = "no space left on device"
    (line,) = unwell(engine)
    assert "no space left on device" in line


@pytest.mark.root
def test_the_way_back_starts_what_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart would leave it stopped. What had failed before, or was stopped, stays so."""
    found = machine(tmp_path / "bin", "is-failed:bdii", "is-failed:cloudkeeper-os")
    done: list[str] = []
    monkeypatch.setattr(rollback, "Machine", lambda: found)
    monkeypatch.setattr(host, "is_booted", lambda _root: True)
    monkeypatch.setattr(host, "run", lambda *command: done.append(" ".join(command[1:])))
    layout = Layout(tmp_path / "root")
    layout.path("/var/lib/fedcloud").mkdir(parents=True)
    rollback.run(UpgradeRecord("1.0.0", "99.0", faults=("cloudkeeper-os",)), layout)
    assert done == [
        "daemon-reload",
        "try-reload-or-restart bdii.service",
        "try-restart cloudkeeper-os.service",
        "start bdii",
    ]
    found_record = record.read(layout)
    assert found_record is not None
    assert found_record.state is record.UpgradeState.BACK
