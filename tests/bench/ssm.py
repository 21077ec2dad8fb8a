"""Figures of `ssmsend` and `ssmreceive` over the test bed's broker and over an AMS.

Rows are ``ssm case value unit``.

CPU is that of the whole program, start-up taken off: the figure that stays the same on a busy
machine. SSM itself is not in the package index, so it cannot be run beside ours; over AMS the
library that it sends with can: one message a request, each over a connection of its own, without
the signatures that ours makes. The AMS is a thread of this program.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from argo_ams_library import AmsMessage, ArgoMessagingService

from tests.e2e.ssm_site import TOPIC, Site
from tests.simulators.ams_service import AMS
from tests.testbed import Testbed
from tests.testbed.trust import Trust

RECORD = "".join(f"Field{number:02}: a value of some length\n" for number in range(19))
"""About 700 bytes, as one cloud record has."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a program took: seconds of wall time and CPU, and MiB of memory at the most."""

    wall: float
    cpu: float
    memory: float


def run(site: Site, program: str, *arguments: str) -> Usage:
    """Run a program to its end, which must be a good one."""
    begin = time.perf_counter()
    argv = list(site.command(program, *arguments).argv)
    process = os.posix_spawn(argv[0], argv, {**os.environ})
    memory = 0.0
    while True:
        # The kernel's own maximum begins with the size of the process that starts it: ours.
        memory = max(memory, _high_water_mark(process))
        ended, status, usage = os.wait4(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    if status:
        sys.exit(f"{program} ended with {os.waitstatus_to_exitcode(status)}")
    return Usage(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, memory)


def _high_water_mark(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def measure(site: Site, case: str, *, count: int, size: int) -> None:
    """Send and receive ``count`` messages of about ``size`` bytes."""
    start = run(site, "ssmreceive", "--idle-exit", "0")
    site.fill(["first"])
    alone = run(site, "ssmsend")
    run(site, "ssmreceive", "--count", "1")
    text = RECORD * max(1, size // len(RECORD))
    site.fill([f"Message: {number}\n{text}" for number in range(count)])
    for program, arguments, base in (
        ("ssmsend", (), alone),
        ("ssmreceive", ("--count", str(count)), start),
    ):
        used = run(site, program, *arguments)
        verb = program.removeprefix("ssm")
        row(f"{verb} {case}: rate", count / (used.wall - base.wall), "msg/s")
        row(
            f"{verb} {case}: rate of text",
            count * len(text) / 1e6 / (used.wall - base.wall),
            "MB/s",
        )
        row(f"{verb} {case}: CPU", 1000 * (used.cpu - base.cpu) / count, "ms/msg")
        row(f"{verb} {case}: memory", used.memory, "MiB")


def measure_ams(directory: Path, trust: Trust) -> None:
    """Send and receive over an AMS, and publish the same over SSM's library."""
    with AMS(trust.host("broker"), trust.grid.certificate) as service:
        site = Site.at_ams(directory, trust, service)
        measure(site, "AMS small", count=1000, size=700)
        measure(site, "AMS 0.5 MB", count=50, size=500_000)
        os.environ["REQUESTS_CA_BUNDLE"] = str(trust.grid.certificate)
        [token, *_] = service.tokens
        peer = ArgoMessagingService(
            endpoint=f"localhost:{service.port}", token=token, project=service.project
        )
        for case, count, size in (("small", 300, 3500), ("0.5 MB", 50, 500_000)):
            messages = [
                AmsMessage(data="x" * size, attributes={"empaid": str(n)}).dict()
                for n in range(count)
            ]
            begin = time.perf_counter()
            for message in messages:
                peer.publish(TOPIC, message)
            row(
                f"argo-ams-library publishes {case}: rate",
                count / (time.perf_counter() - begin),
                "msg/s",
            )


def row(case: str, value: float, unit: str) -> None:
    """Print one figure."""
    print(f"ssm\t{case}\t{value:.2f}\t{unit}", flush=True)


def main() -> None:
    """Start the broker if need be, and measure."""
    top = Path(__file__).resolve().parents[2]
    testbed = Testbed(
        top / ".cache/testbed/bench-ssm", int(os.environ.get("FEDCLOUD_TESTBED_PORT_BASE") or 28000)
    )
    testbed.up(["broker"])
    directory = Path(tempfile.mkdtemp(dir=top / ".cache"))
    try:
        broker = testbed.broker
        queue = f"/queue/bench.{os.getpid()}"
        site = Site.create(
            directory, broker.trust, hosts=f"{broker.host}:{broker.tls_port}", queue=queue
        )
        empty = min((run(site, "ssmsend") for _ in range(5)), key=lambda usage: usage.wall)
        row("send nothing: time", empty.wall, "s")
        measure(site, "small", count=1000, size=700)
        measure(site, "0.7 MB", count=100, size=700_000)
        measure_ams(directory / "ams", broker.trust)
    finally:
        shutil.rmtree(directory)
        testbed.down()


if __name__ == "__main__":
    main()
