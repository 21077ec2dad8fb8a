"""The steps of the services' units, with a stand-in for docker-compose that records its calls."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.restart import restart
from tests.simulators import docker_engine
from tests.unit import backup_site

pytestmark = pytest.mark.root

VERSION = "1.2.3"
BACKEND = "/etc/cloudkeeper/cloudkeeper-os.conf"
SERVICES = {"bdii": ["cloudbdii", "sitebdii"], "cloudkeeper-os": ["cloudkeeper-os"]}
STAND_IN = """#!/bin/sh
# Stands in for docker-compose. A check prints the lines of answer-SERVICE; its exit status is 2 if
# one of them is an error.
cd "$(dirname "$0")"
for service in cloudbdii sitebdii cloudkeeper-os; do
  case " $* " in
    *" $service sh -c "*)
      echo "check $service" >>checks
      echo "$@" >checked
      touch "answer-$service"
      { echo 'fedcloud-check begun'; cat "answer-$service"; } >&2
      ! grep -q ERROR "answer-$service"
      echo "fedcloud-check ended $(($? * 2))" >&2
      exit 0 ;;
  esac
done
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

    def checks(self) -> list[str]:
        """Return the services whose configuration was checked since this was asked last."""
        path = self.place / "checks"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.removeprefix("check ") for line in lines]

    def answer(self, service: str, *texts: str, level: str = "ERROR") -> None:
        """Have a check of a service find these faults in line 2 of its file; none: it passes."""
        path = {"sitebdii": "/etc/sitebdii/site.cfg", "cloudbdii": "/etc/bdii/bdii.conf"}.get(
            service, BACKEND
        )
        problem = {"path": path, "line": 2, "option": "KEY", "is_fatal": level == "ERROR"}
        lines = [
            json.dumps({"level": level, "message": text, "problem": {**problem, "text": text}})
            for text in texts
        ]
        (self.place / f"answer-{service}").write_text("".join(f"{line}\n" for line in lines))

    def runs(self, unit: str) -> subprocess.CompletedProcess[str]:
        """Run the step that becomes docker-compose."""
        command = [
            sys.executable,
            "-m",
            "appliance.admin.command",
            "service",
            "run",
            unit,
            "--root",
            str(self.root),
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    def come_up(self, unit: str) -> None:
        """Start a unit whose services answer at once."""
        for service in SERVICES[unit]:
            labels = {
                "com.docker.compose.project": "fedcloud",
                "com.docker.compose.service": service,
            }
            self.engine.add(f"fedcloud_{service}_1", labels=labels)
            self.engine.containers[f"fedcloud_{service}_1"]["Config"]["Healthcheck"] = {
                "Test": ["CMD", "true"]
            }
        assert self.step("prepare", unit) == 0
        assert self.step("ready", unit) == 0
        self.calls()
        self.checks()

    def calls(self) -> list[str]:
        """Return what docker-compose was called with, without what all calls share; forget it."""
        path = self.place / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        # which `appliance status` asks
        lines = [line for line in lines if line != "version --short"]
        shared = f"-p fedcloud --env-file {self.root}/etc/fedcloud/appliance.env"
        shared += f" -f {self.root}/etc/fedcloud/docker-compose.yml "
        assert all(line.startswith(shared) for line in lines), lines
        return [
            line.removeprefix(shared).replace(f"{self.root}/var/lib/fedcloud/services/", "")
            for line in lines
        ]


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
    for name in ("bdii/bdii.conf", "cloud-info-provider/openstack.rc", "sitebdii/site.cfg"):
        (root / "etc" / name).parent.mkdir()
        (root / "etc" / name).write_text(f"{name}\n")
    (root / "etc/cloudkeeper").mkdir()
    (root / "etc/cloudkeeper/cloudkeeper-os.conf").write_text("[DEFAULT]\n")
    (root / "etc/voms.json").write_text("{}\n")
    program = place / "docker-compose"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (place / "behave").write_text("exit 0\n")
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as engine,
    ):
        names = [name for services in SERVICES.values() for name in services]
        engine.images = {f"egifedcloud/{name}:{VERSION}": "sha256:1" for name in names}
        (etc / "appliance.yaml").write_text(
            f"engine:\n  socket: {engine.socket}\n  compose: {program}\nflows:\n  images: on\n"
        )
        yield Site(root, place, engine)


