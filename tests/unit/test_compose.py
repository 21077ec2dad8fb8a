"""The Compose of a host, selected by one setting: 1.29.2, v2 and v5, program and plugin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from appliance.admin import settings
from appliance.admin.runtime import compose
from appliance.core.run.errors import ConfigurationError, Unavailable
from appliance.core.run.layout import Layout
from tests.simulators import compose_v5


def at(root: Path, place: str) -> Path:
    path = root / place.lstrip("/")
    compose_v5.install(path)
    return path


@pytest.mark.parametrize(
    "place",
    [
        "/usr/bin/docker-compose",  # docker-compose of Debian 12 and 13
        "/usr/local/bin/docker-compose",  # downloaded
        # docker-compose-plugin of Docker's own packages
        "/usr/libexec/docker/cli-plugins/docker-compose",
        "/usr/lib/docker/cli-plugins/docker-compose",  # docker-compose-v2 of Ubuntu
        "/usr/local/lib/docker/cli-plugins/docker-compose",
    ],
)
def test_each_place_is_found(place: str, tmp_path: Path) -> None:
    """F-H17: without any setting."""
    program = at(tmp_path, place)
    assert compose.resolve("", tmp_path) == program
    assert compose.version(program) == "5.0.1"


def test_a_plugin_of_root_alone_is_none(tmp_path: Path) -> None:
    """F-H17: units cannot see /root, so a plugin there would not be that of the services."""
    at(tmp_path, "/root/.docker/cli-plugins/docker-compose")
    program = at(tmp_path, "/usr/bin/docker-compose")
    assert compose.resolve("", tmp_path) == program


def test_a_plugin_comes_before_an_old_program(tmp_path: Path) -> None:
    """F-H17: an engine of version 29 refuses 1.29.2."""
    at(tmp_path, "/usr/bin/docker-compose")
    plugin = at(tmp_path, "/usr/libexec/docker/cli-plugins/docker-compose")
    assert compose.resolve("", tmp_path) == plugin
    plugin.chmod(0o644)  # no program
    assert compose.resolve("", tmp_path) == tmp_path / "usr/bin/docker-compose"


def test_the_plugin_by_the_name_that_people_type(tmp_path: Path) -> None:
    """F-H17: `docker compose` in the setting."""
    program = at(tmp_path, "/usr/bin/docker-compose")
    plugins = compose.resolve("docker compose", tmp_path)
    assert plugins != program
    with pytest.raises(
        Unavailable, match="is not installed; install Compose: apt-get install docker-compose"
    ):
        compose.version(plugins)
    plugin = at(tmp_path, "/usr/lib/docker/cli-plugins/docker-compose")
    assert compose.resolve("docker  compose", tmp_path) == plugin


def test_one_setting_for_every_caller(tmp_path: Path) -> None:
    """F-H17: what is named counts, also where another one would be found."""
    path = tmp_path / "etc/fedcloud/appliance.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"engine:\n  compose: {tmp_path}/own\n")
    compose_v5.install(tmp_path / "own")
    host = settings.load(Layout(tmp_path))
    assert settings.compose_command(host, "up")[0] == f"{tmp_path}/own"
    path.write_text("engine:\n  compose: docker-compose\n")
    with pytest.raises(ConfigurationError) as refused:
        settings.load(Layout(tmp_path))
    assert str(refused.value) == (
        f"{path}:2: [engine] compose: 'docker-compose' is neither a path nor 'docker compose'; "
        "leave it empty to have Compose found"
    )


def test_v5_takes_every_command_line_of_ours(tmp_path: Path) -> None:
    """F-H17: those of jobs, and of the steps of the services' units."""
    path, program = tmp_path / "etc/fedcloud/appliance.yaml", tmp_path / "docker-compose"
    path.parent.mkdir(parents=True)
    path.write_text(f"engine:\n  compose: {program}\n")
    compose_v5.install(program)
    host = settings.load(Layout(tmp_path))
    for words in (
        (
            "run --rm -T --no-deps --label a=b -v /a:/b:ro caso caso-extract --since 2026-11-01 "
            "--dry-run"
        ),
        "up --no-build --no-color cloudbdii sitebdii",
        "rm -v -f cloudkeeper-os",
        "stop -t 8 sitebdii cloudbdii",
    ):
        command = settings.compose_command(host, *words.split())
        assert subprocess.run(command, check=False).returncode == 0, words
        assert compose_v5.calls(program)[-1] == command[1:]
    refused = settings.compose_command(host, "up", "--no-such-flag")
    assert subprocess.run(refused, check=False, capture_output=True).returncode == 16


def test_what_is_asked_of_each_generation(tmp_path: Path) -> None:
    """F-H17: 1.29.2 refuses flags that it does not know; the others are kept from drawing."""
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/python3\n")
    assert compose.quiet(script) == []  # 1.29.2 of Debian is one
    frozen = tmp_path / "frozen"
    # 1.29.2 of its publisher
    frozen.write_bytes(b"\x7fELF" + bytes(9000) + b"MEI\x0c\x0b\x0a\x0b\x0e" + bytes(80))
    assert compose.quiet(frozen) == []
    go = tmp_path / "go"
    go.write_bytes(b"\x7fELF" + bytes(9000))
    assert compose.quiet(go) == ["--progress", "quiet"]
    assert compose.quiet(tmp_path / "none") == []


@pytest.mark.parametrize("says", ["exit 1", "echo docker-compose", "echo oops >&2; exit 5"])
def test_a_program_that_is_no_compose_is_reported(says: str, tmp_path: Path) -> None:
    program = tmp_path / "docker-compose"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="does not print its version") as reported:
        compose.version(program)
    # An installation would not help: this file comes first in the order, or is named.
    assert reported.value.remedy == (
        "replace or remove this file, or name another Compose at engine: compose: in"
        " /etc/fedcloud/appliance.yaml"
    )


@pytest.mark.parametrize("text", ["#!/no/such/python\n", ""])
def test_a_file_that_cannot_be_started_is_to_be_replaced(text: str, tmp_path: Path) -> None:
    program = tmp_path / "docker-compose"
    program.write_text(text)
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="; replace or remove this file"):
        compose.version(program)


def test_a_slow_host_is_no_reason_to_install_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-compose"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(compose, "_ANSWER", 0.2)
    with pytest.raises(Unavailable) as reported:
        compose.version(program)
    assert str(reported.value) == (
        f"{program}: gave no answer in 0.2 s; retry when the host is less busy"
    )


@pytest.mark.parametrize(
    ("version", "is_taken"), [("1.28.6", False), ("1.29.2", True), ("2.26.1-4", True)]
)
def test_what_is_too_old(version: str, is_taken: bool, tmp_path: Path) -> None:
    """F-H17: C04.b."""
    program = tmp_path / "docker-compose"
    compose_v5.install(program, version=version)
    if is_taken:
        assert compose.version(program) == version
    else:
        with pytest.raises(
            Unavailable,
            match=r"is Compose 1\.28\.6; 1\.29 is the oldest that works; replace or remove",
        ):
            compose.version(program)
