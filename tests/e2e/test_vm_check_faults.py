"""Faults of a host, each injected into an installed machine with systemd and an engine.

`appliance check` finds each of them alone, by its id with the file and line, and nothing once it is
healed. Faults of images and of the BDII are in `test_check_faults`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from tests.e2e.vm_site import CA_BUNDLE, TOP, Appliance
from tests.testbed.vm import HOST

pytestmark = [
    pytest.mark.container,
    pytest.mark.vm,
    pytest.mark.cloud,
    pytest.mark.broker,
    pytest.mark.matrix,
    pytest.mark.timeout(2400),
]

SETTINGS = "/etc/fedcloud/appliance.yaml"
DEFAULTS = "/etc/sitebdii/glite-info-site-defaults.conf"
IMAGES, CRON, RUNS = "/image_data", "/etc/cron.d/caso", "/var/lib/fedcloud/runs/jobs"
FAKE = f"env SSL_CERT_FILE={CA_BUNDLE} faketime -f"

Place = tuple[str, str, int]
"""The id of a finding, its file, and the line."""
Inject = Callable[[Appliance], AbstractContextManager[tuple[str, int]]]


@dataclass(frozen=True)
class Fault:
    """A fault, and how it is looked for: the command's words, and what stands before it."""

    row: str
    inject: Inject
    words: str
    before: str = ""


def check(appliance: Appliance, words: str, before: str = "") -> list[Place]:
    """Return what is found."""
    done = appliance.machine.shell(f"{before} appliance check --json {words}", expect=None)
    assert done.stdout.startswith("{"), done
    assert "Traceback" not in done.stderr
    findings = json.loads(done.stdout)["findings"]
    return [(one["id"], one["path"], one["line"]) for one in findings]


def examine(appliance: Appliance, faults: Sequence[Fault]) -> None:
    """Inject each fault alone; it is found, and nothing once it is healed."""
    families = dict.fromkeys(one.words for one in faults)
    before = {words: check(appliance, words) for words in families}
    wrong: list[object] = [(words, found) for words, found in before.items() if found]
    for fault in faults:
        with fault.inject(appliance) as place:
            found = check(appliance, fault.words, fault.before)
        if found != [(fault.row, *place)]:
            wrong.append((fault.row, place, found))
        if left := check(appliance, fault.words):
            wrong.append((fault.row, "healed", left))
    assert not wrong, "\n".join(map(str, wrong))


def shell(
    row: str, do: str, undo: str, words: str, place: tuple[str, int] = ("", 0), before: str = ""
) -> Fault:
    """Return a fault that two command lines make and heal."""

    @contextlib.contextmanager
    def inject(appliance: Appliance) -> Iterator[tuple[str, int]]:
        appliance.machine.shell(do)
        try:
            yield place
        finally:
            appliance.machine.shell(undo)

    return Fault(row, inject, words, before)


def edit(row: str, name: str, old: str, new: str, words: str, *, at: str = "") -> Fault:
    """Return a fault in a file: a text is replaced by one whose last line, or ``at``, is found."""

    @contextlib.contextmanager
    def inject(appliance: Appliance) -> Iterator[tuple[str, int]]:
        path = appliance.path(name)
        text, mode = path.read_text(), path.stat().st_mode & 0o777
        assert old in text, (name, old)
        spoilt = text.replace(old, new, 1)
        needle = at or new.rstrip("\n").rpartition("\n")[2]
        appliance.write(name, spoilt, mode=mode)
        try:
            yield name, 0 if at == "-" else spoilt[: spoilt.index(needle)].count("\n") + 1
        finally:
            appliance.write(name, text, mode=mode)

    return Fault(row, inject, words)


def file(row: str, name: str, text: str, words: str, line: int = 1, *, mode: int = 0o644) -> Fault:
    """Return a fault that is a whole file, which did not exist."""

    @contextlib.contextmanager
    def inject(appliance: Appliance) -> Iterator[tuple[str, int]]:
        appliance.path(name).parent.mkdir(parents=True, exist_ok=True)
        appliance.write(name, text, mode=mode)
        try:
            yield name, line
        finally:
            appliance.path(name).unlink()

    return Fault(row, inject, words)


# --------------------------------------------------------------------------------------------------
# the machine

