"""A cloud that is busy, breaks connections, cuts pages or sends nonsense: nothing is lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance.core.run import log
from caso.cmds import extract
from tests import run_records, warm
from tests.demo import counters
from tests.simulators.openstack import Answer, Cloud, Fault, Request, serving

PROGRAM = Path(sys.prefix) / "bin/caso-extract"


def run(
    cloud: Cloud, root: Path, *arguments: str, expect: int = 0, **options: str
) -> subprocess.CompletedProcess[str]:
    configuration = root / "caso.conf"
    more = "\n".join(f"{name} = {value}" for name, value in options.items())
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"[DEFAULT]\nmessengers = ssm\nsite_name = S\n{more}\n[keystone_auth]\n"
        "auth_type = v3password\n"
        f"auth_url = {cloud.url}/v3\nusername = u\nuser_domain_name = Default\npassword = p-a-s-s\n"
    )
    flags = ("--root", str(root), "--config-file", str(configuration))
    shown = warm.run("caso.cmds.extract:main", *flags, *arguments, timeout=120)
    assert shown.returncode == expect, shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr
    return shown


def reported(shown: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in shown.stderr.splitlines() if line.startswith("caso-extract: ")]


def wanted(cloud: Cloud, *, until: datetime) -> dict[str, int]:
    """Return each server's seconds as the cloud itself knows them."""
    found = {}
    for project in cloud.projects:
        for number in range(cloud.servers):
            server = cloud.server(project, number)
            end = server["OS-SRV-USG:terminated_at"]
            died = datetime.fromisoformat(end).replace(tzinfo=UTC) if end else until
            found[server["id"]] = int(
                (died - datetime.fromisoformat(server["created"])).total_seconds()
            )
    return found


def seconds(root: Path) -> dict[str, int]:
    spool = root / "var/spool/apel/outgoing/openstack"
    texts = [path.read_text() for path in sorted(spool.glob("????????/" + "?" * 14))]
    return {record["VMUUID"]: int(record["WallDuration"]) for record in counters.records(texts)}


def times(number: int, answer: Answer, path: str) -> Fault:
    """Give the same wrong answer to the first requests whose path contains ``path``."""
    left = [number]

    def fault(request: Request) -> Answer | None:
        if path in request.path and left[0]:
            left[0] -= 1
            return answer
        return None

    return fault


BUSY = Answer(503, {"error": "busy"})
LISTING = "/servers/detail"
USAGE = "/os-simple-tenant-usage/"


@pytest.mark.parametrize(
    "fault",
    [
        lambda: times(1, BUSY, LISTING),
        lambda: times(3, BUSY, LISTING),
        lambda: times(1, BUSY, "/v3/auth/tokens"),
        lambda: times(1, BUSY, "/v3/users"),
        lambda: times(
            2, Answer(429, {"error": "slow down"}, {"Retry-After": "1"}), "/v3/auth/projects"
        ),
        lambda: times(1, Answer(200, {"servers": ["x" * 100]}, drops=True), LISTING),
        lambda: times(1, Answer(502, None), "/v2/images"),
    ],
    ids=["503 once", "503 thrice", "token", "user", "429", "dropped", "image"],
)
def test_a_busy_cloud_is_asked_again(fault: Callable[[], Fault], tmp_path: Path) -> None:
    with serving(Cloud(fault=fault())) as cloud:
        shown = run(cloud, tmp_path, "--extract-to", cloud.now.isoformat())
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)
        assert "; trying again in" in shown.stderr


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    seen: list[datetime] = []
    slow = times(1, Answer(503, {}, {"Retry-After": "3"}), LISTING)

    def fault(request: Request) -> Answer | None:
        if LISTING in request.path:
            seen.append(datetime.now(UTC))
        return slow(request)

    with serving(Cloud(fault=fault)) as cloud:
        run(cloud, tmp_path)
    assert seen[1] - seen[0] >= timedelta(seconds=3)


def test_a_cloud_that_stays_busy_loses_one_project_for_one_run(tmp_path: Path) -> None:
    def fault(request: Request) -> Answer | None:
        return BUSY if LISTING in request.path and cloud.scope_of(request.token) == "two" else None

    with serving(Cloud(projects=("one", "two"), fault=fault)) as cloud:
        until = cloud.now.isoformat()
        shown = run(cloud, tmp_path, "--extract-to", until, expect=1)
        (line,) = reported(shown)
        assert line.startswith(
            f"caso-extract: project two (two): {cloud.url[7:]}: still answers 503"
        )
        assert not (tmp_path / "var/spool/caso/lastrun.two").exists()
        cloud.fault = lambda _: None
        run(cloud, tmp_path, "--extract-to", until)
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)


