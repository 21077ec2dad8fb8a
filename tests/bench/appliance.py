"""Figures of a whole appliance, installed from its bundle on a machine that boots.

Rows are ``appliance case value unit``.

The cloud behind it is the test bed's. What is started is started as an administrator does; what is
asked is asked from beside. Times are wall times of this machine as it is now: the load is a row,
too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from deploy import contents, images
from deploy.dockerd import DOCKER, DockerDaemon
from tests.e2e.vm_site import TOP, Appliance, booted
from tests.testbed import Testbed

_PORT_BASE = 28000
_STARTS = 100
_UNITS = ("bdii", "cloudkeeper-os", "fedcloud-job@caso", "fedcloud-job@fetch-crl")


def row(case: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"appliance {case} {value:.6g} {unit}", flush=True)


def start(appliance: Appliance) -> float:
    """Start the BDIIs; returns the seconds until the whole cloud is in the answer."""
    vos = {project.vo for project in appliance.testbed.seed().projects.values() if project.vo}
    begin = time.monotonic()
    appliance.machine.run("systemctl", "start", "bdii")
    appliance.machine.wait(
        lambda: len(appliance.shares()) == len(vos),
        seconds=120,
        what=lambda: appliance.machine.journal("bdii"),
    )
    return time.monotonic() - begin


def recovery(appliance: Appliance, service: str) -> tuple[float, int]:
    """Kill a service's program; return the seconds until it serves, and disturbed neighbours."""
    machine, before, shares = appliance.machine, appliance.containers(), appliance.shares()
    first = _pid(appliance, service)
    (child, *_) = (
        Path(f"/proc/{machine.pid}/root/proc/{first}/task/{first}/children").read_text().split()
    )
    machine.run("kill", "-9", child)
    begin = time.monotonic()

    def is_back() -> bool:
        if (machine.root / "proc" / child).exists():
            return False
        return (
            appliance.backend_answers()
            if service == "cloudkeeper-os"
            else _health(appliance, service, shares)
        )

    machine.wait(is_back, seconds=60, what=lambda: machine.journal("bdii"))
    seconds, after = time.monotonic() - begin, appliance.containers()
    return seconds, sum(after[name] != before[name] for name in before if name != service)


def _health(appliance: Appliance, service: str, shares: set[str]) -> bool:
    if service == "sitebdii":
        return appliance.shares() == shares
    command = (
        "ldapsearch",
        "-x",
        "-LLL",
        "-H",
        "ldap://127.0.0.1:2171",
        "-b",
        "GLUE2GroupID=cloud,o=glue",
        "1.1",
    )
    return "GLUE2ShareID=" in appliance.machine.run(*command, expect=None).stdout


def _pid(appliance: Appliance, service: str) -> str:
    machine = appliance.machine
    identifier = machine.shell(
        f"docker ps -q --filter label=com.docker.compose.service={service}"
    ).stdout.strip()
    return machine.run("docker", "inspect", "--format", "{{.State.Pid}}", identifier).stdout.strip()


def memory(appliance: Appliance) -> float:
    """Return the memory of all long-running containers in MB, shared pages by their part (PSS)."""
    total = 0
    for service in ("cloudbdii", "sitebdii", "cloudkeeper-os"):
        shown = appliance.machine.shell(
            "docker top $(docker ps -q --filter "
            f"label=com.docker.compose.service={service}) -eo pid"
        ).stdout
        for pid in shown.split()[1:]:
            rollup = appliance.machine.shell(f"cat /proc/{pid}/smaps_rollup", expect=None).stdout
            total += sum(
                int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")
            )
    return total * 1024 / 1e6


def programs(engine: DockerDaemon) -> Iterator[tuple[str, float]]:
    """Yield each program with the seconds of its help, the best of five, in its own image."""
    for name, image in contents.IMAGES.items():
        for program in image.programs:
            line = f"TIMEFORMAT=%R; for i in 1 2 3 4 5; do time {program} --help >/dev/null; done"
            shown = engine.docker(
                "run", "--rm", "--network", "none", images.tag(name), "bash", "-c", line
            )
            yield f"{name}-{program}", min(float(word) for word in shown.stderr.split())


