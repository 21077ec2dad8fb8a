"""`appliance wait` and `appliance bdii wait` end early if the service cannot start."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.wait import polling
from tests.simulators import docker_engine
from tests.simulators.docker_engine import Engine

NAME = "fedcloud_sitebdii_1"
WORDS = b"bdii-update: /etc/sitebdii/site.cfg:3: SITE_NAME: is still the placeholder\n"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    etc = tmp_path / "etc/fedcloud"
    etc.mkdir(parents=True)
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as served,
    ):
        (etc / "appliance.yaml").write_text(f"engine:\n  socket: {served.socket}\n")
        served.add(
            NAME,
            labels={
                "com.docker.compose.project": "fedcloud",
                "com.docker.compose.service": "sitebdii",
            },
            state={"Status": "restarting", "ExitCode": 3},
        )
        served.containers[NAME]["RestartCount"] = 7
        served.output[NAME] = b"\x02\0\0\0" + len(WORDS).to_bytes(4, "big") + WORDS
        yield served


@pytest.fixture
def _frequent_looks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the engine ten times as often; the first time, when its client is loaded, right now."""
    monkeypatch.setattr(polling, "_LOOK_EVERY", polling._LOOK_EVERY / 10)
    polling.ServiceWatch(engine.socket, "sitebdii", None).look()


def wait(root: Path, *flags: str, timeout: int = 30, port: int = 0) -> int:
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = found.getsockname()[1]
    place = ["-h", "127.0.0.1", "-p", str(port), "--timeout", str(timeout), "--root", str(root)]
    return main(["bdii", "wait", *place, "--service", "sitebdii", *flags])


@pytest.mark.timed
def test_a_wrong_configuration_ends_the_waiting(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.containers[NAME]["State"]["ExitCode"] = 2
    # after the first look, which loads the engine's client
    threading.Timer(4, lambda: engine.containers[NAME].update(RestartCount=8)).start()
    began = time.monotonic()
    assert wait(tmp_path) == 3
    assert time.monotonic() - began < 20
    words = WORDS.decode().strip()
    assert (
        capsys.readouterr().err
        == f"appliance: sitebdii: does not start: {words}; see appliance logs sitebdii\n"
    )


@pytest.mark.usefixtures("_frequent_looks")
def test_what_a_container_ended_with_before_does_not_count(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the configuration has been mended meanwhile, and the engine is about to start the program
    # again
    engine.containers[NAME]["State"]["ExitCode"] = 2
    assert wait(tmp_path, timeout=1) == 3
    assert "no answer within 1 s" in capsys.readouterr().err


@pytest.mark.timed
def test_a_program_that_ends_again_and_again_ends_the_waiting(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # what it was started again before does not count
    threading.Timer(4, lambda: engine.containers[NAME].update(RestartCount=10)).start()
    began = time.monotonic()
    assert wait(tmp_path) == 3
    assert 4 <= time.monotonic() - began < 12
    assert "sitebdii: does not start: bdii-update: " in capsys.readouterr().err


@pytest.mark.usefixtures("_frequent_looks")
def test_two_more_starts_are_waited_for(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threading.Timer(0.5, lambda: engine.containers[NAME].update(RestartCount=9)).start()
    assert wait(tmp_path, timeout=2) == 3
    assert "no answer within 2 s" in capsys.readouterr().err


def test_the_end_of_what_has_it_run_ends_the_waiting(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.containers.clear()
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert wait(tmp_path, f"--pid={child.pid}") == 3
    assert (
        "sitebdii: the process that runs it has ended; see its messages above"
        in capsys.readouterr().err
    )


class _Everything(socketserver.BaseRequestHandler):
    """Answers as an LDAP server without entries: every bind and search succeeds."""

    def handle(self) -> None:
        done = {0x60: 0x61, 0x63: 0x65}
        while words := self.request.recv(4096):
            # of a message shorter than 128 octets: 30 LENGTH 02 LENGTH NUMBER… KIND
            end = 4 + words[3]
            if words[end] in done:
                answer = words[2:end] + bytes([done[words[end]], 7, 10, 1, 0, 4, 0, 4, 0])
                self.request.sendall(bytes([0x30, len(answer)]) + answer)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


def test_another_program_that_answers_is_not_the_service(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a BDII of an earlier release, say, which still has the port
    with _Server(("127.0.0.1", 0), _Everything) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        engine.containers[NAME]["State"] = {"Status": "running", "Running": True}
        engine.containers[NAME]["Config"]["Healthcheck"] = {"Test": ["CMD", "true"]}
        assert wait(tmp_path, port=other.server_address[1]) == 0
        engine.ends[NAME] = 1
        assert wait(tmp_path, port=other.server_address[1], timeout=1) == 3
        assert (
            "no answer within 1 s; last fault: another program answers there"
            in capsys.readouterr().err
        )
        engine.containers.clear()
        assert wait(tmp_path, port=other.server_address[1], timeout=1) == 3
        other.shutdown()


def test_an_engine_that_is_down_reports_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_LOOK_EVERY", polling._LOOK_EVERY / 10)
    assert wait(tmp_path, timeout=1) == 3
    assert "no answer within 1 s" in capsys.readouterr().err


def test_a_service_that_passes_its_check_is_waited_for(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R38."""
    engine.containers[NAME]["Config"]["Healthcheck"] = {"Test": ["CMD", "true"]}
    running = {"Status": "running", "Running": True}
    threading.Timer(1, lambda: engine.containers[NAME].update(State=running)).start()
    began = time.monotonic()
    assert main(["wait", "sitebdii", "--root", str(tmp_path)]) == 0
    assert time.monotonic() - began >= 1
    engine.ends[NAME] = 1
    assert main(["wait", "sitebdii", "--timeout", "1", "--root", str(tmp_path)]) == 3
    said = (
        "appliance: sitebdii: no answer within 1 s; last fault: it does not pass its "
        "health check; see appliance logs sitebdii\n"
    )
    assert capsys.readouterr().err == said


@pytest.mark.timed
def test_a_service_with_a_wrong_configuration_is_not_waited_for(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R38."""
    engine.containers[NAME]["State"]["ExitCode"] = 2
    threading.Timer(1, lambda: engine.containers[NAME].update(RestartCount=8)).start()
    began = time.monotonic()
    assert main(["wait", "sitebdii", "--root", str(tmp_path)]) == 3
    assert time.monotonic() - began < 8
    assert f"sitebdii: does not start: {WORDS.decode().strip()}" in capsys.readouterr().err


def test_an_engine_that_is_down_has_no_service_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wait", "cloudkeeper-os", "--timeout", "1", "--root", str(tmp_path)]) == 3
    assert "cloudkeeper-os: no answer within 1 s" in capsys.readouterr().err
