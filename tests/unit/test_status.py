import json
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dirq.QueueSimple import QueueSimple

from appliance.admin.command import main
from appliance.admin.runtime import native
from appliance.core.run.errors import ExitStatus
from appliance.core.run.layout import Layout
from appliance.core.run.record import RunRecord
from tests import foreign

TOP = Path(__file__).parents[2]


def images_on(root: Path) -> None:
    """Switch the flow of images on, which is off by default."""
    (root / "etc/fedcloud").mkdir(parents=True, exist_ok=True)
    (root / "etc/fedcloud/appliance.yaml").write_text("flows: {images: on}\n")


def ran(root: Path, program: str, status: ExitStatus, *failures: str, **counts: float) -> None:
    run = RunRecord(program)
    for name, amount in counts.items():
        run.add(name, amount)
    for line in failures:
        run.fail(line)
    run.write(Layout(root).runs, status)


def test_every_program_s_last_run_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, "caso-extract", ExitStatus.DONE, records=17, wall_seconds=1.5)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    ran(tmp_path, "ssmsend", ExitStatus.NOTHING, "msg.example.org:6162: cannot be reached", left=3)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines() if "just now" in line][-2:] == [
        ["caso-extract", "just"],
        ["ssmsend", "just"],
    ]
    assert "caso-extract: records 17, wall seconds 1.5" in shown
    assert "  ! msg.example.org:6162: cannot be reached" in shown
    assert "failed" in shown


def test_the_lines_behind_a_figure_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_on(tmp_path)
    run = RunRecord("cloudkeeper-os")
    for number in range(23):
        run.note("images_held_by_others", f"VO ops: image {number}: atrope-catchall")
    run.write(Layout(tmp_path).runs)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "cloudkeeper-os: images held by others 23" in shown
    lines = [line for line in shown if line.startswith("  - ")]
    assert lines[0] == "  - images held by others: VO ops: image 0: atrope-catchall"
    assert (len(lines), lines[-1]) == (21, "  - 3 more; see appliance status --json")


def test_as_json_the_records_are_what_the_files_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images_on(tmp_path)
    ran(tmp_path, "caso-extract", ExitStatus.PARTLY, "project x: no VO", records=1)
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    shown = json.loads(capsys.readouterr().out)
    rows = shown.pop("rows")
    assert shown == {
        "caso-extract": json.loads((Layout(tmp_path).runs / "caso-extract.json").read_text())
    }
    assert [(row["name"], row["reason"]) for row in rows if row["reason"]] == [
        ("caso", "project x: no VO")
    ]


def test_before_the_first_run_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--long", "--root", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith(
        f"appliance: {tmp_path}/var/lib/fedcloud/runs: no program has run yet"
    )


def test_broken_records_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    (Layout(tmp_path).runs / "broken.json").write_text("{")
    (Layout(tmp_path).runs / "odd.json").write_text(
        '{"counts": [], "failures": 3, "status": 77, "ended": "soon"}'
    )
    (Layout(tmp_path).runs / "naive.json").write_text(
        '{"ended": "2026-01-01T00:00:00", "failures": ["\\u001b[2Jx"]}'
    )
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "odd" in shown
    assert "unknown" in shown
    assert "broken " not in shown
    word = f"{Layout(tmp_path).runs}/broken.json"
    assert f"! {word}: skipped: holds no run record; if nobody needs it: rm {word}" in shown
    assert "  ! \\x1b[2Jx" in shown.splitlines()


