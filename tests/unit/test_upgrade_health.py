"""An upgrade on a booted host: services that are not healthy afterwards, and those to start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.admin.install import host
from appliance.admin.machine import Machine
from appliance.admin.settings import Host, load
from appliance.admin.upgrade import health, record, rollback
from appliance.admin.upgrade.record import UpgradeRecord
from appliance.core.run.errors import Unavailable
from appliance.core.run.layout import Layout
from tests.simulators import docker_engine
from tests.simulators.docker_engine import Engine

SYSTEMCTL = """\
#!/bin/sh
# is-active [--quiet] UNIT
for unit; do :; done
state=inactive
case $unit in {states} esac
[ "$2" = --quiet ] || echo $state
[ $state = active ]
"""


def machine(directory: Path, **states: str) -> Machine:
    """Return a machine whose units are in these states; all others are inactive."""
    directory.mkdir(exist_ok=True)
    named = {unit.replace("_", "-"): state for unit, state in states.items()}
    cases = [f"{unit}|{unit}.service) state={state} ;;" for unit, state in named.items()]
    (directory / "systemctl").write_text(SYSTEMCTL.format(states=" ".join(cases)))
    (directory / "systemctl").chmod(0o755)
    return Machine(path=f"{directory}:/usr/bin:/bin")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Return the engine of this host, where bdii.service is active."""
    etc = tmp_path / "etc/fedcloud"
    etc.mkdir(parents=True)
    found = machine(tmp_path / "bin", bdii="active")
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


RELOAD, BDII, BACKEND = "try-reload-or-restart bdii.service", "bdii.service", "cloudkeeper-os"


@pytest.mark.root
@pytest.mark.parametrize(
    ("state", "commands"),
    [
        ("active", [RELOAD, f"try-restart {BACKEND}.service"]),
        ("failed", [f"restart {BDII}", f"try-restart {BACKEND}.service"]),
        ("activating", [f"restart {BDII}", f"try-restart {BACKEND}.service"]),
        ("inactive", [RELOAD, f"try-restart {BACKEND}.service"]),
    ],
)
def test_the_way_back_starts_what_has_failed(
    state: str, commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systemd would leave it stopped. What had failed before, or was stopped, stays so."""
    found = machine(tmp_path / "bin", bdii=state, cloudkeeper_os="failed")
    done: list[str] = []
    monkeypatch.setattr(rollback, "Machine", lambda: found)
    monkeypatch.setattr(host, "Machine", lambda: found)
    monkeypatch.setattr(host, "is_booted", lambda _root: True)
    monkeypatch.setattr(host, "run", lambda *command: done.append(" ".join(command[1:])))
    layout = Layout(tmp_path / "root")
    layout.path("/var/lib/fedcloud").mkdir(parents=True)
    rollback.run(UpgradeRecord("1.0.0", "99.0", faults=(BACKEND,)), layout)
    assert done == ["daemon-reload", *commands]
    found_record = record.read(layout)
    assert found_record is not None
    assert found_record.state is record.UpgradeState.BACK


@pytest.mark.parametrize("fails", [True, False])
def test_a_failed_reload_is_followed_by_a_restart(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also fails if the unit ends during it; the restart's failure is reported."""
    done: list[str] = []

    def run(*command: str) -> None:
        done.append(" ".join(command[1:]))
        if done[-1] == RELOAD:
            machine(tmp_path / "bin", bdii="activating")
        if BDII in command and (fails or done[-1] != RELOAD):
            raise Unavailable("systemctl", done[-1])

    found = machine(tmp_path / "bin", bdii="active")
    monkeypatch.setattr(host, "Machine", lambda: found)
    monkeypatch.setattr(host, "run", run)
    with pytest.raises(Unavailable, match=f"restart {BDII}"):
        host.renew_services(is_unit_changed=False)
    assert done == [RELOAD, f"restart {BDII}", f"try-restart {BACKEND}.service"]


BAD, WORSE = {"C04 bdii": "it does not answer"}, {"C05 bdii": "it has no entries"}


@pytest.mark.parametrize(
    ("looks", "is_starting", "number", "verdict"),
    [
        ([{}, {}], False, 2, []),
        ([BAD, {}, {}], False, 3, []),
        ([BAD, BAD, {}, {}], False, 4, []),
        ([BAD, BAD, BAD], False, 3, [*BAD.values()]),
        ([BAD, WORSE, BAD, BAD, BAD], False, 5, [*BAD.values()]),
        ([BAD, BAD, BAD, BAD, {}, {}], True, 6, []),
        ([BAD, {}, BAD, {}, BAD, {}], False, 6, ["the faults come and go; see appliance check"]),
        ([{"before": "an old fault"}] * 2, False, 2, []),
    ],
)
def test_how_long_the_gate_looks(
    looks: list[dict[str, str]],
    number: int,
    verdict: list[str],
    *,
    is_starting: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Clients get no answer while it waits for what stays bad."""
    left = iter(looks)
    count = 0

    def look(_layout: Layout) -> dict[str, str]:
        nonlocal count
        count += 1
        return next(left)

    state = "activating" if is_starting else "active"
    there = machine(tmp_path / "bin", bdii=state)
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    command = tmp_path / "bin/appliance"
    command.write_text("#!/bin/sh\necho appliance 99.0\n")
    command.chmod(0o755)
    monkeypatch.setattr(health, "Machine", lambda: Machine(run=tmp_path / "run", path=there.path))
    monkeypatch.setattr(health, "_COMMAND", str(command))
    monkeypatch.setattr(health, "faults", look)
    (tmp_path / "etc/fedcloud").mkdir(parents=True)
    found = health.new_faults({"before"}, "99.0", Layout(Path("/")), pause=timedelta(0))
    assert (found, count) == (verdict, number)
