"""Logs in systemd's journal by one setting; a socket of its kind stands in for journald."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from appliance.admin import settings
from appliance.admin.command import main
from appliance.admin.inventory import CONTAINERS, JOBS, SERVICES
from appliance.admin.run import journal
from appliance.admin.runtime import native
from appliance.admin.service import steps
from appliance.core.run.layout import Layout
from tests.unit.test_run_job import Site, appliance, site  # noqa: F401
from tests.unit.test_system_log import fields

# ruff: noqa: F811  the fixtures are those of the tests of runs

TOP = Path(__file__).parents[2]
LINE = '{"time": "2026-11-30T22:14:01.000+00:00", "logger": "caso.run", "level": "WARNING",'
LINE += ' "message": "project x: no VO", "exception": "Traceback"}'


@pytest.fixture
def daemon(site: Site) -> Iterator[socket.socket]:
    """The journal of a site whose logs go there."""
    settings = site.root / "etc/fedcloud/appliance.yaml"
    settings.write_text(f"{settings.read_text()}logs: journal\n")
    (site.root / "etc/fedcloud/logs").mkdir()
    (site.root / "etc/fedcloud/logs/journal.yml").write_text("services: {}\n")
    path = site.root / "run/systemd/journal/socket"
    path.parent.mkdir(parents=True)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(path))
        listening.settimeout(0.5)
        yield listening


@contextlib.contextmanager
def receiving(daemon: socket.socket) -> Iterator[list[dict[str, str]]]:
    """Read entries during the block and half a second longer, as journald does meanwhile."""
    found: list[dict[str, str]] = []
    ended = threading.Event()

    def read() -> None:
        while True:
            try:
                found.append(fields(daemon.recv(2**18)))
            except TimeoutError:
                if ended.is_set():
                    return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.mark.long
@pytest.mark.root
def test_lines(site: Site, daemon: socket.socket) -> None:
    """A job's lines have fields, as have the messages about the job; no file gets any."""
    site.behave(f"echo '{LINE}'; echo 'no {{json'; head -c 100000 /dev/zero | tr '\\0' x")
    with receiving(daemon) as found:
        done = site.run("caso", "--log")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {one["FEDCLOUD_JOB"] for one in found} == {"caso"}
    ours = [one for one in found if one["SYSLOG_IDENTIFIER"] == "appliance"]
    assert ours[0]["MESSAGE"].endswith("caso: starts")
    assert ours[-1]["MESSAGE"].endswith("caso: caso-extract ended with exit status 0")
    lines = [one for one in found if one["SYSLOG_IDENTIFIER"] == "caso-extract"]
    assert {
        "MESSAGE": "project x: no VO",
        "PRIORITY": "4",
        "LOGGER": "caso.run",
        "EXCEPTION": "Traceback",
        "SYSLOG_IDENTIFIER": "caso-extract",
        "FEDCLOUD_JOB": "caso",
    } in lines
    plain = [one for one in lines if one["MESSAGE"] == "no {json"]
    assert [one["PRIORITY"] for one in plain] == ["6"]
    assert sum(one["MESSAGE"].count("x") for one in lines if "xxx" in one["MESSAGE"]) == 100000
    assert max(len(one["MESSAGE"]) for one in lines) == 48 * 1024
    assert not (site.root / "var/log/caso.log").exists()
    described = (TOP / "docs/formats/journal.md").read_text()
    names = {name for one in found for name in one}
    assert [name for name in names if f"`{name}`" not in described] == []


@pytest.mark.root
def test_flags(site: Site, daemon: socket.socket) -> None:
    """A run gets the compose file that makes programs log JSON; a verb for a person does not."""
    name = str(site.root / "etc/fedcloud/logs/journal.yml")
    site.run("caso")
    words = site.reported("arguments")
    assert words[words.index(name) - 1] == "-f"
    assert words.index(name) < words.index("run")
    assert "from the job" in site.run("caso", "--", "projects").stdout
    assert name not in site.reported("arguments")
    site.behave("exit 3")
    assert site.run("caso").returncode == 3
    assert site.record("caso")["failures"][0].endswith("see appliance logs caso")