def test_records_of_containers_stand_beside_those_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each container has its own directory; no record replaces root's or stops the command."""
    runs = Layout(tmp_path).runs
    job = RunRecord("job-caso")
    job.fail("stopped by its time limit")
    job.write(runs / "jobs", ExitStatus.NOTHING)
    RunRecord("caso-extract").write(runs / "caso", ExitStatus.DONE)
    RunRecord("job-caso").write(runs / "sitebdii", ExitStatus.DONE)
    (tmp_path / "secret.json").write_text('{"failures": ["geheim"]}')
    (runs / "caso/link.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(runs / "caso/pipe.json")
    (runs / "caso/flood.json").write_text('{"failures": ["' + "x" * 2**23 + '"]}')
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    skipped = [
        line.removeprefix(f"! {runs}/caso/") for line in shown.splitlines() if line.startswith("! ")
    ]
    assert [line.partition(";")[0] for line in skipped] == [
        "link.json: skipped: is a link",
        "pipe.json: skipped: is a pipe",
        "flood.json: skipped: is longer than 4194304 bytes",
    ]
    assert [line.split()[0] for line in shown.splitlines()[4:6]] == ["caso-extract", "job-caso"]
    assert "  ! stopped by its time limit" in shown
    assert "geheim" not in shown


@pytest.mark.parametrize("later", ["cloudkeeper", "cloudkeeper-os"])
@pytest.mark.parametrize("is_clock_right", [True, False])
def test_of_two_records_of_a_program_the_later_one_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], later: str, *, is_clock_right: bool
) -> None:
    """Direct mode's beside that of the service; one of a clock that was ahead hides none."""
    images_on(tmp_path)
    runs = Layout(tmp_path).runs
    for directory in ("cloudkeeper", "cloudkeeper-os"):
        run = RunRecord("cloudkeeper-os")
        run.fail(f"this is of {directory}")
        run.write(runs / directory, ExitStatus.PARTLY)
    (earlier,) = {"cloudkeeper", "cloudkeeper-os"} - {later}
    path = runs / earlier / "cloudkeeper-os.json"
    away = timedelta(minutes=-5 if is_clock_right else 5)
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "ended": (datetime.now(UTC) + away).isoformat()}))
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if "  ! " in line] == [f"  ! this is of {later}"]
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    tree = json.loads(capsys.readouterr().out)["cloudkeeper-os"]
    assert tree["failures"] == [f"this is of {later}"]


@pytest.mark.parametrize(
    ("shown", "rows"),
    [
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, []),
        ({"ActiveState": "inactive", "UnitFileState": "enabled"}, ["exited"]),
        ({"ActiveState": "failed", "UnitFileState": "disabled"}, ["exited"]),
        ({"ActiveState": "active", "UnitFileState": "disabled"}, ["running"]),
        ({"ActiveState": "inactive", "UnitFileState": "static"}, ["exited"]),
    ],
    ids=str,
)
def test_a_service_that_is_stopped_and_disabled_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: dict[str, str], rows: list[str]
) -> None:
    """Without containers; systemctl is a stand-in that answers in its form."""
    lines = "".join(f"echo {name}={value}\n" for name, value in shown.items())
    program = tmp_path / "systemctl"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *cloudkeeper-os.service*) echo LoadState=loaded\n{lines};;\n'
        "*) echo LoadState=not-found;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(native, "_SYSTEMCTL", str(program))
    assert [(one.service, one.state) for one in native.services(Layout(tmp_path))] == [
        ("cloudkeeper-os", state) for state in rows
    ]


def test_a_bdii_is_asked_as_strangers_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-I3: a BDII that answered nobody looked healthy, because its program ran."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\necho ActiveState=active\n"
        'case "$*" in *" bdii.service"*) echo LoadState=loaded;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(native, "_SYSTEMCTL", str(program))
    address = tmp_path / "var/lib/fedcloud/bdii/site/run/address"
    address.parent.mkdir(parents=True)
    with socket.socket() as listener:  # accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address.write_text(f"ldap://127.0.0.1:{listener.getsockname()[1]}\n")
        monkeypatch.setattr(native, "_ANSWER", timedelta(seconds=1))
        (state,) = native.services(Layout(tmp_path))
    assert (state.service, state.state, state.health) == ("sitebdii", "running", "unhealthy")
    assert "does not answer" in state.said


