"""F-S2: the record of `caso-extract` after every kind of failure; F-S1: poisonous projects."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.core import retry
from appliance.core.cloud import compute, session, transport
from appliance.core.run import log
from caso.cmds import extract
from caso.run import LOCK_NAME
from tests import foreign, run_records
from tests.simulators.openstack import Answer, Cloud, Fault, Request, serving

PROGRAM = Path(sys.prefix) / "bin/caso-extract"
LISTING = "/servers/detail"
USAGE = "/os-simple-tenant-usage/"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(transport, "_ATTEMPTS", 2)
    monkeypatch.setattr(retry, "_sleep", lambda _: None)


def command(cloud: Cloud, root: Path, **options: str) -> list[str]:
    """Write a configuration; return the flags of a run with it."""
    more = "\n".join(
        f"{name} = {value}" for name, value in {"projects": "one,two", **options}.items()
    )
    configuration = root / "caso.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"[DEFAULT]\nmessengers = ssm\nsite_name = S\nextractor = nova\n{more}\n[keystone_auth]\n"
        f"auth_type = v3password\nauth_url = {cloud.url}/v3\nusername = u\n"
        "user_domain_name = Default\n"
        "password = p-a-s-s\n"
    )
    return ["--root", str(root), "--config-file", str(configuration)]


def only(project: str, answer: Answer | Callable[[], Answer], path: str = LISTING) -> Fault:
    """Answer listings of one project's servers so."""

    def fault(request: Request) -> Answer | None:
        if path in request.path and clouds[-1].scope_of(request.token) == project:
            return answer() if callable(answer) else answer
        return None

    return fault


clouds: list[Cloud] = []


@contextlib.contextmanager
def two_projects(fault: Fault = lambda _: None) -> Iterator[Cloud]:
    with serving(Cloud(projects=("one", "two"), servers=3, deleted=0, fault=fault)) as cloud:
        clouds.append(cloud)
        yield cloud


def good_run(cloud: Cloud, root: Path) -> None:
    """Leave the record of a complete run, which the failing one must replace."""
    earlier = (cloud.now - timedelta(hours=1)).isoformat()
    assert extract.main([*command(cloud, root), "--extract-to", earlier]) == 0
    said = run_records.read(root, "caso-extract")
    assert (said.counts["projects"], said.counts["projects_left"], said.counts["servers"]) == (
        2,
        0,
        6,
    )


def test_the_lag_is_that_of_the_project_that_is_the_furthest_behind(tmp_path: Path) -> None:
    begin = datetime.now(UTC)
    broken: list[Fault] = []

    def fault(request: Request) -> Answer | None:
        return broken[0](request) if broken else None

    with two_projects(fault) as cloud:
        good_run(cloud, tmp_path)
        assert run_records.read(tmp_path, "caso-extract").counts["lag_seconds"] >= 3598
        broken.append(only("two", Answer(500, {}), USAGE))
        assert extract.main(command(cloud, tmp_path)) == 1
        assert run_records.read(tmp_path, "caso-extract").counts["lag_seconds"] >= 3598
        broken.clear()
        time.sleep(1.1)  # a window of a second has nothing
        assert extract.main(command(cloud, tmp_path)) == 0
        lag = run_records.read(tmp_path, "caso-extract").counts["lag_seconds"]
        assert lag <= (datetime.now(UTC) - begin).total_seconds()


TOKENS = "/v3/auth/tokens"
FAILURES: list[tuple[str, Fault, int, str, dict[str, float]]] = [
    (
        "authentication", lambda r: Answer(401, {}) if r.path == TOKENS else None,
        3, "refuses the account 'u'", {"projects_left": 2},
    ),
    (
        "keystone away", lambda r: Answer(503, {}) if r.path == TOKENS else None,
        3, "still answers 503", {"projects_left": 2},
    ),
    (
        "one item", only("two", Answer(500, {}), USAGE),
        1, "project two (two): ", {"projects_left": 1, "projects_failed": 1},
    ),
    (
        "all items", lambda r: Answer(500, {}) if USAGE in r.path else None,
        3, "project one (one): ", {"projects_left": 2, "projects_failed": 2},
    ),
    (
        "one record",
        only("two", Answer(body={"servers": [
            {"id": 1, "created": 5, "updated": 7, "OS-SRV-USG:launched_at": 3}
        ]})),
        1,
        "record 1: not sent: ",
        {"projects_left": 0, "records_refused": 1},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "status", "words", "counts"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES]
)
def test_the_record_of_a_run_that_fails(
    tmp_path: Path, fault: Fault, status: int, words: str, counts: dict[str, float]
) -> None:
    """F-S2: status, reason and figures are those of this run."""
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        # Servers that are remembered are not asked for.
        (tmp_path / "var/lib/fedcloud/caso/memory.sqlite").unlink()
        cloud.fault = fault
        assert extract.main(command(cloud, tmp_path)) == status
    said = run_records.read(tmp_path, "caso-extract")
    assert said.status == status
    assert words in said.failures[0]
    assert {name: said.counts[name] for name in counts} == counts
    assert said.counts["api_requests"] > 0