def empty_spool(appliance: Appliance) -> float:
    """Return the best of five times of an `ssmsend` that has nothing to send and no network."""
    places = ("/etc/apel", "/etc/grid-security", "/var/spool/apel", "/var/lib/fedcloud")
    appliance.machine.run(
        "install", "-o", "1999", "-m", "400", "/etc/grid-security/hostkey.pem", "/tmp/key"
    )
    mounts = (
        " ".join(f"-v {place}:{place}" for place in places)
        + " -v /tmp/key:/etc/grid-security/hostkey.pem:ro"
    )
    line = (
        "TIMEFORMAT=%R; for i in 1 2 3 4 5; do time ssmsend >/dev/null 2>/tmp/said || exit 1; done"
    )
    shown = appliance.machine.shell(
        f"docker run --rm --network none --tmpfs /tmp --tmpfs /var/log/apel:uid=1999 {mounts} "
        f"{images.tag('ssm')} bash -c '{line}'"
    )
    appliance.machine.run("rm", "/tmp/key")
    return min(float(word) for word in shown.stderr.split() if re.fullmatch(r"\d+\.\d+", word))


def simultaneous(appliance: Appliance) -> int:
    """Start a job many times at once while the cloud keeps it waiting; return how many ran."""
    doors = appliance.machine.doors
    for door in doors:
        door.send_signal(signal.SIGSTOP)
    command = [DOCKER, "exec", appliance.machine.identifier, "bash", "-c"]
    start = "/usr/local/bin/caso-extract.sh --dry-run >/tmp/start.$i 2>&1 &"
    line = f"for i in $(seq {_STARTS}); do {start} done; wait"
    process = subprocess.Popen([*command, line], env=dict(appliance.machine.engine.environment))
    found = "grep -l 'running since' /tmp/start.* 2>/dev/null | wc -l"
    try:
        appliance.machine.wait(
            lambda: int(appliance.machine.shell(found).stdout) >= _STARTS - 1,
            seconds=200,
            what=lambda: appliance.machine.shell("cat /tmp/start.*").stdout,
        )
    finally:
        for door in doors:
            door.send_signal(signal.SIGCONT)
        process.wait()
    return _STARTS - int(appliance.machine.shell(found).stdout)


def measure(appliance: Appliance) -> None:
    """Print all figures."""
    machine = appliance.machine
    row("machine-load", os.getloadavg()[0], "processes")
    row("bdii-first-start", start(appliance), "s")
    machine.run("systemctl", "stop", "bdii")
    row("bdii-start-with-last-good-data", start(appliance), "s")
    appliance.start()
    row("memory-of-all-services", memory(appliance), "MB")
    for service in ("sitebdii", "cloudbdii", "cloudkeeper-os"):
        seconds, disturbed = recovery(appliance, service)
        row(f"recovery-{service}", seconds, "s")
        row(f"disturbed-by-{service}", disturbed, "services")
    archive = machine.directory / "media" / Path(appliance.bundle).name / "images/images.tar"
    row("images-together", archive.stat().st_size / 1e6, "MB")
    for name, seconds in programs(machine.engine):
        row(f"help-{name}", seconds, "s")
    shown = machine.shell(
        "TIMEFORMAT=%R; "
        "for i in 1 2 3 4 5; do time /usr/local/bin/appliance --help >/dev/null; done"
    )
    row("help-appliance", min(float(word) for word in shown.stderr.split()), "s")
    row("ssmsend-empty-spool", empty_spool(appliance), "s")
    row("hundred-starts-of-a-job", simultaneous(appliance), "runs")
    for unit in _UNITS:
        said = machine.run("systemd-analyze", "security", "--no-pager", f"{unit}.service").stdout
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert exposure is not None
        row(f"exposure-{unit}", float(exposure[1]), "of-10")


def main() -> None:
    """Build, boot, install, measure."""
    port_base = int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or _PORT_BASE)
    testbed = Testbed(
        Path(os.environ.get("FEDCLOUD_TESTBED_STATE") or TOP / ".cache/testbed/bench-appliance"),
        port_base,
    )
    was_running = bool(testbed.running())
    testbed.up()
    testbed.seed()
    engine = DockerDaemon(Path(os.environ.get("FEDCLOUD_ENGINE") or TOP / ".cache/docker"))
    try:
        with engine.used():
            images.ensure(engine, TOP / ".cache/deploy")
            with booted(engine) as machine:
                measure(Appliance.install(machine, testbed))
    finally:
        if not was_running:
            testbed.down()


if __name__ == "__main__":
    main()
