"""One job, once: lock, key, time limit, signals, record, exit status.

A real program stands in for docker-compose: it records its call, and behaves as the test chose.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.admin import inventory
from caso.cmds import control as accounting
from cloudkeeper.cmds import frontend
from ssm.cmds import control
from tests import run_records, warm
from tests.simulators import docker_engine
from tests.testbed import Authority

pytestmark = pytest.mark.root

TOP = Path(__file__).parents[2]
VERSION = "1.2.3"
STAND_IN = """#!/bin/sh
# Stands in for docker-compose: records arguments, environment and the staged key, and then behaves
# as the file "behave" says.
cd "$(dirname "$0")"
behave=$(cat behave)
echo "started $$" >>runs
printf '%s\\n' "$@" >arguments
env >environment
stat -c '%a %u %g' {root}/run/fedcloud/keys/* >keys 2>/dev/null
echo "from the job"
echo "and its errors" >&2
eval "$behave"
"""


@dataclass
class Site:
    """A host's files below ``root``, its engine, and what was run in place of docker-compose."""

    root: Path
    place: Path
    engine: docker_engine.Engine
    appliance: Callable[..., warm.Started]

    def behave(self, script: str) -> None:
        (self.place / "behave").write_text(script + "\n")

    def start(self, *arguments: str) -> warm.Started:
        return self.appliance("run", *arguments[:1], "--root", str(self.root), *arguments[1:])

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.wait(), out, err)

    @property
    def runs(self) -> list[str]:
        path = self.place / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def until_started(self, times: int = 1) -> None:
        deadline = time.monotonic() + 30
        while len(self.runs) < times:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def reported(self, name: str) -> list[str]:
        return (self.place / name).read_text().splitlines()

    def volumes(self) -> list[str]:
        return [
            value for flag, value in itertools.pairwise(self.reported("arguments")) if flag == "-v"
        ]

    def record(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.root / f"var/lib/fedcloud/runs/jobs/job-{job}.json").read_text()
        )
        return found


@pytest.fixture(scope="module")
def appliance() -> Iterator[Callable[..., warm.Started]]:
    with warm.program("appliance.admin.command:main") as start:
        yield start


@pytest.fixture
def site(tmp_path: Path, pki: Authority, appliance: Callable[..., warm.Started]) -> Iterator[Site]:
    root, place = tmp_path / "root", tmp_path / "place"
    place.mkdir()
    (root / "etc/fedcloud").mkdir(parents=True)
    (root / "var/log").mkdir(parents=True)
    (root / "etc/fedcloud/docker-compose.yml").write_text("services: {}\n")
    (root / "etc/fedcloud/networks").mkdir()
    (root / "etc/fedcloud/networks/bridge.yml").write_text("services: {}\n")
    (root / "etc/fedcloud/appliance.env").write_text(f"FEDCLOUD_VERSION={VERSION}\n")
    program = place / "docker-compose"
    program.write_text(STAND_IN.replace("{root}", str(root)))
    program.chmod(0o755)
    host = pki.issue("ssm.example.org", hosts=["ssm.example.org"])
    grid = root / "etc/grid-security"
    grid.mkdir(parents=True)
    (grid / "hostcert.pem").write_bytes(host.certificate.read_bytes())
    (grid / "hostkey.pem").write_bytes(host.key.read_bytes())
    (grid / "hostkey.pem").chmod(0o400)
    pki.publish(grid / "certificates")
    with (
        tempfile.TemporaryDirectory(prefix="e") as short,
        docker_engine.serve(Path(short)) as engine,
    ):
        engine.images = {
            f"egifedcloud/{name}:{VERSION}": "sha256:1" for name in ("caso", "ssm", "cloudkeeper")
        }
        (root / "etc/fedcloud/appliance.yaml").write_text(
            f"engine:\n  socket: {engine.socket}\n  compose: {program}\nflows: {{images: on}}\n"
        )
        site = Site(root, place, engine, appliance)
        site.behave("exit 0")
        yield site


VERBS = [
    ("plan", "--json"),
    ("verify", "https://lists.example.org/ops.list"),
    ("trust", "--yes", "x"),
    ("list",),
    ("status",),
    ("gc",),
    ("import",),
    ("release",),
    ("version",),
]


def test_the_verbs_are_those_of_the_program() -> None:
    named = {verb.name for verb in frontend.PROGRAM.verbs} - {"sync", "help"}
    assert inventory.JOBS["cloudkeeper"].verbs == named == {verb for verb, *_ in VERBS}
    assert inventory.JOBS["ssmsend"].verbs == {verb.name for verb in control.PROGRAM.verbs} - {
        "verify"
    }
    # `appliance vo apply` calls that one, with a login of an administrator.
    assert inventory.JOBS["caso"].verbs == {verb.name for verb in accounting.PROGRAM.verbs} - {
        "administer"
    }


def test_programs_of_accounting_are_reached_from_the_host(site: Site) -> None:
    """Only the container of caso has `caso-projects` and its like."""
    site.behave("exit 1")
    assert site.run("caso", "--", "projects", "--debug").returncode == 1
    shown = site.reported("arguments")
    assert shown[shown.index("caso") :] == ["caso", "caso", "projects", "--debug"]
    assert not (site.root / "var/lib/fedcloud/runs/jobs/job-caso.json").exists()


def test_dead_letters_are_reached_from_the_host(site: Site) -> None:
    """`ssmctl` is in the container only, so the commands of the documents are verbs of the job."""
    site.behave("exit 1")
    assert site.run("ssmsend", "--", "requeue", "6b029cc8/00000000000000").returncode == 1
    shown = site.reported("arguments")
    assert shown[shown.index("ssm") :] == ["ssm", "ssmctl", "requeue", "6b029cc8/00000000000000"]
    assert not (site.root / "var/lib/fedcloud/runs/jobs/job-ssmsend.json").exists()


def test_a_verb_runs_beside_the_job_and_leaves_no_record(site: Site) -> None:
    """Also when the flow is off; the job's container and key are left alone."""
    site.behave("exec sleep 60")
    job = site.start("cloudkeeper")
    site.until_started()
    site.behave("exit 1")
    done = site.run("cloudkeeper", "--", *VERBS[0])
    assert done.returncode == 1
    assert job.poll() is None
    shown = site.reported("arguments")
    assert shown[shown.index("cloudkeeper") :] == ["cloudkeeper", "cloudkeeper", *VERBS[0]]
    assert "eu.egi.fedcloud.job=cloudkeeper-plan" in shown
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    records = site.root / "var/lib/fedcloud/runs/jobs"
    assert [path.name for path in records.glob("*.json")] == ["job-cloudkeeper.json"]

    settings = site.root / "etc/fedcloud/appliance.yaml"
    settings.write_text(settings.read_text().replace("images: on", "images: off"))
    assert site.run("cloudkeeper").returncode == 0
    assert site.run("cloudkeeper", "--", "status").returncode == 1
    assert len(site.runs) == 3


@pytest.mark.parametrize("words", [("sync", "--dry-run"), ("--dry-run",)])
def test_sync_may_be_named(site: Site, words: tuple[str, ...]) -> None:
    assert site.run("cloudkeeper", "--", *words).returncode == 0
    assert site.reported("arguments")[-3:] == ["cloudkeeper", "sync", "--dry-run"]


def first_of_this_month() -> str:
    return datetime.now(UTC).strftime("%Y-%m-01T00:00:00+00:00")


def test_a_first_extraction_does_not_read_the_usage_of_all_years(site: Site) -> None:
    """F-H14: a dry run keeps no date, the first run does, and a kept date is used."""
    kept = site.root / "var/lib/fedcloud/since"
    assert site.run("caso", "--", "--dry-run").returncode == 0
    assert not kept.exists()
    assert site.run("caso").returncode == 0
    assert kept.read_text() == f"{first_of_this_month()}\n"
    kept.write_text("2026-03-01\n")
    assert site.run("caso").returncode == 0
    assert site.reported("arguments")[-3:] == [
        "caso-extract",
        "--since",
        "2026-03-01T00:00:00+00:00",
    ]


def test_a_start_runs_both_jobs_of_accounting_in_one_process(site: Site) -> None:
    """The second run in one process has its own signals, log and record; extraction comes first."""
    settings = site.root / "etc/fedcloud/appliance.yaml"
    off = settings.read_text().replace("images: on", "information: off, images: off")
    settings.write_text(off)
    tables = site.root / "etc/fedcloud/cron.d"
    shutil.copytree(TOP / "cron.d", tables)
    shutil.copy(TOP / "etc/fedcloud/cron.d/cloud-info-json", tables)
    for path in tables.iterdir():
        path.chmod(0o644)
    site.behave("case $* in *caso-extract*) exit 1;; esac")
    command = [sys.executable, "-m", "appliance.admin.command", "start", "--root", str(site.root)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (shown.returncode, len(site.runs)) == (1, 2), shown
    assert (
        "! failed: appliance run caso --wait --log: exit status 1\nNext: appliance status\n"
        in shown.stdout
    )
    # What they print is seen at once, and found again by `appliance logs`.
    for name in ("caso", "ssm"):
        logged = (site.root / f"var/log/{name}.log").read_text()
        assert "from the job\n" in logged
        assert logged in shown.stdout
    assert [site.record(job)["counts"]["job_exit_status"] for job in ("caso", "ssmsend")] == [1, 0]
    assert (site.root / "etc/cron.d/caso").exists()
    assert (site.root / "var/lib/fedcloud/since").read_text() == f"{first_of_this_month()}\n"


def test_a_job_that_somebody_else_starts_too_does_not_run(site: Site) -> None:
    """F-R20: it says who does; a rehearsal and the other jobs run."""
    table = site.root / "etc/cron.d/theirs"
    table.parent.mkdir()
    table.write_text("# theirs\n14 * * * * root docker run egifedcloud/caso\n")
    shown = site.run("caso")
    line = (
        f"{table}:2: starts the job caso beside the appliance; keep one starter: switch the flow"
        " off, or remove this line"
    )
    assert (shown.returncode, shown.stderr) == (2, f"appliance: {line}\n")
    assert not (site.place / "runs").exists()
    assert site.record("caso")["failures"] == [line]
    assert site.run("caso", "--", "--dry-run").returncode == 0
    assert site.run("ssmsend").returncode == 0


def test_the_job_runs_in_its_service_s_container_and_leaves_a_record(site: Site) -> None:
    """R23: what the wrappers of /usr/local/bin start."""
    shown = site.run("caso", "--", "-v")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == "from the job\n"
    etc = site.root / "etc/fedcloud"
    assert site.reported("arguments") == [
        *(
            "-p",
            "fedcloud",
            "--env-file",
            f"{etc}/appliance.env",
            "-f",
            f"{etc}/docker-compose.yml",
        ),
        *("run", "--rm", "-T", "--no-deps", "--label", "eu.egi.fedcloud.job=caso"),
        *("caso", "caso-extract", "--since", first_of_this_month(), "-v"),
    ]
    record = site.record("caso")
    assert (record["status"], record["failures"], record["counts"]) == (
        0,
        [],
        {"job_exit_status": 0},
    )
    assert record["started"] < record["ended"] == record["last_success"]


def test_a_dry_run_is_beside_a_run_of_the_job(site: Site) -> None:
    """Its lock and its container's name are its own; it leaves no record, and hides none."""
    site.behave("exec sleep 3")
    process = site.start("caso")
    site.until_started()
    site.behave("exit 0")
    shown = site.run("caso", "--", "--dry-run", "-v")
    assert (shown.returncode, shown.stdout) == (0, "from the job\n")
    words = site.reported("arguments")
    assert "eu.egi.fedcloud.job=caso-dry-run" in words
    assert words[-5:] == ["caso-extract", "--since", first_of_this_month(), "--dry-run", "-v"]
    assert process.poll() is None
    assert not (site.root / "var/lib/fedcloud/runs/jobs/job-caso.json").exists()
    process.communicate(timeout=60)
    assert site.record("caso")["status"] == 0
    assert not (site.root / "var/lib/fedcloud/runs/jobs/job-caso-dry-run.json").exists()


def test_of_the_caller_s_environment_nothing_reaches_docker_compose(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCLOUD_VERSION", "9.9.9")
    monkeypatch.setenv("OS_PASSWORD", "geheim")
    assert site.run("caso").returncode == 0
    reported = set(site.reported("environment"))
    assert not any(line.startswith("OS_PASSWORD") for line in reported)
    assert [line for line in reported if line.startswith("FEDCLOUD_VERSION")] == [
        f"FEDCLOUD_VERSION={VERSION}"
    ]
    assert {f"DOCKER_HOST=unix://{site.engine.socket}", f"FEDCLOUD_ROOT={site.root}"} <= reported


def test_the_mapping_of_newer_releases_wins(site: Site) -> None:
    """R18: by a variable of the compose file, unless appliance.env names another one."""
    assert site.run("caso").returncode == 0
    assert "FEDCLOUD_CASO_MAPPING=/etc/voms.json" in site.reported("environment")
    (site.root / "etc/caso").mkdir()
    (site.root / "etc/caso/voms.json").write_text("{}")
    assert site.run("caso").returncode == 0
    assert "FEDCLOUD_CASO_MAPPING=/etc/caso/voms.json" in site.reported("environment")
    with (site.root / "etc/fedcloud/appliance.env").open("a") as env:
        env.write("FEDCLOUD_CASO_MAPPING='/etc/mine.json'")
    assert site.run("caso").returncode == 0
    assert "FEDCLOUD_CASO_MAPPING=/etc/mine.json" in site.reported("environment")


@pytest.mark.parametrize("status", [1, 2, 3, 137])
def test_the_exit_status_is_the_container_s(site: Site, status: int) -> None:
    """R23."""
    site.behave(f"exit {status}")
    shown = site.run("caso")
    assert shown.returncode == status
    assert f"caso: caso-extract ended with exit status {status}" in shown.stderr
    record = site.record("caso")
    assert record["counts"] == {"job_exit_status": status}
    assert record["last_success"] is None
    assert record["failures"] == [
        f"caso-extract ended with exit status {status}; its output went to the terminal or caller"
    ]


HUNDRED = """
import os, shutil, sys, yaml
from appliance.admin.command import main, program
program("run")  # imported once
children = []
for number in range(100):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{sys.argv[2]}/{number}", os.O_WRONLY | os.O_CREAT), 1)
        status = main(["run", "caso", "--root", sys.argv[1]])
        sys.stdout.flush()
        os._exit(status)
    children.append(child)
print(*children)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.long
def test_a_hundred_simultaneous_starts_make_one_run(site: Site, tmp_path: Path) -> None:
    """R12, D10: no overlap; a start that finds the job running says so and is done."""
    gate, said = site.place / "gate", tmp_path / "said"
    os.mkfifo(gate)
    said.mkdir()
    site.behave("read line <gate; exit 0")
    command = [sys.executable, "-c", HUNDRED, str(site.root), str(said)]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as starts:
        deadline = time.monotonic() + 120
        while len([path for path in said.iterdir() if path.stat().st_size]) < 99:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        gate.write_text("go\n")
        children, err = starts.communicate(timeout=60)
    assert starts.returncode == 0, err
    assert len(site.runs) == 1
    # A holder that the kernel stops between the lock and its note is another program for a while.
    running = r"running since \d{4}-\d\d-\d\dT[\d:]{8}\+00:00 \(pid (\d+)\)"
    pattern = rf"caso: (?:{running}|held by another program)\n"
    found = [re.fullmatch(pattern, path.read_text()) for path in said.iterdir()]
    holders = {match[1] for match in found if match and match[1]}
    assert len([match for match in found if match]) == 99
    assert len(holders) == 1
    assert holders < set(children.split())


def test_waiting_ends_as_the_other_run_ends_and_runs_nothing(site: Site) -> None:
    """R12: with --wait."""
    gate = site.place / "gate"
    os.mkfifo(gate)
    site.behave("read line <gate; exit 3")
    first = site.start("caso")
    site.until_started()
    waiting = [site.start("caso", "--wait") for _ in range(3)]
    for process in waiting:
        assert process.stdout
        assert "running since" in process.stdout.readline()
    assert all(process.poll() is None for process in waiting)
    with gate.open("w") as open_gate:
        open_gate.write("go\n")
    assert [process.wait(timeout=60) for process in (first, *waiting)] == [3] * 4
    assert len(site.runs) == 1
    for process in (first, *waiting):
        process.communicate()


def test_waiting_for_a_run_that_is_killed_is_no_success(site: Site) -> None:
    # the record in place is an earlier run's
    assert site.run("caso").returncode == 0
    gate = site.place / "gate"
    os.mkfifo(gate)
    site.behave("read line <gate")
    first = site.start("caso")
    site.until_started(2)
    waiting = site.start("caso", "--wait")
    assert waiting.stdout
    assert "running since" in waiting.stdout.readline()
    first.kill()
    first.communicate(timeout=30)
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 3
    assert "caso: the other run was killed" in err
    assert "; run it again: appliance run caso\n" in err
    assert len(site.runs) == 2


def test_other_jobs_do_not_wait_for_it(site: Site) -> None:
    gate = site.place / "gate"
    os.mkfifo(gate)
    site.behave("read line <gate")
    first = site.start("caso")
    site.until_started()
    site.behave("exit 0")
    assert site.run("ssmsend").returncode == 0
    assert first.poll() is None
    gate.write_text("go\n")
    first.communicate(timeout=30)


def test_the_host_key_is_staged_for_ssmsend_alone(site: Site) -> None:
    """R21: a copy with mode 0400 for fedcloud, removed afterwards; the key itself stays root's."""
    assert site.run("ssmsend").returncode == 0
    assert site.reported("keys") == ["400 1999 1999"]
    grid = site.root / "etc/grid-security"
    assert site.volumes() == [
        f"{grid}/hostcert.pem:/etc/grid-security/hostcert.pem:ro",
        f"{site.root}/run/fedcloud/keys/ssmsend:/etc/grid-security/hostkey.pem:ro",
    ]
    assert list((site.root / "run/fedcloud/keys").iterdir()) == []
    status = (grid / "hostkey.pem").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, os.getuid())
    assert site.run("caso").returncode == 0
    assert site.reported("keys") == []


def test_credentials_of_the_unit_are_staged(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadCredential: copies for the containers' account, gone afterwards; none without a unit."""
    given = tmp_path / "credentials"
    given.mkdir()
    (given / "accounting").write_text("s3cret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    keys = site.root / "run/fedcloud/keys"
    (keys / "credentials-caso").mkdir(parents=True)
    (keys / "credentials-caso/old").write_text("of a killed run")
    site.behave(f"stat -c '%n %a %u' {keys}/credentials-caso {keys}/credentials-caso/* >keys")
    assert site.run("caso").returncode == 0
    copy = keys / "credentials-caso"
    assert site.reported("keys") == [f"{copy} 700 1999", f"{copy}/accounting 400 1999"]
    assert site.volumes() == [f"{copy}:/run/fedcloud/credentials:ro"]
    assert "CREDENTIALS_DIRECTORY=/run/fedcloud/credentials" in site.reported("arguments")
    assert "s3cret" not in "".join(site.reported("arguments") + site.reported("environment"))
    assert not list(keys.iterdir())
    (given / "accounting").write_text("x" * (1 << 20 | 1))
    done = site.run("caso")
    assert done.returncode == 3
    assert f"{given}/accounting" in done.stderr
    assert not list(keys.iterdir())
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    site.behave("exit 0")
    assert site.run("caso").returncode == 0
    assert site.volumes() == []


def test_a_file_of_a_secret_elsewhere_is_mounted(site: Site) -> None:
    """Read-only, at its own path, and into no other job."""
    secret = site.root / "srv/secrets/accounting"
    secret.parent.mkdir(parents=True)
    secret.write_text("s3cret\n")
    extra = site.root / "etc/caso/caso.conf.d/site.conf"
    extra.parent.mkdir(parents=True, exist_ok=True)
    extra.write_text("[keystone_auth]\npassword_file = /srv/secrets/accounting\n")
    assert site.run("caso").returncode == 0
    assert site.volumes() == [f"{secret}:/srv/secrets/accounting:ro"]
    assert site.run("ssmsend").returncode == 0
    assert not [one for one in site.volumes() if "secrets" in one]
    extra.write_text("[keystone_auth]\npassword_file = /srv/a b\n")
    (site.root / "srv/a b").write_text("s3cret\n")
    done = site.run("caso")
    assert done.returncode == 2
    assert f"{extra}:2: password_file: /srv/a b cannot be mounted" in done.stderr


def test_foreign_names_where_the_key_is_staged(site: Site) -> None:
    """F-H1: an engine makes a directory where a mount has no source; ssmsend never ran again."""
    keys = site.root / "run/fedcloud/keys"
    (keys / "ssmsend").mkdir(parents=True)
    (keys / "caso").mkdir()
    (keys / "caso/file").write_text("of somebody")
    assert site.run("ssmsend").returncode == 0
    done = site.run("caso")
    assert done.returncode == 0
    assert (
        f"{keys}/caso: Directory not empty; look at it, then remove it: rm -r {keys}/caso"
        in done.stderr
    )
    (keys / "ssmsend").mkdir()
    (keys / "ssmsend/file").write_text("of somebody")
    done = site.run("ssmsend")
    assert done.returncode == 3
    assert f"{keys}/ssmsend: Directory not empty; look at it, then remove it: rm -r" in done.stderr
    said = run_records.read(site.root, "job-ssmsend", below="jobs")
    assert said.status == 3
    assert f"{keys}/ssmsend" in said.failures[0]


def test_the_record_of_a_host_with_a_wrong_configuration(site: Site) -> None:
    """F-S2: the last good run's stayed for as long as no job could start."""
    assert site.run("caso").returncode == 0
    (site.root / "etc/fedcloud/appliance.yaml").write_text("timeouts: {caso: soon}\n")
    assert site.run("caso").returncode == 2
    said = run_records.read(site.root, "job-caso", below="jobs")
    assert said.status == 2
    assert "appliance.yaml:1: " in said.failures[0]


def test_ssmsend_gets_what_sender_cfg_names(site: Site, pki: Authority) -> None:
    # R20, R21: a changed value takes effect; each file is in the container by the name that it has
    # there
    other, receiver = pki.issue("accounting.example.org"), pki.issue("apel.example.org")
    apel, grid = site.root / "etc/apel", site.root / "etc/grid-security"
    apel.mkdir()
    for place, source in {
        "etc/apel/cert.pem": other.certificate,
        "etc/apel/key.pem": other.key,
        "etc/grid-security/servercert.pem": receiver.certificate,
    }.items():
        (site.root / place).write_bytes(source.read_bytes())
    (apel / "key.pem").chmod(0o400)
    config = apel / "sender.cfg"
    config.write_text(
        "[certificates]\ncertificate: /etc/apel/cert.pem\nkey = /etc/apel/key.pem\n"
        "server_cert: /etc/grid-security/servercert.pem\n"
    )
    shown = site.run("ssmsend")
    assert shown.returncode == 0, shown.stderr
    assert site.volumes() == [
        f"{apel}/cert.pem:/etc/apel/cert.pem:ro",
        f"{grid}/servercert.pem:/etc/grid-security/servercert.pem:ro",
        f"{site.root}/run/fedcloud/keys/ssmsend:/etc/apel/key.pem:ro",
    ]
    config.write_text("[certificates]\nkey: /etc/apel/key.pem\n")
    shown = site.run("ssmsend")
    assert (shown.returncode, "the key does not belong to" in shown.stderr) == (3, True)
    config.write_text("[certificates]\nserver_cert: /etc/grid-security/none.pem\n")
    shown = site.run("ssmsend")
    assert (shown.returncode, f"{grid}/none.pem: No such file" in shown.stderr) == (3, True)


def test_ssmsend_gets_what_the_files_of_sender_d_name(site: Site, pki: Authority) -> None:
    """One copy for each key; one that cannot be used holds back no other configuration."""
    other = pki.issue("storage.example.org")
    grid, further = site.root / "etc/grid-security", site.root / "etc/apel/sender.d"
    further.mkdir(parents=True)
    (further.parent / "sender.cfg").write_text("[certificates]\n")
    (further / "same.cfg").write_text("[certificates]\n")
    (further / "broken.cfg").write_text("certificate\n")
    (further / "example.cfg.example").write_text("[certificates]\nkey: /etc/grid-security/no\n")
    for name, source in (("storagecert.pem", other.certificate), ("storagekey.pem", other.key)):
        (grid / name).write_bytes(source.read_bytes())
    (grid / "storagekey.pem").chmod(0o400)
    storage = further / "storage.cfg"
    storage.write_text(
        "[certificates]\ncertificate: /etc/grid-security/storagecert.pem\n"
        "key: /etc/grid-security/storagekey.pem\n"
    )
    shown = site.run("ssmsend")
    assert shown.returncode == 0, shown.stderr
    keys = site.root / "run/fedcloud/keys"
    first = [
        f"{grid}/hostcert.pem:/etc/grid-security/hostcert.pem:ro",
        f"{keys}/ssmsend:/etc/grid-security/hostkey.pem:ro",
    ]
    assert site.volumes() == [
        first[0],
        f"{grid}/storagecert.pem:/etc/grid-security/storagecert.pem:ro",
        first[1],
        f"{keys}/ssmsend.1:/etc/grid-security/storagekey.pem:ro",
    ]
    assert site.reported("keys") == ["400 1999 1999"] * 2
    assert list(keys.iterdir()) == []
    # what a killed run left
    (keys / "ssmsend").write_text("secret")
    (keys / "ssmsend.1").mkdir()
    storage.write_text(storage.read_text().replace("storagekey", "nokey"))
    shown = site.run("ssmsend")
    assert shown.returncode == 0
    assert f"{grid}/nokey.pem: does not exist; copy the key of this host" in shown.stderr
    assert site.volumes() == first
    assert list(keys.iterdir()) == []
    (grid / "hostkey.pem").unlink()
    shown = site.run("ssmsend")
    assert shown.returncode == 3
    assert f"{grid}/hostkey.pem: does not exist" in shown.stderr


def test_certificate_and_key_in_one_file(site: Site) -> None:
    # as some sites have it: in the container it is the copy, which nobody else can read
    grid, config = site.root / "etc/grid-security", site.root / "etc/apel/sender.cfg"
    (grid / "both.pem").write_bytes(
        (grid / "hostkey.pem").read_bytes() + (grid / "hostcert.pem").read_bytes()
    )
    (grid / "both.pem").chmod(0o400)
    config.parent.mkdir()
    both = "/etc/grid-security/both.pem"
    config.write_text(f"[certificates]\ncertificate: {both}\nkey: {both}\n")
    shown = site.run("ssmsend")
    assert shown.returncode == 0, shown.stderr
    assert site.volumes() == [f"{site.root}/run/fedcloud/keys/ssmsend:{both}:ro"]


def test_what_is_no_path_the_job_itself_reports(site: Site) -> None:
    config = site.root / "etc/apel/sender.cfg"
    config.parent.mkdir()
    config.write_text("[certificates]\ncertificate: hostcert.pem\nserver_cert:\n")
    assert site.run("ssmsend").returncode == 0
    assert (
        site.volumes()[0]
        == f"{site.root}/etc/grid-security/hostcert.pem:/etc/grid-security/hostcert.pem:ro"
    )


def test_cloudkeeper_gets_the_key_only_with_authentication(site: Site) -> None:
    """R21."""
    path = site.root / "etc/cloudkeeper/cloudkeeper.yml"
    path.parent.mkdir()
    for switch, staged in (("false", []), ("true", ["400 1999 1999"])):
        path.write_text(f"cloudkeeper:\n  authentication: {switch}\n")
        if staged:
            shown = site.run("cloudkeeper")
            assert shown.returncode == 3
            assert f"{site.root}/etc/grid-security/backendcert.pem: No such file" in shown.stderr
            (site.root / "etc/grid-security/backendcert.pem").write_text(
                "what the backend must prove to be"
            )
        assert site.run("cloudkeeper").returncode == 0
        assert site.reported("keys") == staged
    grid = site.root / "etc/grid-security"
    assert site.volumes() == [
        f"{grid}/hostcert.pem:/etc/grid-security/hostcert.pem:ro",
        f"{grid}/backendcert.pem:/etc/grid-security/backendcert.pem:ro",
        f"{site.root}/run/fedcloud/keys/cloudkeeper:/etc/grid-security/hostkey.pem:ro",
    ]
    (grid / "hostcert.pem").rename(grid / "ck.pem")
    with path.open("a") as config:
        config.write(
            "  certificate: /etc/grid-security/ck.pem\n  backend:\n    certificate: "
            "/etc/ck/peer.pem\n"
        )
    (site.root / "etc/ck").mkdir()
    (site.root / "etc/ck/peer.pem").write_text("what the backend must prove to be")
    assert site.run("cloudkeeper").returncode == 0
    assert site.volumes()[:2] == [
        f"{grid}/ck.pem:/etc/grid-security/ck.pem:ro",
        f"{site.root}/etc/ck/peer.pem:/etc/ck/peer.pem:ro",
    ]


def test_a_certificate_that_the_containers_cannot_read_is_reported(site: Site) -> None:
    """R09: the wrapper is root and would not notice."""
    certificate = site.root / "etc/grid-security/hostcert.pem"
    certificate.chmod(0o600)
    shown = site.run("ssmsend")
    assert shown.returncode == 3
    assert (
        f"{certificate}: the account of the containers cannot read it; chmod 0644 {certificate}"
        in shown.stderr
    )
    os.chown(certificate, 0, 1999)
    certificate.chmod(0o640)
    assert site.run("ssmsend").returncode == 0


@pytest.mark.parametrize("mode", [0o404, 0o444, 0o406])
def test_a_key_that_others_can_read_is_refused(site: Site, mode: int) -> None:
    """R09."""
    (site.root / "etc/grid-security/hostkey.pem").chmod(mode)
    shown = site.run("ssmsend")
    assert shown.returncode == 3
    assert (
        f"hostkey.pem: the private key is open to others (mode {mode:04o}); chmod 0400"
        in shown.stderr
    )
    assert site.runs == []
    assert site.record("ssmsend")["failures"]


def test_a_key_of_another_certificate_is_refused(site: Site, pki: Authority) -> None:
    """R09."""
    other = pki.issue("other.example.org")
    key = site.root / "etc/grid-security/hostkey.pem"
    key.write_bytes(other.key.read_bytes())
    assert "the key does not belong to" in site.run("ssmsend").stderr
    assert site.runs == []


@pytest.mark.parametrize("name", ["hostcert.pem", "hostkey.pem"])
def test_a_host_without_a_certificate_is_reported_where_it_belongs(site: Site, name: str) -> None:
    path = site.root / "etc/grid-security" / name
    path.unlink()
    shown = site.run("ssmsend")
    assert shown.returncode == 3
    kind = {"hostcert.pem": "certificate", "hostkey.pem": "key"}[name]
    assert f"appliance: {path}: does not exist; copy the {kind} of this host (PEM" in shown.stderr
    assert site.runs == []


def test_an_expired_certificate_is_refused_and_nothing_is_sent(site: Site, pki: Authority) -> None:
    """R09, D16."""
    old = pki.issue("ssm.example.org", days=1, not_before=datetime.now(UTC) - timedelta(days=2))
    grid = site.root / "etc/grid-security"
    (grid / "hostcert.pem").write_bytes(old.certificate.read_bytes())
    (grid / "hostkey.pem").write_bytes(old.key.read_bytes())
    shown = site.run("ssmsend")
    assert shown.returncode == 3
    assert "hostcert.pem: the certificate expired on" in shown.stderr
    assert site.runs == []


def test_a_certificate_that_peers_may_not_trust_is_reported(site: Site, tmp_path: Path) -> None:
    """R09: its chain."""
    stranger = Authority.create(tmp_path / "stranger", subject="/DC=org/DC=stranger/CN=Stranger CA")
    host = stranger.issue("ssm.example.org")
    grid = site.root / "etc/grid-security"
    (grid / "hostcert.pem").write_bytes(host.certificate.read_bytes())
    (grid / "hostkey.pem").write_bytes(host.key.read_bytes())
    shown = site.run("ssmsend")
    assert shown.returncode == 0
    assert "hostcert.pem: peers may not trust it" in shown.stderr


def test_a_job_that_takes_too_long_is_stopped(site: Site) -> None:
    site.behave("trap 'echo stopped >>runs; exit 0' TERM; while :; do sleep 0.05; done")
    shown = site.run("caso", "--timeout", "1")
    assert shown.returncode == 3
    assert site.runs[1:] == ["stopped"]
    assert "caso-extract was stopped by its time limit of 1 s" in shown.stderr
    assert site.record("caso")["failures"] == ["caso-extract was stopped by its time limit of 1 s"]


def test_a_limit_of_months_is_one(site: Site) -> None:
    assert site.run("caso", "--timeout", "9999999").returncode == 0


def test_without_an_engine_a_signal_still_ends_the_job(site: Site) -> None:
    site.behave("trap 'echo TERM >>runs; exit 7' TERM; while :; do sleep 0.05; done")
    process = site.start("caso")
    site.until_started()
    site.engine.failure = "shutting down"  # in the middle of the job
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, site.runs[1:]) == (7, ["TERM"]), err
    assert "the Docker engine reports: shutting down; see systemctl status docker\n" in err
    assert "systemctl status docker; the next run removes it" in err
    assert site.record("caso")["counts"] == {"job_exit_status": 7}


def test_a_signal_before_the_job_begins_is_recorded(site: Site) -> None:
    with tempfile.TemporaryDirectory(prefix="e") as short, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{short}/s")
        silent.listen()
        config = site.root / "etc/fedcloud/appliance.yaml"
        config.write_text(re.sub("socket: .*", f"socket: {short}/s", config.read_text()))
        process = site.start("ssmsend")
        # The first connection asks whether somebody listens.
        with silent.accept()[0], silent.accept()[0]:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 3
    reported = site.record("ssmsend")
    assert (reported["status"], reported["counts"]) == (3, {"job_exit_status": 3})
    assert "interrupted" in reported["failures"][0]
    assert site.runs == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_job_once(site: Site, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    site.behave(f"trap 'echo {name} >>runs; exit 7' {name}; while :; do sleep 0.05; done")
    process = site.start("caso")
    site.until_started()
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, site.runs[1:]) == (7, [name])
    assert f"caso-extract was stopped by SIG{name}" in err


def test_signals_go_to_the_container_when_there_is_one(site: Site) -> None:
    gate = site.place / "gate"
    os.mkfifo(gate)
    site.behave("trap 'echo compose >>runs' TERM; read line <gate; exit 4")
    process = site.start("caso")
    site.until_started()
    labels = {"com.docker.compose.project": "fedcloud", "eu.egi.fedcloud.job": "caso"}
    site.engine.add("one", labels=labels)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 20
    while ("SIGTERM", "one") not in site.engine.told:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with gate.open("w") as open_gate:
        open_gate.write("go\n")
    process.communicate(timeout=30)
    assert process.returncode == 4
    assert len(site.runs) == 1
    assert site.engine.containers == {}


def test_what_a_killed_run_left_goes_at_the_next_start(site: Site) -> None:
    """R21, D03: neither container nor key of a killed wrapper stays."""
    site.behave("while :; do sleep 0.05; done")
    process = site.start("ssmsend")
    site.until_started()
    process.kill()
    process.communicate(timeout=30)
    key = site.root / "run/fedcloud/keys/ssmsend"
    assert key.exists()
    labels = {"com.docker.compose.project": "fedcloud", "eu.egi.fedcloud.job": "ssmsend"}
    site.engine.add("left", labels=labels)
    site.engine.add("other", labels=labels | {"eu.egi.fedcloud.job": "caso"})
    pid = int(site.runs[0].split()[1])
    deadline = time.monotonic() + 10  # its container has got SIGTERM
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    site.behave("exit 0")
    shown = site.run("ssmsend")
    assert shown.returncode == 0
    assert "ssmsend: removed 1 container(s) that a killed run had left" in shown.stderr
    assert site.engine.told == [("stop", "left"), ("remove", "left")]
    assert list(site.engine.containers) == ["other"]
    assert not key.exists()


def test_with_log_the_output_is_appended_to_the_job_s_file(site: Site) -> None:
    """R12: the log paths of the manual."""
    log = site.root / "var/log/ssm.log"
    log.write_text("earlier\n")
    shown = site.run("ssmsend", "--log")
    assert shown.stdout == ""
    assert log.read_text() == "earlier\nfrom the job\nand its errors\n"
    (site.root / "var/log/caso.log").unlink(missing_ok=True)
    site.run("caso", "--log")
    assert stat.S_IMODE((site.root / "var/log/caso.log").stat().st_mode) == 0o640


def test_a_log_that_cannot_be_written_keeps_no_job_from_its_work(
    site: Site, tmp_path: Path
) -> None:
    # and a link is not followed: root would write to somebody else's file
    other = tmp_path / "other"
    other.write_text("somebody's\n")
    log = site.root / "var/log/ssm.log"
    log.unlink(missing_ok=True)
    log.symlink_to(other)
    shown = site.run("ssmsend", "--log")
    assert (shown.returncode, shown.stdout) == (0, "from the job\n")
    assert f"{log}: " in shown.stderr
    assert "the output of the job goes to standard output" in shown.stderr
    assert other.read_text() == "somebody's\n"


def test_an_unknown_job_is_one_line_with_the_nearest(site: Site) -> None:
    for word, job in (
        ("cas", "caso"),
        ("ssm-send", "ssmsend"),
        ("caso-extract", "caso"),
        ("cloudkeper", "cloudkeeper"),
    ):
        shown = site.run(word)
        assert (shown.returncode, shown.stderr) == (
            2,
            f"appliance: {word}: there is no such job; did you mean {job}?\n",
        )
    assert (
        "write one of caso, ssmsend, cloudkeeper, cloud-info, cloud-info-json, fetch-crl"
        in site.run("zzz").stderr
    )


def test_without_an_engine_there_is_one_line(site: Site) -> None:
    config = site.root / "etc/fedcloud/appliance.yaml"
    config.write_text(re.sub("socket: .*", f"socket: {site.place}/none", config.read_text()))
    shown = site.run("caso")
    assert shown.returncode == 3
    assert (
        f"appliance: {site.place}/none: the Docker engine does not run; see systemctl status docker"
        in shown.stderr
    )
    assert site.runs == []
    assert site.record("caso")["status"] == 3


def test_an_engine_that_does_not_listen_is_one_line(site: Site) -> None:
    dead = Path(site.place) / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    config = site.root / "etc/fedcloud/appliance.yaml"
    config.write_text(re.sub("socket: .*", f"socket: {dead}", config.read_text()))
    shown = site.run("caso")
    assert shown.returncode == 3
    assert f"appliance: {dead}: the Docker engine does not run" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_missing_image_is_reported_and_never_pulled(site: Site) -> None:
    """R01, D09: nothing is pulled implicitly."""
    site.engine.images.clear()
    shown = site.run("caso")
    assert shown.returncode == 3
    assert (
        f"egifedcloud/caso:{VERSION}: this image is not on the host; run install of "
        "the bundle whose version" in shown.stderr
    )
    assert site.runs == []


def test_another_image_by_the_same_tag_is_never_run(site: Site) -> None:
    # R01: a tag can be moved
    path = site.root / "etc/fedcloud/images.lock"
    path.write_text(f"caso egifedcloud/caso:{VERSION} sha256:{'a' * 64}\n")
    shown = site.run("caso")
    assert shown.returncode == 3
    assert (
        f"egifedcloud/caso:{VERSION}: the engine has sha256:1, not sha256:aaaaaaaaaaaa as in "
        f"{path}; " in shown.stderr
    )
    assert (site.runs, site.record("caso")["status"]) == ([], 3)
    assert site.run("ssmsend").returncode == 0


def test_missing_files_are_reported_together(site: Site) -> None:
    etc = site.root / "etc/fedcloud"
    (etc / "docker-compose.yml").unlink()
    (etc / "appliance.env").unlink()
    shown = site.run("caso")
    assert shown.returncode == 2
    assert [
        line.partition(": does not")[0]
        for line in shown.stderr.splitlines()
        if "does not exist" in line
    ] == [
        f"appliance: {etc}/docker-compose.yml",
        f"appliance: {etc}/appliance.env",
    ]


def test_without_a_version_the_line_says_where_it_belongs(site: Site) -> None:
    (site.root / "etc/fedcloud/appliance.env").write_text("FEDCLOUD_NETWORK=host\n")
    shown = site.run("caso")
    assert shown.returncode == 2
    assert (
        "var/lib/fedcloud/version: does not exist, so the version of the images is not known; run"
        in shown.stderr
    )


def test_wrong_settings_are_reported_with_their_line(site: Site) -> None:
    path = site.root / "etc/fedcloud/appliance.yaml"
    path.write_text(path.read_text() + "timeouts:\n  caso: soon\n  ssmsnd: 3\n")
    shown = site.run("caso")
    assert shown.returncode == 2
    assert (
        f"appliance: {path}:6: [timeouts] caso: 'soon' is not allowed; write a whole number from 1"
        in shown.stderr
    )
    path.write_text(path.read_text().replace("soon", "5"))
    assert (
        f"{path}:7: [timeouts] ssmsnd: unknown option, ignored; did you mean ssmsend?"
        in site.run("caso").stderr
    )


def test_nobody_but_root_starts_jobs() -> None:
    script = (
        "import encodings.idna, os, shutil, sys\n"
        "from appliance.admin.command import main, program\n"
        "program()  # nobody may not read the modules\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(main(['run', 'caso', '--root', '/nonexistent']))"
    )
    # nobody cannot write
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env
    )
    assert (shown.returncode, shown.stderr) == (
        2,
        "appliance: caso: only root can start a job; sudo appliance run caso\n",
    )


def test_fetch_crl_runs_on_the_host_and_its_failure_shows(site: Site) -> None:
    """D13: `fetch-crl || exit 0` hid failures."""
    shown = site.run("fetch-crl", "--", "--version")
    if Path("/usr/sbin/fetch-crl").exists():
        assert shown.returncode == 0
    else:
        assert shown.returncode == 3
        assert (
            "appliance: /usr/sbin/fetch-crl: is not installed; apt-get install fetch-crl"
            in shown.stderr
        )


def test_fetch_crl_goes_through_the_proxy_of_the_site(site: Site) -> None:
    """fetch-crl needs a flag to read its environment; without a proxy its own setting counts."""
    from appliance.admin import settings
    from appliance.admin.run.run import through_proxy
    from appliance.core.run.layout import Layout

    assert through_proxy(settings.load(Layout(site.root))) == []
    path = site.root / "etc/fedcloud/appliance.env"
    path.write_text(
        f"{path.read_text()}HTTP_PROXY=http://u:p%24@proxy.example.org:3128\nHTTPS_PROXY=\n"
        "NO_PROXY=x.org\n"
    )
    host = settings.load(Layout(site.root))
    assert host.proxies == {
        "HTTP_PROXY": "http://u:p%24@proxy.example.org:3128",
        "NO_PROXY": "x.org",
    }
    assert through_proxy(host) == ["--define", "http_proxy=ENV"]


def test_length_of_limits() -> None:
    from appliance.admin.run.supervise import _length

    assert [_length(timedelta(seconds=n)) for n in (5, 60, 90, 7200)] == [
        "5 s",
        "1 min",
        "90 s",
        "2 h",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            (
                "ERROR: for fedcloud_caso_run  Cannot create container for service caso: "
                "invalid mount config for type"
                ' "bind": bind source path does not exist: /etc/caso/caso.conf'
            ),
            (
                "/etc/caso/caso.conf: does not exist, but caso mounts it; "
                "run the bundle's install again, which writes the shipped file"
            ),
        ),
        (
            (
                'Error response from daemon: invalid mount config for type "bind": bind source '
                "path does not exist: /etc/voms.json"
            ),
            (
                "/etc/voms.json: does not exist, but caso mounts it; "
                "run the bundle's install again, which writes the shipped file"
            ),
        ),
        (
            "Couldn't connect to Docker daemon at http+docker://localhost - is it running?",
            "caso: the Docker engine does not answer; systemctl start docker",
        ),
        (
            "ERROR: for caso  toomanyrequests: slow down",
            (
                "caso: its container cannot be started: toomanyrequests: slow down; see systemctl "
                "status docker"
            ),
        ),
    ],
)
def test_a_failure_of_docker_compose_is_not_the_program_s(
    site: Site, words: str, line: str
) -> None:
    """F-H10: status 3 and one line, also in the record, instead of docker-compose's raw output."""
    (site.place / "words").write_text(f"Creating fedcloud_caso_run ... \n{words}\n")
    site.behave("cat words >&2; exit 1")
    done = site.run("caso")
    assert done.returncode == 3
    assert [
        said for said in done.stderr.splitlines() if "starts" not in said and "errors" not in said
    ] == [f"appliance: {line}"]
    assert site.record("caso")["failures"] == [line]
    assert site.record("caso")["counts"]["job_exit_status"] == 3


def test_what_a_program_says_that_looks_like_docker_compose_s_is_the_program_s(site: Site) -> None:
    """F-H10, F-H12: the engine knows that the program ran; docker-compose's lines are dropped."""
    site.engine.events = [
        {"Type": "container", "Action": "die", "Actor": {"Attributes": {"exitCode": "1"}}}
    ]
    noise = [
        "Creating fedcloud_caso_run ... ",
        "Creating fedcloud_caso_run ... done",
        'Creating network "x" with y',
        "1",
    ]
    (site.place / "words").write_text(
        "".join(f"{word}\n" for word in [*noise, "ERROR: one project is left"])
    )
    site.behave("cat words >&2; exit 1")
    done = site.run("caso")
    assert done.returncode == 1
    assert "ERROR: one project is left\n" in done.stderr
    assert "Creating" not in done.stderr
    assert "1" not in done.stderr.splitlines()
    (failure,) = site.record("caso")["failures"]
    assert (
        failure
        == "caso-extract ended with exit status 1; its output went to the terminal or caller"
    )


def test_the_log_says_where_the_output_of_a_run_by_hand_went(site: Site) -> None:
    """F-H12: an empty file alone leaves everybody puzzled."""
    log = site.root / "var/log/caso.log"
    log.write_text("")
    os.utime(log, (1, 1))
    assert site.run("caso").returncode == 0
    command = [
        sys.executable,
        "-m",
        "appliance.admin.command",
        "logs",
        "caso",
        "--root",
        str(site.root),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.match(
        r"# caso: the last run, which ended 20\S+, wrote to the terminal it was started from\n",
        shown,
    )
    assert site.run("caso", "--log").returncode == 0
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == "from the job\nand its errors\n"
