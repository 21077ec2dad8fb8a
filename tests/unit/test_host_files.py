"""What is installed on the host beside the programs: tables of cron, units, rotation, places,
wrappers.

The judges are the programs that read the files there: systemd-analyze, systemd-tmpfiles, logrotate,
sh.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

pytestmark = [
    pytest.mark.root,
    pytest.mark.programs("logrotate", "systemd-analyze", "systemd-tmpfiles"),
]

TOP = Path(__file__).parents[2]
TABLES = {
    "caso": "14 * * * * root /usr/local/bin/caso-extract.sh >> /var/log/caso.log 2>&1",
    "ssmsend": "30 */6 * * * root /usr/local/bin/ssm-send.sh >> /var/log/ssm.log 2>&1",
    "cloudkeeper": "26 */4 * * * root /usr/local/bin/cloudkeeper.sh >> "
    "/var/log/cloudkeeper.log 2>&1",
    "fedcloud-crl": "47 */6 * * * root /usr/local/bin/appliance run fetch-crl >> "
    "/var/log/fetch-crl.log 2>&1",
}
"""The lines of the manual of 2017, with its users and log files, and one for revocation lists."""
TIMES = {
    "caso": [f"{hour:02}:14" for hour in range(24)],
    "ssmsend": ["00:30", "06:30", "12:30", "18:30"],
    "cloudkeeper": ["00:26", "04:26", "08:26", "12:26", "16:26", "20:26"],
    "fetch-crl": ["00:47", "06:47", "12:47", "18:47"],
}
WRAPPERS = {
    "caso-extract.sh": "caso",
    "ssm-send.sh": "ssmsend",
    "cloudkeeper.sh": "cloudkeeper",
    "cloud-info.sh": "cloud-info",
}
UNITS = [
    "bdii.service",
    "cloudkeeper-os.service",
    "fedcloud-job@.service",
    "fedcloud-upkeep.service",
]
LOGS = [
    "caso.log",
    "ssm.log",
    "cloudkeeper.log",
    "cloud-info.log",
    "cloud-info-json.log",
    "fetch-crl.log",
]


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    settings = None if environment is None else os.environ | environment
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=settings,
    )


# --------------------------------------------------------------------------------------------------
# cron


def test_the_tables_are_those_of_the_manual() -> None:
    """R12, R22, R34, R39, D08: names, times, users and log files are those of the manual."""
    assert {path.name for path in (TOP / "cron.d").iterdir()} == set(TABLES)
    for name, line in TABLES.items():
        assert line in (TOP / "cron.d" / name).read_text().splitlines()


@pytest.mark.parametrize("name", TABLES)
def test_cron_reads_every_line_of_a_table(name: str) -> None:
    """R22, D01: cron ignores files with a dot in their name, without a last newline, open to
    others; and it needs a user.
    """
    path = TOP / "cron.d" / name
    assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
    text = path.read_text()
    assert text.endswith("\n")
    assert not path.stat().st_mode & 0o022
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = [line for line in lines if re.match(r"[A-Z]+=", line)]
    assert [line.partition("=")[0] for line in settings] == ["SHELL", "PATH", "MAILTO"]
    (job,) = [line for line in lines if line not in settings]
    fields = job.split(maxsplit=6)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])
    assert fields[5] == "root"
    assert fields[6].startswith("/usr/local/bin/")
    assert not re.search(r"(?<!\\)%", job)
    assert "|| exit 0" not in job


# --------------------------------------------------------------------------------------------------
# wrappers


@pytest.mark.parametrize(("name", "job"), WRAPPERS.items())
def test_a_wrapper_hands_on_its_arguments_and_the_exit_status(
    name: str, job: str, tmp_path: Path
) -> None:
    """R23, D02, D07: nothing but the one command, in a shell's syntax that sh itself has read."""
    path = TOP / "bin" / name
    assert stat.S_IMODE(path.stat().st_mode) & 0o755 == 0o755
    program = tmp_path / "appliance"
    program.write_text('#!/bin/sh\nprintf "<%s>" "$@"\nexit 42\n')
    program.chmod(0o755)
    copy = tmp_path / name
    copy.write_text(path.read_text().replace("/usr/local/bin/appliance", str(program)))
    shown = run("sh", copy, "--dry-run", "a b", "$(x)")
    assert (shown.returncode, shown.stdout) == (42, f"<run><{job}><--><--dry-run><a b><$(x)>")
    assert run("sh", copy).stdout == f"<run><{job}><-->"