@pytest.mark.parametrize("unit", SERVICES)
def test_a_start_removes_what_has_ended_and_leaves_what_runs(site: Site, unit: str) -> None:
    """R31, R38: `rm` has no -s, so a container that the engine restarted stays; `up` attaches."""
    assert site.step("prepare", unit) == 0
    assert site.calls() == []  # before the first start there is none
    service = SERVICES[unit][-1]
    labels = {"com.docker.compose.project": "fedcloud", "com.docker.compose.service": service}
    site.engine.add(f"fedcloud_{service}_1", labels=labels, state={"Status": "exited"})
    assert site.step("prepare", unit) == 0
    assert site.calls() == [f"rm -v -f {' '.join(SERVICES[unit])}"]


def test_a_failed_removal_does_not_keep_a_service_from_starting(site: Site) -> None:
    (site.place / "behave").write_text("exit 1\n")
    assert site.step("prepare", "bdii") == 0


def test_a_start_asks_for_its_images(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """R01: docker-compose would fetch a missing one from Docker's public registry."""
    del site.engine.images[f"egifedcloud/sitebdii:{VERSION}"]
    assert site.step("prepare", "bdii") == 3
    assert (
        f"egifedcloud/sitebdii:{VERSION}: this image is not on the host" in capsys.readouterr().err
    )
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
    (site.root / "etc/cloudkeeper-os").mkdir()
    (site.root / "etc/cloudkeeper-os/cloudkeeper-os.conf").write_text("[DEFAULT]\n")
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert "cloudkeeper-os: does not run: " in (said := capsys.readouterr().err)
    assert "cloudkeeper.conf: there is" in said or "there is" in said
    assert site.runs("cloudkeeper-os").returncode == 78
    assert site.step("prepare", "bdii") == 0
    assert "does not run" not in capsys.readouterr().err


@pytest.mark.parametrize("unit", SERVICES)
def test_the_unit_s_main_process_is_docker_compose(site: Site, unit: str) -> None:
    """R31, R38: docker-compose is the unit's main process, with the site's environment only."""
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "service",
        "run",
        unit,
        "--root",
        str(site.root),
    ]
    (site.place / "behave").write_text("exit 42\n")
    environment = os.environ | {
        "HOME": "/run/fedcloud",
        "FEDCLOUD_VERSION": "other",
        "COMPOSE_FILE": "other",
    }
    with subprocess.Popen(command, env=environment) as process:
        assert process.wait(timeout=240) == 42
    assert int((site.place / "pid").read_text()) == process.pid
    assert site.calls() == [f"up --no-build --no-color {' '.join(SERVICES[unit])}"]
    reported = (site.place / "environment").read_text().splitlines()
    assert "HOME=/run/fedcloud" in reported
    assert f"DOCKER_HOST=unix://{site.engine.socket}" in reported
    assert "FEDCLOUD_BACKEND_CONFIG=/etc/cloudkeeper/cloudkeeper-os.conf" in reported
    assert not [line for line in reported if line.startswith("COMPOSE_FILE")]
    assert [line for line in reported if line.startswith("FEDCLOUD_VERSION")] == [
        f"FEDCLOUD_VERSION={VERSION}"
    ]


def test_a_missing_docker_compose_is_one_line(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.place / "docker-compose").unlink()
    assert site.step("run", "bdii") == 3
    words = f"{site.place}/docker-compose: no such file or directory"
    assert words.lower() in capsys.readouterr().err.lower()