def test_pages_of_any_length(tmp_path: Path) -> None:
    """Nova may return shorter pages than requested, with links to an address of its own."""
    with serving(Cloud(servers=25, deleted=9, max_limit=7)) as cloud:
        before = cloud.now - timedelta(hours=1)
        run(cloud, tmp_path, "--extract-to", before.isoformat())
        assert len(seconds(tmp_path)) == 25
        run(cloud, tmp_path, "--extract-to", cloud.now.isoformat())
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)


def test_a_token_that_dies_is_renewed(tmp_path: Path) -> None:
    with serving(Cloud(servers=25, max_limit=2, token_uses=4)) as cloud:
        run(cloud, tmp_path, "--extract-to", cloud.now.isoformat())
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)
        assert cloud.requests["POST /v3/auth/tokens"] > 5


@pytest.mark.parametrize(
    ("newest", "expect"), [((2, 47), 0), ((2, 53), 0), ((2, 46), 3), ((2, 1), 3)]
)
def test_novas_of_all_ages(newest: tuple[int, int], expect: int, tmp_path: Path) -> None:
    with serving(Cloud(newest=newest)) as cloud:
        shown = run(cloud, tmp_path, expect=expect)
        assert len(seconds(tmp_path)) == (0 if expect else 10)
        if expect:
            (line,) = reported(shown)
            assert (
                f"this Nova supports microversions up to {newest[0]}.{newest[1]} only; 2.47 "
                "(the release Pike)" in line
            )


def test_a_cell_that_is_down_fails_the_project(tmp_path: Path) -> None:
    """A listing of changes lacks the servers of the cell, without a word."""
    unknown = {"id": "a1", "status": "UNKNOWN", "tenant_id": "one", "created": "x"}

    def fault(request: Request) -> Answer | None:
        is_shown = request.path.endswith(("/servers", LISTING)) and not request.query
        return Answer(body={"servers": [unknown]}) if is_shown else None

    with serving(Cloud(fault=fault)) as cloud:
        (line,) = reported(run(cloud, tmp_path, expect=3))
        assert line == (
            "caso-extract: project one (one): server a1: Nova lists it, but the cell that "
            "holds it does not answer; "
            "repair the cell; the next run continues from here"
        )
        assert seconds(tmp_path) == {}


def test_a_cell_that_is_down_fails_usage(tmp_path: Path) -> None:
    """Nova reads usage from the database of each cell in turn, and answers 500."""
    with serving(Cloud(fault=times(9, Answer(500, {}), USAGE))) as cloud:
        (line,) = reported(run(cloud, tmp_path, "--extract-from", "2026-11-01", expect=3))
        assert "still answers 500" in line
        assert seconds(tmp_path) == {}


def test_a_clock_that_is_fast_makes_no_hole(tmp_path: Path) -> None:
    """The window ends where Keystone's clock stands, when that is behind ours."""
    with serving(Cloud(clock_offset=-timedelta(seconds=40))) as cloud:
        shown = run(cloud, tmp_path)
        reached = datetime.fromisoformat((tmp_path / "var/spool/caso/lastrun.one").read_text())
        assert timedelta(seconds=30) < datetime.now(UTC) - reached < timedelta(seconds=100)
        host = cloud.url.removeprefix("http://")
        for service in ("Keystone", "Nova", "Glance"):
            assert shown.stderr.count(f"{service} ({host}): its clock is ") == 1
    with serving(Cloud(clock_offset=timedelta(seconds=40))) as cloud:
        run(cloud, tmp_path)
        reached = datetime.fromisoformat((tmp_path / "var/spool/caso/lastrun.one").read_text())
        assert datetime.now(UTC) - reached < timedelta(seconds=30)


@pytest.mark.parametrize("service", ["v3", "compute", "image"])
def test_f_a5_nothing_is_spooled_while_a_clock_is_wrong(service: str, tmp_path: Path) -> None:
    """A Keystone 40 days behind was a warning, and the clocks of other services were not read."""
    with serving(Cloud(offsets={service: -timedelta(days=40)})) as cloud:
        (line,) = reported(run(cloud, tmp_path, expect=3))
        assert re.search(r"its clock is (39 days, 23:59:|40 days, 0:00:)", line)
        assert "behind this host's; set both by NTP (max_clock_skew is 60 s)" in line
        assert seconds(tmp_path) == {}
        assert not list((tmp_path / "var/spool/caso").glob("lastrun*"))
        cloud.offsets = {}
        run(cloud, tmp_path)
        assert len(seconds(tmp_path)) == 10


