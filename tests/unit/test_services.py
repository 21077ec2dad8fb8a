"""`appliance status` and `appliance logs` on what the engine tells of the services."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from tests.simulators import compose_v5, docker_engine
from tests.simulators.docker_engine import Engine

TOP = Path(__file__).parents[2]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    etc = tmp_path / "etc/fedcloud"
    etc.mkdir(parents=True)
    (etc / "docker-compose.yml").write_text("services: {}\n")
    RunRecord("caso-extract").write(Layout(tmp_path).runs, ExitStatus.DONE)
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as served,
    ):
        compose_v5.install(tmp_path / "docker-compose")
        text = f"engine:\n  socket: {served.socket}\n  compose: {tmp_path}/docker-compose\n"
        text += "flows: {images: on}\n"
        (etc / "appliance.yaml").write_text(text)
        yield served


def add(engine: Engine, service: str, health: str = "", said: str = "", **state: object) -> None:
    checks = (
        {"Health": {"Status": health, "Log": [{"Output": "old"}, {"Output": said}]}}
        if health
        else {}
    )
    labels = {"com.docker.compose.project": "fedcloud", "com.docker.compose.service": service}
    engine.add(f"fedcloud_{service}_1", labels=labels, state={**checks, **state})


def status(root: Path, *flags: str) -> int:
    return main(["status", "--long", "--root", str(root), *flags])


def test_healthy_services_are_listed(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R32, R38: the health of what systemctl starts."""
    add(engine, "sitebdii", "healthy")
    add(engine, "cloudkeeper-os", "healthy")
    add(engine, "cloudbdii")
    assert status(tmp_path) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows[1:4]] == [
        ["cloudbdii", "running", "-"],
        ["cloudkeeper-os", "running", "healthy"],
        ["sitebdii", "running", "healthy"],
    ]
    assert rows[4] == ["Compose:", f"{tmp_path}/docker-compose", "5.0.1"]


def test_a_compose_that_is_too_old_is_reported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H17: C04.b."""
    program = tmp_path / "docker-compose"
    compose_v5.install(program, version="1.25.0")
    assert status(tmp_path) == 1
    reported = (
        f"  ! {program}: is Compose 1.25.0; 1.29 is the oldest that works; replace or "
        "remove this file, or name another Compose at engine: compose: "
    )
    assert reported in capsys.readouterr().out


def test_podman_s_socket_is_named_as_unsupported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H3: it speaks Docker's protocol."""
    engine.name = "Podman Engine"
    assert status(tmp_path) == 1
    assert (
        f"  ! {engine.socket}: podman answers there, which is not supported; "
        in capsys.readouterr().out
    )


def test_what_is_not_well_is_reported_with_what_its_check_said(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, "sitebdii", "unhealthy", said="ldap_sasl_bind: Can't contact\nLDAP server")
    add(engine, "cloudkeeper-os", Status="exited", Running=False)
    add(
        engine,
        "cloudbdii",
        "unhealthy",
        said="dn: o=glue",
        Status="exited",
        Running=False,
        ExitCode=2,
    )
    assert status(tmp_path) == 1
    shown = capsys.readouterr().out
    assert (
        "  ! sitebdii: running unhealthy: ldap_sasl_bind: Can't contact LDAP server; see "
        "appliance logs sitebdii\n" in shown
    )
    # F-H12: what the check said is of the time when it ran
    assert "  ! cloudbdii: exited with exit status 2; see systemctl status bdii\n" in shown
    assert (
        "  ! cloudkeeper-os: exited with exit status 0; see systemctl status cloudkeeper-os\n"
        in shown
    )


