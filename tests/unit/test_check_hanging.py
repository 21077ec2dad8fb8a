"""`appliance check` while every endpoint hangs: it ends within its deadlines, and names each."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from appliance.admin import settings
from appliance.admin.check import check, parallel, registry
from appliance.admin.check.probe import CheckedSite, Need, Probe
from appliance.admin.command import main
from appliance.core.run.finding import Finding
from appliance.core.run.layout import Layout
from tests.unit.test_check_beside import ams, authority, cloud, root

__all__ = ["ams", "authority", "cloud", "root"]

pytestmark = pytest.mark.root

BOUND = timedelta(seconds=60)
"""The longest that a check may take while every endpoint hangs."""
PROGRAMS = ("caso", "ssmsend", "cloudkeeper", "cloudbdii", "sitebdii", "cloudkeeper-os")
"""Jobs and services whose configuration a whole check reads."""


@dataclass
class Waits:
    """Time that passes only while the check waits for a probe; no probe ever ends."""

    spans: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return 1000 + sum(self.spans)

    def get(self, *, timeout: float) -> NoReturn:
        self.spans.append(timeout)
        raise queue.Empty

    def put(self, outcome: parallel.Outcome) -> None:
        """Ignore a probe that is released when the check has ended."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    made = Waits()
    monkeypatch.setattr(parallel, "time", made)
    module = SimpleNamespace(SimpleQueue=lambda: made, Empty=queue.Empty)
    monkeypatch.setattr(parallel, "queue", module)
    return made


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make all probes hang, those of programs, too."""
    real, release = registry.of_programs, threading.Event()

    def hang(_: CheckedSite) -> tuple[Finding, ...]:
        release.wait()
        return ()

    def hung(probe: Probe) -> Probe:
        # A machine is looked at from the root directory only, which is not that of the test.
        needs = Need.HOST if probe.needs is Need.MACHINE else probe.needs
        return replace(probe, find=hang, needs=needs)

    monkeypatch.setattr(registry, "PROBES", [*map(hung, registry.PROBES)])
    monkeypatch.setattr(registry, "of_programs", lambda names: map(hung, real(names)))
    yield
    release.set()


@pytest.mark.parametrize(
    ("is_as_egi", "writes", "seconds"),
    [
        (False, False, 55),
        (True, False, 55),
        (False, True, 55),
        (True, True, 480),  # a server boots
    ],
)
def test_a_check_ends_within_its_bound_while_everything_hangs(
    is_as_egi: bool, writes: bool, seconds: int, tmp_path: Path, waits: Waits, hanging: None
) -> None:
    """Each probe is reported late, under its own row, and all deadlines run at the same time."""
    for name, text in {
        "etc/fedcloud/appliance.yaml": "flows:\n  images: on\n",
        "var/lib/fedcloud/runtime": "native\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    layout = Layout(tmp_path)
    report, _ = check.check(
        settings.load(layout), layout, [], is_offline=False, is_as_egi=is_as_egi, writes=writes
    )
    wanted = [one for one in registry.PROBES if is_as_egi or not one.is_as_egi]
    wanted += registry.of_programs(PROGRAMS)
    late = sorted((one.identifiers[0], one.subject) for one in wanted)
    assert sorted((one.identifier, one.tried) for one in report.findings) == late
    assert all("this probe gave no result within" in one.text for one in report.findings)
    assert (report.looked, report.asked, report.bugs) == ([], [], [])
    assert report.status == 3
    # One wait for each probe; together they take as long as the longest deadline.
    assert len(waits.spans) == len(late)
    assert sum(waits.spans) == seconds


@pytest.fixture
def silent() -> Iterator[int]:
    """Listen on a port that accepts every connection, and never sends a byte."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        assert kept
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.mark.matrix
def test_a_site_whose_every_endpoint_hangs(
    silent: int,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real programs and probes of a site of cASO and SSM, with EGI's view, on the clock."""
    for name in ("caso/caso.conf", "apel/sender.cfg"):
        path = root / "etc" / name
        path.write_text(re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{silent}", path.read_text()))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    begun = time.monotonic()
    assert main(["check", "--as-egi", "--json", "--root", str(root)]) == 1
    assert time.monotonic() - begun <= BOUND.total_seconds()
    found = json.loads(capsys.readouterr().out)["findings"]
    # AMS and Keystone, as the guide has it for no answer in time; GOCDB; the information service.
    rows = {one["id"] for one in found}
    assert {"C06.b", "C36.a"} <= rows
    assert {"C11", "C70"} <= {row.partition(".")[0] for row in rows}
