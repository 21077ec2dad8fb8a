"""An appliance without containers: one command installs it, and `run`, `status`, `logs` and
`schedule` work.

The programs of jobs are stand-ins that say as whom they run and what they can reach; what starts
them is real.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest

from appliance.admin.runtime.native import authorities
from appliance.core.version import __version__
from tests.e2e.host_root import Host
from tests.testbed import Authority
from tests.testbed import bundle as bundles

_PROGRAM = """#!/bin/sh
echo "as $(id -u):$(id -g), groups $(id -G)"
grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/self/status
head -n 1 /etc/grid-security/hostkey.pem
touch /var/lib/fedcloud/runs/mine /var/spool/cloudkeeper/images/mine 2>/dev/null
touch /etc/mine 2>/dev/null && echo "writes to /etc"
echo "authorities $REQUESTS_CA_BUNDLE, proxy $https_proxy"
echo "$@"
case "$*" in *--wait) exec sleep 60;; esac
exit 7
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles")
    private, _ = bundles.make_key(directory)
    bundles.make(directory, key=private)
    return directory


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Host:
    """Return a host that the appliance is installed on, without an engine and without Compose."""
    root = tmp_path_factory.mktemp("host") / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nadm:x:4:\n")
    host = Host(root, made)
    host.stop_engine()
    host.remove("docker", "docker-compose")
    libraries = sysconfig.get_path("purelib")  # the bundle of the tests holds none
    (root / "libraries").mkdir()
    (root / "hook").write_text(f"mount --bind {libraries} libraries\n")
    shown = install(host, made)
    assert (shown.returncode, shown.stderr) == (0, "")
    for name in ("caso-extract", "ssmsend", "cloudkeeper"):
        program = root / f"opt/fedcloud/{__version__}/bin/{name}"
        program.write_text(_PROGRAM)
        program.chmod(0o755)
    grid = root / "etc/grid-security"
    issued = Authority.create(root.with_name("authority"), key="ec").issue("host.example.org")
    (grid / "hostcert.pem").write_bytes(issued.certificate.read_bytes())
    (grid / "hostkey.pem").write_bytes(issued.key.read_bytes())
    (grid / "hostkey.pem").chmod(0o400)
    return host


def install(host: Host, made: Path) -> subprocess.CompletedProcess[str]:
    return host.install(made / f"fedcloud-appliance-{__version__}", "--without-containers")