def test_a_service_that_has_just_been_started_is_no_cause_to_worry_unless_it_was_before(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(engine, "sitebdii", "starting")
    assert status(tmp_path) == 0
    assert "!" not in capsys.readouterr().out
    engine.containers["fedcloud_sitebdii_1"]["RestartCount"] = 1
    assert status(tmp_path) == 1
    assert (
        "  ! sitebdii: running starting; see appliance logs sitebdii\n" in capsys.readouterr().out
    )


def test_a_service_that_is_enabled_and_has_no_container_is_missed(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # its image is not there, say, or what is mounted in it
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "bdii.service").symlink_to("/etc/systemd/system/bdii.service")
    add(engine, "sitebdii", "healthy")
    assert status(tmp_path) == 1
    shown = capsys.readouterr().out
    assert "  ! cloudbdii: missing; see systemctl status bdii\n" in shown
    assert "cloudkeeper-os" not in shown
    assert status(tmp_path, "--json") == 1
    assert [one["state"] for one in json.loads(capsys.readouterr().out)["services"]] == [
        "missing",
        "running",
    ]


def test_jobs_are_no_services(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"com.docker.compose.project": "fedcloud", "eu.egi.fedcloud.job": "caso"}
    engine.add("run", labels=labels, state={"Status": "exited"})
    assert status(tmp_path) == 0
    assert "No service has a container; start them with appliance start" in capsys.readouterr().out


def test_without_an_engine_the_runs_are_shown_all_the_same(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.socket.rename(engine.socket.with_name("gone"))
    assert status(tmp_path) == 1
    shown = capsys.readouterr().out
    assert (
        f"  ! {engine.socket}: the Docker engine does not run; see systemctl status docker" in shown
    )
    assert "caso-extract" in shown
    engine.socket.with_name("gone").rename(engine.socket)


def test_as_json(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(engine, "sitebdii", "healthy", said="ok")
    assert status(tmp_path, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert sorted(shown) == ["caso-extract", "compose", "rows", "services"]
    assert shown["compose"] == f"{tmp_path}/docker-compose 5.0.1"
    assert shown["services"] == [
        {
            "service": "sitebdii",
            "state": "running",
            "health": "healthy",
            "since": "2026-11-25T00:00:00+00:00",
            "restarts": 0,
            "exit_status": None,
            "said": "ok",
        }
    ]


def test_a_service_s_log_is_what_the_engine_kept(
    engine: Engine, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    add(engine, "sitebdii")
    line = b"published 8 entries\n"
    engine.output["fedcloud_sitebdii_1"] = (
        b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line
    )  # as the engine frames it
    assert main(["logs", "sitebdii", "--root", str(tmp_path)]) == 0
    assert capfdbinary.readouterr().out == line
    assert main(["logs", "cloudbdii", "--root", str(tmp_path)]) == 3
    assert (
        b"appliance: cloudbdii: has no container; see systemctl status bdii"
        in capfdbinary.readouterr().err
    )


def test_a_job_s_log_is_its_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """R12: where the tables send it."""
    logs = tmp_path / "var/log"
    logs.mkdir(parents=True)
    assert main(["logs", "ssmsend", "--root", str(tmp_path)]) == 3
    assert (
        capfd.readouterr().err == f"appliance: {logs}/ssm.log: does not exist; no job has run yet\n"
    )
    (logs / "ssm.log").write_text("".join(f"{number}\n" for number in range(100)))
    assert main(["logs", "ssmsend", "-n", "2", "--root", str(tmp_path)]) == 0
    assert capfd.readouterr().out == "98\n99\n"
    (logs / "caso.log").write_text("extracted\n")
    assert main(["logs", "-n", "1", "--root", str(tmp_path)]) == 0
    assert (
        capfd.readouterr().out
        == f"==> {logs}/caso.log <==\nextracted\n\n==> {logs}/ssm.log <==\n99\n"
    )


def test_following_ends_with_an_interrupt(tmp_path: Path) -> None:
    log = tmp_path / "var/log/caso.log"
    log.parent.mkdir(parents=True)
    log.write_text("extracted\n")
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "logs",
        "-f",
        "caso",
        "--root",
        str(tmp_path),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "extracted\n"
        log.rename(log.with_name("caso.log.1"))  # as logrotate does
        log.write_text("again\n")
        assert process.stdout.readline() == "again\n"
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "interrupted" not in err


def test_an_unknown_name_is_one_line_with_the_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "sitebdi", "--root", str(tmp_path)]) == 2
    assert (
        capfd.readouterr().err
        == "appliance: sitebdi: there is no such service or job; did you mean sitebdii?\n"
    )


def test_a_name_of_bridges_that_the_kernel_would_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "etc/fedcloud/appliance.env"
    path.parent.mkdir(parents=True)
    path.write_text("FEDCLOUD_BRIDGE=second-site\n")
    assert status(tmp_path) == 2
    assert "write at most 10 lower-case letters and digits" in capsys.readouterr().err


@pytest.mark.root
@pytest.mark.programs("iptables")
def test_who_can_connect_is_reported(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H9, F-H15: the address, whether INPUT rules apply, and the outgoing connections."""
    add(engine, "sitebdii", "healthy")
    networks = tmp_path / "etc/fedcloud/networks"
    networks.mkdir()
    for name in ("bridge", "host"):
        shutil.copy(TOP / f"etc/fedcloud/networks/{name}.yml", networks)
    environment = tmp_path / "etc/fedcloud/appliance.env"
    environment.write_text("FEDCLOUD_BRIDGE=nosuch\n")
    assert status(tmp_path) == 1
    shown = capsys.readouterr().out
    assert (
        "sitebdii: clients connect to port 2170 of all addresses, published by the engine; "
        "INPUT rules" in shown
    )
    assert (
        "! sitebdii may connect to anything: iptables: the chain NOSUCH-BDII is missing or "
        "incomplete" in shown
    )
    assert "repair it with: appliance firewall up" in shown
    configuration = tmp_path / "etc/sitebdii/bdii.conf"
    environment.write_text("FEDCLOUD_NETWORK=host\n")
    configuration.parent.mkdir()
    for text, where in (
        ("", "port 2170 of all addresses"),
        ("BDII_PORT=2171\n", "port 2171 of all addresses"),
        ("SLAPD_HOST=2001:db8::1\nBDII_PORT=3\nSLAPD_PORT=2172\n", "[2001:db8::1]:2172"),
    ):
        configuration.write_text(text)
        assert status(tmp_path) == 0
        assert f"sitebdii: clients connect to {where} ({configuration})" in capsys.readouterr().out
    environment.write_text("FEDCLOUD_NETWORK=host\nFEDCLOUD_BDII_LISTEN=[2001:db8::1]:2171\n")
    assert status(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "clients connect to [2001:db8::1]:2171, if the host's firewall allows it" in shown
    assert (
        "sitebdii: may connect to anything: it uses the network of the host (FEDCLOUD_NETWORK=host)"
        in shown
    )
    assert status(tmp_path, "--json") == 0
    reported = json.loads(capsys.readouterr().out)["reach"]
    assert (sorted(reported), reported["complaints"]) == (["clients", "complaints", "egress"], [])
    environment.write_text("FEDCLOUD_BDII_LISTEN=127.0.0.1:2170\n")
    assert status(tmp_path) == 1
    assert (
        "! sitebdii is bound to 127.0.0.1: no other host can connect; set FEDCLOUD"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "text", ["2170", "localhost:2170", "192.0.2.1:0", "2001:db8::1:2170", "192.0.2.1:70000"]
)
def test_an_address_that_is_none_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """F-H9."""
    path = tmp_path / "etc/fedcloud/appliance.env"
    path.parent.mkdir(parents=True)
    path.write_text(f"FEDCLOUD_BDII_LISTEN={text}\n")
    assert status(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"appliance: {path}:1: FEDCLOUD_BDII_LISTEN: {text!r} is not allowed; write "
        "ADDRESS:PORT, such as "
        "192.0.2.10:2170 or [2001:db8::10]:2170\n"
    )