def test_a_stop_leaves_alone_what_the_engine_has_started_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R38: systemd sets MAINPID only while docker-compose runs."""
    assert site.step("stop", "bdii") == 0
    assert site.calls() == []
    monkeypatch.setenv("MAINPID", "4711")
    assert site.step("stop", "bdii") == 0
    assert site.step("stop", "cloudkeeper-os") == 0
    assert site.calls() == ["stop -t 8 sitebdii cloudbdii", "stop cloudkeeper-os"]


@pytest.mark.parametrize(
    ("status", "expected"), [("0", []), ("1", ["stop -t 8 sitebdii cloudbdii"])]
)
def test_half_a_start_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, status: str, expected: list[str]
) -> None:
    """R32: docker-compose ends with 1 if one of two services does not start; both are stopped."""
    monkeypatch.setenv("EXIT_CODE", "exited")
    monkeypatch.setenv("EXIT_STATUS", status)
    assert site.step("clean", "bdii") == 0
    assert site.step("clean", "cloudkeeper-os") == 0
    assert site.calls() == expected


# ------------------------------------------------------------------------------------------- what
# is checked, and kept


@pytest.fixture
def unit_status(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket that systemd would have for status lines."""
    with (
        tempfile.TemporaryDirectory(prefix="n") as short,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker,
    ):
        taker.bind(f"{short}/notify")
        taker.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{short}/notify")
        yield taker


def last_status(taker: socket.socket) -> str:
    taker.setblocking(False)
    found = ""
    try:
        while True:
            found = taker.recv(4096).decode()
    except BlockingIOError:
        return found.removeprefix("STATUS=")


def test_what_passed_and_came_up_is_kept_and_not_checked_again(site: Site) -> None:
    """F-H2: with the modes of secrets; the same files, settings and images need no second look."""
    site.answer("cloudkeeper-os", "unknown option", level="WARNING")
    site.come_up("cloudkeeper-os")
    kept = site.root / "var/lib/fedcloud/services"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    copy = kept / "cloudkeeper-os/good/0"
    assert copy.read_text() == "[DEFAULT]\n"
    status = copy.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 1999, 0o640)
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.checks() == []
    site.engine.images[f"egifedcloud/cloudkeeper-os:{VERSION}"] = "sha256:2"
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.checks() == ["cloudkeeper-os"]


def test_a_start_does_not_repeat_the_check_of_the_administrator(site: Site) -> None:
    """The first start took three checks longer: `appliance check` had just passed them."""
    check = ["check", "--offline", "bdii", "--root", str(site.root)]
    assert main(check) == 0
    assert sorted(site.checks()) == ["cloudbdii", "sitebdii"]
    assert site.step("prepare", "bdii") == 0
    assert site.checks() == []
    config = site.root / "etc/sitebdii/site.cfg"
    config.write_text("another\n")
    assert site.step("prepare", "bdii") == 0
    assert site.checks() == ["sitebdii"]
    site.answer("sitebdii", "'another' is not allowed")
    assert main(check) == 1
    site.checks()
    assert site.step("prepare", "bdii") == 0
    assert "sitebdii" in site.checks()