@pytest.mark.root
def test_silent(site: Site, daemon: socket.socket) -> None:
    """Without a journal the job runs, and its output goes where it went."""
    daemon.close()
    done = site.run("caso")
    assert done.returncode == 0
    assert "from the job" in done.stdout
    assert "the output of the job goes to standard output" in done.stderr


@pytest.mark.root
def test_stuck(site: Site, daemon: socket.socket) -> None:
    """A journal that takes nothing costs a job seconds, not seconds a line."""
    site.behave("for number in $(seq 200); do echo line $number; done")
    done = site.run("caso")
    assert done.returncode == 0
    assert site.record("caso")["status"] == 0


@pytest.mark.root
def test_missing(site: Site, daemon: socket.socket) -> None:
    (site.root / "etc/fedcloud/logs/journal.yml").unlink()
    done = site.run("caso")
    assert done.returncode == 2
    assert "journal.yml: does not exist; run the bundle's install again" in done.stderr


def test_the_shipped_file_covers_all_containers() -> None:
    """Services log through the engine; docker-compose replaces options of another driver."""
    found = yaml.safe_load((TOP / "etc/fedcloud/logs/journal.yml").read_text())["services"]
    assert found.keys() == set(CONTAINERS)
    for name, service in found.items():
        assert service["environment"] == {"FEDCLOUD_LOG_JSON": "1"}
        driver = {"driver": "journald", "options": {"tag": "{{.Name}}"}}
        assert service.get("logging") == (driver if name in SERVICES else None)


@pytest.mark.parametrize("place", ["files", "journal"])
def test_units_start_services_with_the_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "etc/fedcloud").mkdir(parents=True)
    (tmp_path / "etc/fedcloud/appliance.yaml").write_text(f"logs: {place}\n")
    words = steps._up(settings.load(Layout(tmp_path)), Layout(tmp_path), "bdii", "sitebdii")
    name = str(tmp_path / "etc/fedcloud/logs/journal.yml")
    assert (name in words) == (place == "journal")
    if place == "journal":
        assert words.index(name) < words.index("up")


def test_programs_log_json_by_the_environment() -> None:
    """FEDCLOUD_LOG_JSON, as containers have it; the form is that of --log-json."""
    script = (
        "import logging, sys; from appliance.core.run import cli\n"
        "program = cli.Program('x', 'x', lambda p: None,"
        " lambda a: logging.getLogger('a.b').warning('c') or 0)\n"
        "sys.exit(cli.main(program, []))"
    )
    shown = {}
    for value in ("1", ""):
        environment = {**os.environ, "FEDCLOUD_LOG_JSON": value}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        shown[value] = done.stderr
    entry = json.loads(shown["1"])
    assert {name: entry[name] for name in ("logger", "level", "message")} == {
        "logger": "a.b",
        "level": "WARNING",
        "message": "c",
    }
    assert shown[""].endswith(" - a.b - WARNING - c\n")


def test_logs_of_jobs_are_read_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """journalctl is a stand-in that prints its arguments."""
    program = tmp_path / "journalctl"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(native, "_JOURNALCTL", str(program))
    (tmp_path / "etc/fedcloud").mkdir(parents=True)
    (tmp_path / "etc/fedcloud/appliance.yaml").write_text("logs: journal\n")
    assert main(["logs", "caso", "-n", "7", "--root", str(tmp_path)]) == 0
    assert capfd.readouterr().out == ("--no-pager --output=short-iso -n 7 FEDCLOUD_JOB=caso\n")


@pytest.mark.parametrize(
    "line",
    [b"[" * 100000, b'{"message": 1}', b'{"message": "a"', b"{" * 30000, b"\xff\xfe", b""],
)
def test_any_line_is_a_message(line: bytes) -> None:
    found = journal.entry(line + b"\n", JOBS["caso"])
    assert found["MESSAGE"] == line.decode(errors="backslashreplace")
    assert found["PRIORITY"] == "6"