# --------------------------------------------------------------------------------------------------
# systemd


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of the units with all programs and other units that they name."""
    directory = tmp_path_factory.mktemp("units")
    program = directory / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in (TOP / "systemd").iterdir():
        text = re.sub(r"(?<==)([-+]*)/usr/\S+", rf"\1{program}", path.read_text())
        (directory / path.name).write_text(text)
    for name in ("docker", "basic"):
        (directory / f"{name}.service").write_text(f"[Service]\nExecStart={program}\n")
    return directory


@pytest.mark.parametrize("name", sorted(path.name for path in (TOP / "systemd").iterdir()))
def test_systemd_has_nothing_to_say_about_a_unit(name: str, units: Path) -> None:
    # its exit status tells little: a misspelt key is a line of output and status 0
    shown = run(
        "systemd-analyze", "verify", units / name, environment={"SYSTEMD_UNIT_PATH": f"{units}:"}
    )
    assert (shown.stdout + shown.stderr, shown.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["bdii.service", "cloudbdii.service", "cloudkeeper-os.service"])
def test_systemd_has_nothing_to_say_about_a_unit_without_containers(
    name: str, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in (TOP / "deploy/native/systemd").glob("*.service"):
        text = re.sub(r"(?<==)([-+]?)/(usr|opt)/\S+", rf"\1{program}", path.read_text())
        (tmp_path / path.name).write_text(text.replace("@AUTHORITIES@", "/etc/ssl/cert.pem"))
    (tmp_path / "basic.service").write_text(f"[Service]\nExecStart={program}\n")
    shown = run(
        "systemd-analyze",
        "verify",
        tmp_path / name,
        environment={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (shown.stdout + shown.stderr, shown.returncode) == ("", 0)
    shown = run("systemd-analyze", "security", "--offline=true", tmp_path / name)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
    assert match, shown.stdout + shown.stderr
    assert float(match[1]) <= 3.0


def test_a_misspelt_key_would_be_found(units: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "bdii.service"
    wrong.write_text((units / "bdii.service").read_text().replace("KillMode", "KilMode"))
    shown = run("systemd-analyze", "verify", wrong, environment={"SYSTEMD_UNIT_PATH": f"{units}:"})
    assert "KilMode" in shown.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_exposed_to_little(name: str) -> None:
    shown = run("systemd-analyze", "security", "--offline=true", TOP / "systemd" / name)
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown.stdout)
    assert match, shown.stdout + shown.stderr
    assert float(match[1]) <= 3.0


def test_timers_fire_when_the_tables_do() -> None:
    """R12, R34: `systemd-analyze calendar` gives the times of a whole day."""
    for job, times in TIMES.items():
        text = (TOP / "systemd" / f"fedcloud-job@{job}.timer").read_text()
        (when,) = re.findall(r"OnCalendar=(.*)", text)
        command = [
            "systemd-analyze",
            "calendar",
            f"--iterations={len(times)}",
            "--base-time=2026-01-05 00:00:00 UTC",
        ]
        shown = run(*command, when, environment={"TZ": "UTC"})
        assert re.findall(r"2026-01-05 (\d\d:\d\d):00 UTC", shown.stdout) == times, (
            shown.stdout + shown.stderr
        )
        assert "Persistent=true\n" in text
        assert "RandomizedDelaySec=0\n" in text


def settings_of(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (TOP / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


STEPS = {
    "ExecStartPre": "prepare",
    "ExecStart": "run",
    "ExecStop": "stop",
    "ExecStopPost": "clean",
}


AS_ROOT = {
    ("bdii", "ExecStartPre"): ["/usr/local/bin/appliance firewall up"],
    ("bdii", "ExecReload"): ["/usr/local/bin/appliance firewall up"],
    ("bdii", "ExecStopPost"): ["/usr/local/bin/appliance firewall down"],
    ("cloudkeeper-os", "ExecStartPre"): [
        "/usr/bin/systemd-tmpfiles --create --prefix=/run/cloudkeeper",
        "/usr/local/bin/appliance certificates --renew",
    ],
}
"""Steps of a unit that its hardening is not for."""


@pytest.mark.parametrize("name", ["bdii", "cloudkeeper-os"])
def test_a_service_s_unit_calls_the_command_step_by_step(name: str) -> None:
    """R31, R32, R36, R38: each step is in the unit, and a start lasts until the service answers."""
    unit = settings_of(f"{name}.service")
    command = "/usr/local/bin/appliance service"
    for key, step in STEPS.items():
        lines = [line.lstrip("-") for line in unit[key]]
        assert [line for line in lines if not line.startswith("+")] == [f"{command} {step} {name}"]
        assert [line[1:] for line in lines if line.startswith("+")] == AS_ROOT.get((name, key), [])
    assert unit["ExecStartPost"] == [f"{command} ready {name} --pid=${{MAINPID}}"]
    assert int(unit["TimeoutStartSec"][0]) > 120
    assert unit["WantedBy"] == ["multi-user.target docker.service"]
    assert "docker-compose" not in " ".join(word for key in unit for word in unit[key])


@pytest.mark.parametrize("name", ["bdii.service", "cloudkeeper-os.service"])
def test_services_come_back_and_stop_in_time(name: str) -> None:
    """R38, D15, D17: the unit restarts docker-compose; no job has such a unit."""
    unit = settings_of(name)
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]  # never given up
    assert 1 <= int(unit["RestartSec"][0]) <= 5
    assert int(unit["TimeoutStopSec"][0]) <= 40
    assert "Restart" not in settings_of("fedcloud-job@.service")


# --------------------------------------------------------------------------------------------------
# logs


@pytest.fixture
def rotation(tmp_path: Path) -> tuple[Path, Path]:
    """Return a configuration of logrotate for a directory of the test, and that directory."""
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    text = (
        (TOP / "etc/logrotate.d/fedcloud")
        .read_text()
        .replace("/var/log/", f"{logs}/")
        .replace("root adm", "root root")
    )
    path = tmp_path / "fedcloud"
    path.write_text(text)
    path.chmod(0o644)
    return path, logs


def test_logrotate_accepts_the_file_and_knows_every_log(
    rotation: tuple[Path, Path], tmp_path: Path
) -> None:
    """D11: each log that a table or a job writes."""
    path, logs = rotation
    shown = run("/usr/sbin/logrotate", "-d", "-s", tmp_path / "state", path)
    assert shown.returncode == 0
    assert not re.search("error|warning: (?!logrotate in debug)", shown.stderr), shown.stderr
    considered = re.findall(r"considering log (\S+)", shown.stderr)
    assert considered == [f"{logs}/{name}" for name in LOGS]
    written = {line.split(">> ")[1].split()[0] for line in TABLES.values()}
    assert written <= {f"/var/log/{name}" for name in LOGS}


def test_a_rotated_log_is_new_and_closed_to_others(
    rotation: tuple[Path, Path], tmp_path: Path
) -> None:
    """D11, D12."""
    path, logs = rotation
    (logs / "caso.log").write_text("old\n")
    for number in range(10):
        shown = run("/usr/sbin/logrotate", "-f", "-s", tmp_path / "state", path)
        assert shown.returncode == 0, shown.stderr
        (logs / "caso.log").write_text(f"{number}\n")
    assert stat.S_IMODE((logs / "caso.log").stat().st_mode) == 0o640
    assert len(list(logs.iterdir())) == 1 + 8


# --------------------------------------------------------------------------------------------------
# places


def test_places_are_made_for_the_account_of_the_containers(tmp_path: Path) -> None:
    """R10, R19, D10: the spools, the images' directory, the state, and the lock of cloudkeeper,
    which outlasts a container.
    """
    for directory in ("etc", "var/log", "run/lock", "var/spool"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nfedcloud:x:1999:1999::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nadm:x:4:\nfedcloud:x:1999:\n")
    shown = run(
        "systemd-tmpfiles", f"--root={tmp_path}", "--create", TOP / "etc/tmpfiles.d/fedcloud.conf"
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    for place in (
        "image_data",
        "var/spool/apel/outgoing/openstack",
        "var/spool/caso",
        "run/lock/cloudkeeper",
    ):
        status = (tmp_path / place).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (
            1999,
            1999,
            0o750,
        ), place
    for name in ("caso", "ssm", "cloudkeeper", "cloudkeeper-os", "bdii/resource", "bdii/site"):
        assert (tmp_path / "var/lib/fedcloud" / name).stat().st_uid == 1999
    records = tmp_path / "var/lib/fedcloud/runs"
    # no container's to write to
    assert (records.stat().st_uid, stat.S_IMODE(records.stat().st_mode)) == (0, 0o755)
    services = yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]
    assert {path.name: path.stat().st_uid for path in records.iterdir()} == dict.fromkeys(
        services, 1999
    ) | {"jobs": 0}
    meeting = (tmp_path / "run/cloudkeeper").stat()  # F-H4
    assert (meeting.st_uid, stat.S_IMODE(meeting.st_mode)) == (1999, 0o700)
    assert stat.S_IMODE((tmp_path / "run/fedcloud/keys").stat().st_mode) == 0o700
    assert (tmp_path / "run/fedcloud/keys").stat().st_uid == 0
    for name in LOGS:
        status = (tmp_path / "var/log" / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, 4)


# --------------------------------------------------------------------------------------------------
# etc


def test_every_file_that_the_manual_names_is_shipped() -> None:
    """R13, R20, R26, R27, R29, R30, R36, R37, D14: and site-urls.conf is a file of the host."""
    for name in (
        *("caso/caso.conf", "voms.json", "apel/sender.cfg", "cloud-info-provider/openstack.rc"),
        *(
            "cloud-info-provider/openstack.yaml",
            "sitebdii/glite-info-site-defaults.conf",
            "sitebdii/site.cfg",
        ),
        *(
            "sitebdii/site-urls.conf",
            "cloudkeeper/cloudkeeper.yml",
            "cloudkeeper/cloudkeeper-os.conf",
        ),
        *("cloudkeeper/image-lists.conf", "fedcloud/appliance.env", "fedcloud/appliance.yaml"),
    ):
        assert (TOP / "etc" / name).is_file(), name


def test_each_component_has_its_own_account_in_its_own_file() -> None:
    """R07: a file that holds an account is mounted for its own component alone."""
    readers: dict[str, set[str]] = {}
    for name, service in yaml.safe_load((TOP / "docker-compose.yml").read_text())[
        "services"
    ].items():
        for mount in service["volumes"]:
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", mount["source"])
            readers.setdefault(source, set()).add(name)
    for file, components in {
        "caso/caso.conf": {"caso"},
        "cloud-info-provider/openstack.rc": {"cloudbdii", "cloud-info"},
        "cloudkeeper/cloudkeeper-os.conf": {"cloudkeeper-os"},
    }.items():
        path = Path("/etc") / file
        assert {
            name for place in (path, *path.parents) for name in readers.get(str(place), ())
        } == components


def test_the_shipped_voms_json_is_what_keystone_voms_has() -> None:
    """R05, R18."""
    mapping = json.loads((TOP / "etc/voms.json").read_text())
    assert [list(entry) for entry in mapping.values()] == [["tenant"]]


def test_the_shipped_settings_are_the_defaults(tmp_path: Path) -> None:
    from appliance.admin import settings
    from appliance.core.run.layout import Layout

    bare = settings.load(Layout(tmp_path))
    shutil.copytree(TOP / "etc/fedcloud", tmp_path / "etc/fedcloud")
    shipped = settings.load(Layout(tmp_path))
    assert shipped.warnings == ()
    assert (shipped.socket, shipped.compose, shipped.timeouts) == (
        bare.socket,
        bare.compose,
        bare.timeouts,
    )


def test_the_shipped_sender_sends_to_the_repository_of_today() -> None:
    """R20, D05, D06: no queue for tests; and no logging.cfg that could be broken."""
    text = (TOP / "etc/apel/sender.cfg").read_text()
    active = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert "protocol: AMS" in active
    assert "destination: eu-egi-cloud-accounting" in active
    assert not [line for line in active if "test" in line.lower()]
    assert not (TOP / "etc/apel/logging.cfg").exists()


# --------------------------------------------------------------------------------------------------
# the table


def test_every_promise_and_every_fault_has_its_row_and_its_tests() -> None:
    text = (TOP / "docs/requirements.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    names = [row[0].strip("| ") for row in rows if re.match(r"\|? ?[RD]\d\d", row[0])]
    assert names == [f"R{number:02}" for number in range(1, 41)] + [
        f"D{number:02}" for number in range(1, 18)
    ]
    for path in re.findall(r"`(tests/\w+/test_\w+\.py)", text):
        assert (TOP / path).is_file(), path
    proven = re.findall(r"`((?:tests/\w+/)?test_\w+\.py)((?:::test_\w+…?`(?:, `)?)+)", text)
    for file, tests in proven:
        (found,) = [
            path
            for path in TOP.glob("tests/*/test_*.py")
            if f"/{path.relative_to(TOP)}".endswith(f"/{file}")
        ]
        for name in re.findall(r"::(test_\w+)", tests):
            assert f"def {name}" in found.read_text(), (file, name)


@functools.cache
def docstrings(path: Path) -> tuple[str, str]:
    """Return a file's own docstring, and those of its tests."""
    module = ast.parse(path.read_text())
    tests = (
        node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
    return (
        ast.get_docstring(module) or "",
        "\n".join(ast.get_docstring(test) or "" for test in tests),
    )


def named_rows(path: Path) -> set[str]:
    """Return the rows that the docstrings of a file's tests name."""
    return set(re.findall(r"\b[RD]\d\d\b", docstrings(path)[1]))


@pytest.mark.long
def test_every_row_is_named_by_a_test() -> None:
    rows = set(
        re.findall(r"^\| ([RD]\d\d) \|", (TOP / "docs/requirements.md").read_text(), re.MULTILINE)
    )
    named = {row for path in TOP.glob("tests/*/test_*.py") for row in named_rows(path)}
    assert named == rows


# How many findings of November 2026 there are of each kind: the host, trust, messages, logins.
FINDINGS = {"H": 17, "T": 6, "S": 7, "L": 5}


def named_findings(path: Path) -> set[str]:
    """Return the findings that the docstrings of a file's tests, or the file's own, name."""
    return set(re.findall(r"\bF-[A-Z]\d+\b", "\n".join(docstrings(path))))


@pytest.mark.long
def test_every_finding_is_named_by_a_test() -> None:
    """R20 is of another kind, about other starters of jobs; the rest waits to be mended."""
    wanted = {f"F-{kind}{n}" for kind, most in FINDINGS.items() for n in range(1, most + 1)}
    named = {row for path in TOP.glob("tests/*/test_*.py") for row in named_findings(path)}
    assert (wanted | {"F-R20"}) - named == set()
