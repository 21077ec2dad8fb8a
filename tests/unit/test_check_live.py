"""`--check-live` of a program: its configuration, then its attempts, all of them within a limit."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.core.run import cli, live, log
from appliance.core.run.errors import ConfigurationError, ExitStatus, Problem, Unavailable
from appliance.core.run.finding import Finding, of_json

FAULT = Finding("/etc/x.conf", 3, "a", "wrong: geheimes; write b", "C30.a", tried="POST /tokens")
WARNING = Finding("", 0, "", "odd", "C32.a", is_error=False)


def program(attempts: live.Attempts, *, run: ExitStatus = ExitStatus.DONE) -> cli.Program:
    def check(arguments: argparse.Namespace) -> ExitStatus:
        assert arguments.check_config
        if run is ExitStatus.USAGE:
            raise ConfigurationError([Problem(FAULT_PATH, 1, "b", "is wrong")])
        return run

    return cli.Program(
        "tool", "Does a thing.", lambda _: None, check, attempts=attempts, attempted_row="C60"
    )


FAULT_PATH = Path("/etc/x.conf")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", set())


def found(capsys: pytest.CaptureFixture[str]) -> list[Finding]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [of_json(line["finding"]) for line in lines if "finding" in line]


def test_each_fault_is_a_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    log.hide("geheimes")
    tool = program(lambda _: [FAULT, WARNING])
    assert cli.main(tool, ["--check-live", "--log-json"]) == 1
    first, second = found(capsys)
    assert (first.text, first.identifier, first.line) == ("wrong: ***; write b", "C30.a", 3)
    assert second == WARNING
    assert cli.main(tool, ["--check-live"]) == 1
    assert "tool: C30.a: /etc/x.conf:3: a: wrong: ***; write b" in capsys.readouterr().err
    assert cli.main(program(lambda _: [WARNING]), ["--check-live"]) == 0
    assert cli.main(program(lambda _: []), ["--check-live"]) == 0


def test_a_wrong_configuration_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    def attempts(_: argparse.Namespace) -> Iterable[Finding]:
        raise AssertionError

    tool = program(attempts, run=ExitStatus.USAGE)
    assert cli.main(tool, ["--check-live", "--log-json"]) == 2
    assert "/etc/x.conf" in capsys.readouterr().err
    assert cli.main(program(attempts), ["--check-config"]) == 0


def test_attempts_that_fail_or_hang_leave_what_was_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: argparse.Namespace) -> Iterator[Finding]:
        yield FAULT
        raise Unavailable("here", "gives no answer", "start it")

    assert cli.main(program(fails), ["--check-live", "--log-json"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert json.loads(lines[0])["finding"]["identifier"] == "C30.a"
    assert json.loads(lines[1])["message"] == "here: gives no answer; start it"

    release = threading.Event()

    def hangs(_: argparse.Namespace) -> Iterator[Finding]:
        yield FAULT
        release.wait()

    monkeypatch.setattr(live, "LIMIT", timedelta(seconds=0.3))
    assert cli.main(program(hangs), ["--check-live", "--log-json"]) == 1
    release.set()
    first, late = found(capsys)
    assert first == FAULT
    assert late.identifier == "C60"
    assert "did not end within 0 s; the rest was not tried" in late.text

    def breaks(_: argparse.Namespace) -> Iterable[Finding]:
        raise KeyError("x")

    assert cli.main(program(breaks), ["--check-live"]) == 4


def test_a_program_that_contacts_nothing_has_no_such_flag() -> None:
    tool = cli.Program("tool", "Does a thing.", lambda _: None, lambda _: 0)
    with pytest.raises(SystemExit, match="2"):
        cli.main(tool, ["--check-live"])