DOCKER = "systemctl {} docker.socket docker"
TAG = "$(docker images --format '{{.Repository}}:{{.Tag}}' | grep /caso: | head -n 1)"
OTHER = "$(docker images --format '{{.Repository}}:{{.Tag}}' | grep /sitebdii: | head -n 1)"
SMALL = "mount -t tmpfs -o {} none {}"
MEMORY = "sed 's/^MemTotal:.*/MemTotal: 524288 kB/' /proc/meminfo >/tmp/meminfo"
LINES = len((TOP / "cron.d/caso").read_text().splitlines())
"""Of the table of cron, whose last line starts the job."""
TABLE = "cp -p /etc/cron.d/caso /tmp/caso.table"
BACK = "cp -p /tmp/caso.table /etc/cron.d/caso"
OLD_RUN = json.dumps({"program": "job-caso", "started": "2020-01-01T00:00:00+00:00", "status": 0})
TIMER = "/etc/systemd/system/timers.target.wants/fedcloud-job@caso.timer"
MACHINE = (
    shell("C01.a", "true", "true", "--only C01", before=f"{FAKE} +60s"),
    shell("C01.b", "systemctl stop chrony", "systemd-run --unit chrony sleep inf", "--only C01"),
    shell(
        "C02.a", SMALL.format("size=200m", IMAGES), f"umount {IMAGES}", "--only C02", (IMAGES, 0)
    ),
    shell(
        "C02.b",
        SMALL.format("size=50m", "/var/spool/apel"),
        "umount /var/spool/apel",
        "--only C02",
        ("/var/spool/apel", 0),
    ),
    shell(
        "C02.c",
        SMALL.format("size=500m,nr_inodes=100", "/var/spool/apel"),
        "umount /var/spool/apel",
        "--only C02",
        ("/var/spool/apel", 0),
    ),
    shell(
        "C02.d",
        SMALL.format("size=200m,ro", IMAGES),
        f"umount {IMAGES}",
        "--only C02",
        (IMAGES, 0),
    ),
    shell(
        "C03.a",
        f"{MEMORY}; mount --bind /tmp/meminfo /proc/meminfo",
        "umount /proc/meminfo",
        "--only C03",
    ),
    shell(
        "C04.b",
        "mount --bind /dev/null /usr/bin/docker-compose",
        "umount /usr/bin/docker-compose",
        "--only C04 --offline",
        ("/usr/bin/docker-compose", 0),
    ),
    shell(
        "C04.c",
        f"docker tag {TAG} kept:1; docker rmi {TAG}",
        "docker tag kept:1 $(cat /tmp/tag); docker rmi kept:1",
        "--only C04 --offline",
    ),
    shell(
        "C04.d",
        f"docker tag {TAG} kept:1; docker tag {OTHER} {TAG}",
        "docker tag kept:1 $(cat /tmp/tag); docker rmi kept:1",
        "--only C04 --offline",
    ),
    shell(
        "C04.a",
        DOCKER.format("stop"),
        DOCKER.format("start"),
        "--only C04 --offline",
        ("/run/docker.sock", 0),
    ),
    edit("C07.a", DEFAULTS, f"SITE_BDII_HOST={HOST}", "SITE_BDII_HOST=no.invalid", "--only C07"),
    edit("C07.b", DEFAULTS, f"SITE_BDII_HOST={HOST}", "SITE_BDII_HOST=192.0.2.17", "--only C07"),
    shell(
        "C08.a",
        "systemctl stop crond",
        "systemd-run --unit crond sleep inf",
        "--only C08",
        (CRON, 0),
    ),
    shell("C08.b", f"{TABLE}; sed -i 's/ root / /' {CRON}", BACK, "--only C08", (CRON, LINES)),
    shell("C08.c", f"{TABLE}; truncate -s -1 {CRON}", BACK, "--only C08", (CRON, LINES)),
    shell("C08.c", f"chmod 664 {CRON}", f"chmod 644 {CRON}", "--only C08", (CRON, 0)),
    file(
        "C08.d",
        "/var/spool/cron/crontabs/root",
        "5 * * * * /usr/local/bin/caso-extract.sh\n",
        "--only C08",
    ),
    shell(
        "C08.e",
        f"mkdir -p $(dirname {TIMER}); ln -s ../fedcloud-job@.timer {TIMER}",
        f"rm {TIMER}",
        "--only C08",
    ),
    shell(
        "C08.f",
        f"echo {shlex.quote(OLD_RUN)} >{RUNS}/job-caso.json",
        f"rm {RUNS}/job-caso.json",
        "--only C08",
        (f"{RUNS}/job-caso.json", 0),
    ),
)


NUMBERS = itertools.count()


@contextlib.contextmanager
def kept(appliance: Appliance, *names: str) -> Iterator[None]:
    """Put back files of the machine, with their modes and times, after the block."""
    place = f"/tmp/kept-{next(NUMBERS)}"
    listed = " ".join(names)
    appliance.machine.shell(f"rm -rf {place}; mkdir {place}; cp -a --parents {listed} {place}")
    try:
        yield
    finally:
        appliance.machine.shell(f"cp -a {place}/. /")


@pytest.fixture
def tended(appliance: Appliance) -> Iterator[Appliance]:
    """Yield the machine with what keeps its clock and starts its jobs, and a name that it has."""
    machine = appliance.machine
    with kept(appliance, DEFAULTS, SETTINGS):
        machine.shell(f"sed -i 's/^SITE_BDII_HOST=.*/SITE_BDII_HOST={HOST}/' {DEFAULTS}")
        machine.shell(f"printf %s {TAG} >/tmp/tag; rm -f {RUNS}/job-*.json")
        # What says that this machine is a container, which keeps no clock.
        machine.shell("mount --bind /bin/false /usr/bin/systemd-detect-virt")
        machine.shell("systemd-run --unit chrony sleep inf; systemd-run --unit crond sleep inf")
        try:
            yield appliance
        finally:
            machine.shell("systemctl stop chrony crond; umount /usr/bin/systemd-detect-virt")


def test_faults_of_the_machine(tended: Appliance) -> None:
    """C01 to C08: the clock, disks, memory, the engine, ports, names, starters of jobs."""
    examine(tended, MACHINE)