def test_a_job_is_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are the program's, the result is the job's; without a record only the job's."""
    jobs = Layout(tmp_path).runs / "jobs"
    for status, of_program, words in (
        (ExitStatus.DONE, [], []),
        (ExitStatus.NOTHING, [], ["ssmsend was stopped by its time limit"]),
        (ExitStatus.PARTLY, ["broker: refused"], ["broker: refused"]),
    ):
        job = RunRecord("job-ssmsend")
        own = ExitStatus.PARTLY if of_program else ExitStatus.DONE
        ran(tmp_path, "ssmsend", own, *of_program, sent=17)
        if status is not ExitStatus.DONE:
            job.fail(
                words[0] if not of_program else "ssmsend ended with exit status 1; see the log"
            )
        job.write(jobs, status)
        assert main(["status", "--long", "--root", str(tmp_path)]) == (
            status is not ExitStatus.DONE
        )
        shown = capsys.readouterr().out
        assert [line.split()[0] for line in shown.splitlines() if "just now" in line] == ["ssmsend"]
        assert "ssmsend: sent 17" in shown
        assert [line[4:] for line in shown.splitlines() if line.startswith("  ! ")] == words
    failed = RunRecord("job-ssmsend")
    failed.fail("the Docker engine does not run")
    failed.write(jobs, ExitStatus.NOTHING)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "ssmsend: no figures\n  ! the Docker engine does not run" in shown
    assert "job-ssmsend" not in shown
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    assert {"ssmsend", "job-ssmsend"} <= json.loads(capsys.readouterr().out).keys()


def test_foreign_files_among_the_records_hide_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-H1: whatever has a record's name and is none is named; all records are shown."""
    runs = Layout(tmp_path).runs
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    made = foreign.make(runs, suffix=".json") + foreign.make(runs / "ssm", suffix=".json")
    (runs / "ssm.link").symlink_to("nowhere")
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "caso-extract" in shown
    assert sum(line.startswith("! ") for line in shown.splitlines()) == len(made) + 1
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    assert len(json.loads(capsys.readouterr().out)["unusable"]) == len(made) + 1


@pytest.mark.root
def test_what_does_not_start_the_jobs_is_reported_as_by_schedule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D01: all runs may have been good, up to the day when cron began to ignore a table."""
    images_on(tmp_path)
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    shutil.copytree(TOP / "cron.d", tmp_path / "etc/cron.d")
    for table in (tmp_path / "etc/cron.d").iterdir():
        table.chmod(0o644)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    assert "!" not in capsys.readouterr().out
    caso, ssmsend = tmp_path / "etc/cron.d/caso", tmp_path / "etc/cron.d/ssmsend"
    caso.chmod(0o664)
    caso.with_name("caso.local").write_text(caso.read_text())
    caso.with_name("caso.local").chmod(0o644)
    ssmsend.write_text(ssmsend.read_text().rstrip("\n"))
    last = len(ssmsend.read_text().splitlines())
    wants = tmp_path / "etc/systemd/system/timers.target.wants"
    wants.mkdir(parents=True)
    (wants / "fedcloud-job@cloudkeeper.timer").symlink_to(
        "/etc/systemd/system/fedcloud-job@cloudkeeper.timer"
    )
    expected = [
        "both cron and systemd start cloudkeeper: choose one with appliance schedule cron|systemd",
        f"{caso}: cron ignores it, because others can write to it; chmod 0644 {caso}",
        f"{caso}.local: cron ignores it for its name; rename it to letters, digits, - and _ only",
        (
            f"{ssmsend}:{last}: cron ignores the whole file, because its last line has no newline; "
            "add one"
        ),
    ]
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")] == [
        f"! {line}" for line in expected
    ]
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["schedule"] == expected
    assert main(["schedule", "--root", str(tmp_path)]) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")] == [
        f"! {line}" for line in expected
    ]


def test_a_verb_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["statis"], ["status", "--jsn"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("days", "status"), [(0, 0), (30, 0), (31, 1)])
def test_the_age_of_the_images_is_shown_and_a_warning_after_thirty_days(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, status: int
) -> None:
    """F-H8: the day is that of images.lock, on which Debian's archive had the packages."""
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    lock = tmp_path / "etc/fedcloud/images.lock"
    lock.parent.mkdir(parents=True)
    day = datetime.now(UTC).date() - timedelta(days=days)
    lock.write_text(
        f"# service tag id\n# Debian packages of {day}\ncaso egifedcloud/caso:1 sha256:{'0' * 64}\n"
    )
    assert main(["status", "--long", "--root", str(tmp_path)]) == status
    warning = (
        f"! images: their Debian packages are of {day}, {days} days ago; "
        "install a newer bundle, or build one with scripts/build --fresh"
    )
    expected = warning if status else f"Images: Debian packages of {day}, {days} days ago"
    assert expected in capsys.readouterr().out.splitlines()
    assert main(["status", "--json", "--root", str(tmp_path)]) == status
    assert json.loads(capsys.readouterr().out)["images"] == {"packages_of": str(day), "days": days}