def appliance(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    command = host.command(
        "/usr/bin/env", "PYTHONPATH=/libraries", "/usr/local/bin/appliance", *words
    )
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_one_command_installs_user_units_timers_and_logs(host: Host, made: Path) -> None:
    """Units run the programs directly, without containers; a second run does nothing."""
    root = host.root
    assert re.search("^fedcloud:[x!]:1999:1999:", (root / "etc/passwd").read_text(), re.MULTILINE)
    assert (root / "opt/fedcloud/current").readlink() == Path(__version__)
    units = root / "etc/systemd/system"
    for name in ("bdii.service", "cloudbdii.service", "cloudkeeper-os.service"):
        text = (units / name).read_text()
        assert (
            "ExecStart=/usr/local/lib/fedcloud/with-authorities /opt/fedcloud/current/bin/" in text
        )
        assert "docker" not in text
        assert "@AUTHORITIES@" not in text
    backend = (units / "cloudkeeper-os.service").read_text()
    assert "\nWants=network-online.target fedcloud-upkeep.timer\n" in backend
    assert "\nExecStartPre=-+/usr/local/bin/appliance certificates --renew\n" in backend
    assert (units / "fedcloud-upkeep.timer").exists()
    assert (units / "fedcloud-upkeep.service").exists()
    assert (units / "fedcloud-job@caso.timer").exists()
    assert (units / "fedcloud-job@.service.d/native.conf").exists()
    assert (units / "multi-user.target.wants/bdii.service").is_symlink()
    assert not (root / "etc/fedcloud/docker-compose.yml").exists()
    assert not (root / "etc/fedcloud/images.lock").exists()
    assert "ldap://localhost:2171/" in (root / "etc/sitebdii/site-urls.conf").read_text()
    assert (root / "etc/logrotate.d/fedcloud-native").exists()
    assert (root / "var/log/apel").stat().st_uid == 1999
    assert not list((root / "etc").glob("cron.d/*"))
    again = host.install(made / f"fedcloud-appliance-{__version__}")  # it is remembered
    assert again.stdout == f"Nothing to change: {__version__} is installed.\n"


def test_a_job_runs_as_its_account_with_what_its_container_would_have(host: Host) -> None:
    """R21: the job can read the copy of the host key, and write where it must."""
    env = host.root / "etc/fedcloud/appliance.env"
    env.write_text(env.read_text().replace("HTTPS_PROXY=\n", "HTTPS_PROXY=http://192.0.2.1:3128\n"))
    shown = appliance(host, "run", "ssmsend", "--", "--some", "a b")
    assert shown.returncode == 7, shown.stderr
    lines = shown.stdout.splitlines()
    assert sorted(lines[1:4]) == [
        "CapBnd:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ]
    assert [lines[0], *lines[4:]] == [
        "as 1999:1999, groups 1999",
        "-----BEGIN PRIVATE KEY-----",
        "authorities /etc/ssl/certs/ca-certificates.crt, proxy http://192.0.2.1:3128",
        "--some a b",
    ]
    records = host.root / "var/lib/fedcloud/runs"
    assert (records / "ssm/mine").stat().st_uid == 1999
    assert not (records / "mine").exists()
    assert list((host.root / "run/fedcloud/keys").iterdir()) == []
    reported = json.loads((records / "jobs/job-ssmsend.json").read_text())
    assert reported["counts"] == {"job_exit_status": 7}


def test_services_trust_what_appliance_env_names(host: Host) -> None:
    """As jobs do: the file that is named, and this system's where that is missing."""
    (host.root / "etc/named.pem").touch()
    usual = authorities()
    for given, used in (
        ("/etc/named.pem", "/etc/named.pem"),
        ("/etc/none.pem", usual),
        ("", usual),
    ):
        program = ["/usr/local/lib/fedcloud/with-authorities", "/bin/sh", "-c"]
        script = 'echo "$REQUESTS_CA_BUNDLE $SSL_CERT_FILE"'
        command = host.command("/usr/bin/env", f"FEDCLOUD_CA_BUNDLE={given}", *program, script)
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        assert shown.stdout == f"{used} {used}\n"


def test_the_start_of_a_service_waits_until_somebody_answers(host: Host) -> None:
    """R38: and no longer than its process lives; an engine that may be there is not asked."""
    place = host.root / "run/cloudkeeper/backend.sock"
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    shown = appliance(host, "wait", "cloudkeeper-os", "--timeout", "20", "--pid", str(ended.pid))
    assert shown.returncode == 3
    assert "cloudkeeper-os: the process that runs it has ended" in shown.stderr
    shown = appliance(
        host, "bdii", "wait", "-h", "192.0.2.1", "--timeout", "20", "--pid", str(ended.pid)
    )
    assert shown.returncode == 3
    assert "sitebdii: the process that runs it has ended" in shown.stderr
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        assert appliance(host, "wait", "cloudkeeper-os", "--timeout", "20").returncode == 0
    shown = appliance(host, "wait", "cloudkeeper-os", "--timeout", "0")
    assert "no answer within 0 s; last fault: Connection refused" in shown.stderr


def test_images_lie_where_cloudkeeper_looks_for_them(host: Host) -> None:
    """R10."""
    assert appliance(host, "flows", "--on", "images").returncode == 0
    for place in ("image_data", "var/spool/cloudkeeper/images"):
        (host.root / place / "mine").unlink(missing_ok=True)
    shown = appliance(host, "run", "cloudkeeper")
    assert shown.returncode == 7, shown.stderr
    assert shown.stdout.splitlines()[-1] == "sync"
    assert (host.root / "image_data/mine").stat().st_uid == 1999
    assert not (host.root / "var/spool/cloudkeeper/images/mine").exists()


def test_a_job_is_stopped_after_its_time(host: Host) -> None:
    """R23: the program itself gets the signal."""
    shown = appliance(host, "run", "caso", "--timeout", "1", "--", "--wait")
    assert shown.returncode == 143
    assert "was stopped by its time limit of 1 s" in shown.stderr
    assert "--since 20" in shown.stdout  # F-H14


def test_check_asks_the_programs_as_they_run(host: Host) -> None:
    """C21: programs are checked as their account, with the mounts of a run."""
    shown = appliance(host, "check", "--offline", "caso")
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "the check ended with exit status 7" in shown.stdout


def test_status_logs_and_schedule_work(host: Host) -> None:
    """C04, C08: the services are units of systemd, their words are in the journal."""
    assert appliance(host, "flows", "--on", "images").returncode == 0
    stand_ins = host.root / "stand-ins"
    for unit, state, restarts in (
        ("bdii", "active", 0),
        ("cloudbdii", "activating", 4),
        ("cloudkeeper-os", "failed", 0),
    ):
        text = f"NRestarts={restarts}\nExecMainStatus=2\nLoadState=loaded\nActiveState={state}\n"
        (stand_ins / f"shown-{unit}.service").write_text(
            f"{text}StateChangeTimestamp=@1764400000\n"
        )
    host.stand_in("journalctl", '#!/bin/sh\necho "$@"\n')
    shown = appliance(host, "status", "--long")
    rows = {line.split()[0]: line.split()[1:3] for line in shown.stdout.splitlines()[1:4]}
    assert rows == {
        "cloudbdii": ["running", "starting"],
        "cloudkeeper-os": ["exited", "unhealthy"],
        "sitebdii": ["running", "unhealthy"],  # active, but there is no slapd that answers (F-I3)
    }
    assert "The programs run without containers." in shown.stdout
    assert (
        "! no job is started yet: run appliance start, or appliance schedule cron|systemd"
        in shown.stdout
    )
    assert (
        appliance(host, "logs", "sitebdii", "-n", "3").stdout
        == "--no-pager --output=cat -n 3 -u bdii.service\n"
    )
    followed = appliance(host, "logs", "bdii", "-f").stdout  # both, side by side
    assert followed == "--no-pager --output=cat -n 50 -f -u cloudbdii.service -u bdii.service\n"
    assert appliance(host, "schedule", "cron").returncode == 0
    assert (host.root / "etc/cron.d/caso").exists()
    assert appliance(host, "images").stdout.startswith("no images are needed")