def test_the_record_of_a_wrong_configuration(tmp_path: Path) -> None:
    """F-S2: the last good run's record stayed for as long as the configuration was wrong."""
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        assert extract.main(command(cloud, tmp_path, extract_to="soon")) == 2
    said = run_records.read(tmp_path, "caso-extract")
    assert said.status == 2
    assert "caso.conf:" in said.failures[0]


def test_the_record_when_the_cloud_cannot_be_reached(tmp_path: Path) -> None:
    """F-S2."""
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
    assert extract.main(command(cloud, tmp_path)) == 3
    said = run_records.read(tmp_path, "caso-extract")
    assert "cannot be reached" in said.failures[0]
    assert said.counts["projects_left"] == 2


@pytest.mark.root
def test_the_record_of_a_full_disk(tmp_path: Path) -> None:
    """F-S2: the spool is full, and so is the disk of the records."""
    (tmp_path / "var").mkdir()
    with two_projects() as cloud, foreign.small_disk(tmp_path / "var", size="2m"):
        good_run(cloud, tmp_path)
        foreign.fill(tmp_path / "var/filler")
        assert extract.main(command(cloud, tmp_path)) == 3
        said = run_records.read(tmp_path, "caso-extract")
        assert (said.status, said.counts["projects_left"]) == (3, 2)
        assert "No space left on device" in said.failures[0]