def test_a_lock_that_does_not_say_its_day_is_no_cause_to_complain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of earlier bundles, and one that somebody has edited."""
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    lock = tmp_path / "etc/fedcloud/images.lock"
    lock.parent.mkdir(parents=True)
    for line in ("# service tag id", "# Debian packages of yesterday"):
        lock.write_text(f"{line}\n")
        assert main(["status", "--long", "--root", str(tmp_path)]) == 0
        assert "ebian" not in capsys.readouterr().out


def published(root: Path, *, age: timedelta, **more: object) -> Path:
    path = root / "var/lib/fedcloud/cloud-info/information.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    created = datetime.now(UTC) - age
    until = created + timedelta(hours=12)
    state = {"created": created.isoformat(), "valid_until": until.isoformat(), **more}
    path.with_suffix(".state").write_text(json.dumps(state))
    return path


def test_the_age_of_the_information_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    path = published(tmp_path, age=timedelta(minutes=25))
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    assert f"Information: {path}, read from the cloud 25 minutes ago\n" in capsys.readouterr().out
    assert main(["status", "--json", "--root", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["information"]["held"] == 0
    # The memory of a store with many objects makes the state large.
    published(tmp_path, age=timedelta(minutes=25), stores={"x": "n" * 5 * 2**20})
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("age", "more", "words"),
    [
        (15, {}, "expired 3 hours ago, so readers ignore it; see appliance logs cloud-info-json"),
        (1, {"held": 98}, "stays, because 98 objects would vanish at once"),
        (1, {"created": "x"}, "information.state is damaged; rm "),
        (1, {"created": [1]}, "information.state is damaged; rm "),
        (1, {"held": float("inf")}, "information.state is damaged; rm "),
    ],
)
def test_information_that_needs_somebody(
    tmp_path: Path,
    age: int,
    more: dict[str, object],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran(tmp_path, "caso-extract", ExitStatus.DONE)
    path = published(tmp_path, age=timedelta(hours=age), **more)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    assert words in line
    path.unlink()
    if "damaged" not in words:
        assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    (tmp_path / "etc/fedcloud").mkdir(parents=True)
    (tmp_path / "etc/fedcloud/appliance.yaml").write_text("flows: {information: off}\n")
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0


def configured(root: Path, name: str, text: str) -> None:
    (root / "etc/apel/sender.d").mkdir(parents=True, exist_ok=True)
    (root / f"etc/apel/{name}").write_text(f"[messaging]\n{text}")


def test_each_destination_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outgoing = tmp_path / "var/spool/apel/outgoing"
    configured(
        tmp_path,
        "sender.cfg",
        f"path: {outgoing}/openstack\ndestination: eu-egi-cloud-accounting\n",
    )
    assert main(["status", "--long", "--root", str(tmp_path)]) == 3  # before the first run
    capsys.readouterr()
    moment = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    ran(tmp_path, "ssmsend", ExitStatus.DONE, last_delivered_timestamp_seconds=moment, left=0)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    cloud = "Accounting: eu-egi-cloud-accounting: last delivered"
    assert f"{cloud} 2 h ago, 0 messages wait in {outgoing}/openstack\n" in shown
    assert "timestamp" not in shown
    assert "storage" not in shown
    configured(
        tmp_path, "sender.d/storage.cfg", f"path: {outgoing}/openstack-storage\ndestination: b\n"
    )
    configured(
        tmp_path,
        "sender.d/files.cfg",
        f"path: {outgoing}/files\npath_type: directory\ndestination: c\n",
    )
    configured(tmp_path, "sender.d/wrong.cfg", "[messaging]\n")
    configured(tmp_path, "sender.d/storage.cfg.example", "destination: none\n")
    spool = QueueSimple(f"{outgoing}/openstack-storage")
    for _ in range(3):
        spool.add("x")
    (outgoing / "files").mkdir()
    (outgoing / "files/one").touch()
    ran(tmp_path, "ssmsend-storage", ExitStatus.DONE, left=0)
    ran(tmp_path, "ssmsend-files", ExitStatus.DONE, last_delivered_timestamp_seconds=1e300)
    ran(tmp_path, "ssmsend-wrong", ExitStatus.USAGE, "wrong.cfg:2: twice")
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "Accounting: " in line]
    assert lines[1:] == [
        f"Accounting: c: nothing delivered yet, 1 messages wait in {outgoing}/files",
        f"Accounting: b: nothing delivered yet, 3 messages wait in {outgoing}/openstack-storage",
    ]
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)["destinations"]
    assert [(one["destination"], one["queued"]) for one in found] == [
        ("eu-egi-cloud-accounting", 0),
        ("c", 1),
        ("b", 3),
    ]
    assert found[0] == {
        "configuration": f"{tmp_path}/etc/apel/sender.cfg",
        "destination": "eu-egi-cloud-accounting",
        "spool": f"{outgoing}/openstack",
        "queued": 0,
        "last_delivered": datetime.fromtimestamp(moment, UTC).isoformat(),
    }
    assert found[1]["last_delivered"] is None


def test_a_spool_is_counted_below_the_root_of_the_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configuration names it as the container sees it."""
    configured(tmp_path, "sender.cfg", "path: /var/spool/apel/outgoing/x\ndestination: a\n")
    QueueSimple(f"{tmp_path}/var/spool/apel/outgoing/x").add("x")
    ran(tmp_path, "ssmsend", ExitStatus.DONE)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    assert f"1 messages wait in {tmp_path}/var/spool/apel/outgoing/x\n" in capsys.readouterr().out


