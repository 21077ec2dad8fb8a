"""The steps of the services' units, with a program in docker-compose's place that writes down how it was called."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.admin.command import main
from tests.simulators import docker_engine

VERSION = "1.2.3"
SERVICES = {"bdii": ["cloudbdii", "sitebdii"], "cloudkeeper-os": ["cloudkeeper-os"]}
STAND_IN = """#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >>calls
env >environment
echo $$ >pid
eval "$(cat behave)"
"""


@dataclass
class Site:
    """A host's files below ``root``, its engine, and what was run in place of docker-compose."""

    root: Path
    place: Path
    engine: docker_engine.Engine

    def step(self, name: str, unit: str) -> int:
        return main(["service", name, unit, "--root", str(self.root)])

    def calls(self) -> list[str]:
        """Return what docker-compose was called with, without what all calls share; forget it."""
        path = self.place / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        shared = f"-p fedcloud --env-file {self.root}/etc/fedcloud/appliance.env"
        shared += f" -f {self.root}/etc/fedcloud/docker-compose.yml "
        assert all(line.startswith(shared) for line in lines), lines
        return [line.removeprefix(shared) for line in lines]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("MAINPID", "EXIT_CODE", "EXIT_STATUS", "NOTIFY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    root, place = tmp_path / "root", tmp_path / "place"
    place.mkdir()
    etc = root / "etc/fedcloud"
    (etc / "networks").mkdir(parents=True)
    (etc / "docker-compose.yml").write_text("services: {}\n")
    (etc / "networks/bridge.yml").write_text("services: {}\n")
    (etc / "appliance.env").write_text(f"FEDCLOUD_VERSION={VERSION}\n")
    program = place / "docker-compose"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (place / "behave").write_text("exit 0\n")
    with tempfile.TemporaryDirectory(prefix="e") as short, docker_engine.serve(Path(short)) as engine:
        names = [name for services in SERVICES.values() for name in services]
        engine.images = {f"egifedcloud/{name}:{VERSION}": "sha256:1" for name in names}
        (etc / "appliance.yaml").write_text(f"engine:\n  socket: {engine.socket}\n  compose: {program}\n")
        yield Site(root, place, engine)


@pytest.mark.parametrize("unit", SERVICES)
def test_a_start_removes_what_has_ended_and_leaves_what_runs(site: Site, unit: str) -> None:
    """R31, R38: the engine may have started a container again; `rm` has no -s, and `up` attaches to it."""
    assert site.step("prepare", unit) == 0
    assert site.calls() == [f"rm -v -f {' '.join(SERVICES[unit])}"]


def test_a_failed_removal_does_not_keep_a_service_from_starting(site: Site) -> None:
    (site.place / "behave").write_text("exit 1\n")
    assert site.step("prepare", "bdii") == 0


def test_a_start_asks_for_its_images(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """R01: docker-compose would fetch a missing one from Docker's public registry."""
    del site.engine.images[f"egifedcloud/sitebdii:{VERSION}"]
    assert site.step("prepare", "bdii") == 3
    assert f"egifedcloud/sitebdii:{VERSION}: this image is not on the host" in capsys.readouterr().err
    assert site.step("prepare", "cloudkeeper-os") == 0


def test_what_docker_run_left_of_the_backend_is_removed(site: Site) -> None:
    """R38: the unit of 2017 gave it the name; what runs is left alone."""
    site.engine.add("cloudkeeper-os", labels={})
    site.engine.add("other-cloudkeeper-os", labels={}, state={"Status": "exited"})
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.engine.told == []
    site.engine.containers["cloudkeeper-os"]["State"]["Status"] = "exited"
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.engine.told == [("remove", "cloudkeeper-os")]


def test_the_backend_does_not_start_with_a_doubtful_configuration(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """R36, C21.d: two files hold two accounts; the information system does not care."""
    for place in ("cloudkeeper", "cloudkeeper-os"):
        (site.root / "etc" / place).mkdir()
        (site.root / "etc" / place / "cloudkeeper-os.conf").write_text("[DEFAULT]\n")
    assert site.step("prepare", "cloudkeeper-os") == 2
    assert "there is" in capsys.readouterr().err
    assert site.step("prepare", "bdii") == 0


@pytest.mark.parametrize("unit", SERVICES)
def test_the_unit_s_main_process_is_docker_compose(site: Site, unit: str) -> None:
    """R31, R38: systemd watches the process that it started; its environment is nobody's but the site's."""
    command = [sys.executable, "-m", "appliance.admin.command", "service", "run", unit, "--root", str(site.root)]
    (site.place / "behave").write_text("exit 42\n")
    environment = os.environ | {"HOME": "/run/fedcloud", "FEDCLOUD_VERSION": "other", "COMPOSE_FILE": "other"}
    with subprocess.Popen(command, env=environment) as process:
        assert process.wait(timeout=30) == 42
    assert int((site.place / "pid").read_text()) == process.pid
    assert site.calls() == [f"up --no-build --no-color {' '.join(SERVICES[unit])}"]
    told = (site.place / "environment").read_text().splitlines()
    assert "HOME=/run/fedcloud" in told
    assert f"DOCKER_HOST=unix://{site.engine.socket}" in told
    assert "FEDCLOUD_BACKEND_CONFIG=/etc/cloudkeeper/cloudkeeper-os.conf" in told
    assert not [line for line in told if line.startswith("COMPOSE_FILE")]
    assert [line for line in told if line.startswith("FEDCLOUD_VERSION")] == [f"FEDCLOUD_VERSION={VERSION}"]


def test_a_missing_docker_compose_is_one_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.place / "docker-compose").unlink()
    for step in ("prepare", "run"):
        assert site.step(step, "bdii") == 3
        assert f"{site.place}/docker-compose: no such file or directory" in capsys.readouterr().err.lower()


def test_a_stop_leaves_alone_what_the_engine_has_started_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """R38: systemd sets MAINPID while docker-compose is there to be told."""
    assert site.step("stop", "bdii") == 0
    assert site.calls() == []
    monkeypatch.setenv("MAINPID", "4711")
    assert site.step("stop", "bdii") == 0
    assert site.step("stop", "cloudkeeper-os") == 0
    assert site.calls() == ["stop -t 8 sitebdii cloudbdii", "stop cloudkeeper-os"]


@pytest.mark.parametrize(("status", "expected"), [("0", []), ("1", ["stop -t 8 sitebdii cloudbdii"])])
def test_half_a_start_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, status: str, expected: list[str]
) -> None:
    """R32: docker-compose ends with 1 when one of the two does not start; no later stop would reach the other."""
    monkeypatch.setenv("EXIT_CODE", "exited")
    monkeypatch.setenv("EXIT_STATUS", status)
    assert site.step("clean", "bdii") == 0
    assert site.step("clean", "cloudkeeper-os") == 0
    assert site.calls() == expected