def test_the_record_of_a_lock_that_another_run_holds_is_that_run_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-S2: locks are a process's, so another one holds it."""
    code = (
        "import sys; from pathlib import Path; from appliance.core.run import lock\n"
        "with lock.hold(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    )
    monkeypatch.setattr("caso.run.LOCK_WAIT", timedelta(0))
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        before = (tmp_path / "var/lib/fedcloud/runs/caso-extract.json").read_bytes()
        path = next(tmp_path.rglob(LOCK_NAME))
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            assert extract.main(command(cloud, tmp_path)) == 1
            holder.communicate()
    assert (tmp_path / "var/lib/fedcloud/runs/caso-extract.json").read_bytes() == before


def test_the_record_of_a_run_that_is_stopped(tmp_path: Path) -> None:
    """F-S2: by SIGTERM, as a time limit does, while one project of two is done."""
    asked, release = threading.Event(), threading.Event()

    def wait() -> Answer:
        asked.set()
        release.wait(60)
        return Answer(500, {})

    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        cloud.fault = only("two", wait, USAGE)
        running = [str(PROGRAM), *command(cloud, tmp_path, parallel_projects="1")]
        with subprocess.Popen(running, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert asked.wait(60)
            process.terminate()
            assert process.wait(20) == -signal.SIGTERM
            release.set()
    said = run_records.read(tmp_path, "caso-extract")
    assert (said.status, said.failures) == (3, ["stopped by SIGTERM"])
    assert (said.counts["projects_left"], said.counts["servers"]) == (1, 3)


def test_the_record_of_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-S2."""
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        monkeypatch.setattr(session.Cloud, "server_time", lambda _: 1 / 0)
        assert extract.main(command(cloud, tmp_path)) == 4
    said = run_records.read(tmp_path, "caso-extract")
    assert said.failures == ["bug in this program: ZeroDivisionError: division by zero"]
    assert said.counts["projects_left"] == 2


ENDLESS = {
    "a circle": "/servers/detail?marker=x",
    "no end": "",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_project_whose_listing_never_ends_holds_back_no_other(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-S1, of projects."""
    monkeypatch.setattr(compute, "_MOST_PAGES", 20)
    with two_projects() as cloud:
        server = cloud.server("two", 1)
        pages = iter(range(10**6))

        def page() -> Answer:
            link = ENDLESS[kind] or f"/servers/detail?marker={next(pages)}"
            return Answer(
                body={"servers": [server], "servers_links": [{"rel": "next", "href": link}]}
            )

        cloud.fault = only("two", page)
        assert extract.main(command(cloud, tmp_path)) == 1
    said = run_records.read(tmp_path, "caso-extract")
    assert "Nova's l" in said.failures[0]
    assert (said.counts["servers"], said.counts["projects_left"]) == (3, 1)


FLAVOR = {"vcpus": 1, "ram": 1, "disk": 1, "ephemeral": 0, "extra_specs": {}}
POISONS: dict[str, dict[str, Any]] = {
    "half a surrogate pair": {"id": "\ud800"},
    "more cores than there are atoms": {"flavor": FLAVOR | {"vcpus": 10**400}},
    "as old as the calendar": {"created": "0001-01-01T00:00:00Z"},
    "after the end of time": {"created": "9999-12-31T23:59:59Z"},
    "no flavor": {"flavor": None},
}


@pytest.mark.parametrize("kind", POISONS)
def test_a_server_that_makes_no_sense_holds_back_no_other(tmp_path: Path, kind: str) -> None:
    """F-S1 for servers: a project restarted at the beginning, or its lines hid all others."""
    with two_projects() as cloud:
        listed = [cloud.server("two", number) for number in range(3)]
        listed[1] |= POISONS[kind]
        cloud.fault = only("two", Answer(body={"servers": listed}))
        status = extract.main(command(cloud, tmp_path))
    said = run_records.read(tmp_path, "caso-extract")
    assert status == said.status <= 1
    assert said.counts["projects_left"] == 0
    assert said.counts["servers"] >= 5
    assert len(said.failures) <= 3  # a line for each of its records at most
    assert (tmp_path / "var/spool/caso/lastrun.two").exists()


def test_foreign_names_in_state_and_spool_hold_back_nobody(tmp_path: Path) -> None:
    """F-H1: staged batches and checkpoints; no record is missing, each name is reported once."""
    with two_projects() as cloud:
        good_run(cloud, tmp_path)
        [area] = (tmp_path / "var/spool/apel/outgoing/openstack/.caso-staged").iterdir()
        made = foreign.make(area, prefix="other-")
        os.mkfifo(area / "two")
        foreign.make(tmp_path / "var/spool/caso", prefix="lastrun.")
        foreign.make(tmp_path / "var/spool/apel/outgoing/openstack", prefix="x")
        assert extract.main(command(cloud, tmp_path)) == 1
    said = run_records.read(tmp_path, "caso-extract")
    # Nothing of the two projects is left; what is in the way was put aside, and is named.
    assert said.counts["servers"] == 6
    assert (said.counts["projects_failed"], said.counts["projects_left"]) == (0, 0)
    # readable directories were taken for empty batches
    assert len(said.failures) == 1 + len(made) - 2
    assert f"{area}/two.foreign: another program made it, or a file in it" in "\n".join(
        said.failures
    )


def test_a_quarantine_that_cannot_be_written_holds_back_no_good_record(tmp_path: Path) -> None:
    """F-H1: good records are sent; the checkpoint stays until the refused one is kept."""
    with two_projects() as cloud:
        good, bad = cloud.server("two", 0), {**cloud.server("two", 1), "created": "yesterday"}
        cloud.fault = only("two", Answer(body={"servers": [good, bad]}))
        (tmp_path / "var/spool/caso").mkdir(parents=True)
        (tmp_path / "var/spool/caso/quarantine").symlink_to("quarantine")
        for _ in range(2):
            assert extract.main(command(cloud, tmp_path)) == 1
            said = run_records.read(tmp_path, "caso-extract")
            assert "not kept: " in said.failures[0]
            assert said.counts["records"] >= 1
        assert not (tmp_path / "var/spool/caso/lastrun.two").exists()
        (tmp_path / "var/spool/caso/quarantine").unlink()
        assert extract.main(command(cloud, tmp_path)) == 1
        assert (tmp_path / "var/spool/caso/lastrun.two").exists()
        assert len(list((tmp_path / "var/spool/caso/quarantine").iterdir())) == 1