def test_a_start_with_a_bad_configuration_takes_the_copy_that_passed_last(
    site: Site, unit_status: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: with file and line in the unit's status, the journal, `appliance status` and logs."""
    site.come_up("cloudkeeper-os")
    (site.root / "etc/cloudkeeper/cloudkeeper-os.conf").write_text("[DEFAULT]\nKEY = soon\n")
    site.answer("cloudkeeper-os", "'soon' is not allowed; write a number")
    capsys.readouterr()
    assert site.step("prepare", "cloudkeeper-os") == 0
    words = (
        f"{BACKEND}:2: KEY: 'soon' is not allowed; write a number; then systemctl restart "
        "cloudkeeper-os"
    )
    assert words in capsys.readouterr().err
    assert site.runs("cloudkeeper-os").returncode == 0
    assert site.calls()[-1] == "-f cloudkeeper-os.yml up --no-build --no-color cloudkeeper-os"
    override = json.loads((site.root / "var/lib/fedcloud/services/cloudkeeper-os.yml").read_text())
    volumes = override["services"]["cloudkeeper-os"]["volumes"]
    assert [Path(volume["source"]).read_text() for volume in volumes] == ["[DEFAULT]\n", "{}\n"]
    assert [volume["target"].rpartition("/")[2] for volume in volumes] == [
        "cloudkeeper-os.conf",
        "voms.json",
    ]
    assert all(volume["read_only"] for volume in volumes)
    reported = last_status(unit_status)
    assert reported.startswith("cloudkeeper-os: runs with the configuration that passed on 20")
    assert words in reported
    assert site.step("ready", "cloudkeeper-os") == 0  # the bad one is not kept
    assert (
        site.root / "var/lib/fedcloud/services/cloudkeeper-os/good/0"
    ).read_text() == "[DEFAULT]\n"
    for verb in (["status", "--long"], ["logs", "cloudkeeper-os"]):
        status = main([*verb, "--root", str(site.root)])
        assert words in capsys.readouterr().out
        assert status == (1 if verb[0] == "status" else 0)
    site.answer("cloudkeeper-os")
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.runs("cloudkeeper-os").returncode == 0
    assert site.calls()[-1] == "up --no-build --no-color cloudkeeper-os"
    assert last_status(unit_status) == "runs with the configuration in /etc, which passed its check"


def test_without_a_copy_the_start_ends_with_a_status_that_is_not_restarted(
    site: Site, unit_status: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: at once, with the line; a corrected file and the next start need nothing else."""
    site.answer("cloudkeeper-os", "must be set")
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.runs("cloudkeeper-os").returncode == 78
    line = (
        f"cloudkeeper-os: does not run: {BACKEND}:2: KEY: must be set; then systemctl "
        "restart cloudkeeper-os"
    )
    assert last_status(unit_status) == line
    assert line in capsys.readouterr().err
    assert [call for call in site.calls() if " up " in f" {call} "] == []
    assert site.step("ready", "cloudkeeper-os") == 2
    unit = (Path(__file__).parents[2] / "systemd/cloudkeeper-os.service").read_text()
    assert "RestartPreventExitStatus=78\n" in unit
    site.answer("cloudkeeper-os")
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert site.runs("cloudkeeper-os").returncode == 0


def test_the_main_process_ends_before_the_start_fails(site: Site) -> None:
    """F-H2: a signal in place of its status would have systemd restart it."""
    site.answer("cloudkeeper-os", "must be set")
    assert site.step("prepare", "cloudkeeper-os") == 0
    with subprocess.Popen(["/bin/sleep", "1.5"]) as main_process:
        # as systemd, which takes its status
        threading.Thread(target=main_process.wait, daemon=True).start()
        words = [
            "service",
            "ready",
            "cloudkeeper-os",
            f"--pid={main_process.pid}",
            "--root",
            str(site.root),
        ]
        begin = time.monotonic()
        assert main(words) == 2
        assert time.monotonic() - begin > 1


def test_the_resource_level_comes_up_though_the_site_level_cannot(
    site: Site, unit_status: socket.socket
) -> None:
    """F-H2: the unit fails with the line, the engine runs the other service; or the unit runs."""
    site.answer("sitebdii", "is still the placeholder '@example.com'")
    assert site.step("prepare", "bdii") == 0
    assert site.calls() == [
        "rm -v -f -s sitebdii",
        "up -d --no-build cloudbdii",
    ]
    assert site.runs("bdii").returncode == 78
    assert site.calls() == []
    assert "sitebdii: does not run: /etc/sitebdii/site.cfg:2: KEY: is still" in last_status(
        unit_status
    )
    site.answer("sitebdii")
    site.answer("cloudbdii", "must be set")
    assert site.step("prepare", "bdii") == 0
    assert site.runs("bdii").returncode == 0
    assert site.calls()[-1] == "up --no-build --no-color sitebdii"
    assert "cloudbdii: does not run: /etc/bdii/bdii.conf:2: KEY: must be set" in last_status(
        unit_status
    )


def test_settings_of_the_host_that_cannot_be_read_are_not_restarted_either(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: appliance.env has no copy; the unit ends at once with its line."""
    (site.root / "etc/fedcloud/appliance.env").write_text("FEDCLOUD_VERSION=$(id)\n")
    assert site.step("prepare", "bdii") == 0
    assert "appliance.env:1: FEDCLOUD_VERSION: " in capsys.readouterr().err
    done = site.runs("bdii")
    assert done.returncode == 78
    assert "appliance.env:1: FEDCLOUD_VERSION: " in done.stderr


def test_credentials_of_the_unit_and_files_of_secrets(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both for the service that may read them, in its check, too; copies go with the credential."""
    given = tmp_path / "credentials"
    given.mkdir()
    (given / "backend").write_text("s3cret\n")
    secret = site.root / "srv/secrets/backend"
    secret.parent.mkdir(parents=True)
    secret.write_text("s3cret\n")
    conf = site.root / "etc/cloudkeeper/cloudkeeper-os.conf"
    conf.write_text("[DEFAULT]\npassword_file = /srv/secrets/backend\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    copy = site.root / "run/fedcloud/keys/credentials-unit-cloudkeeper-os"
    assert site.step("prepare", "cloudkeeper-os") == 0
    checked = (site.place / "checked").read_text()
    assert f"-v {secret}:/srv/secrets/backend:ro" in checked
    assert f"-v {copy}:/run/fedcloud/credentials:ro" in checked
    assert "-e CREDENTIALS_DIRECTORY=/run/fedcloud/credentials" in checked
    status = (copy / "backend").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, 1999)
    assert site.runs("cloudkeeper-os").returncode == 0
    (started,) = [line for line in site.calls() if " up " in line]
    assert started.startswith("-f cloudkeeper-os.secrets.yml up ")
    override = site.root / "var/lib/fedcloud/services/cloudkeeper-os.secrets.yml"
    found = json.loads(override.read_text())["services"]["cloudkeeper-os"]
    assert found["environment"] == {"CREDENTIALS_DIRECTORY": "/run/fedcloud/credentials"}
    assert {one["target"]: one["source"] for one in found["volumes"]} == {
        "/srv/secrets/backend": str(secret),
        "/run/fedcloud/credentials": str(copy),
    }
    assert all(one["read_only"] for one in found["volumes"])
    assert "s3cret" not in override.read_text()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    secret.unlink()
    assert site.step("prepare", "cloudkeeper-os") == 0
    assert not copy.exists()
    assert not override.exists()


def test_a_file_of_a_secret_that_cannot_be_mounted(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault of the configuration like any other: one line, and no restart helps."""
    (site.root / "srv").mkdir()
    (site.root / "srv/a b").write_text("s3cret\n")
    conf = site.root / "etc/cloudkeeper/cloudkeeper-os.conf"
    conf.write_text("[DEFAULT]\npassword_file = /srv/a b\n")
    assert site.step("prepare", "cloudkeeper-os") == 0
    done = site.runs("cloudkeeper-os")
    assert done.returncode == 78
    assert f"{conf}:2: password_file: /srv/a b cannot be mounted" in capsys.readouterr().err


def test_a_reload_with_a_bad_configuration_touches_nothing(
    site: Site, unit_status: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: what runs goes on; the line says where."""
    site.come_up("cloudkeeper-os")
    last_status(unit_status)
    site.answer("cloudkeeper-os", "must be set", "and this")
    assert site.step("reload", "cloudkeeper-os") == 2
    assert site.calls() == []
    refused = (
        f"a reload failed: {BACKEND}:2: KEY: must be set; runs with the configuration "
        "in /etc, which passed"
    )
    assert last_status(unit_status).startswith(refused)
    said = capsys.readouterr().err.splitlines()
    assert f"appliance: {BACKEND}:2: KEY: must be set" in said
    assert said[-1] == "appliance: nothing was changed; the running services continue"


def test_a_reload_replaces_the_containers_and_keeps_what_came_up(
    site: Site, unit_status: socket.socket
) -> None:
    """F-H2."""
    site.come_up("cloudkeeper-os")
    (site.root / "etc/voms.json").write_text('{"ops": {"projects": ["one"]}}\n')
    assert site.step("reload", "cloudkeeper-os") == 0
    assert site.checks() == ["cloudkeeper-os"]
    assert site.calls() == ["up -d --no-deps --no-build --force-recreate cloudkeeper-os"]
    assert "ops" in (site.root / "var/lib/fedcloud/services/cloudkeeper-os/good/1").read_text()
    assert last_status(unit_status) == "runs with the configuration in /etc, which passed its check"


def test_a_reload_keeps_the_containers_logs_in_the_journal(site: Site) -> None:
    settings = site.root / "etc/fedcloud/appliance.yaml"
    settings.write_text(f"{settings.read_text()}logs: journal\n")
    path = site.root / "etc/fedcloud/logs/journal.yml"
    path.parent.mkdir()
    path.write_text("services: {}\n")
    site.come_up("cloudkeeper-os")
    assert site.step("reload", "cloudkeeper-os") == 0
    again = f"-f {path} up -d --no-deps --no-build --force-recreate cloudkeeper-os"
    assert site.calls() == [again]


def test_a_reload_replaces_the_site_s_bdii_once_the_resource_s_answers(site: Site) -> None:
    """F-I4: on a busy host, two that start at once kept clients waiting for twice as long."""
    with (site.root / "etc/fedcloud/appliance.env").open("a") as settings:
        settings.write("FEDCLOUD_BDII_LISTEN=127.0.0.1:2170\n")
    site.come_up("bdii")
    site.engine.ends["fedcloud_cloudbdii_1"] = 1
    calls, seen = site.place / "calls", list[str]()

    def answer() -> None:
        while not calls.exists():
            time.sleep(0.05)
        time.sleep(1)
        seen.extend(calls.read_text().splitlines())
        site.engine.ends["fedcloud_cloudbdii_1"] = 0

    thread = threading.Thread(target=answer)
    thread.start()
    assert site.step("reload", "bdii") == 0
    thread.join()
    assert [line.split()[-1] for line in seen] == ["cloudbdii"]
    assert [line.split()[-1] for line in site.calls()] == ["cloudbdii", "sitebdii"]


def test_a_reload_that_does_not_come_up_gives_the_copy_back(
    site: Site, unit_status: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: a check cannot see everything, a port that is taken for one."""
    site.come_up("cloudkeeper-os")
    (site.root / "etc/voms.json").write_text('{"ops": {"projects": ["one"]}}\n')
    (site.place / "behave").write_text(
        'case "$*" in *cloudkeeper-os.yml*) exit 0;; *) exit 1;; esac\n'
    )
    assert site.step("reload", "cloudkeeper-os") == 3
    assert "its new container cannot be started" in capsys.readouterr().err
    again = "up -d --no-deps --no-build --force-recreate cloudkeeper-os"
    assert site.calls() == [again, f"-f cloudkeeper-os.yml {again}"]
    assert "runs with the configuration that passed on" in last_status(unit_status)


def test_a_reload_to_a_version_that_does_not_start_tries_it_once(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy would be the same configuration: clients would only wait longer."""
    site.come_up("cloudkeeper-os")
    site.engine.images = dict.fromkeys(site.engine.images, "sha256:2")
    (site.place / "behave").write_text("exit 1\n")
    assert site.step("reload", "cloudkeeper-os") == 3
    assert "its new container cannot be started" in capsys.readouterr().err
    again = "up -d --no-deps --no-build --force-recreate cloudkeeper-os"
    assert site.calls() == [again]


def test_a_configuration_with_links_and_odd_files_is_kept_as_the_container_sees_it(
    site: Site,
) -> None:
    etc = site.root / "etc/sitebdii"
    (etc / "link.cfg").symlink_to("/etc/elsewhere/site.cfg")
    (etc / "sub").mkdir()
    (etc / "sub/urls").write_text("x\n")
    os.mkfifo(etc / "pipe")
    site.engine.add("fedcloud_cloudkeeper-os_1", labels={})
    from appliance.admin import settings
    from appliance.admin.service import kept
    from appliance.core import clock
    from appliance.core.run.layout import Layout

    layout = Layout(site.root)
    host = settings.load(layout)
    snapshot = kept.take("sitebdii", host, layout, image="sha256:1")
    assert snapshot is not None
    for _ in range(2):
        kept.keep(snapshot, "sitebdii", layout, at=clock.now())
    copy = kept.current("sitebdii", layout)
    assert copy is not None
    found = {str(path.relative_to(copy / "0")) for path in (copy / "0").rglob("*")}
    assert found == {"site.cfg", "link.cfg", "sub", "sub/urls"}
    assert (copy / "0/link.cfg").is_symlink()
    (etc / "site.cfg").write_text("another\n")
    second = kept.take("sitebdii", host, layout, image="sha256:1")
    assert second is not None
    assert not kept.is_kept(second, "sitebdii", layout)
    kept.keep(second, "sitebdii", layout, at=clock.now())
    assert [path.name for path in copy.parent.iterdir() if not path.is_symlink()] == [second.digest]


# --------------------------------------------------------------------------------------------------
# appliance restart


@pytest.fixture
def systemctl(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in in place of systemctl, with all units active; return the file of its calls."""
    program = site.place / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{site.place}/systemctl-calls\n')
    program.chmod(0o755)
    monkeypatch.setattr(restart, "_SYSTEMCTL", str(program))
    return site.place / "systemctl-calls"


def test_a_restart_with_a_bad_configuration_touches_nothing(
    site: Site, systemctl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: the reason stands on the terminal, with file and line."""
    site.answer(
        "sitebdii",
        "is still the placeholder '@example.com'; write the administrators' mail address",
    )
    for name in ("bdii", "sitebdii"):
        assert main(["restart", name, "--root", str(site.root)]) == 2
        said = capsys.readouterr().err
        assert (
            "appliance: /etc/sitebdii/site.cfg:2: KEY: is still the placeholder "
            "'@example.com'; write" in said
        )
        assert said.endswith("nothing was changed; the running services continue\n")
    assert [line for line in systemctl.read_text().splitlines() if "is-active" not in line] == []
    assert site.calls() == []


def test_a_restart_reloads_the_unit_and_replaces_a_single_service_itself(
    site: Site, systemctl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H2: a neighbour is left alone."""
    assert main(["restart", "bdii", "--root", str(site.root)]) == 0
    assert systemctl.read_text().splitlines()[-1] == "reload bdii.service"
    site.come_up("cloudkeeper-os")
    assert main(["restart", "cloudkeeper-os", "--root", str(site.root)]) == 0
    assert "cloudkeeper-os: run with the configuration in" in capsys.readouterr().out
    assert site.calls() == []  # that is the unit's reload


def test_a_restart_excludes_other_verbs_that_change_the_host(
    site: Site,
    systemctl: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R18: the kernel's table of locks has the lock while systemctl runs, and not afterwards."""
    program = site.place / "systemctl"
    program.write_text(f"#!/bin/sh\ncat /proc/locks >{site.place}/locks\n")
    assert main(["restart", "bdii", "--root", str(site.root)]) == 0
    lock = site.root / "run/fedcloud/install.lock"
    number = f":{lock.stat().st_ino} "
    assert number in (site.place / "locks").read_text()
    assert number not in Path("/proc/locks").read_text()
    (site.place / "locks").unlink()
    capsys.readouterr()
    monkeypatch.setattr("appliance.admin.changing._PATIENCE", timedelta(0))
    with backup_site.held(lock):
        assert main(["restart", "bdii", "--root", str(site.root)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "install.lock: held by another program" in line
    assert not (site.place / "locks").exists()


def test_a_restart_while_systemd_waits_stops_the_containers_first(
    site: Site, systemctl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start attaches to running containers, which would keep the old configuration."""
    program = site.place / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{systemctl}\n[ "$1" != is-active ]\n')
    site.come_up("cloudkeeper-os")
    assert main(["restart", "cloudkeeper-os", "--root", str(site.root)]) == 0
    assert site.calls() == ["stop cloudkeeper-os"]
    assert systemctl.read_text().splitlines()[-1] == "restart cloudkeeper-os.service"
    assert "cloudkeeper-os: run with the configuration in" in capsys.readouterr().out
    (site.place / "behave").write_text("exit 1\n")
    assert main(["restart", "cloudkeeper-os", "--root", str(site.root)]) == 3
    assert "cloudkeeper-os: cannot be stopped; stop its container" in capsys.readouterr().err


def test_a_service_whose_flow_is_off_is_not_restarted(
    site: Site, systemctl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H7."""
    path = site.root / "etc/fedcloud/appliance.yaml"
    path.write_text(path.read_text().replace("images: on", "images: off"))
    assert main(["restart", "cloudkeeper-os", "--root", str(site.root)]) == 2
    assert "the flow images is off" in capsys.readouterr().err
    assert not systemctl.exists()