def test_f_a5_clocks_that_nobody_shows(tmp_path: Path) -> None:
    """Without a Date the host's clock is compared with the times of Keystone's tokens."""
    with serving(Cloud(has_dates=False)) as cloud:
        shown = run(cloud, tmp_path)
        assert shown.stderr.count("no answer of the cloud has a Date header") == 1
        cloud.clock_offset = timedelta(days=-10)
        (line,) = reported(run(cloud, tmp_path, expect=3))
        assert "its clock is 9 days, 23:59:" in line


def test_a_server_that_makes_no_sense_is_set_aside(tmp_path: Path) -> None:
    with serving(Cloud(servers=3, deleted=0)) as cloud:
        good = [cloud.server("one", number) for number in range(3)]
        future = {
            **good[2],
            "created": "2026-01-01T00:00:00Z",
            "flavor": {**good[2]["flavor"], "vcpus": -2},
        }
        body = {"servers": [good[0], {**good[1], "created": "yesterday"}, future]}
        cloud.fault = times(9, Answer(body=body), LISTING)
        shown = run(cloud, tmp_path, expect=1)
        assert seconds(tmp_path).keys() == {good[0]["id"]}
        quarantine = tmp_path / "var/spool/caso/quarantine"
        kept = {path.stem: path.read_text() for path in quarantine.iterdir()}
        assert any(
            name == good[1]["id"] and "'yesterday' in it is no time" in text
            for name, text in kept.items()
        )
        assert any(
            name.startswith(good[2]["id"]) and "refused: CpuCount is -2" in text
            for name, text in kept.items()
        )
        assert len(reported(shown)) == len(kept)
        told_again = json.loads((tmp_path / "var/lib/fedcloud/runs/caso-extract.json").read_text())
        assert told_again["counts"]["records_refused"] == len(kept)


def test_an_answer_that_is_no_listing(tmp_path: Path) -> None:
    with serving(
        Cloud(fault=times(9, Answer(400, {"badRequest": {"message": "no"}}), LISTING))
    ) as cloud:
        (line,) = reported(run(cloud, tmp_path, expect=3))
        assert 'Nova answers 400 to a listing of servers: {"badRequest": {"message": "no"}}' in line


NO_ANSWERS = [
    ("/v3/auth/tokens", Answer(body=None), "answers, but is not a Keystone; check auth_url"),
    ("/v3/auth/projects", Answer(body="<html>"), "Keystone answers 200 to a listing of projects: "),
    ("/v3/auth/projects", Answer(404, {}), "Keystone answers 404"),
    ("/v3/users", Answer(body="<html>"), "the answer is not one of Keystone: "),
    ("/v3/users", Answer(body={"user": {"name": 5}}), "the answer is not one of Keystone: "),
    ("/v3/users", Answer(400, {}), "Keystone answers 400"),
    ("/v2/images", Answer(body="<html>"), "Glance answers 200 to a request for image image: "),
    ("/v2/images", Answer(410, "gone"), "Glance answers 410 to a request for image image: "),
    (LISTING, Answer(body={"servers": ["x"]}), "Nova answers 200 to a listing of servers: "),
    (
        LISTING,
        Answer(body={"servers": [{"name": "x"}]}),
        "Nova answers 200 to a listing of servers: ",
    ),
]


