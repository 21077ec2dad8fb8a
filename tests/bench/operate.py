"""Figures of the commands that administrators type, on a site that is a year old.

Rows are ``operate case value unit``: wall and CPU seconds are the best of five, as on an idle
machine, in a process of its own; a check while all endpoints hang is measured once.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from tests.bench import operate_check

_TOP = Path(__file__).parents[2]
_ROUNDS = 5
_DAYS = 365
_SPOOLED = 1460
"""Messages of a year that were never sent: one every six hours."""


def row(case: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"operate {case} {value:.6g} {unit}", flush=True)


def year_old_site(root: Path) -> None:
    """Write a site with the records, messages, dead letters and quarantine of a year."""
    layout = Layout(root)
    for program, below in (
        ("caso-extract", "caso"),
        ("ssmsend", "ssm"),
        ("cloudkeeper", "cloudkeeper"),
        ("cloudkeeper-os", "cloudkeeper-os"),
        ("bdii-resource", "cloudbdii"),
        ("bdii-site", "sitebdii"),
        ("job-caso", "jobs"),
        ("job-fetch-crl", "jobs"),
    ):
        RunRecord(program).write(layout.runs / below, ExitStatus.DONE)
    last = json.loads((layout.runs / "caso/caso-extract.json").read_text())
    for hour in range(_DAYS * 24):
        path = layout.runs / f"caso/old-{hour:05}.json"
        path.write_text(json.dumps(last))
        os.utime(path, (10**9 + hour, 10**9 + hour))
    for table in (_TOP / "cron.d").iterdir():
        copy = root / "etc/cron.d" / table.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(table.read_text())
    outgoing = root / "var/spool/apel/outgoing"
    (root / "etc/apel").mkdir(parents=True)
    text = f"[messaging]\npath: {outgoing}/openstack\ndestination: eu-egi-cloud-accounting\n"
    (root / "etc/apel/sender.cfg").write_text(text)
    begin = datetime.now(UTC) - timedelta(days=_DAYS)
    for number in range(_SPOOLED):
        second = int((begin + number * timedelta(hours=6)).timestamp())
        for place in ("openstack", "failed/openstack"):
            minute = outgoing / place / f"{second // 60 * 60:08x}"
            minute.mkdir(parents=True, exist_ok=True)
            (minute / f"{second:08x}000000").write_text("APEL-cloud-message: v0.4\n")


def best(
    command: list[str],
    statuses: set[int],
    *,
    rounds: int = _ROUNDS,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> tuple[float, float]:
    """Return wall and CPU seconds of a command, the best of some rounds, each by itself."""
    walls, cpus = [], []
    environment = {**os.environ, **variables}
    for _ in range(rounds):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", env=environment)
        walls.append(time.monotonic() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode not in statuses:
            sys.exit(f"{command}: {done.returncode}: {done.stderr.decode(errors='replace')}")
    return min(walls), min(cpus)


def status() -> None:
    """Measure `appliance status` on a year of records."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        year_old_site(root)
        program = str(Path(sys.executable).with_name("appliance"))
        command = [program, "status", "--root", str(root)]
        wall, cpu = best(command, {0, 1})
        row("status-wall", wall, "s")
        row("status-cpu", cpu, "s")
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        row("status-lines", len(shown.splitlines()), "lines")
        row("status-columns", max(map(len, shown.splitlines())), "columns")


def check() -> None:
    """Measure `appliance check` with EGI's view, of a healthy site and while everything hangs.

    The site runs cASO and SSM, without containers; the services are simulators on this host.
    """
    program = str(Path(sys.executable).with_name("appliance"))
    cases = {
        "healthy": (operate_check.healthy, 0, _ROUNDS),
        "hanging": (operate_check.hanging, 1, 1),
    }
    for name, (made, expected, rounds) in cases.items():
        with tempfile.TemporaryDirectory() as directory, made(Path(directory)) as (root, variables):
            command = [program, "check", "--as-egi", "--json", "--root", str(root)]
            wall, cpu = best(command, {expected}, rounds=rounds, variables=variables)
            row(f"check-{name}-wall", wall, "s")
            row(f"check-{name}-cpu", cpu, "s")


CASES: dict[str, Callable[[], None]] = {"status": status, "check": check}
"""What is measured, by its name."""


def main() -> None:
    """Measure the cases that the command line names, or all."""
    unknown = set(sys.argv[1:]) - CASES.keys()
    if unknown:
        sys.exit(f"usage: scripts/bench operate [{'|'.join(CASES)}…]")
    row("load", os.getloadavg()[0], "processes")
    for name in sys.argv[1:] or CASES:
        CASES[name]()


if __name__ == "__main__":
    main()