def test_a_spool_that_cannot_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configured(tmp_path, "sender.cfg", f"path: {tmp_path}/spool\ndestination: a\n")
    (tmp_path / "spool").write_text("no directory")
    ran(tmp_path, "ssmsend", ExitStatus.DONE)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    assert f"! accounting: {tmp_path}/spool: " in capsys.readouterr().out
    assert main(["status", "--json", "--root", str(tmp_path)]) == 1
    assert json.loads(capsys.readouterr().out)["destinations"][0]["queued"] is None
    (tmp_path / "etc/fedcloud").mkdir()
    (tmp_path / "etc/fedcloud/appliance.yaml").write_text("flows: {accounting: off}\n")
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
    assert "ccounting: " not in capsys.readouterr().out


def test_a_kind_that_nothing_sends_is_a_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """caso fills a spool of volumes, and sender.d has no file for it."""
    outgoing, further = tmp_path / "var/spool/apel/outgoing", tmp_path / "etc/apel/sender.d"
    configured(tmp_path, "sender.cfg", f"path: {outgoing}/openstack\ndestination: a\n")
    ran(tmp_path, "ssmsend", ExitStatus.DONE)
    for name in ("openstack", "openstack-ip", "openstack-storage", "grid"):
        QueueSimple(f"{outgoing}/{name}")
    for name in ("openstack", "openstack-storage", "grid"):
        QueueSimple(f"{outgoing}/{name}").add("x")
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("!")]
    assert line == (
        f"! accounting: 1 messages wait in {outgoing}/openstack-storage, and nothing sends them:"
        f" add a file for this spool to {further}"
    )
    text = f"path: {outgoing}/openstack-storage\ndestination: b\n"
    configured(tmp_path, "sender.d/storage.cfg.example", text)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 1
    configured(tmp_path, "sender.d/storage.cfg", text)
    assert main(["status", "--long", "--root", str(tmp_path)]) == 0