def test_answers_of_a_proxy_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record goes to quarantine, and the next run begins where this one did."""
    monkeypatch.setattr(log, "_secrets", set())
    with serving(Cloud(servers=4)) as cloud:
        until = cloud.now.isoformat()
        run(cloud, tmp_path, "--check-config")  # writes the configuration
        for path, answer, wanted_line in NO_ANSWERS:
            cloud.fault = times(99, answer, path)
            flags = [
                "--root",
                str(tmp_path),
                "--config-file",
                str(tmp_path / "caso.conf"),
                "--extract-to",
                until,
            ]
            assert extract.main(flags) == 3  # in this process: a start takes longer than a run
            (line,) = [
                line
                for line in capsys.readouterr().err.splitlines()
                if line.startswith("caso-extract: ")
            ]
            assert wanted_line in line
            assert not list((tmp_path / "var/spool/caso").glob("*/*"))
        cloud.fault = lambda _: None
        run(cloud, tmp_path, "--extract-to", until)
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)


def test_a_cell_that_is_slow_fails_the_project(tmp_path: Path) -> None:
    """Nova omits the servers of a cell from the second listing, deleted ones included."""

    def fault(request: Request) -> Answer | None:
        return Answer(body={"servers": []}) if "changes-since" in request.query else None

    with serving(Cloud(servers=3, deleted=1)) as cloud:
        since = (cloud.now - timedelta(days=50)).isoformat()
        cloud.fault = fault
        (line,) = reported(run(cloud, tmp_path, "--extract-from", since, expect=3))
        assert (
            "has changed, but Nova's listing of changed servers lacks it: a cell did not "
            "answer in time" in line
        )
        assert not list((tmp_path / "var/spool/caso").glob("lastrun*"))
        cloud.fault = lambda _: None
        run(cloud, tmp_path, "--extract-from", since, "--extract-to", cloud.now.isoformat())
        assert seconds(tmp_path) == wanted(cloud, until=cloud.now)


@pytest.mark.parametrize("status", [401, 404])
def test_a_project_that_vanishes_in_mid_run_loses_only_itself(status: int, tmp_path: Path) -> None:
    """Its token dies with it, and Keystone gives no other."""
    is_gone = False

    def fault(request: Request) -> Answer | None:
        nonlocal is_gone
        scope = request.body.get("auth", {}).get("scope", {})
        if is_gone and scope.get("project", {}).get("id") == "two":
            return Answer(status, {"error": {"code": status, "message": "no"}})
        if request.path.endswith(LISTING) and cloud.scope_of(request.token) == "two":
            is_gone = True
            return Answer(401, {})
        return None

    with serving(Cloud(projects=("one", "two"), servers=3, fault=fault)) as cloud:
        (line,) = reported(run(cloud, tmp_path, "--extract-to", cloud.now.isoformat(), expect=1))
        assert line.startswith("caso-extract: project two (two): ")
        assert f"gives the account 'u' no new token: answers {status}; check that" in line
        assert len(seconds(tmp_path)) == 3
        assert [path.name for path in (tmp_path / "var/spool/caso").glob("lastrun*")] == [
            "lastrun.one"
        ]


@pytest.mark.parametrize(("name", "begins"), [("other", "2026-11-01"), ("same", "1970-01-01")])
def test_a_checkpoint_by_name_counts_for_one_project_only(
    name: str, begins: str, tmp_path: Path
) -> None:
    """The file may be of the other project of that name, and would hide this one's past."""
    listed = [
        {
            "id": key,
            "name": called,
            "domain_id": key,
            "enabled": True,
            "tags": ["caso"],
            "VO": f"vo.{key}",
        }
        for key, called in (("one", "same"), ("two", name))
    ]
    answer = Answer(body={"projects": listed, "links": {"next": None}})
    with serving(
        Cloud(fault=lambda request: answer if request.path.endswith("/projects") else None)
    ) as cloud:
        state = tmp_path / "var/spool/caso"
        state.mkdir(parents=True)
        (state / "lastrun.same").write_text("2026-11-01 00:00:00+00:00")
        shown = run(cloud, tmp_path, "--dry-run")
    assert f"project same (one), VO vo.one: from {begins}T00:00:00+00:00: " in shown.stdout
    assert f"project {name} (two), VO vo.two: from 1970-01-01T00:00:00+00:00: " in shown.stdout


def test_nothing_is_selected(tmp_path: Path) -> None:
    with serving(Cloud()) as cloud:
        (line,) = reported(run(cloud, tmp_path, "--caso-tag", "other", expect=3))
        assert (
            "no project is selected: the configuration lists none, and none has the tag "
            "'other'; set" in line
        )


def test_a_broken_service_gives_one_line_for_many_projects(tmp_path: Path) -> None:
    """The record counts all of them."""

    def fault(request: Request) -> Answer | None:
        return Answer(400, {"error": "odd"}) if request.path.startswith("/compute") else None

    with serving(Cloud(tuple(f"p{number:02d}" for number in range(12)), fault=fault)) as cloud:
        shown = run(cloud, tmp_path, expect=3)
    (line,) = reported(shown)
    assert line.startswith(
        "caso-extract: project p00 (p00), project p01 (p01), project p02 (p02) and 9 more: "
    )
    found = run_records.read(tmp_path, "caso-extract")
    assert (found.counts["projects_failed"], len(found.failures)) == (12, 1)


@pytest.mark.matrix
def test_memory_does_not_grow_with_the_site(tmp_path: Path) -> None:
    """Peak memory with 50 000 servers is that with 5 000, but for the ids."""
    peaks = []
    for number in (5_000, 50_000):
        with serving(Cloud(servers=number, deleted=0)) as cloud:
            root = tmp_path / str(number)
            root.mkdir()
            run(
                cloud,
                root,
                "--extract-to",
                (cloud.now - timedelta(hours=2)).isoformat(),
                "--check-config",
            )
            command = [
                sys.executable,
                "-c",
                _MEASURE,
                str(PROGRAM),
                "--root",
                str(root),
                "--config-file",
                str(root / "caso.conf"),
            ]
            shown = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(shown.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 15_000, peaks
    assert peaks[1] < 90_000, peaks


_MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
