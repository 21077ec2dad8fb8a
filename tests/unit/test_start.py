"""`appliance start`: the commands in order, each printed, none for a flow that is off."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.admin.command import main
from appliance.admin.schedule import schedule
from appliance.admin.start import start
from appliance.core.run import cli

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]


@dataclass
class Host:
    """A host whose jobs are recorded instead of run; the schedule is the real one."""

    root: Path
    statuses: dict[str, int] = field(default_factory=dict)
    """What each job ends with; 0 unless it is here."""
    jobs: list[str] = field(default_factory=list)
    tables_of_locks: list[str] = field(default_factory=list)
    """The kernel's locks while each job ran."""

    def start(self, *words: str) -> int:
        return main(["start", *words, "--root", str(self.root)])

    def units(self) -> list[str]:
        calls = self.root / "systemctl-calls"
        return calls.read_text().splitlines() if calls.exists() else []

    def tables(self) -> list[str]:
        directory = self.root / "etc/cron.d"
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run(self, arguments: argparse.Namespace) -> int:
        self.jobs.append(arguments.job)
        self.tables_of_locks.append(Path("/proc/locks").read_text())
        return self.statuses.get(arguments.job, 0)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    shutil.copytree(TOP / "etc", tmp_path / "etc")
    shutil.copytree(TOP / "systemd", tmp_path / "etc/systemd/system")
    assert main(["flows", "--on", "images", "--root", str(tmp_path)]) == 0
    idle = tmp_path / "etc/fedcloud/cron.d"
    shutil.copytree(TOP / "cron.d", idle, dirs_exist_ok=True)
    for path in idle.iterdir():
        path.chmod(0o644)
    made.write(
        "systemctl",
        f'#!/bin/sh\necho "$@" >>{tmp_path}/systemctl-calls\n! grep -qs "$2" {tmp_path}/broken\n',
    )
    monkeypatch.setattr(start, "_SYSTEMCTL", str(tmp_path / "systemctl"))

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("job")
        parser.add_argument("--wait", action="store_true")
        parser.add_argument("--log", action="store_true")

    steps = cli.Program(
        "appliance",
        "",
        lambda _: None,
        cli.dispatch,
        verbs=(schedule.VERB, cli.Program("run", "", add, made.run)),
    )
    monkeypatch.setattr(start, "_STEPS", steps)
    return made


def test_all_that_is_on_starts_and_each_command_is_printed(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert host.start() == 0
    assert host.units() == ["start bdii", "start cloudkeeper-os"]
    assert host.tables() == [
        "caso",
        "cloud-info-json",
        "cloudkeeper",
        "fedcloud-crl",
        "ssmsend",
    ]
    assert host.jobs == ["caso", "ssmsend"]
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("$ ")] == [
        "$ systemctl start bdii",
        "$ systemctl start cloudkeeper-os",
        "$ appliance schedule cron",
        "$ appliance run caso --wait --log",
        "$ appliance run ssmsend --wait --log",
    ]
    assert said[-1] == "Next: appliance status"


def test_the_lock_is_held_while_services_start_and_not_while_jobs_run(host: Host) -> None:
    """R18: a job does not start while the host is being changed, and these are to start."""
    seen = host.root / "locks"
    host.write("systemctl", f"#!/bin/sh\ncat /proc/locks >>{seen}\n")
    assert host.start() == 0
    number = f":{(host.root / 'run/fedcloud/install.lock').stat().st_ino} "
    assert seen.read_text().count(number) == 2
    assert len(host.tables_of_locks) == 2
    assert not any(number in table for table in host.tables_of_locks)


def test_nothing_of_a_flow_that_is_off_is_started(host: Host) -> None:
    """F-H7."""
    host.write("etc/fedcloud/appliance.yaml", "flows: {accounting: off, images: off}\n")
    assert host.start() == 0
    assert (host.units(), host.jobs) == (["start bdii"], [])


def test_timers_stay_timers_and_a_date_is_kept(host: Host) -> None:
    assert host.start("systemd", "--since", "2026-01-01") == 0
    assert host.start() == 0
    assert host.tables() == []
    assert (
        host.root / "etc/systemd/system/timers.target.wants/fedcloud-job@caso.timer"
    ).is_symlink()
    assert (host.root / "var/lib/fedcloud/since").read_text().startswith("2026-01-01T")


def test_a_service_that_fails_holds_nothing_else_back(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.write("broken", "bdii\n")
    assert host.start() == 1
    assert (host.units()[-1], host.jobs) == ("start cloudkeeper-os", ["caso", "ssmsend"])
    assert (
        "! failed: systemctl start bdii: see systemctl status bdii and" in capsys.readouterr().out
    )


@pytest.mark.parametrize(("status", "jobs"), [(1, ["caso", "ssmsend"]), (3, ["caso"])])
def test_what_an_extraction_has_left_decides_about_sending(
    host: Host, status: int, jobs: list[str]
) -> None:
    """Exit status 1 left records of other projects to send; 3 left none."""
    host.statuses["caso"] = status
    assert host.start() == 1
    assert host.jobs == jobs


def test_no_extraction_without_a_schedule(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoint would end a ``--since`` that was not kept."""
    host.write("etc/crontab", "5 * * * * root caso-extract\n")
    assert host.start("--since", "2026-01-01") == 1
    assert host.jobs == []
    assert (
        "! failed: appliance schedule cron --since 2026-01-01: exit status 2"
        in capsys.readouterr().out
    )


def test_only_root_starts(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert host.start() == 2
    assert "only root can start it; sudo appliance start" in capsys.readouterr().err
    assert host.units() == []
